"""The one base class of users' mistakes."""

from __future__ import annotations


class VhsbenchError(ValueError):
    """Something the user can put right; the message is one sentence that says what, where and how.

    The command line prints it without a traceback. Any other exception is a bug of ours and keeps its traceback.
    """
