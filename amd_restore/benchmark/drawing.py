"""Drawing into memory by matplotlib, and the colours of all diagrams."""

from __future__ import annotations

from typing import Any

from amd_restore.errors import AMDRestoreError

# Okabe and Ito's colours, told apart by colour-blind people too; yellow left out (too pale on white), and black
# replaced by gray (invisible on dark).
COLORS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#d55e00", "#56b4e9", "#8a8a8a")


def pyplot() -> Any:
    """matplotlib.pyplot, drawing into memory.

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
