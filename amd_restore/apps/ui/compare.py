"""The before/after slider."""

from __future__ import annotations

from nicegui.element import Element


class Compare(Element, component="compare.js"):
    """Input and restoration on top of each other, with a divider to drag or to move with the arrow keys."""

    def show(self, before: str | None, after: str | None, size: tuple[int, int]) -> None:
        """Show two pictures, or the first alone.

        Args:
            before, after: addresses.
            size: (height, width) at which both are shown.
        """
        self._props["before"], self._props["after"] = before, after
        self._props["height"], self._props["width"] = size
        self.update()

    def set_actual(self, actual: bool) -> None:
        """One pixel of the picture per pixel of the page, instead of as large as the page."""
        self._props["actual"] = actual
        self.update()
