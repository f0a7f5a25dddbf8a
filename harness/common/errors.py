"""The one base class of users' mistakes."""

from __future__ import annotations


class VhsbenchError(ValueError):
    """A mistake that the user can correct; the message is one sentence that says what, where and how.

    The command line prints it without a traceback. Any other exception is our bug and keeps its traceback.
    """
