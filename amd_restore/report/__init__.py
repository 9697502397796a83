"""Report page about training runs: ``python -m amd_restore.report RUN... --out FILE.html``."""

from __future__ import annotations
