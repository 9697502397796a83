"""Image files that are written while their rows are still being made."""

from __future__ import annotations

from amd_restore.streaming.files import is_streamed, write_rows

__all__ = ["is_streamed", "write_rows"]
