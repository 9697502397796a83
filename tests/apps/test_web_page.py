"""The built page in web/, worked in headless Chromium: its results beside the command's. Needs ``npm run build``."""

from __future__ import annotations

import io
import math
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from places import REPOSITORY
from ui_setup import missing

from amd_restore.apps.ui.binding import bind
from amd_restore.apps.ui.static import BUILT_PAGE, page_server
from amd_restore.image_io import decode, read_image
from amd_restore.pipeline import RestorationPipeline

PICTURE = REPOSITORY / "lowres" / "red_panda.png"
TOLERANCE = 2  # 1/255
DEFAULTS = {
    "Model": "x4-classical-tiny",
    "Steps": "1",
    "Seed": "0",
    "Fidelity": "0",
}  # of the controls


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """Of the built page."""
    folder = REPOSITORY / BUILT_PAGE
    if not (folder / "index.html").is_file():
        missing("the page is not built: (cd web && npm ci && npm run build)")
    with page_server(folder, bind("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}/"
        server.shutdown()
        thread.join()


@dataclass
class Opened:
    """The page, and what it complained of or requested from others."""

    page: Any
    faults: list[str] = field(default_factory=list)

    def open(self, address: str) -> None:
        self.page.goto(address)
        self.page.wait_for_selector("body[data-ready]")

    def restore(self, *files: Path, **controls: str) -> np.ndarray[Any, Any]:
        """Pixels of the download of the last of these files."""
        for label, value in (DEFAULTS | controls).items():
            element = self.page.get_by_label(label, exact=True)
            (element.select_option if label in ("Model", "Steps") else element.fill)(value)
        self.page.get_by_label("Choose pictures").set_input_files(files)
        row = self.page.get_by_role("button", name=f"{files[-1].name}: restored in").last
        row.wait_for()
        row.click()
        with self.page.expect_download() as download:
            self.page.get_by_role("button", name="Download PNG").click()
        assert download.value.suggested_filename == f"{files[-1].stem}_x4.png"
        return decode(Path(download.value.path()).read_bytes()).pixels


@pytest.fixture(scope="module")
def opened(address: str, browser: Any) -> Iterator[Opened]:
    page = browser.new_page()
    page.set_default_timeout(60_000)
    found = Opened(page)
    own = (address, f"blob:{address}", "data:")
    page.context.on("request", lambda r: found.faults.append(r.url) if not r.url.startswith(own) else None)
    page.on("console", lambda m: found.faults.append(m.text) if m.type == "error" else None)
    page.on("pageerror", lambda error: found.faults.append(str(error)))
    found.open(address)
    yield found
    page.close()
    assert found.faults == []


def command(path: Path, model: str, **options: Any) -> np.ndarray[Any, Any]:
    """What the command writes for a file, upright, as RGB or RGBA."""
    pipeline = RestorationPipeline.from_pretrained(model, "cpu", "fp32", "torch")
    return pipeline.restore_image(read_image(path).pixels, tile=0, **options)


def assert_close(found: np.ndarray[Any, Any], expected: np.ndarray[Any, Any]) -> None:
    """Compare what one sees: colours where they are opaque, and the alpha."""
    assert found.shape == expected.shape
    found, expected = found.astype(np.float64), expected.astype(np.float64)
    if found.shape[2] == 4:
        for image in (found, expected):
            image[..., :3] *= image[..., 3:] / 255
    assert np.abs(found - expected).max() <= TOLERANCE


def saved(path: Path, pixels: np.ndarray[Any, Any], **options: Any) -> Path:
    Image.fromarray(pixels).save(path, **options)
    return path


def test_pixels_are_those_of_the_command_in_tiles_too(opened: Opened, tmp_path: Path) -> None:
    wide = saved(tmp_path / "wide.png", read_image(PICTURE).pixels[40:90])
    assert wide.stat().st_size and Image.open(wide).width > 192  # two tiles
    assert_close(opened.restore(wide), command(wide, "x4-classical-tiny", num_steps=1, seed=0))
    small = saved(tmp_path / "small.png", read_image(PICTURE).pixels[60:85, 90:120])
    found = opened.restore(small, Model="x4-real", Steps="2", Seed="7", Fidelity="0.5")
    assert_close(found, command(small, "x4-real", num_steps=2, seed=7, fidelity=0.5))


def test_tiles_of_x4_real_are_those_of_the_command(opened: Opened, tmp_path: Path) -> None:
    strip = saved(tmp_path / "strip.png", read_image(PICTURE).pixels[40:56, :200])
    pipeline = RestorationPipeline.from_pretrained("x4-real", "cpu", "fp32", "torch")
    expected = pipeline.restore_image(read_image(strip).pixels, num_steps=1, seed=0, tile=192)
    assert_close(opened.restore(strip, Model="x4-real"), expected)


def test_the_model_that_is_loaded_when_it_is_chosen_names_its_size(opened: Opened) -> None:
    graphs = (REPOSITORY / BUILT_PAGE / "assets").glob("x4-real-*.onnx")
    (graph,) = (path for path in graphs if "teacher" not in path.name)
    texts = opened.page.get_by_label("Model", exact=True).locator("option").all_inner_texts()
    assert texts[1].endswith(f", {math.ceil(graph.stat().st_size / 1e6)} MB")
    assert "MB" not in texts[0]


def test_orientation_alpha_and_gray(opened: Opened, tmp_path: Path) -> None:
    pixels = read_image(PICTURE).pixels[30:80, 100:140]
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter
    turned = saved(tmp_path / "turned.png", pixels, exif=exif)
    expected = command(turned, "x4-classical-tiny", seed=0)
    assert expected.shape[:2] == (160, 200)
    assert_close(opened.restore(turned), expected)

    y, x = np.mgrid[0:50, 0:40]
    alpha = np.clip(20 * (np.hypot(y - 25, x - 20) - 8), 0, 255).astype(np.uint8)
    hole = saved(tmp_path / "hole.png", np.dstack([np.where(alpha[..., None] > 0, pixels, 0), alpha]))
    assert_close(opened.restore(hole), command(hole, "x4-classical-tiny", seed=0))

    gray = saved(tmp_path / "gray.png", pixels[..., 1])
    expected = np.repeat(command(gray, "x4-classical-tiny", seed=0), 3, axis=2)
    assert_close(opened.restore(gray)[..., :3], expected)


def test_several_files_one_of_them_broken(opened: Opened, tmp_path: Path) -> None:
    first = saved(tmp_path / "first.png", read_image(PICTURE).pixels[:20, :20])
    broken, last = tmp_path / "broken.png", tmp_path / "last.png"
    broken.write_bytes(first.read_bytes()[:60])
    last.write_bytes(first.read_bytes())
    opened.restore(first, broken, last)
    page = opened.page
    rows = page.get_by_role("list", name="Pictures").get_by_role("listitem").all_inner_texts()[-3:]
    assert [row.split(": ")[0] for row in rows] == ["first.png", "broken.png", "last.png"]
    assert "no picture that this browser can read" in rows[1]
    assert page.get_by_role("status").inner_text().startswith("last.png: 20 x 20 to 80 x 80 in ")

    divider = page.get_by_role("slider", name="Divider")
    divider.press("End")
    box = page.locator(".compare-frame").bounding_box()
    assert page.locator(".compare-line").bounding_box()["x"] == pytest.approx(box["x"] + box["width"], abs=2)
    with page.expect_download() as download:
        page.get_by_role("button", name="Download WebP").click()
    image = Image.open(io.BytesIO(Path(download.value.path()).read_bytes()))
    assert (download.value.suggested_filename, image.format, image.size) == ("last_x4.webp", "WEBP", (80, 80))


@pytest.mark.parametrize("event", ["drop", "paste"])
def test_pictures_come_by_drop_and_paste(opened: Opened, tmp_path: Path, event: str) -> None:
    data = saved(tmp_path / "small.png", read_image(PICTURE).pixels[:9, :9]).read_bytes()
    opened.page.evaluate(
        """([event, data]) => {
            const transfer = new DataTransfer();
            transfer.items.add(new File([Uint8Array.from(data)], `by_${event}.png`, { type: "image/png" }));
            const options = { bubbles: true, cancelable: true };
            const sent = event === "drop"
                ? new DragEvent(event, { dataTransfer: transfer, ...options })
                : new ClipboardEvent(event, { clipboardData: transfer, ...options });
            document.body.dispatchEvent(sent);
        }""",
        [event, list(data)],
    )
    opened.page.get_by_role("button", name=f"by_{event}.png: restored in").wait_for()


def test_stop_ends_all_and_the_next_picture_is_restored(opened: Opened, tmp_path: Path) -> None:
    page = opened.page
    large = saved(tmp_path / "large.png", np.tile(read_image(PICTURE).pixels, (8, 6, 1)))  # minutes of work
    after = saved(tmp_path / "after.png", read_image(PICTURE).pixels[:9, :9])
    page.get_by_label("Choose pictures").set_input_files([large, after])
    page.get_by_role("button", name="Stop").click()
    for name in ("large.png", "after.png"):
        page.get_by_role("button", name=f"{name}: stopped").wait_for()
    assert opened.restore(after).shape == (36, 36, 3)


def test_where_there_is_no_gpu_the_processor_computes(opened: Opened, address: str) -> None:
    opened.open(f"{address}?device=webgpu")
    assert "on the processor" in opened.page.get_by_role("status").inner_text()


def test_it_works_without_a_network_once_it_was_loaded(opened: Opened, address: str) -> None:
    opened.open(address)
    opened.page.get_by_text("works without a network").wait_for()
    opened.page.context.set_offline(True)
    opened.open(address)
    opened.page.get_by_role("button", name="Try an example").click()
    opened.page.get_by_role("button", name="red_panda.png: restored in").wait_for()
