"""Datasets (BasicSR's option style) and degradations (batch in, batch out)."""
