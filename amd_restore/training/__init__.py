"""Training around BasicSR's pipeline: commands, exact resuming, and handling of lost processes."""
