"""Training around BasicSR's pipeline: its commands, exact resuming, and the loss of one of several processes."""
