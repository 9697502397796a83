"""What the scripts of ``datasets/`` share."""
