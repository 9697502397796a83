"""Files appear whole or not at all; what a killed process left is cleared, what a living one writes is not."""

from __future__ import annotations

import argparse
import errno
import fcntl
import os
import subprocess
import sys
import time
from importlib import import_module
from pathlib import Path
from typing import IO

import pytest
from places import REPOSITORY

from amd_restore import atomic
from amd_restore.atomic import open_atomically, remove_stale, try_writing, write_atomically
from amd_restore.errors import AMDRestoreError


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def leftover(folder: Path, host: str = atomic._host(), number: int = 0) -> Path:
    path = folder / f".amd-restore-{host}-{number:016x}.part"
    path.write_bytes(b"half")
    return path


def test_whole_or_not_at_all(tmp_path: Path) -> None:
    target = tmp_path / "deep" / ("n" * 250)  # the longest name that file systems take
    write_atomically(target, b"first")
    with pytest.raises(ZeroDivisionError), open_atomically(target) as file:
        file.write(b"second, half")
        assert len(names(target.parent)) == 2
        raise ZeroDivisionError
    assert target.read_bytes() == b"first"
    assert names(target.parent) == [target.name]


def test_an_ordinary_file_mode(tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    plain.touch()
    write_atomically(tmp_path / "ours", b"")
    assert (tmp_path / "ours").stat().st_mode == plain.stat().st_mode


def test_a_folder_in_the_way(tmp_path: Path) -> None:
    with pytest.raises(AMDRestoreError, match="it is a folder"):
        write_atomically(tmp_path, b"")


def test_links_are_followed_and_modes_kept(tmp_path: Path) -> None:
    real, link, nowhere = tmp_path / "store" / "real", tmp_path / "link", tmp_path / "nowhere"
    real.parent.mkdir()
    real.write_bytes(b"old")
    real.chmod(0o600)
    link.symlink_to(real)
    nowhere.symlink_to(tmp_path / "new" / "file")
    with open_atomically(link) as file:
        (half,) = (path for path in real.parent.iterdir() if path.suffix == ".part")
        assert half.stat().st_mode & 0o777 == 0o600  # nobody else may read it before it is whole either
        file.write(b"new")
    write_atomically(nowhere, b"made")
    assert link.is_symlink() and nowhere.is_symlink()
    assert (real.read_bytes(), real.stat().st_mode & 0o777) == (b"new", 0o600)
    assert (tmp_path / "new" / "file").read_bytes() == b"made"
    assert names(real.parent) == ["real"]


def test_what_may_not_be_written_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, circle = tmp_path / "kept", tmp_path / "circle"
    path.write_bytes(b"old")
    circle.symlink_to(circle)
    monkeypatch.setattr("os.access", lambda name, mode: Path(name) != path)  # root may write everywhere
    for target, reason in ((path, "it is read-only"), (circle, "too many levels of symbolic links")):
        with pytest.raises(AMDRestoreError, match=f"{target.name}: {reason}"):
            write_atomically(target, b"new")
    assert path.read_bytes() == b"old" and circle.is_symlink()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes with names")
def test_what_is_no_ordinary_file_is_written_into(tmp_path: Path) -> None:
    pipe, link = tmp_path / "pipe", tmp_path / "link"
    os.mkfifo(pipe)
    link.symlink_to(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        try_writing(link)
        with pytest.raises(ZeroDivisionError), open_atomically(link) as file:
            file.write(b"half")
            raise ZeroDivisionError
        write_atomically(link, b"whole")
        assert os.read(reader, 99) == b"whole"
    finally:
        os.close(reader)
    assert pipe.is_fifo() and link.is_symlink()
    device = Path("/dev/null").stat()
    write_atomically("/dev/null", b"gone")
    assert Path("/dev/null").stat().st_rdev == device.st_rdev and Path("/dev/null").is_char_device()


def test_standard_output_in_a_file_is_not_replaced(tmp_path: Path) -> None:
    out = tmp_path / "out.txt"
    code = "print('before'); from amd_restore.atomic import write_atomically as w; w('/dev/stdout', b'data\\n')"
    with out.open("wb") as file:
        subprocess.run([sys.executable, "-c", f"{code}; print('after')"], stdout=file, check=True)
    assert out.read_text().split() == ["before", "data", "after"]
    assert names(tmp_path) == ["out.txt"]


def test_leftovers_of_the_dead_only(tmp_path: Path) -> None:
    leftover(tmp_path)
    foreign = leftover(tmp_path, host="00000000")
    own_name = tmp_path / ".amd-restore.part"
    own_name.touch()
    assert remove_stale(tmp_path) == 1
    assert names(tmp_path) == sorted([foreign.name, own_name.name])
    os.utime(foreign, (time.time() - 2 * 86400,) * 2)
    assert remove_stale(tmp_path) == 1
    assert names(tmp_path) == [own_name.name]
    assert remove_stale(tmp_path / "nowhere") == 0


WRITER = """
import os, sys
from amd_restore.atomic import open_atomically
with open_atomically(sys.argv[1]) as file:
    file.write(b"whole")
    print(flush=True)
    sys.stdin.readline()
"""


@pytest.mark.parametrize("killed", [False, True])
def test_what_a_living_process_writes_stays_whatever_its_number_means_here(tmp_path: Path, killed: bool) -> None:
    # Its number says nothing: in another container it may be ours, or nobody's.
    writer = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(tmp_path / "out")],
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert writer.stdout is not None
    writer.stdout.readline()
    (temporary,) = tmp_path.iterdir()
    os.utime(temporary, (time.time() - 2 * 86400,) * 2)  # the writer has been stopped for two days
    assert remove_stale(tmp_path) == 0
    if killed:
        writer.kill()
        writer.communicate()
        assert remove_stale(tmp_path) == 1 and names(tmp_path) == []
    else:
        writer.communicate(b"\n")
        assert (tmp_path / "out").read_bytes() == b"whole" and writer.returncode == 0


def test_an_interruption_before_the_block_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    for place in ("os.dup", "amd_restore.atomic.try_lock"):
        with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
            patched.setattr(place, interrupt)
            write_atomically(tmp_path / "out", b"whole")
        assert names(tmp_path) == []


def test_a_file_that_is_taken_for_a_leftover_before_it_is_locked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = atomic.try_lock
    found: list[str] = []

    def lock_late(file: IO[bytes]) -> bool | None:
        if not found:
            found.append(file.name)
            assert remove_stale(tmp_path) == 1
        return lock(file)

    monkeypatch.setattr(atomic, "try_lock", lock_late)
    write_atomically(tmp_path / "out", b"whole")
    assert len(found) == 1
    assert names(tmp_path) == ["out"] and (tmp_path / "out").read_bytes() == b"whole"


def test_a_file_system_without_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_locks(*_: object) -> None:
        raise OSError(errno.ENOLCK, "no locks available")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    young, old = leftover(tmp_path), leftover(tmp_path, number=1)
    os.utime(old, (time.time() - 2 * 86400,) * 2)
    write_atomically(tmp_path / "out", b"whole")
    assert remove_stale(tmp_path) == 1
    assert names(tmp_path) == sorted([young.name, "out"])


@pytest.mark.parametrize(
    ("command", "option"),
    [
        ("amd_restore.apps.cli.video", "--input"),
        ("amd_restore.apps.cli.video", "--output"),
        ("amd_restore.apps.cli.export", "--output"),
        ("amd_restore.apps.cli.prompts", "--output"),
        ("amd_restore.apps.cli.parser", "--input"),
        ("amd_restore.apps.cli.parser", "--json"),
        ("amd_restore.apps.cli.doctor", "--json"),
        ("amd_restore.report.__main__", "--out"),
    ],
)
def test_paths_of_all_commands_are_expanded_and_not_empty(
    command: str, option: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    parser = import_module(command).build_parser()
    (action,) = (action for action in parser._actions if option in action.option_strings)
    assert action.type("~/a") == tmp_path / "a"
    with pytest.raises(argparse.ArgumentTypeError, match="must not be empty"):
        action.type("")
