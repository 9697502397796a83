"""``train.py --check``: run every part of a training once and keep nothing."""

from __future__ import annotations

import contextlib
import logging
import tempfile
from collections.abc import Callable, Iterator
from typing import Any

from basicsr.utils import get_root_logger
from basicsr.utils.options import dict2str

from amd_restore.errors import AMDRestoreError
from amd_restore.models.ending import try_the_end


def check_run(
    opt: dict[str, Any],
    resume_state: Callable[[dict[str, Any]], dict[str, Any] | None],
    loaders: Callable[[dict[str, Any], Any], tuple[Any, ...]],
    build_model: Callable[[dict[str, Any]], Any],
) -> None:
    """Make data, networks and optimizers of a run, take one iteration, save, and measure a first validation image.

    All files go into a folder that is deleted.

    Args:
        opt: options of :func:`~amd_restore.training.pipeline.prepare_options`.
        resume_state: function that finds the training state to resume from.
        loaders: function that makes the loaders.
        build_model: function that makes the model.

    Raises:
        AMDRestoreError: a part fails; one line.
    """
    state = resume_state(opt)
    with tempfile.TemporaryDirectory() as folder:
        opt["path"].update(
            dict.fromkeys(("experiments_root", "models", "training_states", "log", "visualization"), folder)
        )
        logger = get_root_logger()
        if logger.level == logging.NOTSET:  # BasicSR sets the first process's level only together with a log file.
            logger.setLevel(logging.INFO)
        logger.info(dict2str(opt))
        train_loader, _, val_loaders, *_ = loaders(opt, logger)
        with _one_line("the model"):
            model = build_model(opt)
            if state is not None:
                model.resume_training(state)
        every = model.run.distill.fake_updates_per_student
        with _one_line("the first iteration"):
            model.feed_data(next(iter(train_loader)))
            # This is an iteration that updates the student.
            model.optimize_parameters((model.current_iter // every + 1) * every)
        with _one_line("saving, or the first image of a validation"):
            try_the_end(model, val_loaders)
        logger.info(f"Checked {opt['opt_path']}: options, data, networks, one iteration, saving and validation work")


@contextlib.contextmanager
def _one_line(what: str) -> Iterator[None]:
    try:
        yield
    except AMDRestoreError:
        raise
    except Exception as error:  # Networks, datasets and plugins of others can raise anything.
        reason = " ".join(str(error).split())[:200]
        raise AMDRestoreError(f"{what} fails: {type(error).__name__}: {reason}; --debug shows where") from error
