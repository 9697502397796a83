"""One training step, whatever is trained: random numbers, a batch in parts and processes, descent, logs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from amd_restore.data.resumable import step_seed
from amd_restore.errors import AMDRestoreError
from amd_restore.models.diagnostics import Diagnostics, DiagnosticsFile
from amd_restore.models.distributed import (
    average_gradients,
    clip_gradients,
    gathered,
    own_rows,
    process_count,
    process_rank,
    synchronised,
)
from amd_restore.models.ending import StopRequest, TimeLimit
from amd_restore.models.rollout import Rows
from amd_restore.options import RunOptions

RowsT = TypeVar("RowsT", bound=Rows)
FUSED = ("Adam", "AdamW", "SGD")  # what PyTorch has in one kernel on GPUs


class TrainingStep:
    """Part of :class:`~amd_restore.models.restoration_model.RestorationModel`.

    Every random number of a step comes from ``self.generator``, which is reseeded from (seed, iteration): randomness is
    a function of progress, so a resumed run repeats the straight one bit for bit. It is drawn for the batch of all
    processes, of which each takes its rows, so that their number makes no difference.
    """

    run: RunOptions
    device: torch.device
    generator: torch.Generator
    host_generator: torch.Generator  # for what decides how a step goes: a GPU would have to be waited for
    diagnostics: Diagnostics
    diagnostics_file: DiagnosticsFile
    grad_clip: float
    current_iter: int
    lq: Tensor
    optimizers: list[torch.optim.Optimizer]
    is_train: bool
    time_limit: TimeLimit
    stop_request = StopRequest()
    saved_iter = 0  # iteration of the newest training state
    accumulate = 1  # parts in which a process takes its batch, see train.accumulate
    trained_nets: list[nn.Module]  # as every process holds them

    def save(self, epoch: int, current_iter: int) -> None:
        """Write everything to disk."""
        raise NotImplementedError

    # ---- random numbers ---------------------------------------------------------------------------------------

    def seed_step(self, current_iter: int) -> None:
        """Make this step's randomness a function of (seed, iteration)."""
        for generator in {self.generator, self.host_generator}:
            generator.manual_seed(self.step_seed(current_iter))

    def step_seed(self, current_iter: int) -> int:
        """Seed of an iteration, see :func:`~amd_restore.data.resumable.step_seed`."""
        return step_seed(int(self.run.manual_seed or 0), current_iter)

    def randn(self, shape: Sequence[int]) -> Tensor:
        """Standard normal noise of the step's own generator, a row for each sample at hand."""
        rest = tuple(shape[1:])

        def draw(n: int) -> Tensor:
            return torch.randn((n, *rest), generator=self.generator, dtype=torch.float32, device=self.device)

        return own_rows(draw, shape[0])

    def rand(self, n: int) -> Tensor:
        """``n`` uniform numbers in [0, 1) of the step's own generator, one for each sample or group at hand."""
        return own_rows(
            lambda count: torch.rand(count, generator=self.generator, dtype=torch.float32, device=self.device), n
        )

    # ---- one optimizer step -----------------------------------------------------------------------------------

    def descend(
        self, optimizer: torch.optim.Optimizer, batch: RowsT, losses_of: Callable[[RowsT], dict[str, Tensor]]
    ) -> None:
        """Zero gradients, backward for each part of the batch, check, clip, step; the only place that does so.

        Args:
            optimizer: takes the step.
            batch: rows of this process.
            losses_of: losses of a part, means over its rows. What is random in them is drawn alike for all parts, so
                numbers that belong to a row must be in the batch already.

        Raises:
            AMDRestoreError: when a gradient is not finite (the step is not taken).
        """
        optimizer.zero_grad(set_to_none=True)
        losses: dict[str, Tensor] = {}
        parts = batch.parts(self.accumulate)
        before = [(generator, generator.get_state()) for generator in {self.generator, self.host_generator}]
        for part in parts:
            if len(parts) > 1:
                for generator, state in before:
                    generator.set_state(state)
            share = len(part) / len(batch)
            with synchronised(self.trained_nets, part is parts[-1]):
                losses = losses_of(part)
                total = torch.stack([loss for loss in losses.values()]).sum()
                (total * share if len(parts) > 1 else total).backward()
            self.diagnostics.add(share / process_count(), **losses)
        parameters = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        average_gradients(parameters, self.trained_nets)
        norm = clip_gradients(parameters, self.grad_clip or float("inf"))
        if not torch.isfinite(norm):
            values = ", ".join(f"{name} {float(loss.detach()):.3g}" for name, loss in losses.items())
            raise AMDRestoreError(f"gradient is not finite ({values}); lower the learning rate or set amp: none")
        optimizer.step()

    def get_optimizer(self, optim_type: str, params: Any, lr: float, **options: Any) -> torch.optim.Optimizer:
        """An optimizer of ``torch.optim``; where a GPU can, in one kernel for all parameters, not several for each."""
        if self.device.type == "cuda" and optim_type in FUSED and not options.get("foreach"):
            options.setdefault("fused", True)
        optimizer: torch.optim.Optimizer = getattr(torch.optim, optim_type)(params, lr=lr, **options)
        return optimizer

    # ---- learning rates and the end of a run -----------------------------------------------------------------

    def setup_schedulers(self) -> None:
        """BasicSR's; with a time limit there are none, and the rate follows the clock."""
        if self.time_limit.seconds is None:
            super().setup_schedulers()  # type: ignore[misc]  # BaseModel's
            return
        for group in (group for optimizer in self.optimizers for group in optimizer.param_groups):
            group.setdefault("initial_lr", group["lr"])

    def update_learning_rate(self, current_iter: int, warmup_iter: int = -1) -> None:
        """BasicSR's, or :meth:`TimeLimit.rate`, both with a linear warm-up before iteration ``warmup_iter``."""
        if self.time_limit.seconds is None:
            super().update_learning_rate(current_iter, warmup_iter)  # type: ignore[misc]  # BaseModel's
            return
        factor = self.time_limit.rate(current_iter)
        if current_iter < warmup_iter:
            factor *= current_iter / warmup_iter
        for group in (group for optimizer in self.optimizers for group in optimizer.param_groups):
            group["lr"] = group["initial_lr"] * factor

    def save_if_told_to_stop(self) -> None:
        """Save at once what will be saved anyway: a long validation may not be waited for."""
        is_due = self.stop_request.number and self.saved_iter != self.current_iter
        if is_due and self.is_train and process_count() == 1:  # several would have to save together
            self.save(0, self.current_iter)

    # ---- logs -------------------------------------------------------------------------------------------------

    def log(self, **values: Tensor) -> None:
        """Add tensors to the log's window; they are read (a device sync) only at logging iterations.

        A scalar is taken for a mean over the rows of this process, or for what all processes agree on.
        """
        self.diagnostics.add(1.0 / process_count(), **values)

    def log_of_batch(self, measure: Callable[..., dict[str, Tensor]], *tensors: Tensor) -> None:
        """Log what is no mean over samples: ``measure`` of tensors (B, ...) of the batch of all processes."""
        self.log(**measure(*(gathered(tensor) for tensor in tensors)))

    def get_current_log(self) -> dict[str, float]:
        """Means since the last call, also written to ``diagnostics.jsonl``; called every ``print_freq`` iterations."""
        means = self.diagnostics.read()
        if process_rank() == 0:
            values = {name if "/" in name else f"loss/{name}": value for name, value in means.items()}
            self.diagnostics_file.append(iter=self.current_iter, seconds=self.diagnostics.seconds, values=values)
        return means
