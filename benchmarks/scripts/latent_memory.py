"""Memory of one distillation step with a network of the size of Stable Diffusion 2.1's: copies against adapters.

Command: python benchmarks/scripts/latent_memory.py [--out FILE.md]
Needs:   pip install -e ".[latent]"; no weights. Sizes are counted on PyTorch's meta device, which allocates nothing.
Cost:    some minutes on one thread, most of them for the check: a smaller network of the same class, really allocated
         and really trained for two steps in processes of its own.

Student, fake and teacher are counted with gradients and Adam's two moments, as BasicSR keeps them through an iteration,
and the activations that the student's backward pass needs (the fake's come after it and take the same). With
checkpointing these are the inputs of the blocks and what the largest block needs when it is computed again.
Autoencoder, rewards and the workspace of single operations are not counted.
"""

from __future__ import annotations

import argparse
import gc
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from amd_restore.archs.latent import adapters
from amd_restore.archs.latent.pretrained import build_from_config, diffusers_class
from amd_restore.archs.latent.unet_arch import LatentUNet

STABLE_DIFFUSION_2_1 = {
    "sample_size": 64,
    "in_channels": 4,
    "out_channels": 4,
    "block_out_channels": (320, 640, 1280, 1280),
    "attention_head_dim": (5, 10, 20, 20),
    "cross_attention_dim": 1024,
    "use_linear_projection": True,
    "layers_per_block": 2,
    "down_block_types": ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
    "up_block_types": ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
}
REDUCED = STABLE_DIFFUSION_2_1 | {
    "block_out_channels": (64, 128, 256, 256),
    "attention_head_dim": (2, 4, 8, 8),
    "cross_attention_dim": 128,
}
SIDE, REDUCED_SIDE, BATCH = 64, 32, 2  # latent cells, those of the check; one lq, a group of two
GROUPS = ("weights", "gradients", "Adam", "activations")


@dataclass(frozen=True)
class Variant:
    """One row of the table."""

    name: str
    lora: bool
    checkpointing: bool
    dtype: str = "fp32"


VARIANTS = (
    Variant("three full copies", False, False),
    Variant("three full copies, checkpointing", False, True),
    Variant("LoRA rank 4, one base", True, False),
    Variant("LoRA rank 4, one base, checkpointing", True, True),
    Variant("LoRA rank 4, one base in bf16", True, False, "bf16"),
    Variant("LoRA rank 4, one base in bf16, checkpointing", True, True, "bf16"),
)


# ---- what is measured --------------------------------------------------------------------------------------------


class Storages:
    """Adds up memory, each storage once."""

    def __init__(self, without: Storages | None = None) -> None:
        self._seen: dict[int, Any] = {}
        self._without = without

    def add(self, tensor: Tensor) -> Tensor:
        """Count the storage under ``tensor``, and keep it, so that its address stays its own."""
        storage = tensor.untyped_storage()
        key = storage._cdata
        if self._without is None or key not in self._without._seen:
            self._seen[key] = storage
        return tensor

    @property
    def nbytes(self) -> int:
        """Bytes."""
        return sum(storage.nbytes() for storage in self._seen.values())


def networks(
    config: dict[str, Any], variant: Variant, folder: Path | None
) -> tuple[LatentUNet, LatentUNet, LatentUNet]:
    """Student, fake and teacher: from a ``folder``, or without weights on the meta device."""
    place = {"subfolder": "unet", "revision": None, "single_file_config": None}
    name = str(folder) if folder else "meta"

    def build(trained: bool) -> LatentUNet:
        options: dict[str, Any] = {"condition": "start", "gradient_checkpointing": variant.checkpointing}
        if variant.lora:
            lora = {"rank": 4} if trained else None
            net = LatentUNet(4, 4, name, lora=lora, frozen=True, dtype=variant.dtype, **options)
        elif folder:
            net = LatentUNet(4, 4, name, **options)
        else:
            net = LatentUNet(4, 4, config=config, module=on_meta(config), **options)
        return net.requires_grad_(trained).to("cpu" if folder else "meta")

    base = None
    if variant.lora and not folder:
        key = adapters.base_key("UNet2DConditionModel", name, dtype=variant.dtype, **place)
        base = adapters.BASES[key] = adapters.FrozenBase(on_meta(config, variant.dtype))
    nets = build(True), build(True), build(False)
    del base  # the networks keep it
    return nets


def on_meta(config: dict[str, Any], dtype: str = "fp32") -> nn.Module:
    """The network without storage."""
    with torch.device("meta"):
        net: nn.Module = build_from_config("UNet2DConditionModel", config, dtype)
    return net


def parameters_of(nets: tuple[LatentUNet, ...]) -> Iterator[Tensor]:
    """Of the networks and their bases."""
    for net in nets:
        yield from net.get_submodule("net").parameters()
        yield from net.parameters()


@contextmanager
def fused_attention() -> Iterator[None]:
    """On the meta device the attention that saves no matrix of weights, as on processors and GPUs."""
    own = F.scaled_dot_product_attention

    def attention(q: Tensor, k: Tensor, v: Tensor, *rest: Any, **options: Any) -> Tensor:
        if q.device.type != "meta":
            return own(q, k, v, *rest, **options)
        out: Tensor = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(q, k, v)[0]
        return out

    F.scaled_dot_product_attention = attention  # type: ignore[assignment]
    try:
        yield
    finally:
        F.scaled_dot_product_attention = own


def activations(net: LatentUNet, weights: Storages, batch: Callable[[], tuple[Tensor, Tensor]]) -> int:
    """Bytes that a backward pass needs besides the weights."""
    saved, largest = Storages(weights), 0
    recompute = adapters.checkpoint

    def counted(function: Callable[..., Any], *args: Any, **options: Any) -> Any:
        nonlocal largest
        inner = Storages(weights)
        with torch.autograd.graph.saved_tensors_hooks(inner.add, lambda tensor: tensor):
            function(*args)
        largest = max(largest, inner.nbytes)
        del inner
        return recompute(function, *args, **options)

    if net.gradient_checkpointing:
        adapters.checkpoint = counted
    try:
        with torch.autograd.graph.saved_tensors_hooks(saved.add, lambda tensor: tensor), fused_attention():
            x, t = batch()
            net(x, t, x).float().square().mean()
    finally:
        adapters.checkpoint = recompute
    return saved.nbytes + largest


def predicted(config: dict[str, Any], variant: Variant, side: int) -> dict[str, int]:
    """Bytes by ``GROUPS`` for latents of ``side`` x ``side``, counted on the meta device."""
    nets = networks(config, variant, None)
    weights = Storages()
    for parameter in parameters_of(nets):
        weights.add(parameter)
    trained = sum(p.nbytes for net in nets[:2] for p in net.parameters())

    def batch() -> tuple[Tensor, Tensor]:
        return torch.empty(BATCH, 4, side, side, device="meta"), torch.empty(BATCH, device="meta")

    held = activations(nets[0], weights, batch)
    return dict(zip(GROUPS, (weights.nbytes, trained, 2 * trained, held), strict=True))


def allocated(folder: Path, variant: Variant) -> dict[str, int]:
    """The same by real tensors, and ``resident``: growth of the process by two iterations, at its highest."""
    torch.set_num_threads(1)
    # What any first use takes is taken before.
    small = nn.Conv2d(4, 4, 3)
    optimizer = torch.optim.Adam(small.parameters())
    small(torch.randn(1, 4, 8, 8)).sum().backward()
    optimizer.step()
    diffusers_class("UNet2DConditionModel")  # libraries belong to the program, not to its data
    gc.collect()
    start = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts again from here
    nets = networks(REDUCED, variant, folder)
    weights = Storages()
    for parameter in parameters_of(nets):
        weights.add(parameter)
    optimizers = [torch.optim.Adam(net.parameters(), 1e-5) for net in nets[:2]]

    def batch() -> tuple[Tensor, Tensor]:
        return torch.randn(BATCH, 4, REDUCED_SIDE, REDUCED_SIDE), torch.rand(BATCH)

    for _ in range(2):
        for net, optimizer in zip(nets[:2], optimizers, strict=True):
            with torch.no_grad():
                nets[2](*batch(), None)
            optimizer.zero_grad()
            x, t = batch()
            net(x, t, x).float().square().mean().backward()
            optimizer.step()
    grown = resident("VmHWM") - start
    gradients, moments = Storages(), Storages()
    for net, optimizer in zip(nets[:2], optimizers, strict=True):
        for p in net.parameters():
            if p.grad is not None:
                gradients.add(p.grad)
                for name in ("exp_avg", "exp_avg_sq"):
                    moments.add(optimizer.state[p][name])
    held = activations(nets[0], weights, batch)
    found = dict(zip(GROUPS, (weights.nbytes, gradients.nbytes, moments.nbytes, held), strict=True))
    return found | {"resident": grown}


def resident(key: str) -> int:
    """Bytes of the process in memory, now (``VmRSS``) or at their highest (``VmHWM``); Linux only."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return 1024 * int(next(line.split()[1] for line in lines if line.startswith(key)))


# ---- tables -------------------------------------------------------------------------------------------------------


def row(name: str, sizes: dict[str, int], unit: float, total: int) -> str:
    """One row in ``unit`` bytes."""
    cells = [f"{sizes[group] / unit:.2f}" for group in GROUPS]
    return f"| {name} | {' | '.join(cells)} | {total / unit:.2f} |"


def report() -> str:
    """Both tables as Markdown."""
    head = ["| GiB | " + " | ".join(GROUPS) + " | together | of three copies |", "|---|---|---|---|---|---|---|"]
    lines, first = [], 0
    for variant in VARIANTS:
        sizes = predicted(STABLE_DIFFUSION_2_1, variant, SIDE)
        total = sum(sizes.values())
        first = first or total
        lines.append(f"{row(variant.name, sizes, 2**30, total)} {100 * total / first:.0f}% |")
    check = [
        "| MiB, reduced network | " + " | ".join(GROUPS) + " | together | grown by |",
        "|---|---|---|---|---|---|---|",
    ]
    with tempfile.TemporaryDirectory() as folder:
        build: Any = build_from_config("UNet2DConditionModel", REDUCED)
        build.save_pretrained(Path(folder) / "unet")
        for index, variant in enumerate(VARIANTS):
            sizes = predicted(REDUCED, variant, REDUCED_SIDE)
            check.append(f"{row(f'{variant.name}: counted', sizes, 2**20, sum(sizes.values()))} |")
            command = [sys.executable, __file__, "--variant", str(index), "--folder", folder]
            output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
            real = json.loads(output.splitlines()[-1])
            total = sum(real[group] for group in GROUPS)
            check.append(f"{row('allocated', real, 2**20, total)} {real['resident'] / 2**20:.2f} |")
    count = sum(p.numel() for p in on_meta(STABLE_DIFFUSION_2_1).parameters())
    reduced = sum(p.numel() for p in on_meta(REDUCED).parameters())
    notes = (
        f"Stable Diffusion 2.1's U-Net, {count:,} parameters, latents {SIDE} x {SIDE}, batch {BATCH}, "
        f"torch {torch.__version__}: student, fake and teacher counted on the meta device. The check is a network of "
        f"the same class with {reduced:,} parameters, latents {REDUCED_SIDE} x {REDUCED_SIDE}: counted likewise; "
        "allocated by a real process on the CPU, in the second row; and by how much that process grew at its highest "
        "within loading and two iterations, workspace of single operations included. "
        "Command: python benchmarks/scripts/latent_memory.py"
    )
    return "\n".join([*head, *lines, "", *check, "", notes, ""])


def main() -> None:
    """Print or write the tables; with ``--variant``, one real allocation."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--variant", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.variant is not None:
        sys.stdout.write(json.dumps(allocated(options.folder, VARIANTS[options.variant])) + "\n")
        return
    text = report()
    if options.out:
        options.out.write_text(text, encoding="utf-8")
    sys.stdout.write(text)


if __name__ == "__main__":
    main()
