"""Option files that build on others: what the merged file says, and which file is named for a mistake."""

from __future__ import annotations

import copy
import sys
from pathlib import Path
from typing import Any

import pytest
from option_files import problem, write

from amd_restore.options import OptionFile, load_options, merge


def write_text(file: Path, text: str) -> Path:
    """A file with folders on the way."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, encoding="utf-8")
    return file


def test_a_file_says_only_what_its_bases_do_not(tmp_path: Path) -> None:
    whole = write(tmp_path)
    first = write_text(tmp_path / "below" / "a.yml", "base: ../toy.yml\nscale: 2\nrewards: [{type: LPIPSReward}]\n")
    text = "base: [below/a.yml, b.yml]\nname: c\ntrain: {optim_g: {lr: 0.5}}\n"
    write_text(tmp_path / "b.yml", "scale: 1\ncodec: {std: 0.5}\nval: null\ntrain: {scheduler: {milestones: [1, 3]}}\n")
    opt = load_options(write_text(tmp_path / "c.yml", text), ["codec:patch=8"])
    assert (opt["name"], opt["scale"], opt["codec"]) == ("c", 1, {"patch": 8, "std": 0.5})
    assert opt["rewards"] == [{"type": "LPIPSReward"}] and "val" not in opt and "base" not in opt
    assert opt["train"]["optim_g"] == {"type": "Adam", "lr": 0.5}
    assert opt["train"]["scheduler"] == {"type": "MultiStepLR", "milestones": [1, 3]}
    assert load_options(first)["scale"] == 2 and load_options(whole)["scale"] == 4


@pytest.mark.parametrize(
    ("changes", "merged"),
    [
        ({"a": {"c": [5]}, "d": {"e": 1}}, {"a": {"b": 1, "c": [5]}, "d": {"e": 1}, "n": {"type": "X", "k": 1}}),
        ({"n": {"type": "X", "l": 2}}, {"n": {"type": "X", "k": 1, "l": 2}, "a": {"b": 1, "c": [1, 2]}, "d": 3}),
        ({"n": {"type": "Y", "l": 2}}, {"n": {"type": "Y", "l": 2}, "a": {"b": 1, "c": [1, 2]}, "d": 3}),
        ({"a": {"type": "Y"}}, {"n": {"type": "X", "k": 1}, "a": {"type": "Y"}, "d": 3}),
        ({"n": {"k": None}, "a": None, "new": None}, {"n": {"type": "X"}, "d": 3, "new": None}),
    ],
)
def test_merging(changes: dict[str, Any], merged: dict[str, Any]) -> None:
    base = {"a": {"b": 1, "c": [1, 2]}, "d": 3, "n": {"type": "X", "k": 1}}
    before = copy.deepcopy(base)
    assert merge(base, changes) == merged
    assert base == before


def test_the_file_in_which_a_wrong_key_stands_is_named(tmp_path: Path) -> None:
    base = write(tmp_path, {"codec.std": 0, "name": None})
    file = write_text(tmp_path / "top.yml", "base: toy.yml\n")
    below = f"{base} (base of {file}): "
    assert problem(file, ("codec:std=1",)) == f"{file}: name: missing"
    write_text(file, "base: toy.yml\nname: top\n")
    assert problem(file) == f"{below}codec.std: must be greater than 0, got 0"
    assert problem(file, ("codec:std=-1",)).startswith(f"{file} (with --force_yml codec:std=-1): codec.std: must be")
    write_text(file, "base: toy.yml\nname: top\ncodec: {std: 1, pitch: 2}\n")
    assert problem(file) == f"{file}: codec.pitch: unknown key; did you mean 'patch'?"
    write(tmp_path, {"codec.patch": 6})
    assert problem(write_text(file, "base: toy.yml\nname: x\n")).startswith(f"{below}codec.patch: must be a multiple")
    write(tmp_path, {"rewards": [{"type": "PSNRReward", "wait": 2}]})
    assert problem(file).startswith(f"{below}rewards.0.wait: PSNRReward has no such argument")


def test_bases_that_cannot_be_read(tmp_path: Path) -> None:
    file = write_text(tmp_path / "top.yml", "base: nowhere.yml\n")
    assert problem(file) == f"{file}: base: {tmp_path / 'nowhere.yml'}: no such option file"
    for value in ("3", "[3]", "{a: b}", "['']"):
        assert problem(write_text(file, f"base: {value}\n")).startswith(f"{file}: base: expected an option file or a")
    write_text(file, "base: b/middle.yml\n")
    middle = write_text(tmp_path / "b" / "middle.yml", "base: ../top.yml\n")
    circle = f"{file} -> {middle} -> {middle.parent / '../top.yml'} is a circle"
    assert problem(file) == f"{middle}: base: {circle}"
    write_text(middle, "a: [1\n")
    assert problem(file).startswith(f"{file}: base: {middle}: line ")


def test_an_override_of_null_takes_away_as_in_a_file(tmp_path: Path) -> None:
    file = write_text(tmp_path / "top.yml", "a: {b: 1, c: {d: 2}}\nlist: [{x: 1}, {x: 2}]\n")
    assert OptionFile.read(file, ["a:c=null", "list:0=null"]).content == {"a": {"b": 1}, "list": [{"x": 2}]}
    assert OptionFile.read(file, ["a:new=null"]).content["a"] == {"b": 1, "c": {"d": 2}, "new": None}


def test_a_file_written_whole_says_the_same(tmp_path: Path) -> None:
    write(tmp_path)
    top = write_text(tmp_path / "top.yml", "base: toy.yml\nname: größer\ncodec: {std: 1e-3}\n")
    force = ["train:optim_g:lr=1e-05"]
    OptionFile.read(top, force).write(tmp_path / "kept" / "top.yml", "one line\nanother")
    kept = (tmp_path / "kept" / "top.yml").read_text(encoding="utf-8")
    assert kept.startswith("# one line\n# another\n") and "base:" not in kept
    assert load_options(tmp_path / "kept" / "top.yml") == load_options(top, force)


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("nowhere.py", None, "plugins.0: {file}: no such file"),
        ("no_such_package_x", None, "plugins.0: no_such_package_x: cannot be imported (ModuleNotFoundError: No module"),
        ("leaving_plugin_x.py", "raise SystemExit(3)\n", "plugins.0: {file}: cannot be imported (SystemExit: 3)"),
        ("broken_plugin_x.py", "def f(:\n", "plugins.0: {file}: cannot be imported (SyntaxError: invalid syntax"),
        (
            "raising_plugin_x.py",
            "1 / 0\n",
            "plugins.0: {file}: cannot be imported (ZeroDivisionError: division by",
        ),
        ("random.py", "x = 1\n", "plugins.0: {file}: another module is named 'random'; rename the file"),
    ],
)
def test_plugins_that_cannot_be_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, text: str | None, expected: str
) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path])
    if text is not None:
        write_text(tmp_path / "below" / name, text)
    write(tmp_path)
    base = write_text(tmp_path / "below" / "b.yml", f"plugins: [{name}]\nbase: ../toy.yml\n")
    message = problem(write_text(tmp_path / "top.yml", "base: below/b.yml\n"))
    wanted = expected.format(file=tmp_path / "below" / name)
    assert message.startswith(f"{base} (base of {tmp_path / 'top.yml'}): {wanted}")


def test_plugins_are_a_list_of_names(tmp_path: Path) -> None:
    assert "plugins: expected a list, got str" in problem(write(tmp_path, {"plugins": "a.py"}))
    assert "plugins.0: expected text, got int 3" in problem(write(tmp_path, {"plugins": [3]}))
