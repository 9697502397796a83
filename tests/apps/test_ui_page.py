"""The web page as it is served, and that a browser can work it.

Needs the extra ``ui``; the tests in a browser also Chromium and the package playwright.
"""

from __future__ import annotations

import asyncio
import os
import re
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from places import REPOSITORY
from ui_setup import noise

from amd_restore.apps.ui.uploads import RestorationState, UploadRestorer
from amd_restore.errors import AMDRestoreError
from amd_restore.image_io import decode, encode, read_image
from amd_restore.image_io.picture import Picture
from amd_restore.pipeline import RestorationPipeline

pytest.importorskip("nicegui", reason="needs the extra 'ui'")
MAX_UPLOAD = 30_000  # bytes
MAX_PIXELS = 40_000
SAID = "words => document.querySelector('[data-testid=status]').innerText.includes(words)"


class Server:
    """``amd-restore ui`` in a process of its own."""

    def __init__(self, weights: Path, folder: Path) -> None:
        arguments = ["--model", str(weights), "--port", "0", "--device", "cpu"]
        arguments += ["--max-upload-mb", str(MAX_UPLOAD / 1e6), "--max-pixels", str(MAX_PIXELS / 1e6)]
        environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
        self.process = subprocess.Popen(
            [sys.executable, str(REPOSITORY / "inference.py"), "ui", *arguments],
            cwd=folder,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        found = re.fullmatch(r"tiny at (http://127\.0\.0\.1:\d+/) \(Ctrl-C ends it\)\n", line)
        assert found, line + self.process.stdout.read()
        self.address = found[1]

    def get(self, path: str = "", data: bytes | None = None, **headers: str) -> tuple[int, str]:
        """Status and text of an answer; POST with ``data``."""
        request = urllib.request.Request(self.address + path, data, headers)
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def end(self) -> tuple[int, str]:
        """Ctrl-C; exit code and what was printed since the start."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
        return_code = self.process.wait(60)
        assert self.process.stdout is not None
        return return_code, self.process.stdout.read()


@pytest.fixture(scope="module")
def server(ui_weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("working_folder")
    started = Server(ui_weights, folder)
    try:
        yield started
    finally:
        if started.process.poll() is None:
            started.process.kill()
        started.process.wait(60)
        assert started.process.stdout is not None
        started.process.stdout.close()
    assert not list(folder.iterdir()), "the server left something in its working folder"


def test_the_page_refers_to_no_other_machine(server: Server) -> None:
    status, text = server.get()
    assert status == 200 and "AMD Restore" in text
    assert not re.findall(r"""(?:src|href|from|import)\s*=?\s*\(?["'](?:https?:)?//""", text)


def test_what_the_server_refuses(server: Server) -> None:
    host = server.address.removeprefix("http://").removesuffix("/")
    assert server.get(Host="evil.example")[0] == 400
    assert server.get(Host=f"localhost:{host.split(':')[1]}")[0] == 200  # also through a forwarded port
    assert server.get(data=b"x", Origin="http://evil.example")[0] == 403
    assert server.get(data=b"x", Origin="null")[0] == 403
    assert server.get(data=b"x", Origin="http://[::1")[0] == 403
    assert server.get("pictures/guessed")[0] == 404
    assert server.get(data=b"x" * (MAX_UPLOAD + 70_000))[0] == 413


@pytest.mark.parametrize("origin", ["http://evil.example", "http://localhost:1"])
def test_guard_counts_bodies_of_unknown_length_and_closes_foreign_websockets(origin: str) -> None:
    from starlette.exceptions import HTTPException

    from amd_restore.apps.ui.guard import Guard

    sent: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        while (await receive()).get("more_body"):
            pass

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"x" * 60, "more_body": True}

    async def send(message: Any) -> None:
        sent.append(message)

    guard = Guard(app, max_body=100)
    scope: dict[str, Any] = {"type": "http", "headers": [(b"host", b"[::1]:7860")]}
    with pytest.raises(HTTPException) as caught:
        asyncio.run(guard(scope, receive, send))
    assert caught.value.status_code == 413 and not sent
    scope = {"type": "websocket", "headers": [(b"host", b"localhost:7860"), (b"origin", origin.encode())]}
    asyncio.run(guard(scope, receive, send))
    assert sent == [{"type": "websocket.close", "code": 1008}]


def test_a_taken_port_is_one_line(server: Server, ui_weights: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from amd_restore.apps.ui.binding import bind

    port = int(server.address.rstrip("/").split(":")[-1])
    with pytest.raises(AMDRestoreError, match=rf"cannot listen on 127.0.0.1, port {port}: .*--port 0"):
        bind("127.0.0.1", port)
    with bind("localhost", 0) as free, socket.create_connection(free.getsockname()[:2], timeout=10):
        pass  # listens at once


@pytest.fixture
def page(server: Server, browser: Any) -> Iterator[Any]:
    """The page, opened; at the end, that it asked no other machine and complained of nothing."""
    opened = browser.new_page()
    foreign: list[str] = []
    complaints: list[str] = []
    own = (server.address, f"blob:{server.address}", "data:", server.address.replace("http", "ws"))
    opened.on("request", lambda request: foreign.append(request.url) if not request.url.startswith(own) else None)
    opened.on("websocket", lambda ws: foreign.append(ws.url) if not ws.url.startswith(own) else None)

    def heard(message: Any) -> None:
        # An image that the next upload replaced before the browser had it is gone.
        is_replaced = "404" in message.text and "/pictures/" in message.location["url"]
        if message.type == "error" and not is_replaced:
            complaints.append(message.text)

    opened.on("console", heard)
    opened.on("pageerror", lambda error: complaints.append(str(error)))
    opened.set_default_timeout(60_000)
    opened.goto(server.address)
    opened.get_by_text("Choose images").wait_for()
    yield opened
    opened.close()
    assert not foreign and not complaints


def upload(page: Any, path: Path) -> None:
    page.set_input_files("input[type=file]", path)


def downloaded(page: Any) -> tuple[str, bytes]:
    with page.expect_download() as started:
        page.get_by_role("link", name="Download", exact=True).click()
    return started.value.suggested_filename, Path(started.value.path()).read_bytes()


def test_drop_compare_download(page: Any, restorer: UploadRestorer, tmp_path: Path) -> None:
    path = tmp_path / "größe & co.png"
    path.write_bytes(encode(Picture(noise(20, 30)), ".png"))
    upload(page, path)
    page.wait_for_selector("img.compare-after")
    name, data = downloaded(page)
    pixels = read_image(path).pixels
    assert name == "größe & co_x4.png"
    assert np.array_equal(decode(data).pixels, restorer.models.get().restore_image(pixels, seed=0))
    status = page.get_by_test_id("status")
    assert status.inner_text().startswith("30 x 20 to 120 x 80 in ")
    assert " by tiny: " in status.inner_text()

    box = page.locator(".compare-frame").bounding_box()
    assert (round(box["width"]), round(box["height"])) == (120, 80)
    page.mouse.click(box["x"] + 30, box["y"] + 10)
    line = page.locator(".compare-line").bounding_box()
    assert line["x"] + line["width"] / 2 == pytest.approx(box["x"] + 30, abs=2)
    page.keyboard.press("End")
    assert page.locator(".compare-line").bounding_box()["x"] == pytest.approx(box["x"] + 120, abs=2)

    old = page.locator("img.compare-after").get_attribute("src")
    page.get_by_role("button", name="2", exact=True).click()
    page.get_by_label("Seed", exact=True).fill("7")
    page.get_by_role("button", name="Restore").click()
    page.wait_for_function("old => document.querySelector('img.compare-after')?.getAttribute('src') !== old", arg=old)
    expected = restorer.models.get().restore_image(pixels, num_steps=2, seed=7)
    assert np.array_equal(decode(downloaded(page)[1]).pixels, expected)
    assert page.request.get(page.url.rstrip("/") + old).status == 404, "old pictures are forgotten"


def test_what_the_page_refuses_is_said_and_it_goes_on(page: Any, tmp_path: Path) -> None:
    status = page.get_by_test_id("status")
    large, bomb, broken, good = (tmp_path / f"{name}.png" for name in ("large", "bomb", "broken", "good"))
    large.write_bytes(encode(Picture(noise(105, 105)), ".png"))
    assert large.stat().st_size > MAX_UPLOAD
    bomb.write_bytes(encode(Picture(np.zeros((900, 900, 1), np.uint8)), ".png"))
    broken.write_bytes(encode(Picture(noise()), ".png")[:150])
    good.write_bytes(encode(Picture(noise()), ".png"))
    for path, words in ((large, "0.03 MB"), (bomb, "900x900"), (broken, "broken.png: ")):
        upload(page, path)
        page.wait_for_function(
            "words => document.querySelector('[data-testid=status]').innerText.includes(words)", arg=words
        )
        assert "\n" not in status.inner_text()
    assert page.locator("img.compare-before").count() == 0
    upload(page, good)
    page.wait_for_selector("img.compare-after")
    assert status.inner_text().startswith("14 x 9 to 56 x 36")


def test_several_files_each_get_a_download(page: Any, restorer: UploadRestorer, tmp_path: Path) -> None:
    paths = [tmp_path / f"{name}.png" for name in ("a", "b", "c' onclick=x")]
    for width, path in enumerate(paths, start=10):
        path.write_bytes(encode(Picture(noise(9, width)), ".png"))
    page.set_input_files("input[type=file]", paths)
    rows = page.get_by_role("listitem")
    rows.get_by_role("link").nth(2).wait_for()
    for path in paths:
        with page.expect_download() as started:
            page.get_by_role("link", name=f"Download {path.stem}_x4.png").click()
        expected = restorer.models.get().restore_image(read_image(path).pixels, seed=0)
        assert np.array_equal(decode(Path(started.value.path()).read_bytes()).pixels, expected)
    page.get_by_role("button", name="Show a.png").click()
    page.wait_for_function(SAID, arg="a_x4.png")
    assert downloaded(page)[0] == "a_x4.png"
    old = page.locator("img.compare-after").get_attribute("src")
    page.get_by_role("button", name="Clear list").click()
    page.wait_for_selector("img.compare-after", state="detached")
    assert rows.count() == 0 and page.request.get(page.url.rstrip("/") + old).status == 404


def test_upload_after_upload(page: Any, tmp_path: Path) -> None:
    """The thirtieth works as the first did, and those that come early wait for their turn."""
    data = encode(Picture(noise()), ".png")
    for number in range(30):
        path = tmp_path / f"p{number}.png"
        path.write_bytes(data)
        upload(page, path)
        if number < 25:
            page.wait_for_function(SAID, arg=f"p{number}_x4.png")
        assert page.locator("input[type=file]").count() == 1
    page.get_by_role("listitem").get_by_role("link").nth(29).wait_for()


def test_stop_also_removes_what_waits() -> None:
    from amd_restore.apps.ui.page import Page

    page, state = Page.__new__(Page), RestorationState()
    discarded: list[str] = []
    parts: dict[str, Any] = {
        "_waiting": deque(["b", "c"]),
        "_results": SimpleNamespace(discard=discarded.append),
        "_state": state,
        "_stop": SimpleNamespace(disable=lambda: None),
    }
    vars(page).update(parts)
    page._request_stop()
    assert sorted(discarded) == ["b", "c"] and not page._waiting and state.stopped


def test_choice_of_model(page: Any, tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(encode(Picture(noise()), ".png"))
    assert page.get_by_text("tiny", exact=True).is_visible()
    page.get_by_role("combobox", name="Model").click()
    page.get_by_role("option", name="x4-classical-tiny").click()
    upload(page, path)
    page.wait_for_selector("img.compare-after")
    pipeline = RestorationPipeline.from_pretrained("x4-classical-tiny", "cpu")
    assert np.array_equal(decode(downloaded(page)[1]).pixels, pipeline.restore_image(read_image(path).pixels, seed=0))


def test_uncertainty_map_is_switched_on_and_off(page: Any, tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(encode(Picture(noise()), ".png"))
    upload(page, path)
    page.wait_for_selector("img.compare-after")
    assert page.locator(".compare-overlay").count() == 0
    switch = page.get_by_role("switch", name="Uncertainty map")
    switch.click()
    page.wait_for_function("() => document.querySelector('.compare-overlay')?.naturalWidth === 56")
    switch.click()
    page.wait_for_selector(".compare-overlay", state="detached")
    assert page.locator("img.compare-after").count() == 1


def test_keyboard_and_names_of_controls(page: Any) -> None:
    """The example is restored by keys alone, and afterwards every control has a name."""
    for _ in range(12):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.innerText") == "Try an example":
            break
    page.keyboard.press("Enter")
    page.wait_for_function(SAID, arg="240 x 135 to 960 x 540")
    nodes = page.context.new_cdp_session(page).send("Accessibility.getFullAXTree")["nodes"]
    named = [(node["role"]["value"], node.get("name", {}).get("value", "")) for node in nodes if not node["ignored"]]
    kinds = {"button", "link", "combobox", "spinbutton", "slider", "switch", "group", "image", "progressbar"}
    controls = {(kind, name) for kind, name in named if kind in kinds}
    assert len(controls) > 15 and all(name for _, name in controls), controls
    assert {("group", "Steps"), ("slider", "Fidelity"), ("button", "Another seed")} <= controls


def test_colours_follow_the_system_until_chosen(page: Any) -> None:
    page.emulate_media(color_scheme="dark")
    page.wait_for_selector("body.body--dark")
    page.get_by_role("button", name="Light").click()
    page.wait_for_selector("body.body--light")
    page.get_by_role("button", name="Dark").click()
    page.emulate_media(color_scheme="light")
    page.wait_for_selector("body.body--dark")


def test_ctrl_c_is_an_ordinary_end(ui_weights: Path, tmp_path: Path) -> None:
    started = Server(ui_weights, tmp_path)
    try:
        assert started.get()[0] == 200
        assert started.end() == (0, "")
    finally:
        if started.process.poll() is None:
            started.process.kill()
