"""Messages of the command: a progress bar, one line per failure, one summary."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from amd_restore.errors import complain, say

if TYPE_CHECKING:
    from tqdm import tqdm

    from amd_restore.apps.cli.report import Report
    from amd_restore.apps.files.outcome import Outcome
    from amd_restore.apps.files.plan import Job

STANDARD = Path("-")  # standard input or output


class Console:
    """Messages for the user.

    Args:
        debug: show tracebacks.
        quiet: print messages on standard error, because standard output is for data.
    """

    def __init__(self, debug: bool = False, quiet: bool = False) -> None:
        self.debug, self.quiet = debug, quiet

    def say(self, message: str) -> None:
        """Print one line."""
        if self.quiet:
            complain(message)
        else:
            say(message)

    def complain(self, message: str, error: BaseException | None = None) -> None:
        """Print one line on standard error; with ``debug`` the traceback of ``error`` before it."""
        complain(message, error if self.debug else None)

    def follow(self, outcomes: Iterable[Outcome], report: Report, bar: ProgressBar) -> None:
        """Take every outcome as it comes into the report and the bar, and print failures."""
        for outcome in outcomes:
            report.add(outcome)
            bar.advance(outcome)
            if outcome.status == "failed":
                self.complain(outcome.message, outcome.error)

    def bar(self, images: int) -> ProgressBar:
        """Return a progress bar over ``images`` images, shown on terminals only."""
        return ProgressBar(images)


class ProgressBar:
    """Progress bar for all images, with rate and time left; the tiles of a large image advance it, too."""

    def __init__(self, images: int) -> None:
        self._images = images
        self._bar: tqdm[NoReturn] | None = None
        self._finished = 0

    def __enter__(self) -> ProgressBar:
        from tqdm import tqdm

        layout = "{l_bar}{bar}| {n:.1f}/{total} [{elapsed}<{remaining}, {rate_fmt}{postfix}]"
        self._bar = tqdm(total=self._images, unit="image", disable=None, bar_format=layout)
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def tiles(self, job: Job, done: int, total: int) -> None:
        """Report that ``done`` of the ``total`` tiles of the current image are restored."""
        if self._bar is not None and total > 1:
            self._bar.set_postfix_str(f"{job.source.name}, tile {done}/{total}", refresh=False)
            # advance() makes the last step, because the image is not written yet.
            self._move_to(self._finished + min(done, total - 1) / total)

    def advance(self, outcome: Outcome) -> None:
        """Report that an image is finished: restored, skipped or failed."""
        if self._bar is None:
            return
        if outcome.status == "skipped":
            # A skipped image took no time, so it must not count in the rate.
            self._bar.total = self._images = self._images - 1
            self._bar.refresh()
        else:
            self._finished += 1
            self._move_to(self._finished)

    def _move_to(self, position: float) -> None:
        assert self._bar is not None
        # The bar never moves back: the tiles of the next image can finish before an image is written.
        self._bar.update(max(0.0, position - self._bar.n))
