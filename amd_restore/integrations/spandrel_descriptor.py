"""Weights of this package as a spandrel model, for programs that load models with it.

install()                                          # once: spandrel's ModelLoader then loads the released weights
model = load("x4-classical")                       # any weights of ours -> ImageModelDescriptor
sr = model(lq)                                     # (1, 3, H, W) in [0, 1] -> (1, 3, 4H, 4W)

spandrel's own loader drops the header of a safetensors file, and without it a network has no scale, codec or sampler.
So the plain ``ModelLoader`` recognises the released weights by their values, and :class:`HeaderLoader` reads all.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from amd_restore.errors import AMDRestoreError
from amd_restore.pipeline import RestorationPipeline
from amd_restore.weights import (
    DEFAULT_MODEL,
    Header,
    build_network,
    load_checkpoint,
    read_header,
    released_models,
    resolve_weights,
)

try:
    from spandrel import (
        MAIN_REGISTRY,
        Architecture,
        ArchRegistry,
        ArchSupport,
        ImageModelDescriptor,
        ModelLoader,
        ModelTiling,
    )
except ModuleNotFoundError as error:
    if error.name != "spandrel":
        raise
    raise AMDRestoreError('spandrel is not installed; pip install "amd-restore[spandrel]"') from error

ARCH_ID = "AMDRestore"
HEADER_KEY = "amd_restore.header"  # key of the header, as bytes of its JSON, among the tensors
SEED = 0  # A descriptor's call has no options; the same image always gives the same result.


class FewStepRestorer(nn.Module):
    """Module with spandrel's interface: an image in [0, 1] in, a larger one out.

    Args:
        header: header of the weights.
        net: network; its parameters are under ``net.``.
    """

    def __init__(self, header: Header, net: nn.Module) -> None:
        super().__init__()
        self.header = header
        self.net = net
        self._pipeline: RestorationPipeline | None = None

    def forward(self, image: Tensor) -> Tensor:
        """Restore (B, 3, H, W) in the default number of steps, with the noise of seed 0.

        Large images are tiled here, because the noise depends on the position in the whole image. Only the network runs
        in the dtype of its weights.

        Raises:
            AMDRestoreError: the call is traced, which would fix the noise of one size.
        """
        if torch.jit.is_tracing() or torch.onnx.is_in_onnx_export():
            raise AMDRestoreError(
                f"{self.header.name} cannot be traced: its noise depends on the place in the image; "
                "'amd-restore export' writes the network as ONNX, and the noise stays outside"
            )
        weight = next(self.net.parameters())
        if self._pipeline is None or self._pipeline.device != weight.device:  # kept, because it measures memory once
            self._pipeline = RestorationPipeline(self.header, self.net, weight.device, torch.float32)
        self._pipeline.denoiser.dtype = weight.dtype  # includes half precision, which the constructor does not offer
        return self._pipeline(image.float().clamp(0, 1), seed=SEED).to(image.dtype)


class AMDRestoreArch(Architecture[FewStepRestorer]):
    """Detection and construction of this package's networks."""

    def __init__(self) -> None:
        super().__init__(id=ARCH_ID, name="AMD-Restore", detect=is_ours)

    def load(self, state_dict: dict[str, Any]) -> ImageModelDescriptor[FewStepRestorer]:
        """Return the descriptor of a state dict.

        Args:
            state_dict: tensors of a released model, or with the header under ``HEADER_KEY``.

        Raises:
            AMDRestoreError: neither a header nor the weights of a released model, or tensors that do not fit.
        """
        tensors = dict(state_dict)
        stored = tensors.pop(HEADER_KEY, None)
        header = _find_released(tensors) if stored is None else Header.from_json(_to_text(stored))
        net = build_network(header, {key: tensor.float() for key, tensor in tensors.items()})
        return ImageModelDescriptor(
            FewStepRestorer(header, net),
            {f"net.{key}": tensor for key, tensor in net.state_dict().items()},
            architecture=self,
            purpose="Restoration" if header.scale == 1 else "SR",
            tags=[header.name, f"{header.default_steps} step" + "s" * (header.default_steps > 1)],
            # Measured with x4-classical: see tests/inference/test_integrations.py.
            supports_half=True,
            supports_bfloat16=True,
            scale=header.scale,
            input_channels=3,
            output_channels=3,
            tiling=ModelTiling.INTERNAL,
        )


class HeaderLoader(ModelLoader):
    """spandrel's loader that keeps our header; other models load as before."""

    def load_state_dict_from_file(self, path: str | Path) -> dict[str, Any]:
        """Return the tensors of ``path``, with the header under ``HEADER_KEY`` if the file is ours."""
        state_dict: dict[str, Any] = super().load_state_dict_from_file(path)
        if Path(path).suffix.lower() == ".safetensors" and is_ours(state_dict):
            state_dict[HEADER_KEY] = _to_bytes(read_header(path))
        return state_dict


def is_ours(state_dict: Mapping[str, Any]) -> bool:
    """Return whether these may be weights of this package, or have its header."""
    ends = ("conv_in.weight", "unet.conv_in.weight")
    return HEADER_KEY in state_dict or ("null_cond" in state_dict and any(key in state_dict for key in ends))


def install(registry: ArchRegistry = MAIN_REGISTRY) -> None:
    """Register our architecture with spandrel's loaders; safe to call again.

    Args:
        registry: registry of architectures; by default that of every ``ModelLoader``.
    """
    registry.add(ArchSupport.from_architecture(AMDRestoreArch()), ignore_duplicates=True)


def load(
    name_or_path: str | Path = DEFAULT_MODEL, device: str | torch.device = "cpu"
) -> ImageModelDescriptor[FewStepRestorer]:
    """Load a released name, a ``.safetensors`` file, or a folder with exactly one; needs no :func:`install`.

    Raises:
        AMDRestoreError: no such weights, or a damaged file.
    """
    header, state_dict = load_checkpoint(resolve_weights(name_or_path))
    return AMDRestoreArch().load({**state_dict, HEADER_KEY: _to_bytes(header)}).to(torch.device(device))


def _to_bytes(header: Header) -> Tensor:
    return torch.frombuffer(bytearray(header.to_json().encode()), dtype=torch.uint8)


def _to_text(stored: Tensor) -> str:
    return bytes(stored.cpu().numpy()).decode()


def _find_released(tensors: Mapping[str, Tensor]) -> Header:
    """Return the header of the released model with exactly these tensors."""
    for path in released_models().values():
        header, known = load_checkpoint(path)
        if known.keys() == tensors.keys() and all(torch.equal(known[k], tensors[k].cpu().float()) for k in known):
            return header
    raise AMDRestoreError(
        "spandrel: these weights came without their header; load them with amd_restore's HeaderLoader or load(path)"
    )
