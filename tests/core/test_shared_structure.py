"""Images that share sizes and order of operations are degraded together on a GPU."""

from __future__ import annotations

import torch

from amd_restore.data.base import to_8bit
from amd_restore.data.degradations import build_degradation
from amd_restore.data.second_order import SecondOrderDegradation
from amd_restore.data.second_order.pipeline import compress


def test_images_that_share_their_structure_are_one_batch() -> None:
    options = {"type": "second_order", "share": 4, "clean_prob": 0.2, "light_prob": 0.3}
    module = build_degradation(options, 4)
    assert isinstance(module, SecondOrderDegradation)
    module.reseed(3)
    parameters = module.draw(16)
    structures = [p.structure for p in parameters]
    assert all(structures[n] == structures[n - n % 4] for n in range(16)) and len(set(structures)) > 2
    assert len({p.second.noise.seed for p in parameters if p.second.noise}) > 8
    for before in (0, 1, 6, 15):  # as the workers of a loader draw them, one by one
        module.reseed(3, before)
        assert module.draw(1) == parameters[before : before + 1]
    coarse = torch.rand(16, 3, 9, 9, generator=torch.Generator().manual_seed(0))
    gt = torch.nn.functional.interpolate(coarse, size=48, mode="bicubic").clamp(0, 1)
    alone = module.apply_parameters(gt, parameters)
    for start in range(0, 16, 4):
        rows = slice(start, start + 4)
        together = module.degrade_alike(gt[rows], parameters[rows])
        last = [p.second.jpeg if p.jpeg_last and not p.clean else None for p in parameters[rows]]
        same = to_8bit(compress(together, last)) == alone[rows]
        assert float(same.float().mean()) > 0.99  # a matrix product may round otherwise
