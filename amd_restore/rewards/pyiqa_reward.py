"""Metrics of pyiqa as rewards, with direction, mode and range from pyiqa's metadata."""

from __future__ import annotations

import os
import re
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from amd_restore import compat
from amd_restore.atomic import expanded
from amd_restore.errors import AMDRestoreError
from amd_restore.registry import REWARD_REGISTRY, did_you_mean
from amd_restore.rewards.reward import BaseReward
from amd_restore.rewards.weight_files import hub_folder

INSTALL = 'pip install ".[iqa]" in the clone of this repository'
# These metrics compare sets of images, but a reward is a number for each image.
_OF_SETS = ("fid", "sfid", "inception_score")


@REWARD_REGISTRY.register()
class PyIQAReward(BaseReward):
    """Metric of pyiqa.

    pyiqa is an optional extra under the PolyForm Noncommercial licence; it downloads a metric's weights at first use
    into torch's hub folder, under ``pyiqa``.

    Args:
        metric: pyiqa's name: ``musiq``, ``clipiqa``, ``maniqa-pipal``, ``brisque``, ``dists`` ...
        options: keyword arguments of pyiqa's network: ``{test_sample: 1}`` makes MANIQA use one crop, not 20.
        weight: factor in the sum.
        device: device of the network.

    Raises:
        AMDRestoreError: missing pyiqa or a package of the metric, an unknown metric or one of sets of images, or
            weights that are not on disk and cannot be downloaded.
    """

    differentiable = True  # A loss on a metric without gradient raises an error.

    def __init__(
        self,
        metric: str,
        options: dict[str, Any] | None = None,
        weight: float = 1.0,
        device: torch.device | str = "cpu",
    ) -> None:
        super().__init__(weight, device)
        compat.patch()
        compat.patch_clip()
        try:
            import pyiqa
        except ModuleNotFoundError as error:
            if error.name != "pyiqa":
                raise
            raise AMDRestoreError(f"the reward '{metric}' needs pyiqa (noncommercial licence): {INSTALL}") from error
        known = pyiqa.list_models()
        if metric not in known:
            raise AMDRestoreError(f"pyiqa has no metric '{metric}'; {did_you_mean(metric, known)}")
        if metric.startswith(_OF_SETS):
            raise AMDRestoreError(f"pyiqa's '{metric}' compares sets of images and cannot be a reward")
        self.metric = _create(metric, options or {}, self.device)
        self.name = metric
        self.mode = "full_reference" if self.metric.metric_mode == "FR" else "no_reference"
        self.higher_is_better = not self.metric.lower_better
        self.range = parse_range(getattr(self.metric, "score_range", None))

    def measure(self, sr: Tensor, gt: Tensor | None, lq: Tensor | None) -> Tensor:
        images = (sr,) if self.mode == "no_reference" else (sr, self._require(gt, "gt"))
        # pyiqa passes gradients only in a metric created as a loss, and checks this at every call.
        self.metric.as_loss = sr.requires_grad and torch.is_grad_enabled()
        return self.metric(*images).reshape(sr.shape[0])


def _create(name: str, options: dict[str, Any], device: torch.device) -> Any:
    """Create pyiqa's metric; errors have one line."""
    import pyiqa

    wanted: list[tuple[str, Path]] = []
    with _recorded_downloads(wanted):
        try:
            metric = pyiqa.create_metric(
                name, as_loss=False, device=device, loss_reduction="none", check_input_range=False, **options
            )
        except ModuleNotFoundError as error:
            raise AMDRestoreError(f"pyiqa's '{name}' needs the package {error.name}: {INSTALL}") from error
        except Exception as error:  # Downloads can raise errors of four libraries.
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            wanted += _hub_requests(error)
            if not wanted:
                raise AMDRestoreError(f"pyiqa cannot make '{name}': {reason}") from error
            url, place = wanted[-1]
            raise AMDRestoreError(
                f"pyiqa's '{name}' needs the weights {Path(url).name}: looked for them in {place}, and they could not "
                f'be downloaded from {url} ({reason}); without a network, run python -c "import pyiqa; '
                f"pyiqa.create_metric('{name}')\" where there is one and copy the folder"
            ) from error
    return metric.requires_grad_(False)


@contextmanager
def _recorded_downloads(wanted: list[tuple[str, Path]]) -> Iterator[None]:
    """Append (address, folder) of each file that torch, pyiqa or CLIP downloads, so that a failure can name it."""
    download, opened = torch.hub.download_url_to_file, urllib.request.urlopen

    def record_download(url: str, dst: str, *arguments: Any, **options: Any) -> None:
        wanted.append((url, Path(dst).parent))
        download(url, dst, *arguments, **options)

    def record_open(url: Any, *arguments: Any, **options: Any) -> Any:
        wanted.append((str(getattr(url, "full_url", url)), hub_folder() / "clip"))
        return opened(url, *arguments, **options)

    replaced: list[tuple[Any, str, Any]] = [(urllib.request, "urlopen", record_open)]
    for module in (torch.hub, sys.modules.get("pyiqa.utils.download_util")):
        if getattr(module, "download_url_to_file", None) is download:
            replaced.append((module, "download_url_to_file", record_download))
    originals = [(module, name, getattr(module, name)) for module, name, _ in replaced]
    try:
        for module, name, function in replaced:
            setattr(module, name, function)
        yield
    finally:
        for module, name, function in originals:
            setattr(module, name, function)


def _hub_requests(error: BaseException) -> list[tuple[str, Path]]:
    """Return the (address, folder) of failed requests of Hugging Face's library."""
    found: list[tuple[str, Path]] = []
    cause: BaseException | None = error
    while cause is not None:
        url = getattr(getattr(cause, "_request", None), "url", None)
        if url is not None:
            home = expanded(os.environ.get("HF_HOME") or "~/.cache/huggingface")
            found.append((str(url), home / "hub"))
        cause = cause.__cause__ or cause.__context__
    return found


def parse_range(text: str | None) -> tuple[float, float]:
    """Parse pyiqa's ``score_range``: ``0, 1``, ``~0, ~100`` (about) or ``0, ~`` (no upper bound)."""
    bounds = re.fullmatch(r"\s*~?\s*(-?[\d.]*)\s*,\s*~?\s*(-?[\d.]*)\s*", text or "")
    low, high = bounds.groups() if bounds else ("", "")
    return float(low or "-inf"), float(high or "inf")
