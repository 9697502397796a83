"""No-reference rewards: how natural an image looks, whatever it shows.

Alone they can be gamed: a student that invents texture scores well. Mix them with a fidelity reward.
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
    """NIQE (Mittal et al. 2013) of the Y channel, with the pristine model that BasicSR ships.

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
    """BRISQUE (Mittal et al. 2012) of the gray image, with a machine that lies beside the code.

    About 0 for a good photograph, 100 for a ruined one, without hard bounds. It looks at the whole image at once,
    so it needs no blocks and is steadier on crops than NIQE.

    Args:
        weight: factor in the sum.
        device: where it is computed.
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
