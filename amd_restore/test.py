"""``python amd_restore/test.py -opt options/test/....yml [--force_yml a:b=value] [--debug]``."""

from __future__ import annotations

import sys
from pathlib import Path

if __name__ == "__main__":
    # Run as a script, this folder would come first on the path and shadow packages; the repository should.
    sys.path[0] = str(Path(__file__).resolve().parent.parent)
    from amd_restore.errors import run_command

    def command() -> int:
        from amd_restore.training.pipeline import run_pipeline

        return run_pipeline(is_train=False)

    sys.exit(run_command(command, stops_on_sigterm=False, extra="train"))
