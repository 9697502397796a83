"""What is tried: damaged files, files changed by chunks, folders and streams of all kinds, each drawn by dice."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from fuzzing.checks import REPORT, Tree, leftovers, problems, tree_of
from fuzzing.containers import changed, damaged
from fuzzing.processes import NOBODY, Call, Ended, run

OPTIONS: dict[str, list[str]] = {
    "--steps": ["1", "2", "3", "0", "-1", "x", "99999999999999999999"],
    "--seed": ["0", "-5", "18446744073709551616", "1e3", ""],
    "--tile": ["0", "1", "7", "9999", "-3", "a"],
    "--halo": ["0", "3", "64", "-1"],
    "--outscale": ["0.1", "1", "3.7", "0", "nan", "inf", "-2", "1e9"],
    "--width": ["1", "50", "0", "x"],
    "--max-side": ["1", "33", "100000"],
    "--max-pixels": ["0.00001", "1", "0", "nan"],
    "--max-memory": ["1K", "1G", "900M", "", "G", "0"],
    "--quality": ["1", "100", "0", "101"],
    "--fidelity": ["0", "0.3", "1", "2", "nan"],
    "--color-fix": ["wavelet", "adain", "none", "red"],
    "--ext": ["png", "jpg", "webp", "tiff", "avif", "gif"],
    "--suffix": ["_x4", "/../x", "é", "a" * 300, "\n"],
    "--n-samples": ["1", "2", "0"],
    "--batch": ["1", "3"],
    "--workers": ["1", "4", "0"],
    "--dtype": ["fp32", "bf16", "int8", "fp8"],
    "--backend": ["torch", "onnx", "none"],
    "--device": ["cpu", "auto", "cuda:9", "tpu", ""],
}
FLAGS = ["--recursive", "--frames", "--compare", "--uncertainty", "--tta", "--consistency", "--overwrite", "--resume"]
IN_FOLDERS = ["--recursive", "--overwrite", "--compare", "--frames", "--n-samples=2", "--batch=2", "--workers=1"]
IN_FOLDERS += ["--suffix=_x4", "--suffix=_restored", "--ext=png", "--ext=jpg", "--ext=webp"]
SUFFIXES = [".png", ".jpg", ".tif", ".webp", ".bmp", ".gif", ".avif", ".heic", ".txt"]
NAMES = ["a.png", "a.jpg", "A.PNG", "a_restored.png", "a_x4.png", "a_png.png", "a_compare.png", "b é.png", "写.jpeg"]
NAMES += ["b\udcff.png", "x\x1b[31m\ny.png", "._a.png", "%s.png", "-o.png", "noimage.txt", "c.jfif", "d" * 240 + ".png"]
FOLDERS = ["", "", "", "sub", "sub/deep", "sub.png", ".hidden", "out", "in"]
OUTPUTS = [
    "out",
    "out",
    "in",
    "in/out",
    "in/sub",
    ".",
    "in/..",
    "link",
    "outlink",
    "in/a.png",
    "file.png",
    "new/deep/out",
]
OUTPUTS += ["in/a.png/out", "n" * 255, "locked", "in/.hidden", "out.png", "./in/../in/", "absent"]
STREAMS = ["file", "file", "closed", "full", "gone"]


@dataclass
class Bench:
    """What every attempt is made with.

    Args:
        work: an empty folder.
        weights: of a tiny network.
        originals: contents of image files, good and bad.
        good: those of a few small and good ones.
        command: takes arguments, returns an exit code.
        runs: exit codes of all runs so far.
    """

    work: Path
    weights: Path
    originals: Sequence[bytes]
    good: Sequence[bytes]
    command: Callable[[Sequence[str]], int]
    runs: list[int] = field(default_factory=list)

    @property
    def place(self) -> Path:
        """The folder that everything happens in."""
        return self.work / "place"

    def call(self, *arguments: str, **more: Any) -> Call:
        """A run with the tiny network."""
        environment: dict[str, str | None] = {"HOME": str(self.work / "home"), **more.pop("environment", {})}
        given = ["--max-memory=2G", *arguments, f"--model={self.weights}"]
        return Call(given, self.place, environment=environment, **more)

    def checked(self, call: Call) -> tuple[Ended, Tree, list[str]]:
        """Run once; what came of it, what is there then, and what is wrong."""
        before = tree_of(self.place)
        ended = run(call, self.command, self.work)
        self.runs.append(ended.code)
        after = tree_of(self.place)
        return (
            ended,
            after,
            [
                f"{message} [{self._shown(call)}]"
                for message in problems(call, ended, before, after, self._report(call, ended))
            ],
        )

    def _shown(self, call: Call) -> str:
        streams = "" if (call.stdout, call.stderr) == ("file", "file") else f" >{call.stdout} 2>{call.stderr}"
        stdin = "" if call.stdin == b"" else " <closed" if call.stdin is None else " <image"
        return f"{list(call.arguments)}{stdin}{streams} {call.encoding} {call.ends or ''}"

    def _report(self, call: Call, ended: Ended) -> dict[str, Any] | None:
        with contextlib.suppress(OSError, ValueError):
            content = ended.out if "--json=-" in call.arguments else (self.place / REPORT).read_bytes()
            found: dict[str, Any] = json.loads(content)
            return found
        return None

    def clear(self) -> None:
        """Make the place empty, whatever modes its folders have."""
        for parent, folders, _ in os.walk(self.place):
            for name in folders:
                if not os.path.islink(os.path.join(parent, name)):
                    os.chmod(os.path.join(parent, name), 0o700)
        shutil.rmtree(self.place, ignore_errors=True)
        for folder in (self.place, self.work / "home"):
            folder.mkdir(exist_ok=True)


def attempt(bench: Bench, kind: str, dice: random.Random) -> list[str]:
    """Try one thing of a kind; what is wrong."""
    bench.clear()
    return list(KINDS[kind](bench, dice))


def try_bytes(bench: Bench, dice: random.Random) -> Iterator[str]:
    """Files with bytes changed, and odd options."""
    yield from _try_files(bench, dice, lambda data: damaged(data, dice), odd=True)


def try_chunks(bench: Bench, dice: random.Random) -> Iterator[str]:
    """Files changed chunk by chunk."""
    yield from _try_files(bench, dice, lambda data: changed(data, dice, bench.originals), odd=False)


def _try_files(bench: Bench, dice: random.Random, change: Callable[[bytes], bytes], odd: bool) -> Iterator[str]:
    (bench.place / "in").mkdir()
    for number in range(dice.choice((1, 3, 6))):
        data = dice.choice(bench.originals)
        suffix = dice.choice(SUFFIXES)
        (bench.place / "in" / f"{number}{suffix}").write_bytes(data if dice.random() < 0.2 else change(data))
    single = dice.random() < 0.2
    source = next((bench.place / "in").glob("0.*")).relative_to(bench.place) if single else Path("in")
    given = [f"-i={source}", "-o=out", f"--json={REPORT}"]
    if odd:
        for name in dice.sample(sorted(OPTIONS), dice.choice((0, 1, 2, 3))):
            given.append(f"{name}={dice.choice(OPTIONS[name])}")
        given += dice.sample(FLAGS, dice.choice((0, 0, 1, 2)))
    else:
        given += dice.sample(
            ["--frames", "--ext=jpg", "--ext=png", "--ext=webp", "--ext=tiff", "--ext=avif"], dice.choice((0, 1, 1))
        )
    call = bench.call(*given)
    ended, after, found = bench.checked(call)
    yield from found
    if ended.code in (0, 1) and dice.random() < 0.2:
        yield from _goes_on(bench, call, ended, after)


def try_folders(bench: Bench, dice: random.Random) -> Iterator[str]:
    """Outputs inside, beside and among the inputs, with links and modes, again and again, and interrupted."""
    drawn = dice.randrange(1 << 32)
    given = [f"-i={dice.choice(('in', 'in', 'in', './in', 'link', 'in/a.png'))}", f"-o={dice.choice(OUTPUTS)}"]
    given += [f"--json={REPORT}", *dice.sample(IN_FOLDERS, dice.choice((0, 1, 2, 3)))]
    call = bench.call(*given, user=dice.choice((None, NOBODY)))
    interrupts = [
        (dice.uniform(0.05, 1.5), dice.choice((signal.SIGINT, signal.SIGTERM, signal.SIGKILL)))
        for _ in range(dice.choice((0, 0, 0, 1, 3)))
    ]
    make_tree(bench, random.Random(drawn), call.user)
    for ends in interrupts:
        yield from bench.checked(replace(call, ends=ends))[2]
    ended, after, found = bench.checked(call)
    yield from found
    if leftovers(after) and ended.code in (0, 1):
        yield f"temporary files of a killed run stay: {leftovers(after)} {given}"
    yield from _goes_on(bench, call, ended, after)
    if interrupts and ended.code in (0, 1):
        bench.clear()
        make_tree(bench, random.Random(drawn), call.user)
        _, whole, found = bench.checked(call)
        yield from found
        if _contents(whole) != _contents(after):
            different = {*_contents(whole).items()} ^ {*_contents(after).items()}
            yield f"interrupted, it becomes another: {sorted(different)[:6]} {given} {interrupts}"


def _goes_on(bench: Bench, call: Call, first: Ended, before: Tree) -> Iterator[str]:
    """The same command once more changes nothing, and ends alike."""
    again, after, found = bench.checked(call)
    yield from found
    if again.code != first.code:
        yield f"exit code {first.code}, then {again.code}: {again.err!r} {call.arguments}"
    compared = (_contents(before), _contents(after)) if "--overwrite" in call.arguments else (before, after)
    changes = {name for name in {*before} | {*after} if compared[0].get(name) != compared[1].get(name)} - {REPORT}
    if changes:
        yield f"the second run changes {sorted(changes)[:6]} {call.arguments}"


def _contents(tree: Tree) -> dict[str, Any]:
    """Without times and the report, which has seconds."""
    return {name: value[:3] for name, value in tree.items() if name != REPORT}


def make_tree(bench: Bench, dice: random.Random, user: int | None) -> None:
    """A folder ``in`` of images, links, pipes and modes, and others to write to."""
    place = bench.place
    for folder in ("in", "out", "locked"):
        (place / folder).mkdir()
    for _ in range(dice.choice((1, 2, 4, 7))):
        folder = place / "in" / dice.choice(FOLDERS)
        folder.mkdir(parents=True, exist_ok=True)
        data = dice.choice(bench.good)
        path = folder / dice.choice(NAMES)
        path.write_bytes(dice.choice((data, data, data, damaged(data, dice), b"")))
        if dice.random() < 0.2:
            path.chmod(dice.choice((0o444, 0o600, 0o000)))
    if not (place / "in" / "a.png").exists():
        (place / "in" / "a.png").write_bytes(bench.good[0])
    (place / "link").symlink_to("in")
    (place / "outlink").symlink_to("out")
    (place / "absent").symlink_to("nowhere")
    for name, target in (
        ("in/l.png", "a.png"),
        ("in/dangling.png", "no"),
        ("in/loop.png", "loop.png"),
        ("in/up", ".."),
    ):
        if dice.random() < 0.3:
            (place / name).symlink_to(target)
    for folder in dice.sample(("out", "in", "in/out"), dice.choice((0, 1, 2))):
        (place / folder).mkdir(exist_ok=True)
        _occupy(place / folder / dice.choice(("a.png", "a_restored.png", "a_x4.png", "b é.png", "foreign.txt")), dice)
    if dice.random() < 0.2:
        os.mkfifo(place / "in" / "pipe.png")
    if user is not None and not os.getuid():
        for parent, folders, names in os.walk(place):
            for name in (parent, *folders, *names):
                os.chown(os.path.join(parent, name), user, user, follow_symlinks=False)
    (place / "locked").chmod(0o555)
    if dice.random() < 0.15:
        (place / "in").chmod(0o555)


def _occupy(path: Path, dice: random.Random) -> None:
    """Something is there already under the name of an output."""
    if path.exists() or path.is_symlink():
        return
    kind = dice.choice(("file", "private", "empty", "folder", "link", "dangling", "locked"))
    if kind == "folder":
        path.mkdir()
    elif kind in ("link", "dangling"):
        (path.parent / "elsewhere.dat").write_bytes(b"elsewhere")
        path.symlink_to("elsewhere.dat" if kind == "link" else "nothing.png")
    else:
        path.write_bytes(b"" if kind == "empty" else b"foreign")
        path.chmod({"private": 0o600, "locked": 0o444}.get(kind, 0o644))


def try_streams(bench: Bench, dice: random.Random) -> Iterator[str]:
    """Streams that are closed, full, or read no longer, and know few characters; a home that is not there."""
    make_tree(bench, dice, None)
    streams: dict[str, Any] = {
        "stdin": dice.choice((b"", None, dice.choice(bench.good), damaged(dice.choice(bench.good), dice))),
        "stdout": dice.choice(STREAMS),
        "stderr": dice.choice(STREAMS),
        "encoding": dice.choice(("utf-8", "utf-8", "ascii", "cp1252", "utf-16")),
        "environment": dice.choice(({}, {"HOME": None}, {"COLUMNS": "1"}, {"TMPDIR": "/nowhere"}, {"TERM": None})),
    }
    if dice.random() < 0.2:
        words = dice.choice(
            (["--help"], ["--version"], ["doctor", "--help"], ["export", "--help"], ["video", "--help"])
        )
        call = bench.call(**streams)
        ended, _, found = bench.checked(replace(call, arguments=words))
        yield from found
        if ended.code != 0:
            yield f"exit code {ended.code} of {words} {call.stdout} {call.stderr}: {ended.err!r}"
        return
    source = dice.choice(("-", "-", "in", "in/a.png"))
    output = dice.choice(("-", "-", "out", "写", "o.png", "o.webp", "/dev/stdout", "/dev/null"))
    report = dice.choice((f"--json={REPORT}", "--json=-", f"--json={REPORT}"))
    given = [f"-i={source}", f"-o={output}", *dice.sample(IN_FOLDERS, dice.choice((0, 0, 1)))]
    if "-" not in (source, output) or dice.random() < 0.1:
        given.append(report)
    call = bench.call(*given, **streams)
    ended, _, found = bench.checked(call)
    yield from found
    if output == "-" and call.stdout == "file" and bool(ended.out) != (ended.code == 0):
        yield f"exit code {ended.code} with {len(ended.out)} bytes on standard output {given}"
    if output == "-" and call.stdout != "file" and ended.code == 0:
        yield f"exit code 0, though standard output is {call.stdout} {given}"


KINDS = {"bytes": try_bytes, "chunks": try_chunks, "folders": try_folders, "streams": try_streams}
