"""Training on several processes: who holds which rows of a batch, and networks that live in all of them.

Everything here is PyTorch's own (DistributedDataParallel, fully_shard, DTensor); without a process group every function
returns what it was given.
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

from amd_restore.errors import AMDRestoreError


def process_count() -> int:
    """Processes that train together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def process_rank() -> int:
    """This process among them, from 0."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def own_place(n: int) -> slice:
    """Where the ``n`` rows of this process stand in the batch of all, which is contiguous by process."""
    return slice(process_rank() * n, (process_rank() + 1) * n)


def own_rows(draw: Callable[[int], Tensor], n: int) -> Tensor:
    """The ``n`` rows of this process, of ``draw(rows of all processes)``."""
    return draw(n * process_count())[own_place(n)] if process_count() > 1 else draw(n)


def gathered(x: Tensor) -> Tensor:
    """Rows of all processes in their order, without gradient."""
    if process_count() == 1:
        return x.detach()
    pieces = [torch.empty_like(x, memory_format=torch.contiguous_format) for _ in range(process_count())]
    dist.all_gather(pieces, x.detach().contiguous())
    return torch.cat(pieces)


def mean_of_all(x: Tensor) -> Tensor:
    """Mean of what the processes hold, without gradient; of equal numbers of rows, hence of all rows."""
    if process_count() == 1:
        return x
    total = x.detach().clone()
    dist.all_reduce(total)
    return total / process_count()


def sum_of_all(x: Tensor) -> Tensor:
    """Sum of what the processes hold, without gradient."""
    if process_count() == 1:
        return x
    total = x.detach().clone()
    dist.all_reduce(total)
    return total


# ---- networks -----------------------------------------------------------------------------------------------------


def replicate(net: nn.Module, device: torch.device, find_unused: bool) -> nn.Module:
    """A copy of ``net`` in every process, their gradients averaged."""
    devices = [torch.cuda.current_device()] if device.type == "cuda" else None
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*broadcast_buffers")  # its successor is not in older versions
        # Buffers are constants here, and processes may call a network differently often without a gradient.
        return DistributedDataParallel(
            net, device_ids=devices, find_unused_parameters=find_unused, broadcast_buffers=False
        )


def shard(net: nn.Module, device: torch.device) -> nn.Module:
    """``net`` with its weights spread over the processes, gathered block by block when it is called."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    for parameter in net.parameters():
        parameter.data = parameter.data.contiguous()  # sharding knows no channels-last
    mesh = init_device_mesh(device.type, (process_count(),))
    for block in _blocks(net):
        fully_shard(block, mesh=mesh)
    fully_shard(net, mesh=mesh)
    return net


def _blocks(net: nn.Module) -> Iterator[nn.Module]:
    """The pieces that are gathered one at a time: members of the outermost lists of modules."""
    for child in net.children():
        if isinstance(child, nn.ModuleList):
            yield from (block for block in child if any(True for _ in block.parameters()))
        else:
            yield from _blocks(child)


def _sharded_class() -> Any:
    from torch.distributed.fsdp import FSDPModule  # takes a second, and is seldom needed

    return FSDPModule


def whole(value: Any) -> Any:
    """A nest of tensors that may be spread over the processes, in one piece on the CPU.

    Every process has to take part where something is spread. Anything else stays as it is.
    """
    if process_count() == 1:
        return value
    if isinstance(value, Mapping):
        return {key: whole(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(whole(item) for item in value)
    gather: Any = getattr(value, "full_tensor", None)
    return gather().cpu() if gather else value


def spread_like(value: Tensor, example: Any) -> Tensor:
    """``value``, equal in all processes, spread as ``example`` is."""
    if not hasattr(example, "device_mesh"):
        return value
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(value.to(example.device), example.device_mesh, example.placements, src_data_rank=None)


def load_whole(net: nn.Module, state: Mapping[str, Tensor], strict: bool = True) -> None:
    """``net.load_state_dict`` of whole tensors, whether ``net`` is spread or not."""
    own = net.state_dict() if process_count() > 1 else {}
    net.load_state_dict({key: spread_like(value, own.get(key)) for key, value in state.items()}, strict=strict)


def spread_optimizer(state: Mapping[str, Any], optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """A whole state of ``optimizer`` with its moments spread as its parameters are."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    moments = {}
    for index, values in state["state"].items():
        example = parameters[int(index)]
        moments[index] = {
            key: spread_like(value, example) if torch.is_tensor(value) and value.shape == example.shape else value
            for key, value in values.items()
        }
    return {**state, "state": moments}


@contextlib.contextmanager
def synchronised(nets: Iterable[nn.Module], wanted: bool) -> Iterator[None]:
    """Whether forward and backward passes in here exchange gradients; only the last part of a batch needs to."""
    with contextlib.ExitStack() as stack:
        for net in nets:
            if isinstance(net, DistributedDataParallel):
                if not wanted:
                    stack.enter_context(net.no_sync())
            elif isinstance(net, _sharded_class()):
                net.set_requires_gradient_sync(wanted)
        yield


def average_gradients(parameters: Sequence[Tensor], nets: Sequence[nn.Module]) -> None:
    """Average the gradients of those ``parameters`` that no network of ``nets`` takes care of."""
    if process_count() == 1:
        return
    handled = {id(p) for net in nets for p in net.parameters()}
    for parameter in parameters:
        if id(parameter) not in handled and parameter.grad is not None:
            dist.all_reduce(parameter.grad)
            parameter.grad /= process_count()


def clip_gradients(parameters: Sequence[Tensor], limit: float) -> Tensor:
    """Scale gradients so that their norm over all processes is at most ``limit``.

    Returns:
        The norm before, a scalar.
    """
    norm: Any = torch.nn.utils.clip_grad_norm_(list(parameters), limit)
    result: Tensor = whole(norm)
    return result


def images_of_process(opt: Mapping[str, Any]) -> int:
    """Images that a process of this run takes in an iteration."""
    return int(opt["datasets"]["train"]["batch_size_per_gpu"])


def check_parallel(opt: Mapping[str, Any]) -> None:
    """Whether the networks of an option file can be trained the way it says.

    Raises:
        AMDRestoreError: they cannot; the message says what can be done.
    """
    if (opt.get("train") or {}).get("parallel") != "fsdp":
        return
    where = opt.get("opt_path", "options")
    if not opt.get("dist"):
        raise AMDRestoreError(
            f"{where}: train.parallel: fsdp needs several processes; start with torchrun and --launcher pytorch"
        )
    for key, block in opt.items():
        if key.startswith("network_") and isinstance(block, Mapping) and (block.get("lora") or block.get("frozen")):
            raise AMDRestoreError(
                f"{where}: train.parallel: fsdp shards whole networks, but {key} shares its base (lora, frozen); "
                "use ddp, adapters are small"
            )
    if (opt.get("codec") or {}).get("train_encoder"):
        raise AMDRestoreError(f"{where}: train.parallel: fsdp does not train the codec's encoder; use ddp")
