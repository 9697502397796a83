"""Parts of training in a latent space: decoded windows, and an encoder trained with the student."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from amd_restore.archs.base import RestorationNetwork
from amd_restore.archs.latent.codecs import build_codec
from amd_restore.archs.latent.pretrained import scheduler_process
from amd_restore.diffusion import Codec, Process, build_process
from amd_restore.errors import AMDRestoreError
from amd_restore.options import RunOptions
from amd_restore.weights import SOURCE_KEY, split_encoder

_PROCESS_KEYS = {
    "variance_preserving": ("num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "rescale_betas_zero_snr"),
    "flow_matching": ("shift",),
}


class Windows:
    """Square window of the latent grid for each sample, in blocks: the smallest units of whole cells and ``lq`` pixels.

    Args:
        tops, lefts: first row and column of each sample's window.
        side: side of the windows.
    """

    def __init__(self, tops: list[int], lefts: list[int], side: int) -> None:
        self.tops, self.lefts, self.side = tops, lefts, side

    @classmethod
    def draw(cls, rand: Callable[[int], Tensor], size: tuple[int, int], side: int, groups: int, group: int) -> Windows:
        """Draw random windows, equal inside a group so that its samples can be compared.

        Args:
            rand: function that draws n uniform numbers in [0, 1).
            size: height and width of the grid, in blocks.
            side: side of the windows, limited to that of the grid.
            groups: number of groups.
            group: samples per group.
        """
        side = min(side, *size)
        tops, lefts = ([int(u * (length - side + 1)) for u in rand(groups).tolist()] for length in size)
        return cls([top for top in tops for _ in range(group)], [left for left in lefts for _ in range(group)], side)

    def __getitem__(self, rows: slice | Tensor) -> Windows:
        """Return the windows of a slice, or of a tensor of indices (N,)."""
        chosen = range(len(self.tops))[rows] if isinstance(rows, slice) else rows.tolist()
        return Windows([self.tops[row] for row in chosen], [self.lefts[row] for row in chosen], self.side)

    def cut(self, x: Tensor, block: int) -> Tensor:
        """Cut the windows out of ``x`` (B, C, H, W), where a block is ``block`` wide."""
        side = self.side * block
        places = zip(x, self.tops, self.lefts, strict=True)
        return torch.stack([one[:, top * block :, left * block :][:, :side, :side] for one, top, left in places])


def decode_windows(codec: Codec, x0: Tensor, lq: Tensor, windows: Windows | None) -> Tensor:
    """Decode samples, or only their ``windows`` to save memory.

    The decoder pads windows at their borders, as it pads images.
    """
    if windows is None:
        return codec.decode(x0, lq)
    return codec.decode(windows.cut(x0, codec.cells(codec.lq_patch)), windows.cut(lq, codec.lq_patch))


def cut_images(codec: Codec, gt: Tensor, lq: Tensor, windows: Windows | None) -> tuple[Tensor, Tensor]:
    """Cut ``gt`` and ``lq`` at the place of :func:`decode_windows`."""
    if windows is None:
        return gt, lq
    return windows.cut(gt, codec.lq_patch * codec.scale), windows.cut(lq, codec.lq_patch)


def build_space(run: RunOptions, device: torch.device) -> tuple[Codec, Process, str]:
    """Build codec, forward process and prediction type of an option file.

    Raises:
        AMDRestoreError: a model cannot be loaded, or crops do not fit the codec's cells.
    """
    codec = build_codec({"scale": run.scale, **run.codec.arguments()}).to(device)
    cell = codec.lq_patch * codec.scale
    for phase, dataset in run.datasets.items():
        size = dataset.arguments.get("gt_size")
        if size and size % cell:
            raise AMDRestoreError(
                f"datasets.{phase}.gt_size: must be a multiple of {cell}, the least that the codec can cut, got {size}"
            )
    config, prediction_type = _process_options(run)
    return codec, build_process(config), prediction_type


def _process_options(run: RunOptions) -> tuple[dict[str, Any], str]:
    diffusion = run.diffusion
    if diffusion.process != "pretrained":
        keys = _PROCESS_KEYS.get(diffusion.process, ())
        config = {"type": diffusion.process, **{key: getattr(diffusion, key) for key in keys}}
        return config, diffusion.prediction_type
    source = diffusion.pretrained_model_name_or_path
    for block in (run.network_g, run.network_teacher):
        source = source or (block or {}).get(SOURCE_KEY)
    if source is None:
        raise AMDRestoreError(f"diffusion.process: pretrained needs diffusion.{SOURCE_KEY}, or a network that has one")
    return scheduler_process(source, diffusion.scheduler_subfolder)


def with_channels(run: RunOptions, codec: Codec) -> RunOptions:
    """Return the options with the networks' channels for ``codec``'s space, where the file does not give them."""
    channels = {"in_channels": codec.channels, "cond_channels": codec.cond_channels}
    changes: dict[str, Any] = {"network_g": channels | run.network_g}
    if run.network_teacher is not None:
        changes["network_teacher"] = channels | run.network_teacher
    if run.network_fake is not None:
        step = {"cond_channels": codec.cond_channels + 1} if run.distill.fake_sees_step else {}
        changes["network_fake"] = channels | run.network_fake | step
    return dataclasses.replace(run, **changes)


def rebuild_options(net: RestorationNetwork, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return constructor options for ``net``: its own ``rebuild_options()`` if it has any, else the option file's."""
    own = net.rebuild_options()
    return {"type": options["type"], **(options if own is None else own)}


def bases(net: nn.Module, codec: Codec) -> dict[str, str]:
    """Return fingerprints of the base weights of ``net`` and ``codec`` that our training does not save."""
    # Discriminators are saved by the same function but do not follow the network contract.
    network = net.base_fingerprint if isinstance(net, RestorationNetwork) else None
    found = {"network": network, "codec": codec.fingerprint}
    return {key: value for key, value in found.items() if value}


class TrainedEncoder:
    """Encoder of the condition, trained with the student, and a moving average of its weights.

    Args:
        codec: codec built with ``train_encoder``; it holds the trained weights.
    """

    def __init__(self, codec: Codec) -> None:
        self.codec = codec
        self.average = self._copy()

    def _copy(self) -> dict[str, Tensor]:
        return {key: value.detach().clone() for key, value in self.codec.trained_state().items()}

    def parameters(self) -> list[Tensor]:
        """Return the trained parameters."""
        return list(self.codec.trainable_parameters())

    @torch.no_grad()
    def update(self, decay: float) -> None:
        """Move the average towards the weights; ``decay`` 0 copies them."""
        for key, value in self.codec.trained_state().items():
            self.average[key].mul_(decay).add_(value, alpha=1.0 - decay)

    @contextlib.contextmanager
    def averaged(self) -> Iterator[None]:
        """Context in which the codec encodes with the average."""
        kept = self._copy()
        self.codec.load_trained_state(self.average)
        try:
            yield
        finally:
            self.codec.load_trained_state(kept)

    def load_exported(self, state: Mapping[str, Tensor]) -> None:
        """Load the encoder from the tensors of a weights file."""
        trained, _ = split_encoder(state)
        if trained:
            self.codec.load_trained_state(trained)
            self.update(0.0)

    def state_dict(self) -> dict[str, Any]:
        """Return weights and their average."""
        return {"weights": self._copy(), "average": {key: value.clone() for key, value in self.average.items()}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Inverse of :meth:`state_dict`."""
        self.codec.load_trained_state(state["weights"])
        self.average = {key: value.to(self.average[key]) for key, value in state["average"].items()}
