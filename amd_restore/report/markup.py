"""Conversion of our tables' Markdown to HTML."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator, Sequence


def to_html(markdown: str, top: int = 2) -> str:
    """Convert headings, tables, lists and paragraphs with **bold** and `code`.

    Args:
        markdown: text.
        top: level of the highest heading.
    """
    return "\n".join(_blocks(markdown.splitlines(), top))


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Convert a table with **bold** cells; words are aligned left, numbers right."""
    words = [any(_is_words(row[index]) for row in rows) for index in range(len(heads))]

    def line(tag: str, cells: Sequence[str]) -> str:
        kinds = [' class="text"' if is_text else "" for is_text in words]
        shown = [f"<{tag}{kind}>{_cell(cell)}</{tag}>" for kind, cell in zip(kinds, cells, strict=True)]
        return f"<tr>{''.join(shown)}</tr>"

    body = "".join(line("td", row) for row in rows)
    return f'<div class="scroll"><table><thead>{line("th", heads)}</thead><tbody>{body}</tbody></table></div>'


def _is_words(cell: str) -> bool:
    return bool(cell) and cell.strip("*") != "–" and not re.match(r"[-+−]?\d", cell.strip("*"))


def _cell(text: str) -> str:
    """Convert a cell; an interval goes on a second line, to keep tables narrow."""
    first, bracket, rest = text.partition(" (")
    return f"{_inline(first)}<br>{_inline('(' + rest)}" if bracket and re.match(r"[-+−\d]", rest) else _inline(text)


def _blocks(lines: Sequence[str], top: int) -> Iterator[str]:
    at = 0
    while at < len(lines):
        line = lines[at].strip()
        kind = _kind(line)
        end = at + 1
        while end < len(lines) and kind != "heading" and _kind(lines[end].strip()) == kind:
            end += 1
        block = [one.strip() for one in lines[at:end]]
        at = end
        if kind == "heading":
            level = len(line) - len(line.lstrip("#"))
            yield f"<h{level + top - 1}>{_inline(line.lstrip('# '))}</h{level + top - 1}>"
        elif kind == "table":
            cells = [[cell.strip() for cell in row.strip("|").split("|")] for row in block]
            yield table(cells[0], [row for row in cells[1:] if not set("".join(row)) <= set("-: ")])
        elif kind == "list":
            yield "<ul>" + "".join(f"<li>{_inline(item[2:])}</li>" for item in block) + "</ul>"
        elif kind == "text":
            yield f"<p>{_inline(' '.join(block))}</p>"


def _kind(line: str) -> str:
    kinds = {"#": "heading", "|": "table", "- ": "list"}
    return next((kind for start, kind in kinds.items() if line.startswith(start)), "text" if line else "empty")


def _inline(text: str) -> str:
    text = html.escape(text, quote=False)
    text = re.sub(r"\*\*(.+?)\*\*", r"<strong>\1</strong>", text)
    return re.sub(r"`(.+?)`", r"<code>\1</code>", text)
