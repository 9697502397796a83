"""Training on several processes: rows of a batch per process, and replicated networks.

Uses DistributedDataParallel; without a process group every function returns its argument.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel


def process_count() -> int:
    """Return the number of training processes."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def process_rank() -> int:
    """Return the rank of this process, from 0."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def own_place(n: int) -> slice:
    """Return the slice of this process's ``n`` rows in the batch of all, which is contiguous by process."""
    return slice(process_rank() * n, (process_rank() + 1) * n)


def own_rows(draw: Callable[[int], Tensor], n: int) -> Tensor:
    """Return this process's ``n`` rows of ``draw(number of rows of all processes)``."""
    return draw(n * process_count())[own_place(n)] if process_count() > 1 else draw(n)


def gathered(x: Tensor) -> Tensor:
    """Return the rows of all processes in order, without gradient."""
    if process_count() == 1:
        return x.detach()
    pieces = [torch.empty_like(x, memory_format=torch.contiguous_format) for _ in range(process_count())]
    dist.all_gather(pieces, x.detach().contiguous())
    return torch.cat(pieces)


def mean_of_all(x: Tensor) -> Tensor:
    """Return the mean over processes, without gradient; with equal numbers of rows it is the mean of all rows."""
    if process_count() == 1:
        return x
    total = x.detach().clone()
    dist.all_reduce(total)
    return total / process_count()


def sum_of_all(x: Tensor) -> Tensor:
    """Return the sum over processes, without gradient."""
    if process_count() == 1:
        return x
    total = x.detach().clone()
    dist.all_reduce(total)
    return total


# ---- networks -----------------------------------------------------------------------------------------------------


def replicate(net: nn.Module, device: torch.device) -> nn.Module:
    """Return ``net`` with a copy in every process and averaged gradients."""
    devices = [torch.cuda.current_device()] if device.type == "cuda" else None
    with warnings.catch_warnings():
        # Older PyTorch lacks the replacement of broadcast_buffers.
        warnings.filterwarnings("ignore", message=".*broadcast_buffers")
        # The null condition is not in every graph. Buffers are constants here, so they need no broadcast, and
        # processes may call a network a different number of times without a gradient.
        return DistributedDataParallel(net, device_ids=devices, find_unused_parameters=True, broadcast_buffers=False)


@contextlib.contextmanager
def synchronised(nets: Iterable[nn.Module], wanted: bool) -> Iterator[None]:
    """Context in which backward passes exchange gradients or not; only the last part of a batch needs to."""
    with contextlib.ExitStack() as stack:
        for net in nets:
            if isinstance(net, DistributedDataParallel) and not wanted:
                stack.enter_context(net.no_sync())
        yield


def average_gradients(parameters: Sequence[Tensor], nets: Sequence[nn.Module]) -> None:
    """Average the gradients of ``parameters`` outside the replicated ``nets``."""
    if process_count() == 1:
        return
    handled = {id(p) for net in nets for p in net.parameters()}
    for parameter in parameters:
        if id(parameter) not in handled and parameter.grad is not None:
            dist.all_reduce(parameter.grad)
            parameter.grad /= process_count()


def images_of_process(opt: Mapping[str, Any]) -> int:
    """Return the number of images per process and iteration."""
    return int(opt["datasets"]["train"]["batch_size_per_gpu"])
