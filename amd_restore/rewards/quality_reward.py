"""No-reference rewards: how natural an image looks, whatever it shows.

Alone they can be gamed: a student that invents texture scores well. Mix them with a fidelity reward.
"""

from __future__ import annotations

import torch
from torch import Tensor

from amd_restore import compat
from amd_restore.errors import AMDRestoreError
from amd_restore.registry import REWARD_REGISTRY
from amd_restore.rewards.niqe import BLOCK, load_pristine, niqe
from amd_restore.rewards.reward import BaseReward


@REWARD_REGISTRY.register()
class NIQEReward(BaseReward):
    """Minus NIQE (Mittal et al. 2013) of the Y channel, with the pristine model that BasicSR ships.

    NIQE compares the statistics of blocks of 96 x 96 pixels with those of good photographs. It was made for
    whole images of many blocks: on a crop of 128 pixels it rests on four overlapping blocks and is *noisy*.
    Treat it as a weak hint there and give it a small weight; benchmarks use BasicSR's own function on whole
    images. It costs about 2 ms per crop of 128 pixels on one CPU thread.

    Args:
        stride: distance in pixels between blocks. 96 is BasicSR's NIQE, which needs at least two whole blocks
            (192 x 96 pixels); 32 lets blocks overlap, which serves training crops of 96 pixels and more.
        weight: factor in the sum.
        device: where it is computed.

    Raises:
        AMDRestoreError: without BasicSR's parameter file, or for an odd stride.
    """

    name = "niqe"
    mode = "no_reference"

    def __init__(self, stride: int = 32, weight: float = 1.0, device: torch.device | str = "cpu") -> None:
        super().__init__(weight, device)
        if stride < 2 or stride % 2 or stride > BLOCK:
            raise AMDRestoreError(f"NIQEReward: stride must be even, from 2 to {BLOCK}, got {stride}")
        self.stride, self.pristine = stride, load_pristine(device)

    def score(self, sr: Tensor, gt: Tensor | None, lq: Tensor | None) -> Tensor:
        return -niqe(sr, self.pristine, self.stride)


@REWARD_REGISTRY.register()
class PyIQAReward(BaseReward):
    """Any metric of pyiqa, its sign taken from pyiqa's own metadata so that higher is better.

    pyiqa is an optional extra under the PolyForm Noncommercial licence; it downloads the metric's weights at
    first use.

    Args:
        metric: pyiqa's name: ``musiq``, ``clipiqa``, ``maniqa-pipal``, ``brisque``, ``dists`` ...
        weight: factor in the sum.
        device: where the network runs.

    Raises:
        AMDRestoreError: without pyiqa, or for a name it does not know.
    """

    def __init__(self, metric: str, weight: float = 1.0, device: torch.device | str = "cpu") -> None:
        super().__init__(weight, device)
        compat.patch()
        try:
            import pyiqa
        except ModuleNotFoundError as error:
            if error.name != "pyiqa":
                raise
            raise AMDRestoreError(
                f"the reward '{metric}' needs pyiqa (noncommercial licence): "
                'pip install ".[iqa]" in the clone of this repository'
            ) from error
        if metric not in pyiqa.list_models():
            raise AMDRestoreError(f"pyiqa has no metric '{metric}'; see pyiqa.list_models()")
        self.metric = pyiqa.create_metric(metric, as_loss=False, device=self.device)
        self.name = metric
        self.mode = "full_reference" if self.metric.metric_mode == "FR" else "no_reference"
        self.sign = -1.0 if self.metric.lower_better else 1.0

    def score(self, sr: Tensor, gt: Tensor | None, lq: Tensor | None) -> Tensor:
        images = (sr,) if self.mode == "no_reference" else (sr, self._require(gt, "gt"))
        return self.sign * self.metric(*images).reshape(sr.shape[0])
