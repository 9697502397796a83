"""Adapters of other upscalers and their runner, without a network: fake peers, archives made here, rows that fail."""

from __future__ import annotations

import importlib
import io
import json
import os
import sys
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from places import REPOSITORY
from smooth_images import smooth_image

from amd_restore.benchmark.absent import NOTE, Absent, find_absent
from amd_restore.benchmark.images import TestSet, read_rgb
from amd_restore.benchmark.methods import Bicubic, Folder
from amd_restore.benchmark.options import DatasetOptions, load_benchmark_options
from amd_restore.errors import AMDRestoreError
from amd_restore.image_io import Picture, write_image

sys.path.insert(0, str(REPOSITORY / "benchmarks" / "scripts" / "peers"))
peer = importlib.import_module("peer")
PeerClass: Any = peer.Peer
runner = importlib.import_module("run")
keras_layers = importlib.import_module("keras_layers")


class Nearest(PeerClass):
    """A peer that needs nothing."""

    name, about, licence = "nearest", "each pixel four times", "none needed"
    packages = (peer.Package("PyPI", "nothing", "1.0", "MIT"),)

    def install(self) -> None:
        self.cache.mkdir(parents=True, exist_ok=True)

    def run(self, model: Any, rgb: np.ndarray) -> np.ndarray:
        return rgb.repeat(4, axis=0).repeat(4, axis=1) / np.float32(255.0)


class Missing(Nearest):
    """A peer whose package is gone."""

    name = "missing"

    def install(self) -> None:
        raise peer.PeerError("PyPI nothing 1.0: cannot be downloaded (no matching distribution)")


class Small(Nearest):
    """A peer that does not enlarge."""

    name = "small"

    def run(self, model: Any, rgb: np.ndarray) -> np.ndarray:
        return rgb


class Crash(Nearest):
    """A peer whose library takes the process with it."""

    name = "crash"

    def run(self, model: Any, rgb: np.ndarray) -> np.ndarray:
        os._exit(3)


class Failing(Nearest):
    """A peer that stops half-way."""

    name = "failing"

    def run(self, model: Any, rgb: np.ndarray) -> np.ndarray:
        if rgb.shape[0] == 24:
            raise RuntimeError("no memory\nleft")
        return rgb.repeat(4, axis=0).repeat(4, axis=1)


@pytest.fixture
def inputs(tmp_path: Path) -> Path:
    root = tmp_path / "sets"
    for index, height in enumerate((16, 24)):
        write_image(root / f"A/LRbicx4/img_{index}.png", Picture(smooth_image(index)[:height, :20]))
    write_image(root / "B/one.png", Picture(smooth_image(2)[:12, :12]))
    write_image(root / "C/GT/ground_truth.png", Picture(smooth_image(3)))
    return root


def job(root: Path, output: Path) -> Any:
    return runner.PeerRun(runner.find_datasets(root, [], "LRbicx4"), output, output / "cache", 1, 0)


# ---- the adapters --------------------------------------------------------------------------------------------------


def test_every_peer_says_who_it_is() -> None:
    names = [kind.name for kind in runner.PEERS]
    assert len(set(names)) == len(names) == 15
    for kind in runner.PEERS:
        entry = runner.describe(kind)
        assert entry["about"] and entry["licence"]
        assert json.loads(json.dumps(entry)) == entry
        for package in kind.packages:
            assert package.version and package.licence and package.source in ("PyPI", "npm", "GitHub")
            assert len(package.sha256) == (64 if package.keep else 0)  # what is unpacked is pinned to the byte


def test_readme_and_option_file_name_every_peer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AMD_RESTORE_ASSETS", "/somewhere")
    readme = (REPOSITORY / "benchmarks/scripts/peers/README.md").read_text(encoding="utf-8")
    options = load_benchmark_options(REPOSITORY / "options/benchmark/x4_peers.yml")
    folders = {Path(method.path).name for method in options.methods if method.path}
    assert folders == {kind.name for kind in runner.PEERS}
    for kind in runner.PEERS:
        assert f"`{kind.name}`" in readme
        assert all(f"{package.name} {package.version}" in readme for package in kind.packages)


@pytest.mark.parametrize("kind", [kind for kind in runner.PEERS if not kind.packages], ids=lambda kind: kind.name)
def test_interpolation_enlarges_and_keeps_flat_colours(kind: Any, tmp_path: Path) -> None:
    adapter = kind(tmp_path)
    adapter.install()
    flat = np.full((9, 7, 3), (10, 100, 250), np.uint8)
    assert np.array_equal(adapter.restore(flat), np.full((36, 28, 3), (10, 100, 250), np.uint8))
    image = smooth_image(0)[:20, :24]
    assert np.abs(adapter.restore(image)[2::4, 2::4].astype(int) - image).mean() < 6


def test_kernels_of_the_interpolations_differ(tmp_path: Path) -> None:
    step = np.zeros((8, 8, 3), np.uint8)
    step[:, 4:] = 128
    peaks = {kind.name: int(kind(tmp_path).restore(step).max()) for kind in runner.PEERS if not kind.packages}
    # Overshoot grows with |a|, and with lobes.
    assert peaks["opencv-bicubic"] > peaks["pillow-bicubic"] > 128
    assert min(peaks["opencv-lanczos4"], peaks["pillow-lanczos3"]) > 128


def test_results_of_another_size_or_without_numbers_are_errors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rgb = np.zeros((5, 6, 3), np.uint8)
    with pytest.raises(peer.PeerError, match=r"expected \(20, 24, 3\)"):
        Small(tmp_path).restore(rgb)
    monkeypatch.setattr(Nearest, "run", lambda *_: np.full((20, 24, 3), np.nan))
    with pytest.raises(peer.PeerError, match="not finite"):
        Nearest(tmp_path).restore(rgb)


# ---- packages ------------------------------------------------------------------------------------------------------


def archive_of(folder: Path, suffix: str) -> Path:
    file = folder / f"made{suffix}"
    members = {"package/models/x4/a.bin": b"weights", "package/run.so": b"code", "package/LICENSE": b"MIT"}
    if suffix == ".tgz":
        with tarfile.open(file, "w:gz") as tar:
            for name, data in members.items():
                info = tarfile.TarInfo(name)
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    else:
        with zipfile.ZipFile(file, "w") as wheel:
            for name, data in members.items():
                wheel.writestr(name, data)
    return file


@pytest.mark.parametrize(("source", "suffix"), [("npm", ".tgz"), ("PyPI", ".whl")])
def test_archives_are_checked_and_unpacked_once(
    source: str, suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive, calls = archive_of(tmp_path, suffix), []

    def download(package: Any, command: list[str]) -> None:
        calls.append(command)
        flag = "--pack-destination" if source == "npm" else "--dest"
        (Path(command[command.index(flag) + 1]) / archive.name).write_bytes(archive.read_bytes())

    monkeypatch.setattr(peer, "_call", download)
    digest = peer.hashlib.sha256(archive.read_bytes()).hexdigest()
    package = peer.Package(source, "@some/thing", "1.0", "MIT", digest, r"models/|LICENSE$")
    cache = tmp_path / "cache"
    folder = peer.unpack(package, cache)
    assert folder == package.folder(cache) == cache / "some_thing-1.0"
    found = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert found == {"package/models/x4/a.bin", "package/LICENSE"}
    assert peer.unpack(package, cache) == folder and len(calls) == 1

    wrong = peer.Package(source, "other", "1.0", "MIT", "0" * 64, ".")
    with pytest.raises(peer.PeerError, match=f"other 1.0: the archive's SHA-256 is {digest[:16]}"):
        peer.unpack(wrong, cache)
    assert [path.name for path in cache.iterdir()] == ["some_thing-1.0"]  # nothing half done is left


def test_what_a_package_manager_says_becomes_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    package = peer.Package("npm", "thing", "1.0", "MIT")
    script = "import sys; sys.exit('WARNING: x\\nERROR: no such thing at ' + 'https' + '://registry.example/thing')"
    with pytest.raises(peer.PeerError) as caught:
        peer._call(package, [sys.executable, "-c", script])
    assert str(caught.value) == "npm thing 1.0: cannot be downloaded (ERROR: no such thing at ...)"
    with pytest.raises(peer.PeerError, match="no-such-program is not installed"):
        peer._call(package, ["no-such-program"])
    monkeypatch.setattr(peer, "TIMEOUT", 0.05)
    with pytest.raises(peer.PeerError, match="no answer within"):
        peer._call(package, [sys.executable, "-c", "import time; time.sleep(5)"])


# ---- Keras models --------------------------------------------------------------------------------------------------


def layer(kind: str, name: str, sources: list[str], **config: Any) -> dict[str, Any]:
    nodes = [[[source, 0, 0, {}] for source in sources]] if sources else []
    return {"class_name": kind, "name": name, "config": config, "inbound_nodes": nodes}


def save_model(folder: Path, layers: list[dict[str, Any]], weights: dict[str, np.ndarray]) -> Path:
    data = b"".join(array.astype("<f4").tobytes() for array in weights.values())
    (folder / "1.bin").write_bytes(data[:10])  # shards are cut anywhere
    (folder / "2.bin").write_bytes(data[10:])
    entries = [{"name": name, "shape": list(array.shape), "dtype": "float32"} for name, array in weights.items()]
    config = {"layers": layers, "input_layers": [["in", 0, 0]], "output_layers": [[layers[-1]["name"], 0, 0]]}
    content = {
        "modelTopology": {"model_config": {"config": config}},
        "weightsManifest": [{"paths": ["1.bin", "2.bin"], "weights": entries}],
    }
    (folder / "model.json").write_text(json.dumps(content), encoding="utf-8")
    return folder / "model.json"


CONV = {"padding": "same", "strides": [1, 1], "activation": "linear"}


def test_layers_model_against_loops(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    weights = {
        "a/kernel": rng.normal(size=(3, 3, 3, 5)),
        "a/bias": rng.normal(size=5),
        "b/kernel": rng.normal(size=(1, 1, 8, 12)),
    }
    layers = [
        layer("InputLayer", "in", []),
        layer("Conv2D", "a", ["in"], **CONV),
        layer("Activation", "relu", ["a"], activation="relu"),
        layer("MultiplyBeta", "beta", ["relu"], beta=0.2),
        layer("Add", "add", ["beta", "relu"]),
        layer("Concatenate", "cat", ["in", "add"], axis=3),
        layer("Conv2D", "b", ["cat"], **CONV),
        layer("PixelShuffle2x", "shuffle", ["b"], scale=2),
    ]
    model = keras_layers.LayersModel(save_model(tmp_path, layers, weights))
    image = rng.random((4, 5, 3))
    got = model(torch.from_numpy(image.transpose(2, 0, 1)[None]).float())[0].numpy().transpose(1, 2, 0)

    padded = np.pad(image, ((1, 1), (1, 1), (0, 0)))
    expected = np.empty((8, 10, 3))
    for y in range(4):
        for x in range(5):
            window = padded[y : y + 3, x : x + 3]
            a = np.maximum(np.einsum("hwi,hwio->o", window, weights["a/kernel"]) + weights["a/bias"], 0)
            b = np.concatenate([image[y, x], 1.2 * a]) @ weights["b/kernel"][0, 0]
            # TensorFlow's depth_to_space: row, column, colour
            expected[2 * y : 2 * y + 2, 2 * x : 2 * x + 2] = b.reshape(2, 2, 3)
    assert np.allclose(got, expected, atol=1e-5)


def test_layers_that_are_not_known_are_named(tmp_path: Path) -> None:
    image = torch.zeros(1, 3, 4, 4)
    for other, message in (
        (layer("LSTM", "odd", ["in"]), "odd: layers of type LSTM"),
        (layer("Activation", "odd", ["in"], activation="gelu"), "odd: activation gelu"),
        (layer("Conv2D", "odd", ["in"], **{**CONV, "strides": [2, 2]}), "odd: a convolution of another kind"),
    ):
        file = save_model(tmp_path, [layer("InputLayer", "in", []), other], {"odd/kernel": np.zeros((3, 3, 3, 3))})
        with pytest.raises(peer.PeerError, match=message):
            keras_layers.LayersModel(file)(image)


# ---- the runner ----------------------------------------------------------------------------------------------------


def test_inputs_are_found_and_ground_truth_is_not_taken_for_them(inputs: Path) -> None:
    found = runner.find_datasets(inputs, [], "LRbicx4")
    assert {name: [file.name for file in files] for name, files in found.items()} == {
        "A": ["img_0.png", "img_1.png"],
        "B": ["one.png"],
    }
    assert list(runner.find_datasets(inputs, ["B"], "LRbicx4")) == ["B"]
    for root, names in ((inputs, ["C"]), (inputs, ["D"]), (inputs / "none", []), (inputs / "C/GT", [])):
        with pytest.raises(AMDRestoreError):
            runner.find_datasets(root, names, "LRbicx4")


def test_runner_writes_results_and_goes_on_after_failures(inputs: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    kinds = [Missing, Failing, Small, Nearest]
    entries = list(runner.run_all(kinds, job(inputs, output), runner.run_peer))
    assert [(entry["peer"], entry["dataset"]) for entry in entries] == [(k.name, d) for k in kinds for d in "AB"]
    reasons = {entry["peer"]: entry.get("reason") for entry in entries}
    assert "cannot be downloaded" in reasons["missing"] and "expected (" in reasons["small"]
    assert reasons["failing"] == "RuntimeError: no memory left"
    for name in ("missing", "failing", "small"):
        assert [path.name for path in (output / name).rglob("*") if path.is_file()] == [NOTE] * 2
        assert (output / name / "A" / NOTE).read_text(encoding="utf-8").strip() == reasons[name]
    done = entries[-2]
    assert done["images"] == 2 and done["threads"] == 1 and done["seconds_per_image"] > 0
    written = read_rgb(output / "nearest/A/img_1.png")
    assert np.array_equal(written[::4, ::4], read_rgb(inputs / "A/LRbicx4/img_1.png"))
    assert "not available: RuntimeError" in runner.line_of(entries[2])


def test_a_note_goes_when_the_peer_can_be_had_again(inputs: Path, tmp_path: Path) -> None:
    note = tmp_path / "out/nearest/A" / NOTE
    note.parent.mkdir(parents=True)
    note.write_text("gone", encoding="utf-8")
    list(runner.run_all([Nearest], job(inputs, tmp_path / "out"), runner.run_peer))
    assert not note.exists()


def test_a_crash_is_a_row(inputs: Path, tmp_path: Path) -> None:
    """In processes of their own, as the command runs them."""
    output = tmp_path / "out"
    arguments = ["--input", str(inputs), "--output", str(output), "--cache", str(tmp_path), "--repeats", "0"]
    assert runner.main([*arguments, "--datasets", "B", "--threads", "1"], kinds=[Crash, Nearest]) == 0
    content = json.loads((output / "peers.json").read_text(encoding="utf-8"))
    crash, nearest = content["entries"]
    assert "ended without a word" in crash["reason"] and "reason" not in nearest
    assert content["threads"] == 1 and content["machine"]
    assert (output / "nearest/B/one.png").is_file() and (output / "crash/B" / NOTE).is_file()
    assert runner.main(["--input", str(tmp_path / "none"), "--output", str(output)], kinds=[Nearest]) == 2


# ---- the benchmark -------------------------------------------------------------------------------------------------


def test_folders_that_are_not_there_are_rows_that_say_so(tmp_path: Path) -> None:
    write_image(tmp_path / "gt/a.png", Picture(smooth_image(0)))
    sets = [TestSet(name, DatasetOptions(gt=str(tmp_path / "gt")), 4) for name in "AB"]
    here, flat = tmp_path / "here", tmp_path / "flat"
    write_image(here / "A/a.png", Picture(smooth_image(0)))
    write_image(flat / "a.png", Picture(smooth_image(0)))
    noted = tmp_path / "noted"
    (noted / "A").mkdir(parents=True)
    (noted / "A" / NOTE).write_text("no such\npackage\n", encoding="utf-8")
    methods = [Bicubic("bicubic"), *(Folder(p.name, str(p), ()) for p in (here, flat, noted, tmp_path / "none"))]
    folder = tmp_path.name
    assert find_absent(methods, sets) == [
        Absent("here", "B", f"no results on B in {folder}/here"),
        Absent("noted", "A", "no such package"),
        Absent("noted", "B", f"no results on B in {folder}/noted"),
        Absent("none", "A", f"no folder of results {folder}/none"),
        Absent("none", "B", f"no folder of results {folder}/none"),
    ]
    assert runner.NOTE == NOTE


def test_benchmark_with_absent_folders(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = importlib.import_module("amd_restore.benchmark.__main__")
    for name in ("a", "b"):
        write_image(tmp_path / f"gt/{name}.png", Picture(smooth_image(0)))
        write_image(tmp_path / f"same/A/{name}.png", Picture(smooth_image(0)))
    options: dict[str, Any] = {
        "name": "mini",
        "metrics": ["ssim_y"],
        "crop_border": 2,
        "datasets": {name: {"gt": str(tmp_path / "gt")} for name in "AB"},
        "methods": [
            {"name": "bicubic", "type": "bicubic"},
            {"name": "same", "type": "folder", "path": str(tmp_path / "same")},
            {"name": "gone", "type": "folder", "path": str(tmp_path / "gone")},
        ],
        "compare": [{"a": "same", "b": "bicubic"}, {"a": "gone", "b": "bicubic"}],
    }
    file, out = tmp_path / "mini.yml", tmp_path / "out"
    file.write_text(json.dumps(options), encoding="utf-8")
    assert command.main(["-opt", str(file), "--out", str(out)]) == 0
    text = (out / "mini.md").read_text(encoding="utf-8")
    first, second = text.split("## B")
    assert "| same | 1.0000 | – |" in first  # read, not restored: no seconds
    assert f"| gone | no folder of results {tmp_path.name}/gone |" in first
    assert f"| same | no results on B in {tmp_path.name}/same |" in second
    content = json.loads((out / "mini.json").read_text(encoding="utf-8"))
    assert [(one["method"], one["dataset"]) for one in content["absent"]] == [
        ("same", "B"),
        ("gone", "A"),
        ("gone", "B"),
    ]
    assert [(one["a"], one["dataset"]) for one in content["comparisons"]] == [("same", "A")]
    assert "A,gone,absent,,,0,0,no folder of results" in (out / "mini.csv").read_text(encoding="utf-8")

    options["methods"] = options["methods"][1:]
    options["compare"] = []
    file.write_text(json.dumps(options), encoding="utf-8")
    assert command.main(["-opt", str(file), "--out", str(out)]) == 2
    assert "no method has results on B" in capsys.readouterr().err
