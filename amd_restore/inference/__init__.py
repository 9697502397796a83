"""Parts of ``RestorationPipeline``: tiles, memory, arrays, the arguments of a call, fidelity and orientations."""
