"""What the command says: a progress bar, one line per failure, one summary."""

from __future__ import annotations

from typing import TYPE_CHECKING, NoReturn

from amd_restore.errors import complain, say

if TYPE_CHECKING:
    from tqdm import tqdm

    from amd_restore.apps.files.outcome import Outcome
    from amd_restore.apps.files.plan import Job


class Console:
    """Messages to people.

    Args:
        debug: show tracebacks.
        quiet: standard output belongs to data; what is said goes to standard error.
    """

    def __init__(self, debug: bool = False, quiet: bool = False) -> None:
        self.debug, self.quiet = debug, quiet

    def say(self, message: str) -> None:
        """Print one line of result."""
        if self.quiet:
            complain(message)
        else:
            say(message)

    def complain(self, message: str, error: BaseException | None = None) -> None:
        """Print one line on standard error; with ``debug`` the traceback of ``error`` before it."""
        complain(message, error if self.debug else None)

    def bar(self, images: int) -> ProgressBar:
        """A progress bar over ``images`` images; shown on terminals only."""
        return ProgressBar(images)


class ProgressBar:
    """One bar for all images, with rate and time left; within a large one, its tiles move it, too."""

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

    @property
    def position(self) -> float:
        """Images done, the finished part of the present one included."""
        return 0.0 if self._bar is None else float(self._bar.n)

    def tiles(self, job: Job, done: int, total: int) -> None:
        """``done`` of the ``total`` tiles of the present image are restored."""
        if self._bar is not None and total > 1:
            self._bar.set_postfix_str(f"{job.source.name}, tile {done}/{total}", refresh=False)
            # The last step is left to advance(): the image is not written yet.
            self._move_to(self._finished + min(done, total - 1) / total)

    def advance(self, outcome: Outcome) -> None:
        """An image is finished, in whichever way."""
        if self._bar is None:
            return
        if outcome.status == "skipped":
            # It took no time: it must not flatter the rate.
            self._bar.total = self._images = self._images - 1
            self._bar.refresh()
        else:
            self._finished += 1
            self._move_to(self._finished)

    def _move_to(self, position: float) -> None:
        assert self._bar is not None
        # Never back: an image written late is overtaken by the tiles of the next one.
        self._bar.update(max(0.0, position - self._bar.n))
