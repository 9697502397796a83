"""The command ``amd-restore``: restore one image or a folder of them; other work by other commands.

Exit codes: 0 all went well, 1 some image failed or a result could not be written, 2 nothing could be started, 130
interrupted.
"""

from amd_restore.apps.cli.command import main

__all__ = ["main"]
