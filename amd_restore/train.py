"""``python amd_restore/train.py -opt options/train/....yml [--auto_resume] [--force_yml a:b=value] [--debug]``."""

from __future__ import annotations

import sys
import time
from pathlib import Path

if __name__ == "__main__":
    started = time.monotonic()  # a time limit covers the seconds in which torch is imported, too
    # Run as a script, this folder would come first on the path and shadow packages; the repository should.
    sys.path[0] = str(Path(__file__).resolve().parent.parent)
    from amd_restore.errors import run_command

    def command() -> int:
        from amd_restore.training.pipeline import run_pipeline

        return run_pipeline(is_train=True, started=started)

    sys.exit(run_command(command, stops_on_sigterm=False, extra="train"))
