"""Starting or joining a Ray cluster, and the number of workers that fit into it."""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import signal
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from amd_restore.errors import AMDRestoreError

_THREADS = 4  # threads of a worker without a GPU, by default
_STORE = 80 * 2**20  # bytes, Ray's minimum, because nothing large passes through its store
_PATIENCE = 10.0  # seconds
_QUIET = {
    "RAY_DEDUP_LOGS_SKIP_REGEX": ".",  # Lost workers are reported by this package.
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}


@dataclass(frozen=True)
class Cluster:
    """Choice of a cluster and of workers.

    Args:
        address: ``local`` to start one here, ``auto`` to join one running here, ``HOST:PORT`` to join another.
        workers: number of processes; None for one per GPU, or one per few processor cores.
        retries: further attempts for an image after a lost worker or a failure of a store.
    """

    address: str = "local"
    workers: int | None = None
    retries: int = 2


@dataclass(frozen=True)
class Layout:
    """Division of the cluster among workers.

    Args:
        workers: number of workers.
        threads: processor threads of each.
        gpus: share of a GPU of each.
        neighbours: largest number on one machine, or on one GPU.
    """

    workers: int
    threads: int
    gpus: float
    neighbours: int


def import_ray() -> Any:
    """Import the package.

    Raises:
        AMDRestoreError: it is not installed.
    """
    os.environ.update({name: value for name, value in _QUIET.items() if name not in os.environ})
    try:
        return importlib.import_module("ray")
    except ImportError as error:
        raise AMDRestoreError('--engine ray needs the package ray; pip install "amd-restore[ray]"') from error


@contextlib.contextmanager
def connected(cluster: Cluster, threads: int | None) -> Iterator[Any]:
    """Context with Ray connected to a cluster; a cluster started here ends with it.

    An existing connection of the calling program is kept.

    Args:
        cluster: cluster to use.
        threads: threads of each worker, see :func:`lay_out`.

    Raises:
        AMDRestoreError: Ray is not installed, or there is no such cluster.
    """
    ray = import_ray()
    if ray.is_initialized():
        yield ray
        return
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if cluster.address == "local":
        # Ray only counts processors to distribute them, and the user may want more workers than fit.
        cores = max(os.cpu_count() or 1, (cluster.workers or 1) * (threads or 1))
        options |= {"num_cpus": cores, "include_dashboard": False, "object_store_memory": _STORE}
    elif "://" in cluster.address:  # Ray's client does not support streams of results.
        raise AMDRestoreError(
            f"--address {cluster.address}: run the command on a machine of the cluster, with HOST:PORT"
        )
    elif ":" in cluster.address:
        _check_listening(cluster.address)
    main = threading.current_thread() is threading.main_thread()
    terminated = signal.getsignal(signal.SIGTERM) if main else None
    try:
        ray.init(address=cluster.address, **options)
    except (OSError, RuntimeError, ValueError, ray.exceptions.RayError) as error:  # ConnectionError is an OSError
        raise _no_cluster(cluster.address, error) from error
    finally:
        if main and terminated is not None:  # Ray has replaced the signal handler.
            signal.signal(signal.SIGTERM, terminated)
    try:
        yield ray
    finally:
        ray.shutdown()


def lay_out(ray: Any, cluster: Cluster, device: str, threads: int | None, most: int) -> Layout:
    """Divide the cluster among workers.

    Args:
        ray: connected package.
        cluster: wanted number of workers.
        device: ``auto`` for GPUs if there are any.
        threads: processor threads of each worker; None for the default.
        most: largest useful number of workers.

    Raises:
        AMDRestoreError: ``device`` has a number, but Ray assigns a device to each worker.
    """
    if ":" in device:
        kind = device.split(":")[0]
        raise AMDRestoreError(f"--device {device}: Ray chooses the device of each worker; use --device {kind}")
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    cores = [max(1, int(node.get("CPU", 0))) for node in nodes] or [1]
    gpus = sum(node.get("GPU", 0) for node in nodes) if device in ("auto", "cuda") else 0
    if gpus:
        workers = min(cluster.workers or int(gpus), most)
        packet = 1.0 if workers <= gpus else gpus / workers
        return Layout(workers, threads or max(1, sum(cores) // workers), packet, max(1, round(1 / packet)))
    if threads is None:
        threads = max(1, sum(cores) // cluster.workers) if cluster.workers else min(_THREADS, max(cores))
    workers = min(cluster.workers or sum(max(1, count // threads) for count in cores), most)
    return Layout(workers, threads, 0.0, min(workers, max(1, max(cores) // threads)))


def _check_listening(address: str) -> None:
    """Check that the address accepts connections, because Ray itself retries for minutes."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), _PATIENCE).close()
    except (OSError, ValueError) as error:
        raise _no_cluster(address, error) from error


def _no_cluster(address: str, error: Exception) -> AMDRestoreError:
    reason = " ".join(str(error).split())
    advice = "start one with ray start --head" if address == "auto" else "check --address"
    return AMDRestoreError(f"no Ray cluster at {address} ({reason}); {advice}")
