"""What the web page does with an upload, and the options of its command; no browser, no NiceGUI."""

from __future__ import annotations

import contextlib
import io
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from places import REPOSITORY
from ui_setup import MAX_PIXELS, noise

from amd_restore.apps.cli import ui as ui_command
from amd_restore.apps.files.uncertainty import uncertainty_map
from amd_restore.apps.ui import uploads
from amd_restore.apps.ui.models import Models
from amd_restore.apps.ui.uploads import (
    PREVIEW_SIDE,
    Controls,
    RestorationState,
    Stopped,
    UploadRestorer,
    for_page,
    preview,
)
from amd_restore.errors import AMDRestoreError
from amd_restore.image_io import decode, encode
from amd_restore.image_io.picture import Picture
from amd_restore.inference import memory
from amd_restore.weights import released_models


def test_download_is_what_the_pipeline_gives_in_the_format_of_the_input(restorer: UploadRestorer) -> None:
    exif = Image.Exif()
    exif[0x010E] = "a description"
    picture = Picture(noise(channels=4, dtype=np.uint16), exif=exif.tobytes(), dpi=(100.0, 100.0))
    upload = restorer.open(encode(picture, ".png"), "C:\\photos\\bild ä.jpeg")  # the content decides, not the name
    result = restorer.restore(upload, Controls(steps=2, seed=5), RestorationState())
    assert (result.name, result.size, result.model) == ("bild ä_x4.png", (36, 56), "tiny")
    restored = decode(result.data)
    expected = restorer.models.get().restore_image(picture.pixels, num_steps=2, seed=5)
    assert restored.pixels.dtype == np.uint16 and np.array_equal(restored.pixels, expected)
    assert restored.exif and b"a description" in restored.exif
    assert restored.dpi == pytest.approx((400, 400), rel=1e-3)
    assert Image.open(io.BytesIO(result.preview)).size == (56, 36)


@pytest.mark.parametrize(("kind", "suffix"), [("JPEG", ".jpg"), ("WEBP", ".webp"), ("TIFF", ".tiff"), ("GIF", ".png")])
def test_formats(restorer: UploadRestorer, kind: str, suffix: str) -> None:
    data = io.BytesIO()
    Image.fromarray(noise()).save(data, kind)
    result = restorer.restore(restorer.open(data.getvalue(), f"a.{kind}"), Controls(), RestorationState())
    assert result.name == f"a_x4{suffix}" and decode(result.data).pixels.shape == (36, 56, 3)


class Stub:
    """In the pipeline's place: enlarges by repeating pixels, in eight tiles."""

    def __init__(self, restorer: UploadRestorer) -> None:
        self.header, self.scale = restorer.models.get().header, 4
        self.options: dict[str, Any] = {}
        self.tiles: list[int] = []

    def restore_image(self, pixels: np.ndarray[Any, Any], **options: Any) -> np.ndarray[Any, Any]:
        self.options, self.tiles = options, []
        for tile in range(1, 9):
            self.tiles.append(tile)
            options["progress"](tile, 8)
        return pixels.repeat(4, axis=0).repeat(4, axis=1)


@pytest.fixture
def stub(restorer: UploadRestorer) -> Any:
    return Stub(restorer)


def test_a_format_too_small_for_the_output_becomes_png(stub: Any, ui_weights: Path) -> None:
    data = io.BytesIO()
    Image.new("RGB", (8_000, 1)).save(data, "WEBP")
    restorer = UploadRestorer(Models(ui_weights, lambda path: stub), 8_000)
    upload = restorer.open(data.getvalue(), "strip.webp")
    assert upload.suffix == ".webp"
    result = restorer.restore(upload, Controls(), RestorationState())  # WebP ends at 16,383 pixels
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
def test_bad_uploads_are_one_line(restorer: UploadRestorer, data: bytes, words: str) -> None:
    with pytest.raises(AMDRestoreError, match=words) as caught:
        restorer.open(data, "x.png")
    assert "\n" not in str(caught.value)


def test_a_task_stops_between_tiles_and_the_next_one_works(stub: Any, ui_weights: Path) -> None:
    restorer = UploadRestorer(Models(ui_weights, lambda path: stub), MAX_PIXELS)
    upload = restorer.open(encode(Picture(noise()), ".png"), "a.png")

    class StopsAtThree(RestorationState):
        def advance(self, done: int, total: int) -> None:
            if done == 3:
                self.stop()
            super().advance(done, total)

    state = StopsAtThree()
    with pytest.raises(Stopped):
        restorer.restore(upload, Controls(), state)
    assert stub.tiles == [1, 2, 3] and state.fraction == 3 / 8
    assert restorer.restore(upload, Controls(), RestorationState()).size == (36, 56)
    assert stub.tiles == list(range(1, 9))


def test_waiting_for_another_picture_can_be_stopped(restorer: UploadRestorer) -> None:
    upload = restorer.open(encode(Picture(noise()), ".png"), "a.png")
    started, finish = threading.Event(), threading.Event()

    class Held(RestorationState):
        def advance(self, done: int, total: int) -> None:
            started.set()
            finish.wait(20)
            super().advance(done, total)

    first = threading.Thread(target=restorer.restore, args=(upload, Controls(), Held()))
    first.start()
    try:
        assert started.wait(20)
        second = RestorationState()
        threading.Timer(0.3, second.stop).start()
        with pytest.raises(Stopped):
            restorer.restore(upload, Controls(), second)
        assert second.stage == RestorationState().stage
    finally:
        finish.set()
        first.join(20)
    assert not first.is_alive()


def test_the_next_upload_ends_the_restoration_of_a_page_that_was_left(restorer: UploadRestorer) -> None:
    upload = restorer.open(encode(Picture(noise()), ".png"), "a.png")
    watched = threading.Event()
    watched.set()
    started, ended = threading.Event(), threading.Event()

    class Endless(RestorationState):
        def advance(self, done: int, total: int) -> None:
            started.set()
            while True:
                self.check()
                time.sleep(0.01)

    def restore() -> None:
        with contextlib.suppress(Stopped):
            restorer.restore(upload, Controls(), Endless(watched.is_set))
        ended.set()

    first = threading.Thread(target=restore, daemon=True)
    first.start()
    assert started.wait(20)
    threading.Timer(0.3, watched.clear).start()  # the page is loaded again
    assert restorer.restore(upload, Controls(), RestorationState()).name == "a_x4.png"
    assert ended.wait(20)


def test_fidelity_is_passed_on(stub: Any, ui_weights: Path) -> None:
    restorer = UploadRestorer(Models(ui_weights, lambda path: stub), MAX_PIXELS)
    restorer.restore(
        restorer.open(encode(Picture(noise()), ".png"), "a.png"), Controls(fidelity=0.5), RestorationState()
    )
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


@pytest.mark.parametrize(
    ("message", "shown"),
    [
        ("holds 3 frames; restore it frame by frame with --frames, from file to file", "holds 3 frames"),
        ("9x9 pixels, the limit is 1; raise it with --max-pixels if you trust the file", "9x9 pixels, the limit is 1"),
        ("out of memory; use tiles (or smaller ones): tile=256 or less", "out of memory"),
        ("the file is empty (0 bytes)", "the file is empty (0 bytes)"),
    ],
)
def test_advice_for_other_doors_is_left_out(message: str, shown: str) -> None:
    assert for_page(AMDRestoreError(message)) == shown


def test_an_animation_is_refused_without_advice_for_the_command(restorer: UploadRestorer) -> None:
    data = io.BytesIO()
    frames = [Image.fromarray(noise()), Image.fromarray(255 - noise())]
    frames[0].save(data, "GIF", save_all=True, append_images=frames[1:])
    with pytest.raises(AMDRestoreError) as caught:
        restorer.open(data.getvalue(), "a.gif")
    assert for_page(caught.value) == "holds 2 frames"


def test_models_are_loaded_once_and_freed_where_memory_is_short(
    ui_weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded: list[str] = []

    def load(path: str | Path) -> Any:
        loaded.append(Path(path).stem)
        return Path(path).stem

    models = Models(ui_weights, load)
    assert list(models.headers)[0] == "tiny" and "x4-real" in models.headers
    free = 1e12
    monkeypatch.setattr(memory, "free_share", lambda device: free)
    assert [str(models.get(name)) for name in ("x4-real", "", "x4-real")] == ["x4-real", "tiny", "x4-real"]
    assert models.get("no such name") == "tiny" and loaded == ["tiny", "x4-real"]
    free = 1e6
    models.get("x4-classical")
    models.get("x4-real")
    assert loaded == ["tiny", "x4-real", "x4-classical", "x4-real"]


def test_a_given_model_with_a_released_name_is_told_apart(tmp_path: Path) -> None:
    copy = tmp_path / "mine.safetensors"
    copy.write_bytes(released_models()["x4-classical-tiny"].read_bytes())
    loaded: Any = Models(copy, lambda path: path)  # type: ignore[arg-type, return-value]  # only the path matters here
    assert list(loaded.headers)[0] == "x4-classical-tiny (mine.safetensors)"
    assert loaded.get() == copy and loaded.get("x4-classical-tiny") != copy


def test_uncertainty_map_is_that_of_the_command(restorer: UploadRestorer, monkeypatch: pytest.MonkeyPatch) -> None:
    upload = restorer.open(encode(Picture(noise()), ".png"), "a.png")
    state = RestorationState()
    result = restorer.restore(upload, Controls(seed=3, uncertainty=True), state)
    assert result.uncertainty and state.total == 8
    drawn = uncertainty_map(restorer.models.get(), noise(), seed=3)
    assert np.array_equal(decode(result.uncertainty).pixels, drawn) and drawn.std() > 0
    monkeypatch.setattr(uploads, "_MAP_PIXELS", 100)
    with pytest.raises(AMDRestoreError, match="switch it off"):
        restorer.restore(upload, Controls(uncertainty=True), RestorationState())


def test_the_example_is_one_of_the_samples() -> None:
    example = Path(uploads.__file__).with_name("example.jpg")
    assert example.read_bytes() == (REPOSITORY / "lowres" / "kingfisher_jpeg.jpg").read_bytes()
