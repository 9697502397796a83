"""registry.py: names to classes, found by file suffix, with errors that a person can act on."""

from __future__ import annotations

import importlib
import types
from collections.abc import Iterator

import pytest
from test_compat import run_python
from torch import nn

from amd_restore import registry
from amd_restore.errors import AMDRestoreError
from amd_restore.registry import ARCH_REGISTRY, REWARD_REGISTRY, Registry, did_you_mean


@pytest.fixture
def throwaway_arch() -> Iterator[type[nn.Module]]:
    """A network registered for one test."""

    @ARCH_REGISTRY.register("ThrowawayArch")
    class Network(nn.Module):
        def __init__(self, width: int = 3) -> None:
            super().__init__()
            self.layer = nn.Conv2d(3, width, 1)

    yield Network
    del ARCH_REGISTRY._entries["ThrowawayArch"]
    registry.import_basicsr().ARCH_REGISTRY._obj_map.pop("ThrowawayArch", None)


def test_register_and_get() -> None:
    table = Registry("toy")

    @table.register()
    class First: ...

    @table.register("Other")
    class Second: ...

    assert table.get("First") is First and table.get("Other") is Second
    assert list(table) == ["First", "Other"] and len(table) == 2 and "Second" not in table


def test_a_name_belongs_to_one_class() -> None:
    table = Registry("toy")
    table.register("Name")(int)
    table.register("Name")(int)  # the same class again, as after a reload
    with pytest.raises(ValueError, match="already registered"):
        table.register("Name")(float)


@pytest.mark.parametrize(
    ("name", "hint"),
    [("flatdenoiser", "did you mean 'FlatDenoiser'?"), ("CondUnet", "did you mean 'CondUNet'?"), ("xyz", "known: ")],
)
def test_unknown_name_names_the_nearest(name: str, hint: str) -> None:
    registry.register_all()
    with pytest.raises(AMDRestoreError, match="unknown architecture") as caught:
        ARCH_REGISTRY.get(name)
    assert hint in str(caught.value) and "\n" not in str(caught.value)


def test_did_you_mean_with_nothing_known() -> None:
    assert did_you_mean("x", []) == "known: none"


def test_register_all_finds_networks_and_rewards() -> None:
    registry.register_all()
    before = ARCH_REGISTRY.get("FlatDenoiser")
    registry.register_all()
    assert ARCH_REGISTRY.get("FlatDenoiser") is before
    assert "CondUNet" in ARCH_REGISTRY and "LPIPSReward" in REWARD_REGISTRY


def test_register_all_for_training_enters_models_and_datasets() -> None:
    registry.register_all(training=True)
    from amd_restore.registry import DATASET_REGISTRY, METRIC_REGISTRY, MODEL_REGISTRY

    assert {"TeacherModel", "SupervisedModel", "DMDModel", "AMDModel", "SRModel"} <= set(MODEL_REGISTRY.keys())
    assert {"GTDataset", "PairedImageDataset"} <= set(DATASET_REGISTRY.keys())
    assert "calculate_psnr" in METRIC_REGISTRY


def test_basicsr_builds_our_networks(throwaway_arch: type[nn.Module]) -> None:
    registry.connect_basicsr()
    registry.connect_basicsr()
    from basicsr.archs import build_network

    net = build_network({"type": "ThrowawayArch", "width": 5})
    assert type(net) is throwaway_arch and net.state_dict()["layer.weight"].shape[0] == 5


def test_a_name_that_basicsr_has_too_is_refused() -> None:
    ARCH_REGISTRY.register("RRDBNet")(nn.Identity)
    try:
        with pytest.raises(AMDRestoreError, match="RRDBNet"):
            registry.connect_basicsr()
    finally:
        del ARCH_REGISTRY._entries["RRDBNet"]


def test_without_basicsr_the_message_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.import_module

    def without_basicsr(name: str, package: str | None = None) -> types.ModuleType:
        if name.startswith("basicsr"):
            raise ModuleNotFoundError("No module named 'basicsr'", name="basicsr")
        return real(name, package)

    monkeypatch.setattr(importlib, "import_module", without_basicsr)
    with pytest.raises(AMDRestoreError, match=r'pip install "\.\[train\]"'):
        registry.register_all(training=True)


def test_unknown_attribute() -> None:
    with pytest.raises(AttributeError, match="NO_REGISTRY"):
        registry.NO_REGISTRY  # noqa: B018


def test_inference_plugins_need_no_training_package() -> None:
    code = (
        "import sys\n"
        "for name in ('basicsr', 'lpips', 'pyiqa', 'torchvision', 'scipy'): sys.modules[name] = None\n"
        "from amd_restore import registry\n"
        "registry.register_all()\n"
        "assert 'FlatDenoiser' in registry.ARCH_REGISTRY\n"
        "import amd_restore.pipeline\n"
    )
    result = run_python(code)
    assert result.returncode == 0, result.stderr
