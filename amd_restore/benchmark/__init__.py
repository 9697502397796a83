"""Quality tables with a stated protocol: ``python -m amd_restore.benchmark -opt options/benchmark/NAME.yml``.

Metrics used as rewards or losses of a method are marked in its row and reported separately from held-out metrics.
"""

from __future__ import annotations
