"""The README says what is so: its commands exist, its files exist, its first picture's job runs."""

from __future__ import annotations

import re
import shlex
import subprocess
from fnmatch import fnmatch
from pathlib import Path

import pytest
from places import REPOSITORY
from warm_python import warm_python

from amd_restore.apps.cli.parser import build_parser
from amd_restore.weights import read_header, resolve_weights

DOCUMENTS = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").glob("*.md"))]


def commands(text: str) -> list[list[str]]:
    """Every shell line inside ```bash blocks, comments removed, split at && into words."""
    blocks = "\n".join(re.findall(r"```bash\n(.*?)```", text, flags=re.DOTALL))
    lines = re.sub(r"\\\n\s*", "", blocks).splitlines()
    parts = [part for line in lines for part in line.split("#")[0].split("&&")]
    return [words for part in parts if (words := [w for w in shlex.split(part) if "=" not in w.split("-")[0]])]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_nothing_is_left_to_fill_in(document: Path) -> None:
    assert not re.search(r"@@|\bTBD\b|\bTODO\b", document.read_text(encoding="utf-8"))


def python_words() -> list[list[str]]:
    found = [words for path in DOCUMENTS for words in commands(path.read_text(encoding="utf-8"))]
    return [words for words in found if words[0].endswith("python")]


def test_the_readme_has_commands() -> None:
    assert len(python_words()) >= 8


@pytest.mark.parametrize("words", python_words(), ids=" ".join)
def test_named_scripts_options_and_flags_exist(words: list[str]) -> None:
    if words[1] == "-m":
        target, arguments = ["-m", words[2]], words[3:]
    else:
        assert (REPOSITORY / words[1]).is_file(), words[1]
        target, arguments = [words[1]], words[2:]
    for file in (word for word in arguments if word.endswith(".yml") and word.startswith("options/")):
        assert (REPOSITORY / file).is_file(), file
    result = subprocess.run([warm_python(), *target, "--help"], cwd=REPOSITORY, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    for flag in (word for word in arguments if word.startswith("-")):
        assert re.search(rf"(?<![\w-]){re.escape(flag)}(?![\w-])", result.stdout), f"{flag} is no flag of {target}"


def test_the_list_of_options_is_current() -> None:
    """``python -m amd_restore.options > docs/options.md`` after changing an option."""
    result = subprocess.run(
        [warm_python(), "-m", "amd_restore.options"], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    assert result.stdout == (REPOSITORY / "docs" / "options.md").read_text(encoding="utf-8")


def test_outputs_of_the_readme_are_not_committed() -> None:
    folders = {words[words.index("-o") + 1] for words in commands(DOCUMENTS[0].read_text("utf-8")) if "-o" in words}
    ignored = (REPOSITORY / ".gitignore").read_text(encoding="utf-8").splitlines()
    assert len(folders) > 2
    assert {folder for folder in folders if not any(fnmatch(f"/{folder}/", line) for line in ignored)} == set()


def test_the_speed_of_the_tiny_model_is_that_of_the_table() -> None:
    table = (REPOSITORY / "benchmarks" / "2026-11-26_light_install.md").read_text(encoding="utf-8")
    large, tiny = (
        re.findall(r"\d+", re.findall(rf"^\| {name} \|(.*)$", table, re.MULTILINE)[0])
        for name in ("x4-classical", "x4-classical-tiny")
    )
    assert round(sum(int(a) / int(b) for a, b in zip(large, tiny, strict=True)) / len(tiny)) == 6
    page = (REPOSITORY / "docs" / "web.md").read_text(encoding="utf-8")
    assert re.findall(r"about (\w+) times as long", page) == ["six"]


def test_seconds_of_the_models_are_those_of_the_table() -> None:
    table = (REPOSITORY / "benchmarks" / "2026-11-26_light_install.md").read_text(encoding="utf-8")
    measured = dict(re.findall(r"^\| (\S+), from \d+x\d+ \| ([\d.]+) \|", table, re.M))
    rows = [
        row.split("|")[1:4:2]
        for row in DOCUMENTS[0].read_text("utf-8").splitlines()
        if row.count("|") == 5 and row.endswith("MiB |")
    ]
    said = {
        name: second
        for names, seconds in rows
        for name, second in zip(re.findall(r"`([\w-]+)`", names), re.findall(r"[\d.]+", seconds), strict=False)
    }
    assert said == measured and len(said) == 6


def test_numbers_of_steps_are_those_of_the_students_training() -> None:
    table = re.findall(r"^\| name \((.*) steps\) \|(.*?)\n\n", DOCUMENTS[0].read_text("utf-8"), re.M | re.S)
    (steps, rows), *others = table
    students = [name for name in re.findall(r"`(x\d-[\w-]+)`", rows) if not name.endswith("-teacher")]
    assert (steps, len(students), others) == ("1, 2 or 4", 7, [])
    assert {read_header(resolve_weights(name)).steps for name in students} == {(1, 2, 4)}
    assert "trained for 1, 2 and 4" in build_parser().format_help()
