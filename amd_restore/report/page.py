"""Report page: one self-contained HTML file."""

from __future__ import annotations

import html
from collections.abc import Sequence

import numpy as np

from amd_restore.report.curves import COLORS, DARK_COLORS, Arms, draw_svg, last_values
from amd_restore.report.markup import table, to_html
from amd_restore.report.pictures import FORBIDDEN, GOOD, CaptionedImage, compare_panels, zone_pictures
from amd_restore.report.quantities import Group, Quantity, layout
from amd_restore.report.runs import ReportRun, arms_of

_STYLE = """
:root { color-scheme: light dark; --paper: #fff; --ink: #1d2127; --soft: #5b6470; --grid: #d9dde2; --card: #f6f7f9;
  LIGHT }
@media (prefers-color-scheme: dark) { :root { --paper: #14171b; --ink: #e6e9ed; --soft: #a0a9b4; --grid: #363c44;
  --card: #1c2026; DARK } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.5rem 1rem 4rem; max-width: 78rem; background: var(--paper); color: var(--ink);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 0 0 .3rem; }
h2 { font-size: 1.25rem; margin: 2.6rem 0 .2rem; padding-top: .8rem; border-top: 1px solid var(--grid); }
h3 { font-size: 1.05rem; margin: 1.6rem 0 .3rem; }
h4, h5 { font-size: .95rem; margin: 1.4rem 0 .2rem; }
p { margin: .2rem 0 .8rem; max-width: 46rem; }
.soft, figcaption { color: var(--soft); }
nav { display: flex; flex-wrap: wrap; gap: .2rem 1rem; margin: .8rem 0; font-size: .95rem; }
a { color: inherit; }
.legend { position: sticky; top: 0; z-index: 1; display: flex; flex-wrap: wrap; gap: .2rem 1.1rem; padding: .5rem 0;
  background: var(--paper); border-bottom: 1px solid var(--grid); font-size: .92rem; }
.legend span { display: inline-flex; align-items: center; gap: .4rem; }
.legend i { width: 1.6rem; border-top-width: 3px; }
.grid { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 20rem), 1fr)); gap: 1rem; }
figure { margin: 0; }
.grid > figure { padding: .7rem .8rem; background: var(--card); border-radius: 8px; display: flex;
  flex-direction: column; }
.grid h3 { margin: 0 0 .3rem; font-size: .95rem; overflow-wrap: anywhere; }
.grid svg { display: block; width: 100%; height: auto; }
figcaption { font-size: .85rem; line-height: 1.35; margin-top: .3rem; }
.row { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(46%, 11rem), 1fr)); gap: .5rem;
  margin-bottom: 1.6rem; }
.row img { display: block; width: 100%; height: auto; border-radius: 3px; }
.row figcaption { font-size: .8rem; }
.scroll { overflow-x: auto; margin: .4rem 0 1.2rem; }
table { border-collapse: collapse; font-size: .88rem; font-variant-numeric: tabular-nums; }
th, td { text-align: right; padding: .28rem .7rem; white-space: nowrap; border-bottom: 1px solid var(--grid); }
th.text, td.text { text-align: left; white-space: normal; min-width: 6rem; }
th:first-child, td:first-child { padding-left: 0; }
th { font-weight: 600; vertical-align: bottom; }
.scale { display: flex; align-items: center; flex-wrap: wrap; gap: .6rem; font-size: .88rem; margin: .3rem 0 1rem; }
.scale i { width: 12rem; height: .8rem; border-radius: 3px; }
ul { padding-left: 1.2rem; font-size: .92rem; }
li { overflow-wrap: anywhere; }
details > summary { cursor: pointer; color: var(--soft); }
"""


def render(title: str, runs: Sequence[ReportRun], tables: Sequence[str] = ()) -> str:
    """Render the page about ``runs``.

    Args:
        title: heading.
        runs: at least one.
        tables: Markdown of tables to include, from the benchmark or the ablation.

    Raises:
        AMDRestoreError: an image of a run cannot be read, or matplotlib is missing.
    """
    arms = arms_of(runs)
    curves: Arms = {arm: [run.curves() for run in of_arm] for arm, of_arm in arms.items()}
    groups = layout(key for of_arm in curves.values() for run in of_arm for key in run)
    sections = [(f"{group.title}", _curve_section(group, quantities, curves)) for group, quantities in groups]
    sections += [("Images", _panels(arms))] if any(run.panels() for run in runs) else []
    zones = _zones(arms)
    sections += [("Zone maps", zones)] if zones else []
    sections += [("Results", "\n".join(to_html(text, top=3) for text in tables))] if tables else []
    sections += [("Last values", _last_values(groups, curves)), ("Runs", _runs(runs))]
    body = "\n".join(
        f'<section id="s{index}"><h2>{html.escape(name)}</h2>\n{content}</section>'
        for index, (name, content) in enumerate(sections)
    )
    links = "".join(f'<a href="#s{index}">{html.escape(name)}</a>' for index, (name, _) in enumerate(sections))
    iterations = max(run.iterations for run in runs)
    counts = f"{len(runs)} run{'s' * (len(runs) > 1)} of {len(arms)} arm{'s' * (len(arms) > 1)}"
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><style>{_style()}</style></head><body>\n'
        f"<h1>{html.escape(title)}</h1>\n<p class='soft'>{counts}, up to iteration {iterations}. Thin lines are runs; "
        f"thick lines are means over the runs of an arm, smoothed over a twentieth of a long curve.</p>\n"
        f"<nav>{links}</nav>\n{_legend(list(arms))}\n{body}\n</body></html>\n"
    )


def _style() -> str:
    light, dark = (
        " ".join(f"--c{index}: {color};" for index, color in enumerate(colors)) for colors in (COLORS, DARK_COLORS)
    )
    return _STYLE.replace("LIGHT", light).replace("DARK", dark)


def _legend(arms: Sequence[str]) -> str:
    styles = ("solid", "dashed", "dotted", "double")
    entries = [
        f'<span><i style="border-top-style: {styles[index // len(COLORS) % len(styles)]}; '
        f'border-top-color: var(--c{index % len(COLORS)})"></i>{html.escape(arm)}</span>'
        for index, arm in enumerate(arms)
    ]
    return f'<div class="legend">{"".join(entries)}</div>'


def _curve_section(group: Group, quantities: Sequence[Quantity], curves: Arms) -> str:
    figures = [
        f"<figure><h3>{html.escape(quantity.title)}</h3>{draw_svg(quantity, curves)}"
        f"<figcaption>{html.escape(quantity.hint)}</figcaption></figure>"
        for quantity in quantities
    ]
    return f'<p class="soft">{html.escape(group.hint)}</p><div class="grid">{"".join(figures)}</div>'


def _row(pictures: Sequence[CaptionedImage]) -> str:
    cells = [
        f'<figure><img src="{picture.uri}" alt="{html.escape(picture.caption)}" loading="lazy">'
        f"<figcaption>{html.escape(picture.caption)}</figcaption></figure>"
        for picture in pictures
    ]
    return f'<div class="row">{"".join(cells)}</div>'


def _panels(arms: dict[str, list[ReportRun]]) -> str:
    lines = [
        '<p class="soft">The newest validation panel of the first run of each arm: look for texture that is sharp in '
        "one arm and absent from the ground truth.</p>"
    ]
    for name, rows in compare_panels([of_arm[0] for of_arm in arms.values()]).items():
        lines += [f"<h3>{html.escape(name)}</h3>", *map(_row, rows)]
    return "\n".join(lines)


def _zones(arms: dict[str, list[ReportRun]]) -> str:
    found = {arm: zone_pictures(of_arm[0]) for arm, of_arm in arms.items()}
    if not any(found.values()):
        return ""
    low, high = (f"rgb{color}" for color in (FORBIDDEN, GOOD))
    lines = [
        '<p class="soft">Advantage of each place among several restorations of one input, over the restoration in '
        "gray: orange is where a sample is worse than its group (the Forbidden Zone). Look whether orange falls on "
        "artefacts.</p>"
        f'<div class="scale">−1, forbidden <i style="background: linear-gradient(90deg, {low}, #9a9a9a, {high})"></i>'
        "+1, better than the group</div>"
    ]
    for arm, rows in found.items():
        if rows:
            lines += [f"<h3>{html.escape(arm)}</h3>", *map(_row, rows)]
    return "\n".join(lines)


def _last_values(groups: Sequence[tuple[Group, Sequence[Quantity]]], curves: Arms) -> str:
    rows = []
    for _, quantities in groups:
        for quantity in quantities:
            cells = [
                _last([last_values(run[quantity.key]) for run in runs if quantity.key in run])
                for runs in curves.values()
            ]
            rows.append([f"{quantity.title} ({quantity.key})", *cells])
    note = "Means over the last five entries of each curve; ± is the standard deviation between the runs of an arm."
    return f'<p class="soft">{note}</p>{table(["quantity", *curves], rows)}'


def _last(values: Sequence[float]) -> str:
    defined = [value for value in values if not np.isnan(value)]
    if not defined:
        return "–"
    spread = f" ± {np.std(defined, ddof=1):.2g}" if len(defined) > 1 else ""
    return f"{np.mean(defined):.4g}{spread}"


def _runs(runs: Sequence[ReportRun]) -> str:
    rows = []
    for run in runs:
        pace = f"{run.seconds / run.iterations:.2f}" if run.iterations else "–"
        threads = run.options.get("num_threads") or "–"
        seed = "–" if run.seed is None else str(run.seed)
        rows.append([run.name, run.arm, seed, str(run.iterations), f"{run.seconds / 60:.1f}", pace, str(threads)])
    heads = ["run", "arm", "seed", "iterations", "minutes", "s / iteration", "threads"]
    return f'<p class="soft">Training time only: validation and saving are not in it.</p>{table(heads, rows)}'
