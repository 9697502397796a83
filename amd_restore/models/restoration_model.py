"""Common base of teacher and student training, on top of BasicSR's SRModel."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from amd_restore.archs.base import checked_network
from amd_restore.data.degradations import build_degradation
from amd_restore.diffusion import Denoiser, cell_sized, field_noise, restore_latent
from amd_restore.models.diagnostics import FILE_NAME, Diagnostics, DiagnosticsFile
from amd_restore.models.distributed import process_count, process_rank, replicate
from amd_restore.models.ending import TimeLimit
from amd_restore.models.latent import TrainedEncoder, build_space, with_channels
from amd_restore.models.persistence import RunFolders, load_weights, lost_options
from amd_restore.models.saving import Saving
from amd_restore.models.training_step import TrainingStep
from amd_restore.models.validation import cost_name, validate
from amd_restore.options import RunOptions
from amd_restore.precision import has_bfloat16
from amd_restore.registry import import_basicsr
from amd_restore.weights import load_checkpoint

import_basicsr()

from basicsr.archs import build_network  # noqa: E402
from basicsr.models.sr_model import SRModel  # noqa: E402
from basicsr.utils import get_root_logger  # noqa: E402


def channels_last(net: nn.Module) -> nn.Module:
    """Convert the convolutions of ``net`` to channels-last layout, which is faster on CPUs with equal results."""
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            module.weight.data = module.weight.data.contiguous(memory_format=torch.channels_last)
    return net


class RestorationModel(Saving, TrainingStep, SRModel):
    """Base of :class:`~amd_restore.models.teacher_model.TeacherModel` and of
    :class:`~amd_restore.models.student_model.StudentModel`.

    ``net_g`` is the trained network (EMA, saving, validation come from BasicSR). ``self.run`` has the checked, typed
    options; ``self.opt`` is the dictionary for BasicSR's methods.
    """

    gt: Tensor
    lq: Tensor

    def __init__(self, opt: dict[str, Any]) -> None:
        run = RunOptions.from_dict(opt, opt.get("opt_path", "options"))
        device = torch.device("cuda" if run.num_gpu else "cpu")
        self.codec, self.process, self.prediction_type = build_space(run, device)
        self.run = with_channels(run, self.codec)
        opt["network_g"] = dict(self.run.network_g)  # BasicSR builds network_g from its own dictionary.
        self.folders = RunFolders.of(opt["path"])
        self.encoder = TrainedEncoder(self.codec) if run.codec.train_encoder else None
        if run.num_threads and device.type == "cpu":
            torch.set_num_threads(run.num_threads)
        train = run.train
        self.time_limit = TimeLimit(train.time_limit if train else None, (train and train.total_iter) or 1)
        self.accumulate = train.accumulate if train else 1
        self.grad_clip = (train and train.grad_clip) or 0.0
        self.trained_nets = []
        self.diagnostics = Diagnostics(device)
        self.diagnostics_file = DiagnosticsFile(self.folders.log / FILE_NAME)
        self.current_iter = 0
        self.validated: dict[str, int] = {}  # iteration of the latest validation, by data set
        self.use_bfloat16 = run.amp == "bf16" and has_bfloat16(device)
        if run.amp == "bf16" and not self.use_bfloat16:
            get_root_logger().info("amp: bf16 is off, this processor would only emulate it")
        super().__init__(opt)
        if self.is_train and not opt.get("resume_iter") and process_rank() == 0:
            self.diagnostics_file.rewind(0)
        self.degradation = build_degradation(run.degradation, run.scale).to(self.device)
        self.generator = torch.Generator(self.device)
        self.host_generator = self.generator if self.device.type == "cpu" else torch.Generator()

    # ---- set-up -----------------------------------------------------------------------------------------------

    def init_training_settings(self) -> None:
        """Set up EMA, optimizers and schedulers; unlike SRModel no pixel loss is required."""
        assert self.run.train is not None
        self.net_g.train()
        self.ema_decay = self.run.train.ema_decay
        if self.ema_decay > 0 and process_rank() == 0:
            self.net_g_ema = channels_last(build_network(self.run.network_g)).to(self.device).eval()
            path = self.run.path.pretrain_network_g
            if path is None:
                self.model_ema(0)
            else:
                self.load_network(self.net_g_ema, path, True, "params_ema")
        self.setup_optimizers()
        self.setup_schedulers()

    def print_network(self, net: nn.Module) -> None:
        """Log one line instead of BasicSR's list of layers."""
        count = sum(p.numel() for p in net.parameters())
        get_root_logger().info(f"Network: {type(self.get_bare_model(net)).__name__}, {count:,d} parameters")

    def load_network(
        self, net: nn.Module, load_path: str, strict: bool = True, param_key: str = "params", grow: bool = False
    ) -> None:
        """Load weights, see :func:`~amd_restore.models.persistence.load_weights`."""
        grow = grow or bool(self.run.train and self.run.train.grow_networks)
        path = load_weights(self.get_bare_model(net), load_path, param_key, strict, grow)
        if self.encoder and net is getattr(self, "net_g", None) and path.suffix == ".safetensors":
            self.encoder.load_exported(load_checkpoint(path)[1])
        if net is getattr(self, "net_g", None) and path.suffix == ".safetensors" and not grow:
            for line in lost_options(path, type(self.get_bare_model(net)), self.run.network_g):
                get_root_logger().warning(line)
        get_root_logger().info(f"Loaded {path}")

    def model_to_device(self, net: nn.Module) -> nn.Module:
        """Move ``net`` to the device in channels-last layout; with several processes replicate it."""
        net = channels_last(checked_network(net)).to(self.device)
        if process_count() == 1:
            return net
        net = replicate(net, self.device)
        self.trained_nets.append(net)
        return net

    def denoiser(self, net: nn.Module) -> Denoiser:
        """Return ``net`` wrapped as an estimator of x0."""
        return Denoiser(net, self.process, self.prediction_type)

    # ---- data -------------------------------------------------------------------------------------------------

    def feed_data(self, data: Mapping[str, Any]) -> None:
        """Set the batch; a missing ``lq`` is made by the degradation, seeded by the next iteration."""
        if hasattr(self, "gt"):
            del self.gt
        if "gt" in data:
            self.gt = data["gt"].to(self.device, non_blocking=True)
        if "lq" in data:
            self.lq = data["lq"].to(self.device, non_blocking=True)
        else:
            self.degradation.reseed(self.step_seed(self.current_iter + 1), process_rank() * len(self.gt))
            self.lq = self.degradation(self.gt)

    def autocast(self) -> torch.autocast:
        """Return a context of bf16 autocast if ``amp: bf16`` and the hardware supports it, else a no-op."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.use_bfloat16)

    def optimize_parameters(self, current_iter: int) -> None:
        """Run :meth:`train_step`, seeded and timed."""
        self.current_iter = current_iter
        with self.diagnostics.step():
            self.seed_step(current_iter)
            self.train_step(current_iter)

    def train_step(self, current_iter: int) -> None:
        """Run one training iteration."""
        raise NotImplementedError

    @torch.no_grad()
    def model_ema(self, decay: float = 0.999) -> None:
        """Update BasicSR's EMA in two fused calls; for replicated networks the first process keeps it."""
        if not hasattr(self, "net_g_ema"):
            return
        source: list[Tensor] = list(self.get_bare_model(self.net_g).parameters())
        target: list[Tensor] = list(self.net_g_ema.parameters())
        torch._foreach_mul_(target, decay)
        torch._foreach_add_(target, source, alpha=1.0 - decay)

    # ---- test and validation ----------------------------------------------------------------------------------

    @torch.no_grad()
    def restore(self, lq: Tensor, num_steps: int, seed: int = 0, guidance_scale: float = 1.0) -> Tensor:
        """Restore images with the EMA network if there is one; returns (B, 3, sH, sW), clamped to [0, 1]."""
        net: Any = self.get_bare_model(getattr(self, "net_g_ema", self.net_g))
        was_training = net.training
        net.eval()
        rows, columns = lq.shape[2:]
        lq = cell_sized(lq, self.codec.lq_patch)
        n, channels, height, width = self.codec.latent_shape(lq)

        def draw(step: int) -> Tensor:
            return field_noise(range(seed, seed + n), channels, 0, 0, height, width, step).to(self.device)

        averaged = self.encoder.averaged() if self.encoder else contextlib.nullcontext()
        with self.autocast(), averaged:
            recipe = self.recipe(num_steps, guidance_scale)
            x0 = restore_latent(self.denoiser(net), self.codec, lq, draw, recipe)
        net.train(was_training)
        scale = self.codec.scale
        return self.codec.decode(x0, lq)[:, :, : rows * scale, : columns * scale].clamp(0, 1)

    def dist_validation(self, dataloader: Any, current_iter: int, tb_logger: Any, save_img: bool) -> None:
        """Run the validation in the first process."""
        if process_rank() == 0:
            self.nondist_validation(dataloader, current_iter, tb_logger, save_img)

    def nondist_validation(self, dataloader: Any, current_iter: int, tb_logger: Any, save_img: bool) -> None:
        """Measure metrics at every number of steps in ``val.num_steps``, log best values and save panels."""
        name = dataloader.dataset.opt.get("name", "val")
        if self.is_train and self.validated.get(name) == self.current_iter:
            return  # BasicSR validates again at the end of a run.
        self.validated[name] = self.current_iter
        with self.time_limit.measure(cost_name(dataloader)):
            self.metric_results = validate(self, dataloader, current_iter, tb_logger, save_img)
            if self.is_train and process_rank() == 0:
                results = {name: self.metric_results}
                seconds = self.diagnostics.seconds
                self.diagnostics_file.append(iter=self.current_iter, seconds=seconds, validation=results)
                self.after_validation(dataloader)

    def after_validation(self, dataloader: Any) -> None:
        """Add to a validation during training; nothing by default."""
