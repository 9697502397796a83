"""Drawing into memory with matplotlib, and the colours of all diagrams."""

from __future__ import annotations

from typing import Any

from amd_restore.errors import AMDRestoreError

# Okabe and Ito's colours, distinguishable by colour-blind people, without yellow (too pale on white) and with gray
# instead of black (invisible on dark).
COLORS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#d55e00", "#56b4e9", "#8a8a8a")


def pyplot() -> Any:
    """Import matplotlib.pyplot, drawing into memory.

    Raises:
        AMDRestoreError: matplotlib is not installed.
    """
    try:
        import matplotlib
    except ImportError as error:
        raise AMDRestoreError("pictures need matplotlib; pip install 'amd-restore[train]'") from error
    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot
