"""Pages keep their size, their links and their numbers."""

from __future__ import annotations

import hashlib
import importlib
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from places import REPOSITORY

from amd_restore import __version__
from amd_restore.errors import AMDRestoreError

sys.path.insert(0, str(REPOSITORY / "benchmarks" / "scripts"))
results_page = importlib.import_module("results_page")

FOLDERS = ("", "docs", "options", "benchmarks", "datasets", "lowres", "third_party", "amd_restore")
PAGES = sorted(
    page
    for folder in FOLDERS
    for page in ((REPOSITORY / folder).rglob("*.md") if folder else REPOSITORY.glob("*.md"))
    if "/data/" not in page.as_posix()
)


def prose(page: Path) -> str:
    """A page without its blocks and pieces of code."""
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    return re.sub(r"`[^`\n]*`", "", text)


def anchors(page: Path) -> set[str]:
    """Names of a page's headings in links, as GitHub makes them."""
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    headings = re.findall(r"^#+ (.+)$", text, flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def broken(page: Path) -> list[str]:
    """Links of a page that lead nowhere; those to other machines are not followed."""
    missing = []
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        file = page.parent / name if name else page
        if not file.exists() or (anchor and anchor not in anchors(file)):
            missing.append(target)
    return missing


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(REPOSITORY)))
def test_every_link_leads_somewhere(page: Path) -> None:
    assert broken(page) == []


def test_a_link_that_leads_nowhere_is_found(tmp_path: Path) -> None:
    (tmp_path / "a.md").write_text("# One `x`: two\n[a](a.md#one-x-two) [b](b.md) [c](#three) [d](https://e) `[f](g)`")
    assert broken(tmp_path / "a.md") == ["b.md", "#three"]


def test_the_first_page_is_short() -> None:
    text = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 100 and len(text.split()) <= 900


@pytest.mark.parametrize("page", sorted((REPOSITORY / "docs").glob("model_card_*.md")), ids=lambda page: page.name)
def test_a_model_card_is_short(page: Path) -> None:
    assert len(page.read_text(encoding="utf-8").splitlines()) <= 70


@pytest.mark.parametrize("name", results_page.PAGES)
def test_published_numbers_are_those_of_the_benchmarks(name: str) -> None:
    """``python benchmarks/scripts/results_page.py`` after a benchmark was measured again."""
    text = (REPOSITORY / name).read_text(encoding="utf-8")
    assert "<!-- table:" in text and results_page.render(text) == text


@pytest.mark.parametrize("name", results_page.TABLES)
def test_no_row_is_there_twice(name: str) -> None:
    titles = [row.title for row in results_page.TABLES[name][0]]
    assert len(titles) == len(set(titles))


def test_a_stale_number_is_replaced() -> None:
    text = (REPOSITORY / "docs" / "results.md").read_text(encoding="utf-8")
    (number,) = re.findall(r"<!-- table:degraded -->.*?(0\.\d{3})", text, re.DOTALL)
    stale = text.replace(number, "0.001")
    assert stale != text and results_page.render(stale) == text


def test_a_table_that_does_not_exist_is_named() -> None:
    with pytest.raises(AMDRestoreError, match="no table 'nothing'; tables: brief"):
        results_page.render("<!-- table:nothing -->\n<!-- /table -->")


def test_a_row_that_was_not_measured_is_named() -> None:
    row = results_page.Row("x", "x4_real", "no such method")
    with pytest.raises(AMDRestoreError, match="benchmarks/x4_real: 0 entries of .*no such method"):
        results_page.value(row, "Set14", "psnr_y")


@pytest.fixture
def own_benchmark(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """What the generator reads as a benchmark of one row, of weights in a folder of their own."""
    (tmp_path / "net.safetensors").write_bytes(b"first")
    report: dict[str, Any] = {
        "protocol": {"weights": {"net/net.safetensors": hashlib.sha256(b"first").hexdigest()}},
        "results": [{"method": "net, 1 step", "dataset": "A", "rewards": [], "values": {"psnr_y": [[25.0]]}}],
        "comparisons": [],
        "absent": [{"method": "net, 1 step", "dataset": "B", "reason": "x"}],
        "rows": [{"method": "net, 1 step", "seconds": 0.5}],
    }
    monkeypatch.setattr(results_page, "WEIGHTS", tmp_path)
    monkeypatch.setattr(results_page, "content", lambda benchmark, kind="": report)
    results_page.released.cache_clear()
    yield report
    results_page.released.cache_clear()


def test_rows_of_replaced_weights_say_so(own_benchmark: dict[str, Any], tmp_path: Path) -> None:
    row = results_page.Row("the net", "mine", "net, 1 step", "other")
    assert results_page.title(row) == "the net" and results_page.seconds(row) == "0.50"
    (tmp_path / "net.safetensors").write_bytes(b"second version")
    results_page.released.cache_clear()
    assert results_page.title(row) == "the net (earlier version)" and results_page.seconds(row) == "–"
    digest = own_benchmark["protocol"]["weights"].pop("net/net.safetensors")
    own_benchmark["protocol"]["weights"]["net/not_released.safetensors"] = digest
    assert results_page.title(row) == "the net"


def test_what_was_not_measured_is_a_dash(own_benchmark: dict[str, Any]) -> None:
    row = results_page.Row("the net", "mine", "net, 1 step", "other")
    assert results_page.value(row, "A", "psnr_y") == "25.00" and results_page.value(row, "B", "psnr_y") == "–"
    assert results_page.minus("A", "psnr_y")(row) == "–"
    own_benchmark["protocol"].update(date="today", commit="c", machine="m")
    own_benchmark["protocol"]["kept"] = [{"date": "before", "commit": "b", "machine": "n", "rows": ["x: A", "x: B"]}]
    assert results_page.source(row) == "today, commit c, m; 2 rows: before, commit b, n"


def test_the_check_of_pages_ends_with_0() -> None:
    script = REPOSITORY / "benchmarks" / "scripts" / "results_page.py"
    done = subprocess.run([sys.executable, script, "--check"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")


def test_the_citation_is_of_this_version() -> None:
    citation = yaml.safe_load((REPOSITORY / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == __version__ and {"cff-version", "message", "title", "authors"} <= {*citation}


# ---- what pages name exists -----------------------------------------------------------------------------------------

NAMED = [*sorted((REPOSITORY / "docs").glob("*.md")), *(REPOSITORY / name for name in ("README.md", "CONTRIBUTING.md"))]
MADE = ("experiments/", "datasets/data/", "results/", "own")  # by the commands of the page


def code_of(page: Path) -> str:
    """All that a page has in code blocks and between backticks."""
    return "\n".join(re.findall(r"^```.*?^```|`[^`\n]+`", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE))


@pytest.mark.parametrize("page", NAMED, ids=lambda page: page.name)
def test_files_that_a_page_names_exist(page: Path) -> None:
    folders = "amd_restore|benchmarks|datasets|docs|lowres|options|tests|third_party"
    paths = re.findall(rf"(?<![\w/.-])(?:{folders})/[\w./-]*\w", code_of(page))
    recipes = [] if page.name == "CONTRIBUTING.md" else paths  # it names the files that a reader will add
    kept = [path for path in recipes if not path.startswith(MADE) and "NAME" not in path]
    missing = [path for path in kept if not (REPOSITORY / path).exists()]
    options = {path.name for path in (REPOSITORY / "options").rglob("*.yml")}
    names = [name for name in re.findall(r"(?<![\w/$])(\w+\.yml)\b", code_of(page)) if not name.startswith(MADE)]
    assert missing == [] and set(names) <= options


def test_the_files_on_the_walks_exist() -> None:
    named = re.findall(
        r"(?:[\w/]+/)?\b[a-z]\w*\.py\b", (REPOSITORY / "docs" / "architecture.md").read_text(encoding="utf-8")
    )
    files = [path.as_posix() for path in (REPOSITORY / "amd_restore").rglob("*.py")]
    files += [path.as_posix() for path in (REPOSITORY / "tests").rglob("*.py")]
    assert [name for name in named if not any(file.endswith(f"/{name}") for file in files)] == []
