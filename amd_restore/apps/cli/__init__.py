"""The command ``amd-restore``: restoring one image or a folder, and further commands.

Exit codes: 0 success, 1 some image failed or a result could not be written, 2 nothing was started, 130 interrupted.
"""

from amd_restore.apps.cli.command import main

__all__ = ["main"]
