"""Which arithmetic the hardware really has."""

from __future__ import annotations

import torch


def has_bfloat16(device: torch.device) -> bool:
    """Whether ``device`` multiplies in bfloat16; emulating it is slower than float32."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)  # older ones only emulate it
    if device.type != "cpu":
        return False
    # These two are private names, hence the care.
    probes = (getattr(torch.cpu, name, None) for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"))
    return any(probe is not None and probe() for probe in probes)
