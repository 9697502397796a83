"""Adapters of models whose files a user downloads."""

from __future__ import annotations

import hashlib
import importlib
from pathlib import Path
from typing import Any

import pytest
from test_peers import peer, runner

downloaded = importlib.import_module("downloaded")
DOWNLOADED = [kind for kind in runner.PEERS if issubclass(kind, downloaded.DownloadedPeer)]


@pytest.mark.parametrize("kind", DOWNLOADED, ids=lambda kind: kind.name)
def test_files_of_a_user_are_found_and_checked(kind: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, got = tmp_path / "models", []
    adapter = kind(tmp_path / "cache", 1, folder)
    monkeypatch.setattr(downloaded, "install_with_pip", lambda package, cache: got.append((package.name, cache)))
    with pytest.raises(peer.PeerError, match=rf"{kind.file}\.param is not in .* upscayl/custom-models"):
        adapter.install()
    folder.mkdir()
    for suffix in (".param", ".bin"):
        (folder / f"{kind.file}{suffix}").write_bytes(suffix.encode())
    with pytest.raises(peer.PeerError, match=rf"{kind.file}\.param: the file's SHA-256 is"):
        adapter.install()
    hashes = {suffix: hashlib.sha256(suffix.encode()).hexdigest() for suffix in (".param", ".bin")}
    monkeypatch.setattr(kind, "hashes", hashes)
    adapter.install()
    assert got == [("ncnn", tmp_path / "cache")] and adapter.stem() == folder / kind.file
    (folder / f"{kind.file}.bin").write_bytes(b"cut")
    with pytest.raises(peer.PeerError, match=rf"{kind.file}\.bin: the file's SHA-256 is"):
        adapter.install()
    assert kind(tmp_path).stem() == tmp_path / "downloads" / kind.file
