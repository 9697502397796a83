"""No command opens a connection, or leaves anything at home but its own cache: dependencies report nothing."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from places import REPOSITORY
from tiny_model import save_tiny

# Ends the process at the first look-up or connection, and at the first socket of IPv4, also of native code (Linux on
# x86-64). There is no IPv6: urllib3 makes a socket of it when it is imported, to see whether it can.
FORBID = """
import ctypes, os, platform, struct, sys

def forbid(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto"):
        os._exit(99)

sys.addaudithook(forbid)
if sys.platform == "linux" and platform.machine() == "x86_64":
    rules = [(0x20, 0, 0, 4), (0x15, 0, 5, 0xC000003E), (0x20, 0, 0, 0), (0x15, 0, 3, 41), (0x20, 0, 0, 16),
             (0x15, 2, 0, 2), (0x15, 2, 0, 10), (0x06, 0, 0, 0x7FFF0000), (0x06, 0, 0, 0x80000000),
             (0x06, 0, 0, 0x50061)]
    program = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *rule) for rule in rules))
    class Filter(ctypes.Structure):
        _fields_ = [("length", ctypes.c_ushort), ("rules", ctypes.c_void_p)]
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.prctl(38, 1, 0, 0, 0) == 0
    assert libc.prctl(22, 2, ctypes.byref(Filter(len(rules), ctypes.addressof(program)))) == 0
"""
COMMAND = "from amd_restore.apps.cli import main\nsys.exit(main(sys.argv[1:]))"


def run(folder: Path, code: str, *arguments: str) -> list[str]:
    """Run ``code`` in ``folder``; what it left below its home."""
    home = folder / "home"
    home.mkdir()
    kept = {"PATH", "LD_LIBRARY_PATH", "OMP_NUM_THREADS", "SYSTEMROOT", "TMPDIR"}
    environment = {name: value for name, value in os.environ.items() if name in kept}
    environment |= {"HOME": str(home), "USERPROFILE": str(home), "PYTHONPATH": str(REPOSITORY)}
    command = [sys.executable, "-c", FORBID + code, *arguments]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return sorted(str(path.relative_to(home)) for path in home.rglob("*") if path.is_file())


def test_threads_of_torch_do_not_spin_for_long(tmp_path: Path) -> None:
    """What the user has set stays."""
    code = "import os, sys\nfor name in sys.argv[1:]:\n    os.environ.update([name.split('=')])\nimport amd_restore\n"
    run(tmp_path, code + "assert os.environ['GOMP_SPINCOUNT'] == '10000'")
    (tmp_path / "home").rmdir()
    run(tmp_path, code + "assert os.environ['GOMP_SPINCOUNT'] == '7'", "GOMP_SPINCOUNT=7")
    (tmp_path / "home").rmdir()
    run(tmp_path, code + "assert 'GOMP_SPINCOUNT' not in os.environ", "OMP_WAIT_POLICY=ACTIVE")


def own(files: list[str]) -> bool:
    return all(file.startswith(".cache/amd_restore/") for file in files)


@pytest.mark.parametrize("backend", ["torch", "onnx", "openvino", "auto"])
def test_restoring_reports_nothing(backend: str, tmp_path: Path) -> None:
    if backend in ("onnx", "openvino"):
        pytest.importorskip({"onnx": "onnxruntime", "openvino": "openvino"}[backend])
    weights = save_tiny(tmp_path / "tiny.safetensors")
    Image.fromarray(np.zeros((16, 16, 3), np.uint8)).save(tmp_path / "a.png")
    arguments = ["-i", "a.png", "-o", "out", "--model", str(weights), "--backend", backend, "--device", "cpu"]
    files = run(tmp_path, COMMAND, *arguments)
    assert own(files), files
    assert (tmp_path / "out" / "a.png").exists()


@pytest.mark.parametrize(("package", "name"), [("onnx", "a.onnx"), ("openvino", "a.xml")])
def test_exporting_reports_nothing(package: str, name: str, tmp_path: Path) -> None:
    pytest.importorskip(package)
    weights = save_tiny(tmp_path / "tiny.safetensors")
    files = run(tmp_path, COMMAND, "export", "--model", str(weights), "-o", name)
    assert own(files), files


def test_latent_models_report_nothing(tmp_path: Path) -> None:
    pytest.importorskip("diffusers")
    pytest.importorskip("transformers")
    from latent_models import save_stable_diffusion

    folder = save_stable_diffusion(tmp_path / "model", text=True)
    arguments = ["prompts", "--model", str(folder), "--prompt", "a", "-o", "prompts.safetensors"]
    check = "import amd_restore, huggingface_hub.constants\nassert huggingface_hub.constants.HF_HUB_DISABLE_TELEMETRY\n"
    files = run(tmp_path, check + COMMAND, *arguments)
    assert own(files), files


def test_ray_reports_nothing() -> None:
    code = "import os, amd_restore; print(os.environ['RAY_USAGE_STATS_ENABLED'])"
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    for given, expected in (({}, "0"), ({"RAY_USAGE_STATS_ENABLED": "1"}, "1")):
        done = subprocess.run(
            [sys.executable, "-c", code], env=environment | given, capture_output=True, text=True, check=True
        )
        assert done.stdout.strip() == expected


def test_the_test_notices_a_connection(tmp_path: Path) -> None:
    code = "import socket; socket.create_connection(('127.0.0.1', 9), 1)"
    with pytest.raises(AssertionError):
        run(tmp_path, code)
    if sys.platform == "linux" and platform.machine() == "x86_64":
        done = subprocess.run([sys.executable, "-c", FORBID + "ctypes.CDLL(None).socket(2, 1, 0)"], check=False)
        assert done.returncode < 0  # native code, which no audit hook sees
