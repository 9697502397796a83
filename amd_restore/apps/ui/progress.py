"""Progress of the restoration at work."""

from __future__ import annotations

import time
from collections.abc import Sized

from nicegui import ui

from amd_restore.apps.ui.uploads import RestorationState

_REFRESH = 0.2  # seconds


class Progress:
    """Bar and text, visible during the work.

    Screen readers speak every change of the page's status, hence seconds and tiles have this place of their own.

    Args:
        waiting: images that wait for their turn.
    """

    def __init__(self, waiting: Sized) -> None:
        self._waiting = waiting
        self._state: RestorationState | None = None
        self._started = 0.0
        self._bar = ui.linear_progress(0, show_value=False).classes("w-full").props('aria-label="Progress"')
        self._text = ui.label().classes("text-sm opacity-70")
        self._timer = ui.timer(_REFRESH, self._refresh, active=False)
        self.set_visible(False)

    def begin(self, state: RestorationState) -> None:
        """Show the progress of another restoration."""
        self._state, self._started = state, time.monotonic()

    def set_visible(self, visible: bool) -> None:
        """Show or hide bar and text."""
        self._bar.set_visibility(visible)
        self._text.set_visibility(visible)
        self._timer.active = visible

    def _refresh(self) -> None:
        if self._state is None:
            return
        fraction = self._state.fraction
        seconds = time.monotonic() - self._started
        tiles = "" if fraction is None else f", tile {self._state.done} of {self._state.total}"
        waiting = f"; {len(self._waiting)} more to do" if self._waiting else ""
        self._text.set_text(f"{self._state.stage}{tiles}, {seconds:.0f} s{waiting}")
        self._bar.set_value(fraction or 0.0)
        if fraction is None:
            self._bar.props("indeterminate")
        else:
            self._bar.props(remove="indeterminate")
