"""The second-order degradation of Real-ESRGAN (Wang et al. 2021, 2107.10833, section 3)."""

from __future__ import annotations

from amd_restore.data.second_order.pipeline import SecondOrderDegradation

__all__ = ["SecondOrderDegradation"]
