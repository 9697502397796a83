"""Page layout: controls on the left, the image on the right."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from pathlib import Path

from nicegui import ui
from nicegui.events import UploadEventArguments, ValueChangeEventArguments

from amd_restore.apps.ui.compare import Compare
from amd_restore.apps.ui.served import ServedFiles
from amd_restore.apps.ui.uploads import (
    HIGHEST_SEED,
    PREVIEW_SIDE,
    Controls,
    Download,
    RestorationState,
    Stopped,
    Upload,
    UploadRestorer,
    for_page,
)
from amd_restore.errors import AMDRestoreError
from amd_restore.image_io import READABLE_SUFFIXES

_LOG = logging.getLogger(__name__)
_STYLES = [Path(__file__).with_name(name) for name in ("compare.css", "page.css")]
_REFRESH = 0.2  # seconds
_KINDS = ",".join(("image/*", *READABLE_SUFFIXES))  # Browsers have no type for some suffixes.


class Page:
    """Open page, for one image at a time.

    Args:
        restorer: restorer of uploads.
        served: files of the page.
        max_upload: limit on the bytes of a file.
    """

    def __init__(self, restorer: UploadRestorer, served: ServedFiles, max_upload: int) -> None:
        self._restorer, self._served, self._max_upload = restorer, served, max_upload
        self._upload: Upload | None = None
        self._state: RestorationState | None = None
        self._started = 0.0
        self._addresses: dict[str, str] = {}
        self._gone = self._busy = False
        self._build()
        self._client = ui.context.client
        self._client.on_delete(self._leave)

    def _build(self) -> None:
        header = self._restorer.pipeline.header
        for style in _STYLES:
            ui.add_css(style)
        with ui.row().classes("w-full no-wrap max-md:flex-wrap gap-6"):
            with ui.column().classes("w-80 shrink-0 gap-3"):
                ui.label("AMD Restore").classes("text-2xl font-medium")
                ui.label(f"{header.name}: {header.scale} times larger, on this computer").classes("opacity-70")
                self._build_upload()
                self._build_controls()
                self._build_status()
            with ui.column().classes("grow min-w-0 gap-2"):
                with ui.row().classes("w-full items-center gap-4") as self._toolbar:
                    ui.label("Input | Restored").classes("opacity-70")
                    ui.switch("Actual pixels", on_change=self._set_actual)
                    ui.space()
                    self._download = ui.button("Download", icon="download")
                self._compare = Compare()
        self._toolbar.classes("invisible")  # keeps its place
        self._timer = ui.timer(_REFRESH, self._show_progress, active=False)

    def _set_actual(self, event: ValueChangeEventArguments[bool | None]) -> None:
        self._compare.set_actual(bool(event.value))

    def _build_upload(self) -> None:
        megabytes = self._max_upload / 1e6
        megapixels = self._restorer.max_pixels / 1e6
        self._uploader = ui.upload(
            label="Drop an image here, or press +",
            auto_upload=True,
            max_file_size=self._max_upload,
            on_upload=self._receive,
            on_rejected=lambda: self._complain(f"Refused: no image, or larger than {megabytes:g} MB."),
        )
        # The browser clears its list itself: a reset from here could come before it registers the upload, and the list
        # would then keep the file.
        for event in ("uploaded", "failed"):
            clear = "removeUploadedFiles" if event == "uploaded" else "reset"
            self._uploader.on(event, js_handler=f"() => getElement({self._uploader.id}).$refs.qRef.{clear}()")
        self._uploader.on("failed", lambda: self._complain("The file could not be sent; try again."))
        self._uploader.props(f'accept="{_KINDS}" flat bordered').classes("w-full")
        ui.label(f"Up to {megabytes:g} MB and {megapixels:g} megapixels").classes("text-xs opacity-70")

    def _build_controls(self) -> None:
        header = self._restorer.pipeline.header
        ui.label("Steps").classes("text-sm")
        self._steps = ui.toggle(list(header.steps), value=header.default_steps)
        with ui.row().classes("w-full items-center no-wrap"):
            self._seed = ui.number("Seed", value=0, min=0, max=HIGHEST_SEED, precision=0).classes("grow")
            button = ui.button(icon="casino", on_click=lambda: self._seed.set_value(random.randint(0, HIGHEST_SEED)))
            button.props('flat round aria-label="Another seed"').tooltip("Random seed; changes fine detail")
        ui.label("Fidelity: from detailed to faithful").classes("text-sm")
        self._fidelity = ui.slider(min=0, max=1, step=0.05, value=0).props("label")
        self._fidelity.props('aria-label="Fidelity"')

    def _build_status(self) -> None:
        with ui.row().classes("w-full"):
            self._start = ui.button("Restore", icon="auto_fix_high", on_click=self._restore)
            self._stop = ui.button("Stop", icon="stop", on_click=self._ask_to_stop).props("flat")
        self._bar = ui.linear_progress(0, show_value=False).classes("w-full")
        self._status = ui.label().classes("text-sm").props('role=status aria-live=polite data-testid="status"')
        self._start.disable()
        self._stop.set_visibility(False)
        self._bar.set_visibility(False)

    def _controls(self) -> Controls:
        # The browser's limits do not apply to other clients.
        seed = min(max(int(self._seed.value or 0), 0), HIGHEST_SEED)
        fidelity = min(max(float(self._fidelity.value), 0.0), 1.0)
        return Controls(self._steps.value, seed, fidelity)

    async def _receive(self, event: UploadEventArguments) -> None:
        """Show an uploaded file and start its restoration."""
        if self._busy:
            self._complain(f"{event.file.name}: still at work on the image before; stop it first.")
            return
        self._busy = True
        self._status.set_text("Reading")
        try:
            data = await event.file.read()
            upload = await asyncio.to_thread(self._restorer.open, data, event.file.name)
        except AMDRestoreError as error:
            self._complain(f"{event.file.name}: {for_page(error)}")
            return
        finally:
            self._busy = False
        if self._gone:
            return
        self._upload = upload
        height, width = upload.picture.pixels.shape[:2]
        scale = min(self._restorer.pipeline.scale, PREVIEW_SIDE / max(height, width))
        self._place("before", upload.preview)
        self._clear_result((max(1, round(height * scale)), max(1, round(width * scale))))
        self._start.enable()
        await self._restore()

    async def _restore(self) -> None:
        upload = self._upload
        if upload is None or self._busy:
            return
        self._started = time.monotonic()
        self._state = RestorationState(lambda: self._client.has_socket_connection)
        self._set_busy(True)
        message = ""
        try:
            result = await asyncio.to_thread(self._restorer.restore, upload, self._controls(), self._state)
        except Stopped:
            message = "Stopped."
        except AMDRestoreError as error:
            message = f"{upload.stem}: {for_page(error)}"
        except Exception:  # The page stays usable; the error is printed on the terminal.
            _LOG.exception("a restoration failed")
            message = "It failed for a reason that the terminal tells."
        finally:
            self._state = None
        if self._gone:
            return
        self._set_busy(False)
        if message:
            self._complain(message)
        else:
            self._show(upload, result)

    def _show(self, upload: Upload, result: Download) -> None:
        height, width = upload.picture.pixels.shape[:2]
        self._place("after", result.preview)
        self._place("file", result.data, result.name)
        self._compare.show(self._addresses["before"], self._addresses["after"], result.preview_size)
        self._download.props(f'href="{self._addresses["file"]}"')
        self._toolbar.classes(remove="invisible")
        shown = "" if result.preview_size == result.size else "; shown smaller than it is"
        self._status.set_text(
            f"{width} x {height} to {result.size[1]} x {result.size[0]} in {result.seconds:.1f} s: {result.name}{shown}"
        )

    def _clear_result(self, size: tuple[int, int]) -> None:
        """Show the input alone, (height, width) large."""
        for role in ("after", "file"):
            self._served.remove(self._addresses.pop(role, None))
        self._toolbar.classes("invisible")
        self._compare.show(self._addresses["before"], None, size)

    def _place(self, role: str, data: bytes, name: str | None = None) -> None:
        """Serve data and remove the file of the same role."""
        self._served.remove(self._addresses.get(role))
        self._addresses[role] = self._served.add(data, name)

    def _set_busy(self, busy: bool) -> None:
        self._busy = busy
        for element in (self._start, self._steps, self._seed, self._fidelity):
            element.set_enabled(not busy)
        self._stop.set_visibility(busy)
        self._stop.set_enabled(busy)
        self._bar.set_visibility(busy)
        self._timer.active = busy
        if busy:
            self._show_progress()

    def _show_progress(self) -> None:
        if self._state is None:
            return
        fraction = self._state.fraction
        seconds = time.monotonic() - self._started
        tiles = "" if fraction is None else f", tile {self._state.done} of {self._state.total}"
        self._status.set_text(f"{self._state.stage}{tiles}, {seconds:.0f} s")
        self._bar.set_value(fraction or 0.0)
        if fraction is None:
            self._bar.props("indeterminate")
        else:
            self._bar.props(remove="indeterminate")

    def _ask_to_stop(self) -> None:
        if self._state:
            self._state.stop()
            self._stop.disable()

    def _complain(self, message: str) -> None:
        self._status.set_text(message)
        ui.notify(message, type="warning")

    def _leave(self) -> None:
        """Stop the work and remove the files of a closed page."""
        self._gone = True
        if self._state:
            self._state.stop()
        for address in self._addresses.values():
            self._served.remove(address)
