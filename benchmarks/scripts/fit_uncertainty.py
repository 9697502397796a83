"""The factor from the deviation of samples to the error of one more: ``error_per_std`` of ``amd-restore release``.

    python benchmarks/scripts/fit_uncertainty.py --model x4-classical --gt SET/GT --lq SET/LQ [--limit 20]

Prints the factor with which :func:`~amd_restore.postprocess.uncertainty.expected_error` is right on the mean of all
pixels, and the correlation of map and error. Fit on one set, judge on another (``benchmarks/scripts/fidelity.py``).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from fidelity import correlation, to_tensor, truth_of

from amd_restore.benchmark.images import TestSet
from amd_restore.benchmark.options import DatasetOptions
from amd_restore.errors import Parser, run_command, say
from amd_restore.pipeline import RestorationPipeline
from amd_restore.postprocess import SampleStatistics, expected_error


def fit(pipeline: RestorationPipeline, pictures: TestSet, samples: int) -> tuple[float, float]:
    """Factor and mean correlation per picture, of ``samples`` samples against the error of one more."""
    deviations, errors, correlations = [], [], []
    for pair in pictures:
        lq, gt = to_tensor(pair.lq), truth_of(pair)
        statistics = SampleStatistics()
        for seed in range(1, samples + 1):
            statistics.add(pipeline(lq, num_steps=1, seed=seed))
        deviation = expected_error(statistics.std, 1.0)
        error = (pipeline(lq, num_steps=1, seed=0) - gt).abs().mean(1, keepdim=True)
        correlations.append(correlation(deviation, error))
        deviations.append(float(deviation.mean()))
        errors.append(float(error.mean()))
    return float(np.mean(errors) / np.mean(deviations)), float(np.mean(correlations))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="released name or weights file")
    parser.add_argument("--gt", type=Path, required=True, help="folder of clean pictures")
    parser.add_argument("--lq", type=Path, required=True, help="folder of their low-quality sides")
    parser.add_argument("--limit", type=int, help="only the first N pictures (default: all)")
    parser.add_argument("--samples", type=int, default=8, help="samples of the map (default: %(default)s)")
    args = parser.parse_args(arguments)

    def command() -> None:
        pipeline = RestorationPipeline.from_pretrained(args.model, "cpu", "float32")
        options = DatasetOptions(gt=str(args.gt), lq=str(args.lq), limit=args.limit)
        factor, agreement = fit(pipeline, TestSet(args.gt.parent.name, options, pipeline.scale), args.samples)
        say(f"error_per_std {factor:.2f}, correlation per pixel {agreement:.2f}")

    return run_command(command, args.debug)


if __name__ == "__main__":
    sys.exit(main())
