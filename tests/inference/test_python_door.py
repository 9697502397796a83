"""What programs hand to the pipeline: types, dtypes, ranges, and settings of torch that are theirs."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_model import save_tiny

from amd_restore import RestorationPipeline
from amd_restore.errors import AMDRestoreError
from amd_restore.image_io import Picture, read_image
from amd_restore.postprocess import SampleStatistics, WaveletFix


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("door") / "tiny.safetensors", sampler="renoise")


@pytest.fixture(scope="module")
def pipeline(weights: Path) -> RestorationPipeline:
    return RestorationPipeline.from_pretrained(weights, "cpu", "float32")


IMAGE = np.random.default_rng(0).integers(0, 256, (9, 12, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    ("image", "name"),
    [
        (Image.fromarray(IMAGE), "Image"),
        ("small.png", "str"),
        (Path("small.png"), "PosixPath" if sys.platform != "win32" else "WindowsPath"),
        ([IMAGE, IMAGE], "list"),
        (torch.rand(3, 9, 12), "Tensor"),
        (Picture(IMAGE), "Picture"),
        (IMAGE.tobytes(), "bytes"),
        (np.matrix(IMAGE[..., 0]), "matrix"),
        (None, "NoneType"),
    ],
)
def test_other_types_are_refused_in_one_line(pipeline: RestorationPipeline, image: Any, name: str) -> None:
    for restore in (pipeline.restore_image, pipeline.restore_rows):
        with pytest.raises(AMDRestoreError, match=f"an image must be a numpy array, not {name}; read a file") as caught:
            restore(image)
        assert "\n" not in str(caught.value)


def test_a_call_names_the_way_for_other_images(pipeline: RestorationPipeline) -> None:
    for image, name in ((Image.fromarray(IMAGE), "Image"), (IMAGE, r"\(9, 12, 3\)")):
        with pytest.raises(
            AMDRestoreError,
            match=f"must be a tensor or an array of shape .*, not {name}; restore_image takes one image",
        ):
            pipeline(image)


def test_what_the_message_names_works(pipeline: RestorationPipeline, tmp_path: Path) -> None:
    Image.fromarray(IMAGE).save(tmp_path / "small.png")
    expected = pipeline.restore_image(IMAGE)
    assert np.array_equal(pipeline.restore_image(read_image(tmp_path / "small.png").pixels), expected)
    assert np.array_equal(pipeline.restore_image(np.asarray(Image.open(tmp_path / "small.png"))), expected)


def test_restore_to_takes_a_path_and_a_picture(pipeline: RestorationPipeline, tmp_path: Path) -> None:
    for path, picture in ((tmp_path / "a.png", IMAGE), (tmp_path / "a.png", Image.fromarray(IMAGE)), (None, None)):
        with pytest.raises(AMDRestoreError, match="restore_to takes a path and a Picture, not"):
            pipeline.restore_to(path, picture)  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())
    pipeline.restore_to(str(tmp_path / "a.png"), Picture(IMAGE))
    assert np.array_equal(read_image(tmp_path / "a.png").pixels, pipeline.restore_image(IMAGE))


@pytest.mark.parametrize("name", [None, 5, IMAGE, ["x4-real"]])
def test_weights_are_named_or_a_path(name: Any) -> None:
    with pytest.raises(AMDRestoreError, match="weights are named by a released model or a path, not by"):
        RestorationPipeline.from_pretrained(name)


def test_no_device_is_refused_in_one_line(weights: Path) -> None:
    with pytest.raises(AMDRestoreError, match="device 'None' is not available here; use auto or cpu"):
        RestorationPipeline.from_pretrained(weights, None)  # type: ignore[arg-type]


@pytest.mark.parametrize("value", [1.5, -0.5, np.nan, np.inf])
@pytest.mark.parametrize("channels", [2, 4])
@pytest.mark.parametrize("channel", [0, -1])
def test_floats_lie_in_the_unit_range_alpha_too(
    pipeline: RestorationPipeline, value: float, channels: int, channel: int
) -> None:
    image = np.full((8, 8, channels), 0.5, np.float32)
    image[3, 4, channel] = value
    with pytest.raises(AMDRestoreError, match=r"must lie in \[0, 1\], alpha too, but spans"):
        pipeline.restore_image(image)


@pytest.mark.parametrize("dtype", [">u2", "<u2", ">f4", ">f8", "<f8", "f2"])
def test_byte_order_does_not_matter(pipeline: RestorationPipeline, dtype: str) -> None:
    native = np.dtype(dtype).newbyteorder("=")
    alpha = np.full((9, 12, 1), 130, np.uint8)
    image = np.concatenate([IMAGE, alpha], axis=2)
    image = (image.astype(np.float64) / 255).astype(native) if native.kind == "f" else image.astype(native) * 257
    found = pipeline.restore_image(image.astype(dtype))
    assert found.dtype == np.dtype(dtype) and np.array_equal(found, pipeline.restore_image(image))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"tta": "no"}, "tta must be True or False, got 'no'"),
        ({"tta": 1}, "tta must be True or False, got 1"),
        ({"post": "wavelet"}, "post must be a function, got 'wavelet'"),
        ({"progress": True}, "progress must be a function, got True"),
    ],
)
def test_switches_and_functions_are_no_words(
    pipeline: RestorationPipeline, options: dict[str, Any], words: str
) -> None:
    with pytest.raises(AMDRestoreError, match=f"^{words}$"):
        pipeline.restore_image(IMAGE, **options)


@pytest.mark.parametrize("seed", [None, 1.5, 1.0, "1", True, torch.tensor(1.0), torch.Generator(), [1.5], [None], {}])
def test_seeds_are_whole_numbers(pipeline: RestorationPipeline, seed: Any) -> None:
    with pytest.raises(AMDRestoreError, match="seed must be a whole number, got"):
        pipeline.restore_image(IMAGE, seed=seed)


def test_seeds_of_numpy_and_torch_are_whole_numbers(pipeline: RestorationPipeline) -> None:
    lq = torch.rand(2, 3, 9, 9)
    expected = pipeline(lq, seed=[7, 8])
    several: tuple[Any, ...] = (7, np.int64(7), np.array(7), torch.tensor(7), (7, 8), range(7, 9))
    several += (np.array([7, 8]), torch.tensor([7, 8]), [np.uint8(7), np.int32(8)])
    for seed in several:
        assert torch.equal(pipeline(lq, seed=seed), expected), seed
    with pytest.raises(AMDRestoreError, match="3 seeds were given for 2 images"):
        pipeline(lq, seed=np.arange(3))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_steps": 1.0}, "the number of steps must be a whole number, got 1.0"),
        ({"num_steps": "1"}, "the number of steps must be a whole number, got '1'"),
        ({"num_steps": True}, "the number of steps must be a whole number, got True"),
        ({"tile": 64.0}, "tile must be a whole number, got 64.0"),
        ({"halo": "8"}, "halo must be a whole number, got '8'"),
        ({"max_memory": "1G"}, r"max_memory must be a number of bytes, as 2\*\*30, got '1G'"),
        ({"max_memory": float("nan")}, "max_memory must be a number of bytes"),
        ({"fidelity": "high"}, "fidelity must be a number from 0 to 1, got 'high'"),
        ({"fidelity": float("nan")}, "fidelity must lie between 0"),
    ],
)
def test_other_options_of_another_type(pipeline: RestorationPipeline, options: dict[str, Any], message: str) -> None:
    with pytest.raises(AMDRestoreError, match=message):
        pipeline.restore_image(IMAGE, **options)
    with pytest.raises(AMDRestoreError, match=message):
        pipeline(torch.rand(1, 3, 9, 9), **options)


def test_numbers_of_numpy_are_numbers(pipeline: RestorationPipeline) -> None:
    expected = pipeline.restore_image(IMAGE, num_steps=2, tile=8, halo=2, fidelity=0.5)
    numbers = {"num_steps": np.int64(2), "tile": np.uint16(8), "halo": np.int8(2), "fidelity": np.float32(0.5)}
    assert np.array_equal(pipeline.restore_image(IMAGE, max_memory=np.float64(2e9), **numbers), expected)


@contextlib.contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    """A host program that sets it."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def results(weights: Path | str) -> list[torch.Tensor]:
    """What all parts of a call give, from loading on."""
    pipeline = RestorationPipeline.from_pretrained(weights, "cpu", "float32")
    lq = torch.linspace(0, 1, 3 * 20 * 24, dtype=torch.float32, device="cpu").view(1, 3, 20, 24)
    fixed = pipeline(lq, post=WaveletFix(pipeline.scale), tile=8, num_steps=2)
    statistics = SampleStatistics()
    for seed in range(2):
        statistics.add(pipeline(lq, seed=seed))
    image = torch.from_numpy(pipeline.restore_image(np.dstack([IMAGE, IMAGE[..., :1]]), tile=8, num_steps=2))
    return [pipeline(lq), fixed, pipeline(lq, fidelity=0.5, tta=True), statistics.std, image]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", ["tiny", "x4-classical-tiny"])
def test_the_default_dtype_of_the_host_program_changes_nothing(weights: Path, name: str, dtype: torch.dtype) -> None:
    source = weights if name == "tiny" else name
    expected = results(source)
    with default_dtype(dtype):
        found = results(source)
    for one, wanted in zip(found, expected, strict=True):
        assert one.dtype == wanted.dtype and torch.equal(one, wanted)


@pytest.mark.parametrize("name", ["tiny", "x4-classical-tiny"])
def test_the_default_device_of_the_host_program_changes_nothing(weights: Path, name: str) -> None:
    source = weights if name == "tiny" else name
    expected = results(source)
    with torch.device("meta"):  # fails like every device that is not the pipeline's
        found = results(source)
    for one, wanted in zip(found, expected, strict=True):
        assert one.device == wanted.device and torch.equal(one, wanted)


def test_loading_under_another_default_dtype_in_a_fresh_process(weights: Path) -> None:
    code = (
        "import sys, torch, numpy as np; torch.set_default_dtype(torch.float64)\n"
        "from amd_restore import RestorationPipeline\n"
        "pipeline = RestorationPipeline.from_pretrained(sys.argv[1], 'cpu')\n"
        "print(pipeline.restore_image(np.zeros((5, 6, 3), np.uint8)).shape, torch.get_default_dtype())\n"
    )
    ran = subprocess.run([sys.executable, "-c", code, str(weights)], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "(20, 24, 3) torch.float64"
