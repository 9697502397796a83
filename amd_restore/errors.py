"""Errors that are meant for a person: one line that says what, where and what to do."""

from __future__ import annotations


class AMDRestoreError(Exception):
    """A problem with the user's input; the message is shown as one line, without a traceback."""
