"""What the web page does with an upload, and the options of its command; no browser, no NiceGUI."""

from __future__ import annotations

import io
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tiny_model import save_tiny

from amd_restore.apps.cli import ui as ui_command
from amd_restore.apps.ui.work import PREVIEW_SIDE, Stopped, Task, Wish, Workshop, preview
from amd_restore.errors import AMDRestoreError
from amd_restore.image_io import decode, encode
from amd_restore.image_io.picture import Picture
from amd_restore.pipeline import RestorationPipeline

MAX_PIXELS = 2_000


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("weights") / "tiny.safetensors")


@pytest.fixture(scope="module")
def workshop(weights: Path) -> Workshop:
    return Workshop(RestorationPipeline.from_pretrained(weights, "cpu"), MAX_PIXELS)


def noise(height: int = 9, width: int = 14, channels: int = 3, dtype: type = np.uint8) -> np.ndarray[Any, Any]:
    rng = np.random.default_rng(height * width)
    return rng.integers(0, np.iinfo(dtype).max, (height, width, channels), endpoint=True).astype(dtype)


def test_download_is_what_the_pipeline_gives_in_the_format_of_the_input(workshop: Workshop) -> None:
    exif = Image.Exif()
    exif[0x010E] = "a description"
    picture = Picture(noise(channels=4, dtype=np.uint16), exif=exif.tobytes(), dpi=(100.0, 100.0))
    original = workshop.open(encode(picture, ".png"), "C:\\photos\\bild ä.jpeg")  # the content decides, not the name
    result = workshop.restore(original, Wish(steps=2, seed=5), Task())
    assert (result.name, result.size) == ("bild ä_x4.png", (36, 56))
    restored = decode(result.data)
    expected = workshop.pipeline.restore_image(picture.pixels, num_steps=2, seed=5)
    assert restored.pixels.dtype == np.uint16 and np.array_equal(restored.pixels, expected)
    assert restored.exif and b"a description" in restored.exif
    assert restored.dpi == pytest.approx((400, 400), rel=1e-3)
    assert Image.open(io.BytesIO(result.preview)).size == (56, 36)


@pytest.mark.parametrize(("kind", "suffix"), [("JPEG", ".jpg"), ("WEBP", ".webp"), ("TIFF", ".tiff"), ("GIF", ".png")])
def test_formats(workshop: Workshop, kind: str, suffix: str) -> None:
    data = io.BytesIO()
    Image.fromarray(noise()).save(data, kind)
    result = workshop.restore(workshop.open(data.getvalue(), f"a.{kind}"), Wish(), Task())
    assert result.name == f"a_x4{suffix}" and decode(result.data).pixels.shape == (36, 56, 3)


class Stub:
    """In the pipeline's place: enlarges by repeating pixels, in eight tiles."""

    def __init__(self, workshop: Workshop) -> None:
        self.header, self.scale = workshop.pipeline.header, 4
        self.options: dict[str, Any] = {}
        self.tiles: list[int] = []

    def restore_image(self, pixels: np.ndarray[Any, Any], **options: Any) -> np.ndarray[Any, Any]:
        self.options, self.tiles = options, []
        for tile in range(1, 9):
            self.tiles.append(tile)
            options["progress"](tile, 8)
        return pixels.repeat(4, axis=0).repeat(4, axis=1)


@pytest.fixture
def stub(workshop: Workshop) -> Any:
    return Stub(workshop)


def test_a_format_too_small_for_the_output_becomes_png(stub: Any) -> None:
    data = io.BytesIO()
    Image.new("RGB", (8_000, 1)).save(data, "WEBP")
    workshop = Workshop(stub, 8_000)
    original = workshop.open(data.getvalue(), "strip.webp")
    assert original.suffix == ".webp"
    result = workshop.restore(original, Wish(), Task())  # WebP ends at 16,383 pixels
    assert result.name == "strip_x4.png" and result.size == (4, 32_000)
    assert result.preview_size == (1, PREVIEW_SIDE) and decode(result.data).pixels.shape == (4, 32_000, 3)


def test_preview_has_8_bits_and_a_limit() -> None:
    data, size = preview(Picture(noise(3, PREVIEW_SIDE * 2, 1, np.uint16)))
    assert size == (2, PREVIEW_SIDE)
    image = Image.open(io.BytesIO(data))
    assert (image.mode, image.size) == ("L", (PREVIEW_SIDE, 2))


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "empty"),
        (b"hello", "no image"),
        (encode(Picture(noise(40, 51)), ".png"), "40"),
        (encode(Picture(noise()), ".png")[:200], "truncated"),
    ],
)
def test_bad_uploads_are_one_line(workshop: Workshop, data: bytes, words: str) -> None:
    with pytest.raises(AMDRestoreError, match=words) as caught:
        workshop.open(data, "x.png")
    assert "\n" not in str(caught.value)


def test_a_task_stops_between_tiles_and_the_next_one_works(stub: Any) -> None:
    workshop = Workshop(stub, MAX_PIXELS)
    original = workshop.open(encode(Picture(noise()), ".png"), "a.png")

    class StopsAtThree(Task):
        def advance(self, done: int, total: int) -> None:
            if done == 3:
                self.stop()
            super().advance(done, total)

    task = StopsAtThree()
    with pytest.raises(Stopped):
        workshop.restore(original, Wish(), task)
    assert stub.tiles == [1, 2, 3] and task.fraction == 3 / 8
    assert workshop.restore(original, Wish(), Task()).size == (36, 56)
    assert stub.tiles == list(range(1, 9))


def test_waiting_for_another_picture_can_be_stopped(workshop: Workshop) -> None:
    original = workshop.open(encode(Picture(noise()), ".png"), "a.png")
    started, finish = threading.Event(), threading.Event()

    class Held(Task):
        def advance(self, done: int, total: int) -> None:
            started.set()
            finish.wait(20)
            super().advance(done, total)

    first = threading.Thread(target=workshop.restore, args=(original, Wish(), Held()))
    first.start()
    try:
        assert started.wait(20)
        second = Task()
        threading.Timer(0.3, second.stop).start()
        with pytest.raises(Stopped):
            workshop.restore(original, Wish(), second)
        assert second.stage == Task().stage
    finally:
        finish.set()
        first.join(20)
    assert not first.is_alive()


def test_fidelity_is_passed_on(stub: Any) -> None:
    workshop = Workshop(stub, MAX_PIXELS)
    workshop.restore(workshop.open(encode(Picture(noise()), ".png"), "a.png"), Wish(fidelity=0.5), Task())
    assert stub.options["fidelity"] == 0.5 and stub.options["seed"] == 0


def test_only_the_network_flag_opens_the_page_to_others(capsys: pytest.CaptureFixture[str]) -> None:
    for host in ("0.0.0.0", "192.0.2.7", "::", "example.org"):
        assert ui_command.main(["--host", host]) == 2
        message = capsys.readouterr().err
        assert message.count("\n") == 1 and "--share-on-network" in message
    assert all(ui_command.is_loopback(host) for host in ("127.0.0.1", "127.8.8.8", "::1", "localhost"))


def test_a_missing_package_is_one_line(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("amd_restore.apps.ui.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "nicegui", None)
    assert ui_command.main([]) == 2
    message = capsys.readouterr().err
    assert message.count("\n") == 1 and "amd-restore[ui]" in message


@pytest.mark.parametrize(
    "option", [["--port", "70000"], ["--max-upload-mb", "0"], ["--max-pixels", "x"], ["--threads", "0"]]
)
def test_options_out_of_range(option: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        ui_command.main(option)
    assert caught.value.code == 2 and option[0] in capsys.readouterr().err
