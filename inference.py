"""``python inference.py -i lowres/``: the command ``amd-restore`` without installing it; see ``--help``."""

from __future__ import annotations

import sys

from amd_restore.apps.cli import main

if __name__ == "__main__":
    sys.exit(main())
