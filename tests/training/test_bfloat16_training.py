"""Training in bfloat16, the precision of the option files, also where the processor only emulates it."""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from test_distillation import feed, workshop  # noqa: F401
from torch import Tensor, nn
from training_setup import TINY_NETWORK, build_model, load_miniature

from amd_restore.models import restoration_model


def build(folder: Path, name: str, amp: str, steps: int, **distill: Any) -> Any:
    """A miniature student whose samples all come from the last of ``steps`` steps, fed with one batch."""
    options = load_miniature(name, folder, str(folder / "experiments/start0/models/net_g_latest.pth"))
    options.update(amp=amp, network_g=dict(TINY_NETWORK))
    options["distill"].update(num_steps=[steps], step_weights=[1.0], fake_updates_per_student=1, **distill)
    model = build_model(options, folder)
    feed(model)
    rows = len(model.lq)
    model.draw_schedules = lambda: (torch.full((rows,), steps), torch.full((rows,), steps - 1), steps - 1)
    return model


def gradients(model: Any) -> dict[str, Tensor]:
    """Gradients of student and fake score in one step."""
    model.optimize_parameters(1)
    nets = {name: getattr(model, name) for name in ("net_g", "net_fake")}
    return {
        f"{net}.{key}": parameter.grad.clone()
        for net, module in nets.items()
        for key, parameter in module.named_parameters()
        if parameter.grad is not None
    }


@pytest.mark.parametrize("steps", [1, 4])
def test_gradients_agree_with_those_of_float32(
    workshop: Path,  # noqa: F811
    steps: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(restoration_model, "has_bfloat16", lambda device: True)
    full, low = (build(workshop, "amd_x4_classical", amp, steps) for amp in ("none", "bf16"))
    assert low.use_bfloat16 and not full.use_bfloat16
    expected, found = gradients(full), gradients(low)
    assert found.keys() == expected.keys() and any("time_mlp" in key for key in found)
    for key, value in expected.items():
        cosine = torch.cosine_similarity(found[key].flatten(), value.flatten(), dim=0)
        assert found[key].dtype == torch.float32 and value.any()
        assert cosine > 0.99 and 0.95 < found[key].norm() / value.norm() < 1.05, (key, float(cosine))
    assert any(not torch.equal(found[key], value) for key, value in expected.items()), "nothing was in bfloat16"


def calls_by_block(model: Any) -> dict[tuple[int, int], set[bool]]:
    """Whether networks were called with gradient, in one step: by block of autocast and network.

    Only weights that want a gradient count: of others autocast keeps no copies.
    """
    found: dict[tuple[int, int], set[bool]] = defaultdict(set)
    block, real = [0, 0], model.autocast  # the number of blocks so far, and that of the block we are in

    @contextlib.contextmanager
    def numbered() -> Iterator[None]:
        block[0] += 1
        before, block[1] = block[1], block[1] or block[0]  # the outermost counts: it clears the copies at its end
        with real():
            yield
        block[1] = before

    def note(layer: nn.Module, *_: Any) -> None:
        if block[1] and any(p.requires_grad for p in layer.parameters(recurse=False)):
            found[block[1], id(layer)].add(torch.is_grad_enabled())

    model.autocast = numbered
    for value in [*vars(model).values(), getattr(model.losses.discriminator, "net", None)]:
        for layer in value.modules() if isinstance(value, nn.Module) else ():
            layer.register_forward_pre_hook(note)
    model.optimize_parameters(1)
    return found


@pytest.mark.parametrize("name", ["amd_x4_classical", "adversarial_x4_real"])
def test_no_block_of_autocast_has_calls_with_and_without_gradient(
    workshop: Path,  # noqa: F811
    name: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Or calls with gradient get weights that calls without it cast: in older PyTorch they would learn nothing."""
    monkeypatch.setattr(restoration_model, "has_bfloat16", lambda device: True)
    found = calls_by_block(build(workshop, name, "bf16", 4))
    assert {True} in found.values() and {False} in found.values()
    assert {True, False} not in found.values()
