"""Adapters of models whose files a user downloads."""

from __future__ import annotations

import hashlib
import importlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_peers import peer, runner

downloaded = importlib.import_module("downloaded")
spanv2 = importlib.import_module("spanv2")
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


def spanv2_weights(channels: int = 6) -> dict[str, torch.Tensor]:
    """Weights of the published names, with which the image passes unchanged: enlarged by repetition."""
    generator = torch.Generator().manual_seed(0)
    weights = {}
    for number in range(1, 6):
        for part in (1, 2, 3):
            width = 3 if number == part == 1 else channels
            weights[f"block_{number}.c{part}.conv.weight"] = torch.randn(channels, width, 3, 3, generator=generator) / 8
        if number > 1:
            weights[f"block_{number}.guidance_map_conv.weight"] = torch.randn(
                channels, channels, 1, 1, generator=generator
            )
            weights[f"block_{number}.guidance_map_conv.bias"] = torch.randn(channels, generator=generator)
    one = torch.zeros(1, 1, 3, 3)
    one[..., 1, 1] = 1.0
    weights["conv_near.weight"] = one.repeat(48, 1, 1, 1)
    weights["depthwise_conv.weight"] = one.repeat(48 + channels, 1, 1, 1)
    weights["pointwise_conv.weight"] = torch.eye(48, 48 + channels)[..., None, None]
    return weights


def test_spanv2_is_the_published_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / spanv2.FILE
    adapter = spanv2.SpanV2(tmp_path / "cache", 1, tmp_path)
    with pytest.raises(peer.PeerError, match="is not in the folder of downloads.*NTIRE2026_ESR"):
        adapter.install()
    weights = spanv2_weights()
    torch.save(weights, file)
    with pytest.raises(peer.PeerError, match="SHA-256"):
        adapter.install()
    monkeypatch.setattr(spanv2, "SHA256", hashlib.sha256(file.read_bytes()).hexdigest())
    adapter.install()
    rgb = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    assert np.array_equal(adapter.restore(rgb), rgb.repeat(4, 0).repeat(4, 1))

    # One pixel in constant surroundings, by hand: every 3x3 kernel is its middle here.
    weights = {key: value.clone() for key, value in weights.items()}
    for key, value in weights.items():
        if value.ndim == 4 and value.shape[-1] == 3:
            weights[key] = torch.zeros_like(value)
            weights[key][..., 1, 1] = value.sum(dim=(2, 3))
    weights["pointwise_conv.weight"] = torch.randn(48, 54, 1, 1, generator=torch.Generator().manual_seed(1))
    matrix = {
        key: value[:, :, value.shape[-1] // 2, value.shape[-1] // 2]
        for key, value in weights.items()
        if value.ndim == 4
    }
    image = torch.rand(1, 3, 1, 1, generator=torch.Generator().manual_seed(2))
    features = image.flatten()
    for number in range(1, 6):
        inner = (matrix[f"block_{number}.c1.conv.weight"] @ features).clamp(min=0)
        inner = matrix[f"block_{number}.c3.conv.weight"] @ (matrix[f"block_{number}.c2.conv.weight"] @ inner).clamp(
            min=0
        )
        gate = f"block_{number}.guidance_map_conv"
        if number == 1:
            features = inner.clamp(min=0)
        else:
            features = (features + inner) * (matrix[f"{gate}.weight"] @ inner + weights[f"{gate}.bias"])
    joined = torch.cat([image.flatten().repeat_interleave(16), features])
    expected = torch.nn.functional.pixel_shuffle((matrix["pointwise_conv.weight"] @ joined)[None, :, None, None], 4)
    torch.testing.assert_close(spanv2.apply_spanv2(weights, image), expected, rtol=1e-4, atol=1e-4)
