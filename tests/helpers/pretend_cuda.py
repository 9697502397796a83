"""A pretended CUDA device: CPU tensors that carry a label, and the errors that a GPU would give.

Within :func:`pretend_cuda` a tensor made on, or moved to, ``cuda`` says that it is there. It computes on the CPU, but
operators that mix it with a CPU tensor fail as CUDA's do, and so do a generator of the other device and ``numpy()``.
What this cannot find: kernels that CUDA lacks, its rounding, its memory, pinned memory, NCCL.

The label is an attribute of the storage, so views share it. Operators give their results the label of their operands.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import torch
import torch.utils.checkpoint
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

CUDA = torch.device("cuda", 0)
_ENGINE = torch.autograd.Variable._execution_engine
# CUDA takes operands from both devices here: copies, indices into a CUDA tensor, step counters of an optimizer.
_MIXING: tuple[str, ...] = ("aten::copy_", "aten::_to_copy", "aten::_foreach_copy_", "aten::index", "aten::index_put_")
_MIXING += ("aten::_index_put_impl_", "aten::set_")
_MOVES = ("to", "cuda", "cpu")
_PLACE = {Tensor.device: CUDA, Tensor.is_cuda: True, Tensor.is_cpu: False}  # what a labelled tensor says of itself


def is_labelled(tensor: Tensor) -> bool:
    """Whether ``tensor`` is on the pretended device; those without storage are not."""
    try:
        return bool(getattr(tensor.untyped_storage(), "is_pretended_cuda", False))
    except (NotImplementedError, RuntimeError):
        return False


def _label(tensor: Tensor, value: bool) -> None:
    with contextlib.suppress(NotImplementedError):
        tensor.untyped_storage().is_pretended_cuda = value  # type: ignore[attr-defined]


def _means_cuda(device: Any) -> bool:
    return isinstance(device, (str, torch.device)) and torch.device(device).type == "cuda"


def _tensors(values: Any) -> list[Tensor]:
    """All in a nest of lists, tuples and dictionaries. Each operator asks: PyTorch's own walk takes half its time."""
    if isinstance(values, Tensor):
        return [values]
    if isinstance(values, dict):
        values = values.values()
    elif not isinstance(values, (list, tuple)):
        return []
    return [tensor for value in values if value is not None for tensor in _tensors(value)]


class _Operators(TorchDispatchMode):
    """Labels what operators make, also in backward passes, and refuses operands of two devices.

    Args:
        wrong: every value of every convolution on the device; None computes it.
    """

    def __init__(self, wrong: float | None) -> None:
        super().__init__()
        self._wrong = wrong

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # nothing is compiled here, and what keeps Dynamo out costs as much as an operator

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        operands = _tensors((args, kwargs))
        places = [is_labelled(x) for x in operands]
        name = func._schema.name
        if any(places) and name not in _MIXING:
            pairs = list(zip(operands, places, strict=True))
            if any(not there and x.dim() > 0 for x, there in pairs):  # a single number may come from the CPU
                found = [(tuple(x.shape), "cuda" if there else "cpu") for x, there in pairs]
                raise RuntimeError(f"{name}: expected all tensors to be on the same device, got {found}")
        result = func(*args, **(kwargs or {}))
        if self._wrong is not None and any(places) and name in ("aten::conv2d", "aten::convolution"):
            result = torch.full_like(result, self._wrong)
        # A copy is where its target is. Backward passes make zeros without operands, on the device of the graph.
        label = places[0] if name in _MIXING and operands else any(places)
        label = label or (not operands and torch._C._current_graph_task_id() != -1)
        if label:  # without one they are on the CPU already
            storages = {_storage(x) for x in operands}
            for x in _tensors(result):
                if (storage := _storage(x)) is not None and storage not in storages:
                    _label(x, True)
        return result


def _storage(tensor: Tensor) -> int | None:
    """Number that views share; None for a tensor without storage."""
    try:
        return tensor.untyped_storage()._cdata
    except (NotImplementedError, RuntimeError):
        return None


class _Calls(TorchFunctionMode):
    """Answers where a tensor is, makes and moves tensors, and refuses generators of the other device."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", "")
        if name == "__get__":
            owner = getattr(func, "__self__", None)
            return _PLACE[owner] if owner in _PLACE and is_labelled(args[0]) else func(*args, **(kwargs or {}))
        kwargs = dict(kwargs or {})
        if func is Tensor.backward and len(args) == 1 and not any(kwargs.values()):
            with self:  # gradient checkpointing calls networks from within; what is public would leave this mode out
                ends = (args[0],), (torch.ones_like(args[0]),)
                return _ENGINE.run_backward(*ends, False, False, (), allow_unreachable=True, accumulate_grad=True)
        wanted: bool | None = None  # the device that is named; None is that of the operands
        if kwargs.get("device") is not None:
            wanted = _means_cuda(kwargs["device"])
            kwargs["device"] = "cpu" if wanted else kwargs["device"]
        self._check_generator(name, args, kwargs, wanted)
        if name in _MOVES and args and isinstance(args[0], Tensor):
            return self._moved(func, name, args, kwargs, wanted)
        if name in ("numpy", "__array__") and is_labelled(args[0]):
            raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() first")
        if name == "new_tensor" and wanted is None:
            wanted = is_labelled(args[0])
        result = func(*args, **kwargs)
        if wanted is not None and isinstance(result, Tensor) and is_labelled(result) != wanted:
            shared = any(result.data_ptr() == x.data_ptr() for x in _tensors((args, kwargs)))
            result = result.clone() if shared else result  # as_tensor gives its operand back
            _label(result, wanted)
        return result

    @staticmethod
    def _check_generator(name: str, args: Any, kwargs: Any, wanted: bool | None) -> None:
        generator = kwargs.get("generator")
        if generator is not None:
            here = wanted if wanted is not None else any(is_labelled(x) for x in _tensors(args))
            if (generator.device.type == "cuda") != here:
                device = "cuda" if here else "cpu"
                raise RuntimeError(
                    f"{name}: expected a '{device}' device type for generator but found '{generator.device.type}'"
                )

    @staticmethod
    def _moved(func: Any, name: str, args: Any, kwargs: Any, wanted: bool | None) -> Tensor:
        source, rest = args[0], list(args[1:])
        if name != "to":
            wanted, func, rest = name == "cuda", torch.Tensor.to, ["cpu"]
        for index, value in enumerate(rest):
            if isinstance(value, Tensor):
                wanted = is_labelled(value)
            elif isinstance(value, (str, torch.device)):
                wanted, rest[index] = _means_cuda(value), "cpu" if _means_cuda(value) else value
        result: Tensor = func(source, *rest, **kwargs)
        if wanted is not None and wanted != is_labelled(source):
            result = result.clone() if result.data_ptr() == source.data_ptr() else result
            _label(result, wanted)
        return result


class _Generator(torch.Generator):
    """A generator that says where it is wanted, and draws on the CPU."""

    def __new__(cls, device: str | torch.device = "cpu") -> _Generator:
        return super().__new__(cls, "cpu")  # type: ignore[call-arg]

    def __init__(self, device: str | torch.device = "cpu") -> None:
        self._place = torch.device(device)

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        return self._place


class _Autocast(torch.autocast):
    def __init__(self, device_type: str, *args: Any, **kwargs: Any) -> None:
        super().__init__("cpu" if device_type == "cuda" else device_type, *args, **kwargs)


@contextlib.contextmanager
def pretend_cuda(wrong: float | None = None) -> Iterator[None]:
    """One CUDA device that multiplies in bfloat16, while this is entered; see also :func:`forget_networks`.

    Args:
        wrong: makes its convolutions give this value everywhere.
    """
    answers: dict[str, Callable[..., Any]] = {
        "device_count": lambda: 1,
        "is_available": lambda: True,
        "current_device": lambda: 0,
        "get_device_name": lambda device=None: "pretended GPU",
        "get_device_capability": lambda device=None: (9, 0),
        "mem_get_info": lambda device=None: (8 << 30, 8 << 30),
        "empty_cache": lambda: None,
    }
    with contextlib.ExitStack() as stack:
        for name, answer in answers.items():
            stack.enter_context(mock.patch.object(torch.cuda, name, answer))
        # Gradient checkpointing compares devices from within operators, where every tensor says that it is on the CPU.
        checks = torch.utils.checkpoint._allowed_determinism_checks_to_fns
        stack.enter_context(mock.patch.dict(checks, {"default": lambda tensor: None}))
        # Within a step, optimizers of a CUDA build would ask the driver whether a graph is being recorded.
        stack.enter_context(mock.patch.object(torch.accelerator, "current_accelerator", lambda *args, **kwargs: None))
        stack.enter_context(mock.patch.object(torch, "Generator", _Generator))
        stack.enter_context(mock.patch.object(torch, "autocast", _Autocast))
        stack.enter_context(_Calls())
        stack.enter_context(_Operators(wrong))
        yield


def forget_networks() -> None:
    """Drop the frozen networks that rewards keep for each device: those of a pretended one must not outlive it."""
    for name, module in list(sys.modules.items()):
        if name.startswith("amd_restore."):
            for value in list(vars(module).values()):
                if hasattr(value, "cache_clear"):
                    value.cache_clear()
