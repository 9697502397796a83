"""Ablations: one option file, many trainings, one table. ``python -m amd_restore.benchmark.ablation -opt FILE``."""

from __future__ import annotations
