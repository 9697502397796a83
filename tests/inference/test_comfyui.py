"""The ComfyUI nodes, driven as ComfyUI does: inputs checked by their declaration, outputs by their type."""

from __future__ import annotations

import importlib
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from comfyui import Host, StoppedError, execute, problems
from damaged_images import noisy
from places import REPOSITORY
from smooth_images import smooth_image
from tiny_model import save_tiny
from torch import Tensor

from amd_restore import RestorationPipeline
from amd_restore.errors import AMDRestoreError
from amd_restore.image_io import read_image
from amd_restore.postprocess.uncertainty import FULL_SCALE, SampleStatistics, expected_error

PAGE = (REPOSITORY / "docs" / "comfyui.md").read_text(encoding="utf-8")
PACK = "amd_restore.integrations.comfyui"
MODEL = "mine/tiny.safetensors"


class LoadImage:
    """ComfyUI's own node, with images of our choice."""

    FUNCTION, RETURN_TYPES, images = "load", ("IMAGE", "MASK"), torch.zeros(1, 8, 8, 3)

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:  # noqa: N802 (ComfyUI's name)
        return {"required": {}}

    def load(self) -> tuple[Tensor, Tensor]:
        return self.images, torch.zeros(self.images.shape[:3])


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Host]:
    save_tiny(tmp_path / "models" / "amd_restore" / MODEL)
    yield Host(tmp_path / "models", monkeypatch)
    for name in [name for name in sys.modules if name.startswith(PACK)]:
        del sys.modules[name]


@pytest.fixture
def nodes(host: Host, tmp_path: Path) -> dict[str, Any]:
    """ComfyUI's table of nodes, after it has loaded the folder in custom_nodes that docs/comfyui.md describes."""
    file = tmp_path / "custom_nodes" / "amd-restore" / "__init__.py"
    file.parent.mkdir(parents=True)
    (line,) = re.findall(r"```python\n(.*NODE_CLASS_MAPPINGS.*\n)```", PAGE)
    file.write_text(line, encoding="utf-8")
    spec = importlib.util.spec_from_file_location(str(file.parent).replace(".", "_x_"), file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.NODE_CLASS_MAPPINGS.keys() == module.NODE_DISPLAY_NAME_MAPPINGS.keys()
    return {"LoadImage": LoadImage, **module.NODE_CLASS_MAPPINGS}


def workflow(images: Tensor | None = None, kind: str = "AMDRestoreImage", **inputs: Any) -> dict[str, Any]:
    LoadImage.images = small() if images is None else images
    given = {"steps": 0, "seed": 3, "tile": 0, **({"fidelity": 0.0} if kind == "AMDRestoreImage" else {"samples": 3})}
    return {
        "1": {"class_type": "AMDRestoreLoadModel", "inputs": {"model": MODEL, "dtype": "fp32"}},
        "2": {"class_type": "LoadImage", "inputs": {}},
        "3": {"class_type": kind, "inputs": {"model": ["1", 0], "image": ["2", 0], **given, **inputs}},
    }


def small(count: int = 2, side: int = 20) -> Tensor:
    images = [torch.from_numpy(smooth_image(seed)[:side, : side + 4].copy()) for seed in range(count)]
    return torch.stack(images).float() / 255


# ---- the contract ---------------------------------------------------------------------------------------------------


def test_every_node_has_what_comfyui_reads(nodes: dict[str, Any]) -> None:
    for name, cls in nodes.items():
        if name == "LoadImage":
            continue
        assert name.startswith("AMDRestore") and isinstance(cls.CATEGORY, str) and isinstance(cls.DESCRIPTION, str)
        assert callable(getattr(cls, cls.FUNCTION)) and len(cls.RETURN_NAMES) == len(cls.RETURN_TYPES)
        for key, (kind, *rest) in cls.INPUT_TYPES()["required"].items():
            if kind in ("INT", "FLOAT"):
                assert rest[0]["min"] <= rest[0]["default"] <= rest[0]["max"] and rest[0]["tooltip"], key
            if isinstance(kind, list):
                assert rest[0]["default"] in kind
        assert problems({"1": {"class_type": name, "inputs": {}}}, nodes), "nothing is optional"


def test_released_models_and_those_of_the_folder_are_offered(nodes: dict[str, Any], host: Host) -> None:
    (host.models / "amd_restore" / "notes.txt").write_text("no model", encoding="utf-8")
    offered, extra = nodes["AMDRestoreLoadModel"].INPUT_TYPES()["required"]["model"]
    assert offered[-1] == MODEL and extra["default"] == offered[0] == "auto"
    assert {"x4-real", "x4-classical", "x4-classical-tiny"} <= set(offered) and "x4-real-teacher" not in offered
    (released,) = execute(workflow() | {"1": loading("x4-classical-tiny", "auto")}, nodes, "1")
    assert isinstance(released, RestorationPipeline) and released.header.name == "x4-classical-tiny"


def loading(model: str, dtype: str = "fp32") -> dict[str, Any]:
    return {"class_type": "AMDRestoreLoadModel", "inputs": {"model": model, "dtype": dtype}}


@pytest.mark.parametrize(
    ("inputs", "problem"),
    [
        ({"steps": -1}, "value_smaller_than_min: steps"),
        ({"seed": -1}, "value_smaller_than_min: seed"),
        ({"seed": 2**64}, "value_bigger_than_max: seed"),
        ({"fidelity": 1.5}, "value_bigger_than_max: fidelity"),
        ({"fidelity": "much"}, "invalid_input_type: fidelity"),
        ({"tile": -8}, "value_smaller_than_min: tile"),
        ({"image": ["2", 1]}, "return_type_mismatch: image"),
        ({"image": ["1", 0]}, "return_type_mismatch: image"),
        ({"model": ["2", 0]}, "return_type_mismatch: model"),
    ],
)
def test_comfyui_refuses_what_is_out_of_range(nodes: dict[str, Any], inputs: dict[str, Any], problem: str) -> None:
    assert problems(workflow(), nodes) == []
    assert problems(workflow(**inputs), nodes) == [problem]


def test_the_workflow_of_the_page_is_valid(nodes: dict[str, Any]) -> None:
    (block,) = re.findall(r"```json\n(.*?)```", PAGE, flags=re.DOTALL)
    content = json.loads(block)
    images = {name: content.pop(name) for name in ("2", "4")}
    assert [node["class_type"] for node in images.values()] == ["LoadImage", "SaveImage"]
    assert problems(content | {"2": {"class_type": "LoadImage", "inputs": {}}}, nodes) == []
    assert images["4"]["inputs"]["images"] == ["3", 0]
    names = [cls for cls in nodes if cls != "LoadImage"]
    titles = importlib.import_module(PACK).NODE_DISPLAY_NAME_MAPPINGS
    assert all(f"| {titles[name]} |" in PAGE for name in names)


def test_other_models_and_dtypes_are_not_in_the_list(nodes: dict[str, Any]) -> None:
    for changed, key in ((loading("nothing"), "model"), (loading(MODEL, "int3"), "dtype")):
        assert problems(workflow() | {"1": changed}, nodes) == [f"value_not_in_list: {key}"]


# ---- the results ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", [0, 2])
@pytest.mark.parametrize("fidelity", [0.0, 0.5])
@pytest.mark.parametrize("tile", [0, 16])
def test_images_are_those_of_the_pipeline(
    nodes: dict[str, Any], host: Host, steps: int, fidelity: float, tile: int
) -> None:
    (image,) = execute(workflow(steps=steps, fidelity=fidelity, tile=tile), nodes, "3")
    pipeline = RestorationPipeline.from_pretrained(host.models / "amd_restore" / MODEL, "cpu", "fp32")
    lq = small().permute(0, 3, 1, 2)
    expected = pipeline(lq, num_steps=steps or None, seed=3, fidelity=fidelity, tile=tile or None)
    assert image.shape == (2, 80, 96, 3)
    assert torch.equal(image, expected.permute(0, 2, 3, 1))
    assert host.bars[-1][0] == host.bars[-1][1] and [done for done, _ in host.bars] == sorted(d for d, _ in host.bars)
    assert (len(host.bars) > 1) == bool(tile)


def test_auto_takes_a_model_for_each_image(nodes: dict[str, Any]) -> None:
    clean = read_image(REPOSITORY / "lowres" / "great_wall.png").pixels[:32, :40]
    images = torch.from_numpy(np.stack([clean, noisy(clean, 40)])).float() / 255
    auto = {"1": loading("auto")}
    image, mask = execute(workflow(images, "AMDRestoreUncertainty") | auto, nodes, "3")
    for row, name in enumerate(("x4-classical", "x4-real")):
        one = workflow(images[row : row + 1], "AMDRestoreUncertainty", seed=3 + row) | {"1": loading(name)}
        alone = execute(one, nodes, "3")
        torch.testing.assert_close(image[row], alone[0][0], atol=1e-4, rtol=0)
        torch.testing.assert_close(mask[row], alone[1][0], atol=1e-3, rtol=0)


def test_the_largest_seed_of_comfyui_works(nodes: dict[str, Any]) -> None:
    last, first = (execute(workflow(seed=seed), nodes, "3")[0] for seed in (2**64 - 1, 0))
    assert not torch.equal(last, first)


def test_uncertainty_is_a_mask_of_the_expected_error(nodes: dict[str, Any], host: Host) -> None:
    kind = "AMDRestoreUncertainty"
    image, mask = execute(workflow(kind=kind), nodes, "3")
    pipeline = RestorationPipeline.from_pretrained(host.models / "amd_restore" / MODEL, "cpu", "fp32")
    statistics, lq = SampleStatistics(), small().permute(0, 3, 1, 2)
    samples = [pipeline(lq, seed=3 + number) for number in range(3)]
    for sample in samples:
        statistics.add(sample)
    error = expected_error(statistics.std, pipeline.header.error_per_std)[:, 0]
    assert torch.equal(image, samples[0].permute(0, 2, 3, 1)) and mask.shape == (2, 80, 96)
    torch.testing.assert_close(mask, (error / FULL_SCALE).clamp(0, 1))
    assert mask.std() > 0 and host.bars[-1][0] == host.bars[-1][1]
    # Image i of a batch comes out as it does alone with seed + i.
    alone = execute(workflow(small()[1:], kind, seed=4), nodes, "3")
    torch.testing.assert_close(alone[0][0], image[1], atol=1e-5, rtol=0)
    torch.testing.assert_close(alone[1][0], mask[1], atol=1e-4, rtol=0)


def test_gray_is_restored_as_colour_and_alpha_is_refused(nodes: dict[str, Any]) -> None:
    gray = small()[..., :1]
    (image,) = execute(workflow(gray), nodes, "3")
    (same,) = execute(workflow(gray.expand(-1, -1, -1, 3)), nodes, "3")
    assert torch.equal(image, same)
    with pytest.raises(AMDRestoreError, match=r"\(2, 20, 24, 4\).*Split Image with Alpha"):
        execute(workflow(torch.cat([small(), gray], dim=-1)), nodes, "3")


def test_values_beyond_the_range_are_clamped(nodes: dict[str, Any]) -> None:
    images = small() * 1.2 - 0.1
    (image,) = execute(workflow(images), nodes, "3")
    (same,) = execute(workflow(images.clamp(0, 1)), nodes, "3")
    assert torch.equal(image, same)


def test_the_button_to_stop_is_heeded(nodes: dict[str, Any], host: Host) -> None:
    host.stops = True
    with pytest.raises(StoppedError):
        execute(workflow(tile=16), nodes, "3")
    assert host.bars == []


def test_outside_comfyui_there_is_one_line() -> None:
    with pytest.raises(AMDRestoreError, match="inside ComfyUI only"):
        importlib.import_module(PACK)
