"""``amd-restore ui --static``: the server of the page in web/, whose own tests are there."""

from __future__ import annotations

import http.client
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from amd_restore.apps.cli import ui as ui_command
from amd_restore.apps.ui.binding import bind
from amd_restore.apps.ui.static import built_page, page_server
from amd_restore.errors import AMDRestoreError


@pytest.fixture
def port(tmp_path: Path) -> Iterator[int]:
    """Of a server of a folder with three files."""
    page = tmp_path / "page"
    (page / "assets").mkdir(parents=True)
    (page / "index.html").write_text("<title>page</title>")
    (page / "assets" / "runtime.wasm").write_bytes(b"\0asm")
    (page / "assets" / "runtime.mjs").write_text("export {};")
    (tmp_path / "secret").write_text("not of the page")
    with page_server(page, bind("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_address[1]
        server.shutdown()
        thread.join()


def get(port: int, path: str) -> tuple[int, http.client.HTTPMessage, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.headers, answer.read()
    finally:
        connection.close()


@pytest.mark.parametrize(
    ("path", "kind", "kept"),
    [
        ("/", "text/html; charset=utf-8", False),
        ("/assets/runtime.wasm", "application/wasm", True),
        ("/assets/runtime.mjs", "text/javascript", True),
    ],
)
def test_files_have_the_headers_that_threads_need(port: int, path: str, kind: str, kept: bool) -> None:
    status, headers, data = get(port, path)
    assert status == 200 and data
    assert headers["Content-Type"] == kind
    assert headers["Cross-Origin-Opener-Policy"] == "same-origin"
    assert headers["Cross-Origin-Embedder-Policy"] == "require-corp"
    assert ("immutable" in headers["Cache-Control"]) is kept


@pytest.mark.parametrize("path", ["/assets/", "/assets/none", "/none", "/../secret", "/%2e%2e/secret"])
def test_nothing_but_the_files_of_the_page_is_served(port: int, path: str) -> None:
    status, headers, data = get(port, path)
    assert status == 404 and b"secret" not in data and b"runtime" not in data
    assert headers["Cache-Control"] == "no-cache", "a file that is missing now may come"


def test_a_page_that_is_not_built_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert ui_command.main(["--static"]) == 2
    message = capsys.readouterr().err
    assert message.count("\n") == 1 and "npm ci && npm run build" in message and "web/dist" in message
    (tmp_path / "index.html").write_text("<title>source</title>")  # as in web/, which has no page before the build
    with pytest.raises(AMDRestoreError, match=f"^{tmp_path}: no built page; .* web/dist; .*$"):
        built_page(tmp_path)


@pytest.mark.parametrize("option", [("--model", "x4-real"), ("--threads", "2")])
def test_options_of_the_other_page_are_refused(option: tuple[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    assert ui_command.main(["--static", *option]) == 2
    message = capsys.readouterr().err
    assert message.count("\n") == 1 and f"{option[0]} has no meaning" in message


def test_the_page_of_others_needs_the_same_consent(capsys: pytest.CaptureFixture[str]) -> None:
    assert ui_command.main(["--static", "--host", "0.0.0.0"]) == 2
    assert "--share-on-network" in capsys.readouterr().err
