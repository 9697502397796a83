"""Training models, registered in BasicSR's MODEL_REGISTRY."""
