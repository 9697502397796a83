"""The page about training runs: what is read, what is drawn, and that the page needs nothing from elsewhere."""

from __future__ import annotations

import base64
import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image as PILImage

from amd_restore.image_io import Picture, write_image
from amd_restore.report.__main__ import main
from amd_restore.report.compute import stages
from amd_restore.report.curves import draw_svg, last_values, mean_curve
from amd_restore.report.markup import to_html
from amd_restore.report.pictures import FORBIDDEN, GOOD, compare_panels, overlay, zone_pictures
from amd_restore.report.quantities import GROUPS, Quantity, layout
from amd_restore.report.runs import Curve, find_runs

ARMS = ("DMD", "AMD", "spatial AMD")


def make_run(folder: Path, index: int = 0, seed: int = 0, spatial: bool = False, rows: int = 36) -> Path:
    """An experiment folder with made-up curves, a panel and zone maps; ``index`` tells arms apart."""
    rng = np.random.default_rng([index, seed])
    folder.mkdir(parents=True)
    lines = []
    for number in range(1, rows + 1):
        x = number / rows
        spread = 0.3 * index
        values = {
            "loss/l_amd": 1.0 - 0.3 * x + rng.normal(0, 0.05),
            "loss/l_fake": 0.2 + rng.normal(0, 0.01),
            "amd/forbidden_share": 0.5 + rng.normal(0, 0.03),
            "amd/clipped_share": 0.1 + rng.normal(0, 0.02),
            "amd/alpha_std": spread * (1 + 0.2 * x),
            "amd/alpha_mean": 1.0 + rng.normal(0, 0.01),
            "amd/alpha_min": 1.0 - spread,
            "amd/alpha_max": 1.0 + spread,
            "amd/norm_matching": 1.2 - 0.5 * x + rng.normal(0, 0.05),
            "amd/cosine_gt": 0.05 + 0.05 * x + rng.normal(0, 0.02),
            "amd/cosine_gt_inside": None if number == 3 else 0.1 * index * x + rng.normal(0, 0.02),
            "amd/fake_loss_inside": 0.3 - 0.02 * index * x + rng.normal(0, 0.01),
            "amd/overhead": 0.012 + rng.normal(0, 0.001),
            "reward/total": 2 * x + 0.2 * index + rng.normal(0, 0.1),
            "reward/lpips_squeeze": -0.2 + 0.05 * x + rng.normal(0, 0.01),
            "new/thing": float(number),
        }
        lines.append({"iter": 10 * number, "seconds": 9.5 * number, "values": values})
        if number % (rows // 2) == 0:
            psnr = {"psnr@1": 26 + x + 0.1 * index, "lpips@1": 0.3 - 0.05 * x}
            lines.append({"iter": 10 * number, "seconds": 9.5 * number, "validation": {"val": psnr}})
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (folder / "diagnostics.jsonl").write_text(text, encoding="utf-8")
    options = {"name": folder.name, "manual_seed": seed, "num_threads": 1, "val": {"num_steps": [1, 4]}}
    (folder / "train.yml").write_text(yaml.safe_dump(options), encoding="utf-8")

    y, x = np.mgrid[0:256, 0:256]
    image = np.stack([x, y, 128 + 0 * x], axis=2).astype(np.uint8)
    cells = [[np.clip(image * 0.8 + 20 * column + 10 * index, 0, 255) for column in range(4)] for _ in range(2)]
    panel = np.concatenate([np.concatenate(row, axis=1) for row in cells]).astype(np.uint8)
    write_image(folder / "visualization/val/panel_0000180.png", Picture(panel // 2))
    write_image(folder / "visualization/val/panel_0000360.png", Picture(panel))
    advantage = np.zeros((2, 4, 64, 64), np.float32)
    advantage[:] = np.linspace(-0.9, 0.9, 4)[None, :, None, None]
    if spatial:
        advantage = np.cos(np.mgrid[0:64, 0:64].sum(axis=0) / 9 + np.arange(4)[:, None, None])[None].repeat(2, axis=0)
    (folder / "visualization/zones").mkdir()
    np.savez(
        folder / "visualization/zones/zones_0000360.npz",
        lq=image[None, ::4, ::4].repeat(2, axis=0),
        sr=image[None, None].repeat(2, axis=0).repeat(4, axis=1),
        gt=image[None].repeat(2, axis=0),
        advantage=advantage,
    )
    return folder


def make_ablation(experiments: Path, seeds: int = 3) -> Path:
    """``experiments/toy`` with the records of all arms."""
    folder = experiments / "toy"
    folder.mkdir(parents=True)
    for index, arm in enumerate(ARMS):
        for seed in range(seeds):
            name = f"toy_{arm.lower().replace(' ', '_')}_s{seed}"
            make_run(experiments / name, index, seed, arm.startswith("spatial"))
            record = {"ablation": "toy", "arm": arm, "position": index, "seed": seed}
            (folder / f"{name}.json").write_text(json.dumps(record), encoding="utf-8")
    return folder


class References(HTMLParser):
    """Collects what a page would load, its ids, its links inside, and unclosed elements."""

    def __init__(self) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.links: list[str] = []
        self.ids: list[str] = []
        self.tags: list[str] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)
        for key, value in attrs:
            if key in ("src", "href", "xlink:href", "data"):
                (self.links if (value or "").startswith("#") else self.loaded).append(value or "")
            if key == "id":
                self.ids.append(value or "")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if self.open and self.open[-1] == tag:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open.pop() == tag, f"</{tag}> closes something else"


def test_page_of_an_ablation(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = make_ablation(tmp_path / "experiments", seeds=2)
    tables = tmp_path / "toy.md"
    tables.write_text("# Ablation toy\n\n| arm | PSNR |\n|---|---|\n| A & B | **26.1** |\n", encoding="utf-8")
    out, figure = tmp_path / "page.html", tmp_path / "figure.png"
    arguments = [str(folder), "--out", str(out), "--figure", str(figure), "--tables", str(tables)]
    assert main(arguments) == 0, capsys.readouterr().err
    page = out.read_text(encoding="utf-8")

    found = References()
    found.feed(page)
    assert found.open == []
    assert all(reference.startswith("data:image/") for reference in found.loaded)
    assert not set(found.tags) & {"script", "link", "iframe", "object", "embed"}
    assert "url(http" not in page and "@import" not in page
    assert len(set(found.ids)) == len(found.ids), "two elements of one id: a diagram would use another's clip"
    assert {link[1:] for link in found.links} <= set(found.ids)
    assert set(re.findall(r"url\(#([^)]+)\)", page)) <= set(found.ids)

    # Every quantity has its diagram, with a sentence.
    keys = {key for run in find_runs([folder]) for key in run.curves()}
    drawn = [quantity for _, quantities in layout(keys) for quantity in quantities]
    assert found.tags.count("svg") == len(drawn) and page.count("<figcaption>") >= len(drawn)
    for quantity in drawn:
        assert quantity.title.replace("<", "&lt;") in page
    assert "val, psnr@1" in page and "new/thing" in page
    assert page.count("var(--c2)") > 10 and "#010203" not in page and "#0072b2" in page
    assert "<strong>26.1</strong>" in page and "A &amp; B" in page
    assert "toy_spatial_amd_s1" in page and "spatial AMD, 4 steps" in page
    picture = np.asarray(PILImage.open(figure))
    assert picture.shape[0] > 500 and picture.shape[1] > 1000 and picture.std() > 5
    assert len(page) < 6 * 2**20

    before = out.read_bytes()
    assert main(arguments) == 0 and out.read_bytes() == before, "the same runs make the same page"


def test_single_run_and_unfinished_line(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "one_s3", seed=3)
    with (folder / "diagnostics.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"iter": 370, "sec')
    (run,) = find_runs([folder])
    assert (run.arm, run.seed, run.iterations, run.seconds) == ("one", 3, 360, pytest.approx(342))
    curve = run.curves()["amd/cosine_gt_inside"]
    assert np.isnan(curve.values[2]) and not np.isnan(curve.values[3]) and curve.iterations[2] == 30
    assert main([str(folder), "--out", str(tmp_path / "page.html")]) == 0


def test_errors_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def error(*arguments: Path | str) -> str:
        assert main([*map(str, arguments), "--out", str(tmp_path / "page.html")]) == 2
        text = capsys.readouterr().err
        assert text.count("\n") == 1
        return text

    run = make_run(tmp_path / "run")
    assert "no diagnostics.jsonl" in error(tmp_path / "nothing")
    assert "given twice" in error(run, run)
    assert "no run has 'x'" in error(run, "--figure", tmp_path / "x.png", "--quantities", "x")
    assert "cannot read" in error(run, "--tables", tmp_path / "none.md")
    (run / "visualization/zones/zones_0000360.npz").write_bytes(b"nothing")
    assert "damaged" in error(run)


def test_mean_is_over_runs_and_skips_gaps() -> None:
    a = Curve(np.array([1, 2, 3]), np.array([1.0, np.nan, 3.0]))
    b = Curve(np.array([1, 3, 4]), np.array([3.0, 5.0, 7.0]))
    iterations, values = mean_curve([a, b])
    assert iterations.tolist() == [1, 3, 4] and values.tolist() == [2.0, 4.0, 7.0]
    assert last_values(a) == 2.0 and np.isnan(last_values(Curve(a.iterations, np.full(3, np.nan))))
    noisy = Curve(np.arange(400), np.random.default_rng(0).normal(5, 1, 400))
    _, smooth = mean_curve([noisy])
    assert smooth.std() < 0.4 and smooth.mean() == pytest.approx(5, abs=0.1) and smooth[0] == pytest.approx(5, abs=1.2)


def test_every_quantity_is_drawn_once() -> None:
    keys = ["amd/alpha_mean", "amd/alpha_min", "amd/alpha_max", "amd/beta_min", "loss/l_fake", "loss/l_pix", "odd"]
    sections = layout(keys)
    drawn = [quantity.key for _, quantities in sections for quantity in quantities]
    assert drawn == ["amd/alpha_mean", "loss/l_fake", "loss/l_pix", "amd/beta_min", "odd"]
    assert all(quantity.hint.endswith(".") for group in GROUPS for quantity in group.quantities)


def test_drawing_of_constant_or_empty_curves() -> None:
    empty = Curve(np.array([1, 2]), np.full(2, np.nan))
    constant = Curve(np.array([1, 2]), np.full(2, 1e-9))
    svg = draw_svg(Quantity("x", "X & <Y>", ""), {"A": [{"x": empty}], "B": [{"x": constant}], "C": [{}]})
    narrow = Curve(np.array([1, 2]), np.array([0.2241, 0.2249]))
    labels = re.findall(r"<text [^>]*>([\d.]+)</text>", draw_svg(Quantity("x", "", ""), {"A": [{"x": narrow}]}))
    assert len(set(labels)) == len(labels) >= 4, "labels of an axis are all different"
    assert 'aria-label="X &amp; &lt;Y&gt;"' in svg and svg.endswith("</svg>\n")


def test_overlay_colours_the_zone() -> None:
    image = np.full((8, 8, 3), 100, np.uint8)
    advantage = np.array([[-1.0, 0.0], [0.0, 1.0]], np.float32)
    shown = overlay(image, advantage)
    assert np.array_equal(shown[0, 7], image[0, 7]) and np.array_equal(shown[7, 0], image[0, 0])
    for corner, color in (((0, 0), FORBIDDEN), ((7, 7), GOOD)):
        assert np.allclose(shown[corner], 0.45 * 100 + 0.55 * np.array(color), atol=1)
    assert np.array_equal(shown[:4, :4], np.broadcast_to(shown[0, 0], (4, 4, 3)))


def test_pictures_say_what_they_show(tmp_path: Path) -> None:
    make_run(tmp_path / "whole", 0)
    make_run(tmp_path / "spatial", 2, spatial=True)
    whole, spatial = find_runs([tmp_path / "whole", tmp_path / "spatial"])
    rows = compare_panels([whole, spatial])["val"]
    captions = ["input, bicubic", "whole, 1 step", "whole, 4 steps", "spatial, 1 step", "spatial, 4 steps"]
    assert len(rows) == 2 and [picture.caption for picture in rows[0]] == [*captions, "ground truth"]
    pixels = np.asarray(PILImage.open(io.BytesIO(base64.b64decode(rows[0][0].uri.split(",")[1]))))
    newest = np.asarray(PILImage.open(tmp_path / "whole/visualization/val/panel_0000360.png"))
    assert np.abs(pixels.astype(int) - newest[:256, :256]).mean() < 4

    assert [len(zone_pictures(run)) for run in (whole, spatial)] == [1, 2]
    assert [picture.caption for picture in zone_pictures(whole)[0]][1] == "sample 1: advantage -0.90"
    assert "in the zone" in zone_pictures(spatial)[0][1].caption


@pytest.mark.parametrize(
    ("markdown", "expected"),
    [
        ("# A\n\n## B", "<h2>A</h2>\n<h3>B</h3>"),
        ("one\n`two` **three** < 4", "<p>one <code>two</code> <strong>three</strong> &lt; 4</p>"),
        ("- a\n- b", "<ul><li>a</li><li>b</li></ul>"),
    ],
)
def test_markdown(markdown: str, expected: str) -> None:
    assert to_html(markdown) == expected


def test_markdown_of_a_table() -> None:
    text = to_html("| a | b | c |\n|---|---|---|\n| A | – | **2** (1 to 3) |\n\nafter")
    assert re.sub(r"</?div[^>]*>", "", text) == (
        '<table><thead><tr><th class="text">a</th><th>b</th><th>c</th></tr></thead>'
        '<tbody><tr><td class="text">A</td><td>–</td><td><strong>2</strong><br>(1 to 3)</td></tr></tbody></table>'
        "\n<p>after</p>"
    )


# ---- quality against compute ---------------------------------------------------------------------------------------


def test_stages_of_a_recipe_add_up(tmp_path: Path) -> None:
    folders = [make_run(tmp_path / name, index) for index, name in enumerate(("warm_start", "student"))]
    options = yaml.safe_load((folders[1] / "train.yml").read_text(encoding="utf-8"))
    options |= {"num_threads": 2, "datasets": {"train": {"batch_size_per_gpu": 8}}}
    (folders[1] / "train.yml").write_text(yaml.safe_dump(options), encoding="utf-8")
    rows = stages(find_runs(folders))
    assert len(rows) == 8 and {row.metric for row in rows} == {"lpips", "psnr"}
    last = [row for row in rows if row.metric == "lpips"]
    assert [row.stage for row in last] == ["warm_start"] * 2 + ["student"] * 2
    # 342 s on one thread, then as long on two
    assert [row.hours * 3600 for row in last] == pytest.approx([171, 342, 342 + 2 * 171, 342 + 2 * 342])
    assert [row.crops * 1000 for row in last] == pytest.approx([180, 360, 360 + 8 * 180, 360 + 8 * 360])
    out = tmp_path / "compute.png"
    assert main([*map(str, folders), "--compute", str(out), "--axis", "crops"]) == 0
    assert PILImage.open(out).size[0] > 800
    lines = out.with_suffix(".csv").read_text(encoding="utf-8").splitlines()
    assert len(lines) == 9 and lines[0].startswith("stage,iteration,thread_hours")
    (folders[0] / "diagnostics.jsonl").write_text('{"iter": 1, "seconds": 1, "values": {}}\n', encoding="utf-8")
    assert main([str(folders[0]), "--compute", str(out)]) == 2
