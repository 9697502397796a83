"""Before/after slider."""

from __future__ import annotations

from nicegui.element import Element


class Compare(Element, component="compare.js"):
    """Input and restoration on top of each other, with a divider to drag or to move with the arrow keys."""

    def show(self, before: str | None, after: str | None, size: tuple[int, int], overlay: str | None = None) -> None:
        """Show two images, or only the first.

        Args:
            before, after: addresses.
            overlay: address of a map to lay over the second image, if any.
            size: (height, width) at which both are shown.
        """
        self._props["before"], self._props["after"] = before, after
        self._props["overlay"] = overlay
        self._props["height"], self._props["width"] = size
        self.update()

    def set_actual(self, actual: bool) -> None:
        """Show one image pixel per page pixel, instead of fitting the image to the page."""
        self._props["actual"] = actual
        self.update()
