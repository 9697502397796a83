"""The pages that list others list all of them."""

from __future__ import annotations

import re
from pathlib import Path

from places import REPOSITORY

PACKAGE = REPOSITORY / "amd_restore"


def text_of(page: str) -> str:
    """The page's text."""
    return (REPOSITORY / page).read_text(encoding="utf-8")


def missing(page: str, names: list[str]) -> list[str]:
    """Those of the names that the page does not have as code or as a link."""
    text = text_of(page)
    assert len(names) > 3
    return [name for name in names if not re.search(rf"[`(/ ]{re.escape(name)}[`)#/ ]", text)]


def test_every_page_of_docs_is_listed() -> None:
    pages = sorted(path.name for path in (REPOSITORY / "docs").glob("*.md") if path.name != "README.md")
    assert missing("docs/README.md", pages) == []


def test_every_option_file_of_training_is_listed() -> None:
    files = sorted(path.name for path in (REPOSITORY / "options" / "train").glob("*.yml"))
    assert missing("options/README.md", files) == []
    listed = re.findall(r"\[?`?([\w.]+\.yml)`?\]?", text_of("options/README.md"))
    assert [name for name in listed if not list((REPOSITORY / "options").rglob(name))] == []


def test_every_script_and_result_of_benchmarks_is_listed() -> None:
    folder = REPOSITORY / "benchmarks"
    scripts = [
        f"scripts/{path.name}"
        for path in sorted((folder / "scripts").glob("*.py"))
        if "__main__" in path.read_text(encoding="utf-8")
    ]
    pages = [str(path.relative_to(folder)) for path in sorted(folder.rglob("*.md")) if path != folder / "README.md"]
    assert missing("benchmarks/README.md", scripts + pages) == []


def test_every_place_of_the_package_is_on_the_map() -> None:
    places = [
        path.name
        for path in sorted(PACKAGE.iterdir())
        if (path.suffix == ".py" or path.is_dir()) and not path.name.startswith("__")
    ]
    assert missing("docs/architecture.md", places) == []


def test_the_package_has_few_places_at_its_root() -> None:
    children = [path for path in PACKAGE.iterdir() if path.name != "__pycache__"]
    assert len([path for path in children if path.is_dir()]) <= 18
    assert len([path for path in children if path.suffix == ".py"]) <= 9


def test_every_test_is_in_a_folder_and_every_helper_beside_them() -> None:
    tests = REPOSITORY / "tests"
    assert [path.name for path in tests.glob("*.py")] == ["conftest.py"]
    misplaced: list[Path] = [
        path for path in tests.rglob("*.py") if (path.parent.name == "helpers") == path.name.startswith("test_")
    ]
    assert [path.name for path in misplaced] == ["conftest.py"]
