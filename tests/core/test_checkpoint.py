"""Weights files: round trip, header, and everything that can be wrong with them."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from tiny_model import tiny_header, tiny_state

from amd_restore.archs.flat_arch import FlatDenoiser
from amd_restore.errors import AMDRestoreError
from amd_restore.weights import (
    METADATA_KEY,
    Header,
    build_denoiser,
    build_network,
    files,
    load_checkpoint,
    read_header,
    resolve_weights,
    save_checkpoint,
)


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.safetensors"
    save_checkpoint(path, tiny_state(), tiny_header())
    return path


def rewrite_header(path: Path, **changes: Any) -> None:
    """Write the file again with another header; a value of None removes the key."""
    values = json.loads(read_header(path).to_json()) | changes
    text = json.dumps({key: value for key, value in values.items() if value is not None})
    save_file(load_checkpoint(path)[1], path, metadata={METADATA_KEY: text})


def test_round_trip(weights: Path) -> None:
    header, state = load_checkpoint(weights)
    assert header == tiny_header()
    assert read_header(weights) == header
    for key, value in tiny_state().items():
        assert state[key].dtype == torch.float32
        assert torch.equal(state[key], value.half().float())


def test_stored_as_half_and_readable_by_others(weights: Path) -> None:
    parameters = sum(value.numel() for value in tiny_state().values())
    assert weights.stat().st_size < 2 * parameters + 4096
    assert weights.stat().st_mode & 0o044 == 0o044


def test_float32_is_exact(tmp_path: Path) -> None:
    path = tmp_path / "a" / "full.safetensors"
    save_checkpoint(path, tiny_state(), tiny_header(), dtype=torch.float32)
    state = load_checkpoint(path)[1]
    assert all(torch.equal(state[key], value) for key, value in tiny_state().items())


def test_shared_and_strided_tensors(tmp_path: Path) -> None:
    base = torch.arange(12.0).reshape(3, 4)
    save_checkpoint(tmp_path / "s.safetensors", {"a": base, "b": base, "c": base.t()}, tiny_header())
    state = load_checkpoint(tmp_path / "s.safetensors")[1]
    assert torch.equal(state["b"], base) and torch.equal(state["c"], base.t())


def test_network_answers_like_the_saved_one(weights: Path) -> None:
    header, state = load_checkpoint(weights)
    net = build_network(header, state)
    assert not net.training
    original = FlatDenoiser(48, 3, 8, 1)
    original.load_state_dict({key: value.half().float() for key, value in tiny_state().items()})
    x_t, cond, t = torch.randn(2, 48, 5, 6), torch.randn(2, 3, 5, 6), torch.ones(2)
    assert torch.equal(net(x_t, t, cond), original(x_t, t, cond))
    # At pure noise the v-prediction of the rectified flow is -x0.
    assert torch.allclose(build_denoiser(header, net)(x_t, t, cond), -original(x_t, t, cond), atol=1e-6)


REQUIRED = [f.name for f in dataclasses.fields(Header) if f.default is f.default_factory]


@pytest.mark.parametrize("key", REQUIRED)
def test_missing_key(weights: Path, key: str) -> None:
    rewrite_header(weights, **{key: None})
    with pytest.raises(AMDRestoreError, match=rf"tiny\.safetensors: header: missing {key}"):
        load_checkpoint(weights)


def test_unknown_version(weights: Path) -> None:
    rewrite_header(weights, format_version=99)
    with pytest.raises(AMDRestoreError, match="format_version 99 .* update amd-restore"):
        read_header(weights)


def test_optional_and_unknown_keys_do_not_matter(weights: Path) -> None:
    rewrite_header(weights, licence=None, colour="green")
    assert read_header(weights).licence == ""


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kind": "gan"}, "kind"),
        ({"scale": 0}, "scale"),
        ({"scale": 2}, "codec"),
        ({"network": {}}, "network"),
        ({"network": "FlatDenoiser"}, "network"),
        ({"prediction_type": "w"}, "prediction_type"),
        ({"steps": ()}, "steps"),
        ({"steps": 4}, "steps"),
        ({"default_steps": True}, "default_steps"),
    ],
)
def test_bad_values(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(AMDRestoreError, match=f"header: '{message}'"):
        tiny_header(**changes)


def test_header_is_no_json(weights: Path) -> None:
    save_file({"a": torch.zeros(1)}, weights, metadata={METADATA_KEY: "{"})
    with pytest.raises(AMDRestoreError, match="no valid JSON"):
        load_checkpoint(weights)


def test_foreign_safetensors(weights: Path) -> None:
    save_file({"a": torch.zeros(1)}, weights)
    with pytest.raises(AMDRestoreError, match="has no 'amd_restore' header"):
        load_checkpoint(weights)


@pytest.mark.parametrize("keep", [0.0, 0.001, 0.5, 0.99])
def test_cut_file(weights: Path, keep: float) -> None:
    data = weights.read_bytes()
    weights.write_bytes(data[: int(len(data) * keep)])
    with pytest.raises(AMDRestoreError, match="not a complete safetensors file .* again"):
        load_checkpoint(weights)


def test_pickles_are_not_read(tmp_path: Path) -> None:
    path = tmp_path / "net.pth"
    torch.save(tiny_state(), path)
    with pytest.raises(AMDRestoreError, match="not a complete safetensors file"):
        load_checkpoint(path)


def test_tensors_that_do_not_fit(weights: Path) -> None:
    header, state = load_checkpoint(weights)
    del state["conv_in.weight"]
    with pytest.raises(AMDRestoreError, match="do not fit FlatDenoiser: .*conv_in.weight"):
        build_network(header, state)
    with pytest.raises(AMDRestoreError, match="do not fit FlatDenoiser"):
        build_network(tiny_header(network={"type": "FlatDenoiser", "depth": 3}))
    with pytest.raises(AMDRestoreError, match="FlatDenoiser"):
        build_network(tiny_header(network={"type": "FlatDenoisr"}))


def test_not_finite_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "big.safetensors"
    with pytest.raises(AMDRestoreError, match="'a' is not finite"):
        save_checkpoint(path, {"a": torch.tensor([1e6])}, tiny_header())
    assert not path.exists()


def test_failed_write_keeps_the_old_file(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = weights.read_bytes()

    def full_disk(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full_disk)
    with pytest.raises(AMDRestoreError, match=r"cannot write .*tiny\.safetensors: no space left on device; "):
        save_checkpoint(weights, {"a": torch.zeros(9)}, tiny_header())
    assert weights.read_bytes() == before
    assert [path.name for path in weights.parent.iterdir()] == [weights.name]


def test_resolve(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert resolve_weights(weights) == weights
    assert resolve_weights(weights.parent) == weights
    monkeypatch.setattr(files, "WEIGHTS_FOLDER", weights.parent)
    assert resolve_weights("tiny") == weights
    with pytest.raises(AMDRestoreError, match=r"tinny: no released model has this name; did you mean 'tiny'\?$"):
        resolve_weights("tinny")
    with pytest.raises(AMDRestoreError, match=r"no such weights file; did you mean 'tiny.safetensors'\?$"):
        resolve_weights(weights.with_name("tinny.safetensors"))
    with pytest.raises(AMDRestoreError, match=r"zzz.safetensors: no such weights file; known: tiny$"):
        resolve_weights("zzz.safetensors")
    (weights.parent / "two.safetensors").write_bytes(b"")
    with pytest.raises(AMDRestoreError, match="holds 2 .safetensors files"):
        resolve_weights(weights.parent)
    with pytest.raises(AMDRestoreError, match="no such weights file"):
        load_checkpoint(weights.parent / "three.safetensors")
