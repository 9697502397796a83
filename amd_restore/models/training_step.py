"""One training step of any model: random numbers, batch parts and processes, descent, logs."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from amd_restore.data.resumable import step_seed
from amd_restore.errors import AMDRestoreError
from amd_restore.models.diagnostics import Diagnostics, DiagnosticsFile
from amd_restore.models.distributed import (
    average_gradients,
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
FUSED = ("Adam", "AdamW", "SGD")  # optimizers with a fused kernel on GPUs


class TrainingStep:
    """Part of :class:`~amd_restore.models.restoration_model.RestorationModel`.

    Every random number of a step comes from ``self.generator``, which is reseeded from (seed, iteration): randomness is
    a function of progress, so a resumed run repeats the straight one bit for bit. They are drawn for the batch of all
    processes, of which each takes its rows, so the number of processes does not matter.
    """

    run: RunOptions
    device: torch.device
    generator: torch.Generator
    host_generator: torch.Generator  # for choices made on the CPU, which must not wait for a GPU
    diagnostics: Diagnostics
    diagnostics_file: DiagnosticsFile
    grad_clip: float
    current_iter: int
    lq: Tensor
    optimizers: list[torch.optim.Optimizer]
    schedulers: list[Any]
    is_train: bool
    time_limit: TimeLimit
    stop_request = StopRequest()
    saved_iter = 0  # iteration of the latest training state
    accumulate = 1  # parts of a batch, see train.accumulate
    trained_nets: list[nn.Module]  # replicated if several processes train

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

    @contextlib.contextmanager
    def separate_numbers(self) -> Iterator[None]:
        """Draw other random numbers of this iteration inside, and leave those outside as they are without it."""
        before = [(generator, generator.get_state()) for generator in {self.generator, self.host_generator}]
        self.seed_step(-self.current_iter)
        try:
            yield
        finally:
            for generator, state in before:
                generator.set_state(state)

    def randn(self, shape: Sequence[int]) -> Tensor:
        """Draw standard normal noise from the step's generator, a row for each sample of this process."""
        rest = tuple(shape[1:])

        def draw(n: int) -> Tensor:
            return torch.randn((n, *rest), generator=self.generator, dtype=torch.float32, device=self.device)

        return own_rows(draw, shape[0])

    def rand(self, n: int) -> Tensor:
        """Draw ``n`` uniform numbers in [0, 1) from the step's generator, for this process's samples or groups."""
        return own_rows(
            lambda count: torch.rand(count, generator=self.generator, dtype=torch.float32, device=self.device), n
        )

    # ---- one optimizer step -----------------------------------------------------------------------------------

    def descend(
        self, optimizer: torch.optim.Optimizer, batch: RowsT, losses_of: Callable[[RowsT], dict[str, Tensor]]
    ) -> None:
        """Zero gradients, run backward for each part of the batch, check and clip gradients, and step.

        Args:
            optimizer: optimizer of the step.
            batch: rows of this process.
            losses_of: function of a part that returns its losses, means over its rows. Random numbers inside are equal
                for all parts, so those of single rows must be in the batch.

        Raises:
            AMDRestoreError: a gradient is not finite (the step is not taken).
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
        norm = torch.nn.utils.clip_grad_norm_(parameters, self.grad_clip or float("inf"))
        if not torch.isfinite(norm):
            values = ", ".join(f"{name} {float(loss.detach()):.3g}" for name, loss in losses.items())
            raise AMDRestoreError(f"gradient is not finite ({values}); lower the learning rate or set amp: none")
        optimizer.step()

    def get_optimizer(self, optim_type: str, params: Any, lr: float, **options: Any) -> torch.optim.Optimizer:
        """Build an optimizer of ``torch.optim``, fused on GPUs if possible."""
        if self.device.type == "cuda" and optim_type in FUSED and not options.get("foreach"):
            options.setdefault("fused", True)
        optimizer: torch.optim.Optimizer = getattr(torch.optim, optim_type)(params, lr=lr, **options)
        return optimizer

    # ---- learning rates and the end of a run -----------------------------------------------------------------

    def setup_schedulers(self) -> None:
        """Build BasicSR's schedulers; none with a time limit, where the rate follows the clock."""
        if self.time_limit.seconds is None:
            super().setup_schedulers()  # type: ignore[misc]  # BaseModel's
            return
        for group in (group for optimizer in self.optimizers for group in optimizer.param_groups):
            group.setdefault("initial_lr", group["lr"])

    def update_learning_rate(self, current_iter: int, warmup_iter: int = -1) -> None:
        """Update by BasicSR's schedulers or :meth:`TimeLimit.rate`, with linear warm-up until ``warmup_iter``."""
        if self.time_limit.seconds is None:
            super().update_learning_rate(current_iter, warmup_iter)  # type: ignore[misc]  # BaseModel's
            if current_iter == warmup_iter:
                self.end_warmup()
            return
        factor = self.time_limit.rate(current_iter)
        if current_iter < warmup_iter:
            factor *= current_iter / warmup_iter
        for group in (group for optimizer in self.optimizers for group in optimizer.param_groups):
            group["lr"] = group["initial_lr"] * factor

    def end_warmup(self) -> None:
        """Set the rates of multi-step schedules, which otherwise go on from the last one of the warm-up."""
        for scheduler in self.schedulers:
            if hasattr(scheduler, "milestones"):
                passed = sum(count for step, count in scheduler.milestones.items() if step <= scheduler.last_epoch)
                for group in scheduler.optimizer.param_groups:
                    group["lr"] = group["initial_lr"] * scheduler.gamma**passed

    def save_if_told_to_stop(self) -> None:
        """Save early if the run was requested to stop, because a long validation may be killed."""
        is_due = self.stop_request.number and self.saved_iter != self.current_iter
        if is_due and self.is_train and process_count() == 1:  # Several processes would have to save together.
            self.save(0, self.current_iter)

    # ---- logs -------------------------------------------------------------------------------------------------

    def log(self, **values: Tensor) -> None:
        """Add tensors to the log's window; they are read (a device sync) only at logging iterations.

        A scalar must be a mean over the rows of this process, or equal in all processes.
        """
        self.diagnostics.add(1.0 / process_count(), **values)

    def log_of_batch(self, measure: Callable[..., dict[str, Tensor]], *tensors: Tensor) -> None:
        """Log values that are not means over samples: ``measure`` of tensors (B, ...) of all processes."""
        self.log(**measure(*(gathered(tensor) for tensor in tensors)))

    def get_current_log(self) -> dict[str, float]:
        """Return the means since the last call and write them to ``diagnostics.jsonl``."""
        means = self.diagnostics.read()
        if process_rank() == 0:
            values = {name if "/" in name else f"loss/{name}": value for name, value in means.items()}
            self.diagnostics_file.append(iter=self.current_iter, seconds=self.diagnostics.seconds, values=values)
        return means
