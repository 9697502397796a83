"""Page layout: controls on the left, the image on the right; and the work on the uploads, one after another."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from pathlib import Path

from nicegui import ui
from nicegui.events import UploadEventArguments, ValueChangeEventArguments

from amd_restore.apps.ui.compare import Compare
from amd_restore.apps.ui.panel import Panel, theme_choice
from amd_restore.apps.ui.progress import Progress
from amd_restore.apps.ui.results import HIGHEST_COUNT, Item, Results
from amd_restore.apps.ui.served import ServedFiles
from amd_restore.apps.ui.uploads import PREVIEW_SIDE, RestorationState, Stopped, Upload, UploadRestorer, for_page
from amd_restore.errors import AMDRestoreError
from amd_restore.image_io import READABLE_SUFFIXES

_LOG = logging.getLogger(__name__)
_STYLES = [Path(__file__).with_name(name) for name in ("compare.css", "page.css")]
_EXAMPLE = Path(__file__).with_name("example.jpg")
_KINDS = ",".join(("image/*", *READABLE_SUFFIXES))  # Browsers have no type for some suffixes.
# Quasar's own header of the field has a button without a name.
_UPLOAD_HEADER = """
<div class="column items-center q-pa-md q-gutter-sm">
  <q-btn icon="add_photo_alternate" label="Choose images" no-caps outline @click="props.pickFiles">
    <q-uploader-add-trigger />
  </q-btn>
  <div>or drop them here</div>
</div>
"""


class Page:
    """Open page.

    Args:
        restorer: restorer of uploads.
        served: files of the page.
        max_upload: limit on the bytes of a file.
    """

    def __init__(self, restorer: UploadRestorer, served: ServedFiles, max_upload: int) -> None:
        self._restorer, self._max_upload = restorer, max_upload
        self._waiting: deque[Item] = deque()
        self._shown: Item | None = None
        self._is_following = True  # Each image is shown when its turn comes, until the user chooses one.
        self._state: RestorationState | None = None
        self._gone = self._busy = False
        self._compare: Compare
        self._build(served)
        self._client = ui.context.client
        self._client.on_delete(self._leave)

    def _build(self, served: ServedFiles) -> None:
        for style in _STYLES:
            ui.add_css(style)
        with ui.row().classes("w-full items-center justify-between"):
            ui.label("AMD Restore").classes("text-2xl font-medium").props("role=heading aria-level=1")
            theme_choice()
        with ui.row().classes("w-full no-wrap max-md:flex-wrap gap-6"):
            with ui.column().classes("w-full md:w-80 shrink-0 gap-3"):
                self._build_upload()
                self._panel = Panel(self._restorer.models.headers, self._switch_uncertainty)
                self._build_status()
                self._results = Results(served, self._choose, self._clear)
            with ui.column().classes("grow min-w-0 max-md:w-full gap-2"):
                with ui.row().classes("w-full items-center gap-4") as self._toolbar:
                    ui.label("Input | Restored").classes("opacity-70")
                    ui.switch("Actual pixels", on_change=lambda event: self._compare.set_actual(bool(event.value)))
                    ui.space()
                    self._download = ui.button("Download", icon="download")
                self._compare = Compare()
        self._toolbar.classes("invisible")  # keeps its place

    def _build_upload(self) -> None:
        megabytes = self._max_upload / 1e6
        megapixels = self._restorer.max_pixels / 1e6
        field = ui.upload(
            multiple=True,
            auto_upload=True,
            max_file_size=self._max_upload,
            on_upload=self._receive,
            on_rejected=lambda: self._complain(f"Refused: no image, or larger than {megabytes:g} MB."),
        )
        field.add_slot("header", _UPLOAD_HEADER)
        # The browser clears its list itself: a reset from here could come before it registers the upload, and the list
        # would then keep the file.
        for event in ("uploaded", "failed"):
            clear = "removeUploadedFiles" if event == "uploaded" else "reset"
            field.on(event, js_handler=f"() => getElement({field.id}).$refs.qRef.{clear}()")
        field.on("failed", lambda: self._complain("The file could not be sent; try again."))
        field.props(f'accept="{_KINDS}" flat bordered').classes("w-full")
        with ui.row().classes("w-full items-center justify-between no-wrap"):
            ui.label(f"Each up to {megabytes:g} MB and {megapixels:g} megapixels").classes("text-xs opacity-70")
            if _EXAMPLE.is_file():
                ui.button("Try an example", on_click=self._try_example).props("flat dense no-caps")

    def _build_status(self) -> None:
        with ui.row().classes("w-full items-center"):
            self._start = ui.button("Restore", icon="auto_fix_high", on_click=self._restore_again)
            self._stop = ui.button("Stop", icon="stop", on_click=self._request_stop).props("flat")
        self._progress = Progress(self._waiting)
        self._status = ui.label().classes("text-sm").props('role=status aria-live=polite data-testid="status"')
        self._start.disable()
        self._stop.set_visibility(False)

    async def _receive(self, event: UploadEventArguments) -> None:
        """Take an uploaded file."""
        await self._add(await event.file.read(), event.file.name)

    async def _try_example(self) -> None:
        await self._add(_EXAMPLE.read_bytes(), _EXAMPLE.name)

    async def _restore_again(self) -> None:
        """Restore the shown image with the values that the controls have now."""
        if self._shown and not self._busy:
            self._waiting.append(self._shown)
            await self._work()

    async def _switch_uncertainty(self, event: ValueChangeEventArguments[bool | None]) -> None:
        """Show or hide the map, and draw it if there is none."""
        if self._shown is None:
            return
        if event.value and "overlay" not in self._shown.addresses:
            await self._restore_again()
        else:
            self._show(self._shown)

    async def _add(self, data: bytes, name: str) -> None:
        """Add an image to the list and restore it when its turn comes."""
        if self._gone:
            return
        if len(self._results.items) >= HIGHEST_COUNT:
            self._complain(f"{name}: the list holds {HIGHEST_COUNT} images; clear it first.")
            return
        self._is_following |= not self._busy
        self._waiting.append(self._results.add(data, name))
        await self._work()

    async def _work(self) -> None:
        """Restore what waits, one after another."""
        if self._busy:
            return
        self._set_busy(True)
        try:
            while self._waiting and not self._gone:
                await self._take(self._waiting.popleft())
        finally:
            if not self._gone:
                self._set_busy(False)

    async def _take(self, item: Item) -> None:
        """Restore one image and show what became of it."""
        message = await self._restored(item)
        if self._gone:
            return
        if message:
            item.set_state("Stopped" if message == "Stopped." else "Failed")
            self._complain(message)
        elif self._shown is item:
            self._show(item)

    async def _restored(self, item: Item) -> str:
        """Restore one image; return why it failed, if it did."""
        controls = self._panel.values()
        self._state = RestorationState(lambda: self._client.has_socket_connection)
        self._progress.begin(self._state)
        item.set_state("Working")
        try:
            if self._results.is_heavy:
                raise AMDRestoreError("the images take too much memory; download them and clear the list")
            upload = await asyncio.to_thread(self._restorer.open, item.data, item.name)
            self._open(item, upload)
            result = await asyncio.to_thread(self._restorer.restore, upload, controls, self._state)
            if not self._gone:
                item.finish(result)
        except Stopped:
            return "Stopped."
        except AMDRestoreError as error:
            return f"{item.name}: {for_page(error)}"
        except Exception:  # The page stays usable; the error is printed on the terminal.
            _LOG.exception("a restoration failed")
            return "It failed for a reason that the terminal tells."
        finally:
            self._state = None
        return ""

    def _open(self, item: Item, upload: Upload) -> None:
        """Show an input alone, before its restoration."""
        if self._gone:
            return
        height, width = upload.picture.pixels.shape[:2]
        scale = min(self._panel.scale, PREVIEW_SIDE / max(height, width))
        item.open(upload.preview, (height, width), (max(1, round(height * scale)), max(1, round(width * scale))))
        if self._is_following or self._shown is item:
            self._show(item)

    def _choose(self, item: Item) -> None:
        """Show an image that the user chose."""
        self._is_following = False
        self._show(item)

    def _show(self, item: Item) -> None:
        """Show an image with its result, if it has one."""
        self._shown = item
        self._results.mark(item)
        addresses = item.addresses
        overlay = addresses.get("overlay") if self._panel.has_uncertainty else None
        self._compare.show(addresses.get("before"), addresses.get("after"), item.preview_size, overlay)
        if "file" in addresses:
            self._download.props(f'href="{addresses["file"]}"')
            self._toolbar.classes(remove="invisible")
        else:
            self._toolbar.classes("invisible")
        self._status.set_text(item.summary)

    def _clear(self) -> None:
        """Remove all images; the button is disabled while one is restored."""
        if self._busy:
            return
        for item in tuple(self._results.items):
            self._results.discard(item)
        self._shown = None
        self._compare.show(None, None, (1, 1))
        self._toolbar.classes("invisible")
        self._status.set_text("")
        self._start.disable()

    def _set_busy(self, busy: bool) -> None:
        self._busy = busy
        self._start.set_enabled(not busy and self._shown is not None)
        self._panel.set_enabled(not busy)
        self._results.set_enabled(not busy)
        self._progress.set_visible(busy)
        self._stop.set_visibility(busy)
        self._stop.set_enabled(busy)

    def _request_stop(self) -> None:
        """Stop the image at work and remove those that wait."""
        while self._waiting:
            self._results.discard(self._waiting.pop())
        if self._state:
            self._state.stop()
            self._stop.disable()

    def _complain(self, message: str) -> None:
        self._status.set_text(message)
        ui.notify(message, type="warning")

    def _leave(self) -> None:
        """Stop the work and remove the files of a closed page."""
        self._gone = True
        self._waiting.clear()
        if self._state:
            self._state.stop()
        for item in self._results.items:
            item.forget()
