"""Images of an open page: what becomes of each, and its files."""

from __future__ import annotations

from collections.abc import Callable

from nicegui import ui

from amd_restore.apps.ui.served import ServedFiles
from amd_restore.apps.ui.uploads import Download

HIGHEST_COUNT = 100  # images
_HIGHEST_BYTES = 500_000_000  # of all images, after which no further one is restored


class Item:
    """Uploaded image with its row in the list.

    Args:
        data: content of the upload.
        name: file name from the browser.
        served: files of the page.
        on_show: called to show this image.
    """

    def __init__(self, data: bytes, name: str, served: ServedFiles, on_show: Callable[[Item], None]) -> None:
        self.data, self.name, self._served = data, name, served
        self.size, self.preview_size = (0, 0), (0, 0)
        self.addresses: dict[str, str] = {}
        self.summary = ""
        self._bytes: dict[str, int] = {}
        with ui.row().classes("w-full items-center no-wrap gap-2").props("role=listitem") as self.row:
            self._show = ui.button(name, on_click=lambda: on_show(self))
            self._show.props("flat dense no-caps align=left").classes("grow min-w-0 result-name")
            self._show.props["aria-label"] = f"Show {name}"
            self._show.disable()
            self._state = ui.label("Waiting").classes("text-xs opacity-70 shrink-0")
            self._save = ui.button(icon="download").props("flat dense round")
            self._save.set_visibility(False)

    @property
    def memory(self) -> int:
        """Return the memory of the upload and its files."""
        return len(self.data) + sum(self._bytes.values())

    def set_state(self, text: str) -> None:
        """Set the text of the row."""
        self._state.set_text(text)

    def open(self, preview: bytes, size: tuple[int, int], preview_size: tuple[int, int]) -> None:
        """Take the decoded input and forget the result before.

        Args:
            preview: PNG of the input.
            size: (height, width) of the input.
            preview_size: (height, width) at which it is shown.
        """
        self.forget()
        self.size, self.preview_size = size, preview_size
        self._place("before", preview)
        self._show.enable()

    def finish(self, result: Download) -> None:
        """Take a result."""
        self.preview_size = result.preview_size
        self._place("after", result.preview)
        self._place("file", result.data, result.name)
        if result.uncertainty:
            self._place("overlay", result.uncertainty)
        shown = "" if result.preview_size == result.size else "; shown smaller than it is"
        (height, width), (new_height, new_width) = self.size, result.size
        self.summary = (
            f"{width} x {height} to {new_width} x {new_height} in {result.seconds:.1f} s by {result.model}: "
            f"{result.name}{shown}"
        )
        self.set_state(f"{result.seconds:.1f} s")
        self._save.props["href"] = self.addresses["file"]
        self._save.props["aria-label"] = f"Download {result.name}"
        self._save.set_visibility(True)
        self._save.update()

    def forget(self) -> None:
        """Remove the files."""
        for address in self.addresses.values():
            self._served.remove(address)
        self.addresses.clear()
        self._bytes.clear()
        self.summary = ""
        self._save.set_visibility(False)

    def mark(self, is_shown: bool) -> None:
        """Mark the row of the image that is shown, for the eye and for screen readers."""
        self._show.props["aria-current"] = "true" if is_shown else "false"
        self._show.update()

    def _place(self, role: str, data: bytes, name: str | None = None) -> None:
        self.addresses[role] = self._served.add(data, name)
        self._bytes[role] = len(data)


class Results:
    """List of images; visible from the second on.

    Args:
        served: files of the page.
        on_show: called to show an image.
        on_clear: called to clear the list.
    """

    def __init__(self, served: ServedFiles, on_show: Callable[[Item], None], on_clear: Callable[[], None]) -> None:
        self._served, self._on_show = served, on_show
        self.items: list[Item] = []
        with ui.column().classes("w-full gap-1") as self._all:
            with ui.row().classes("w-full items-center justify-between"):
                ui.label("Images").classes("text-sm").props("role=heading aria-level=2")
                self._clear = ui.button("Clear list", on_click=on_clear).props("flat dense no-caps")
            self._rows = ui.column().classes("w-full gap-0 results").props('role=list aria-label="Images"')
        self._all.set_visibility(False)

    @property
    def is_heavy(self) -> bool:
        """Return whether the images take too much memory for another."""
        return sum(item.memory for item in self.items) > _HIGHEST_BYTES

    def add(self, data: bytes, name: str) -> Item:
        """Add an upload."""
        with self._rows:
            item = Item(data, name, self._served, self._on_show)
        self.items.append(item)
        self._all.set_visibility(len(self.items) > 1)
        return item

    def discard(self, item: Item) -> None:
        """Remove an image and its files."""
        item.forget()
        self.items.remove(item)
        self._rows.remove(item.row)
        self._all.set_visibility(len(self.items) > 1)

    def mark(self, shown: Item | None) -> None:
        """Mark the image that is shown."""
        for item in self.items:
            item.mark(item is shown)

    def set_enabled(self, enabled: bool) -> None:
        """Enable or disable the button that clears."""
        self._clear.set_enabled(enabled)
