"""The public inference object: small images in, large images out.

pipeline = RestorationPipeline.from_pretrained()          # the weights in the package
sr = pipeline(lq, num_steps=1, seed=0)                    # (B, 3, H, W) in [0, 1] -> (B, 3, 4H, 4W) in [0, 1]
large = pipeline.restore_image(small)                     # numpy arrays, gray, alpha and 16 bits included
pipeline = AutomaticPipeline.from_pretrained()            # takes for each image the model that suits it
"""

from amd_restore.pipeline.automatic import (
    AUTO,
    AUTO_MODELS,
    AutomaticPipeline,
    files_of,
    load_pipeline,
    suited,
)
from amd_restore.pipeline.restoration import RestorationPipeline

__all__ = [
    "AUTO",
    "AUTO_MODELS",
    "AutomaticPipeline",
    "RestorationPipeline",
    "files_of",
    "load_pipeline",
    "suited",
]
