"""Quality tables with a stated protocol: ``python -m amd_restore.benchmark -opt options/benchmark/NAME.yml``.

Every metric that was a reward or a loss of a method is marked in that method's row and reported apart from the
metrics that nobody was trained on.
"""

from __future__ import annotations
