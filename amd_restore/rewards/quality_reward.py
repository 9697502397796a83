"""No-reference rewards: naturalness of an image.

Combine them with a fidelity reward, because a student can raise them alone by inventing texture.
"""

from __future__ import annotations

import torch
from torch import Tensor

from amd_restore.errors import AMDRestoreError
from amd_restore.registry import REWARD_REGISTRY
from amd_restore.rewards import brisque
from amd_restore.rewards.niqe import BLOCK, WORST, load_pristine, niqe
from amd_restore.rewards.reward import BaseReward


@REWARD_REGISTRY.register()
class NIQEReward(BaseReward):
    """NIQE (Mittal et al. 2013) of the Y channel, with the pristine model of BasicSR.

    NIQE compares the statistics of blocks of 96 x 96 pixels with those of good photographs. It was made for
    whole images of many blocks: on crops of 128 pixels it uses four overlapping blocks and is *noisy*, so give it a
    small weight. Benchmarks use BasicSR's function on whole images.

    Args:
        stride: distance in pixels between blocks. 96 is BasicSR's NIQE, which needs at least two whole blocks
            (192 x 96 pixels); 32 lets blocks overlap, for training crops of 96 pixels or more.
        weight: factor in the sum.
        device: device of the computation.

    Raises:
        AMDRestoreError: missing BasicSR parameter file, or an odd stride.
    """

    name = "niqe"
    mode = "no_reference"
    higher_is_better = False
    range = (0.0, WORST)
    min_size = BLOCK

    def __init__(self, stride: int = 32, weight: float = 1.0, device: torch.device | str = "cpu") -> None:
        super().__init__(weight, device)
        if stride < 2 or stride % 2 or stride > BLOCK:
            raise AMDRestoreError(f"NIQEReward: stride must be even, from 2 to {BLOCK}, got {stride}")
        self.stride, self.pristine = stride, load_pristine(device)

    def measure(self, sr: Tensor, gt: Tensor | None, lq: Tensor | None) -> Tensor:
        return niqe(sr, self.pristine, self.stride)


@REWARD_REGISTRY.register()
class BRISQUEReward(BaseReward):
    """BRISQUE (Mittal et al. 2012) of the gray image, see :mod:`~amd_restore.rewards.brisque`.

    About 0 for a good photograph, 100 for a bad one, unbounded. It uses the whole image at once, so it is less noisy on
    crops than NIQE.

    Args:
        weight: factor in the sum.
        device: device of the computation.
    """

    name = "brisque"
    mode = "no_reference"
    higher_is_better = False
    differentiable = True
    min_size = brisque.MIN_SIZE

    def __init__(self, weight: float = 1.0, device: torch.device | str = "cpu") -> None:
        super().__init__(weight, device)
        self.machine = brisque.load_machine(device)

    def measure(self, sr: Tensor, gt: Tensor | None, lq: Tensor | None) -> Tensor:
        return brisque.brisque(sr, self.machine)
