"""Exit codes of the command line, the same in every command."""

from __future__ import annotations

DONE = 0
FAILURES = 1  # done, but with failures, or a gate that failed
MISTAKE = 2  # usage, or a mistake of the user's, told in one sentence
INCONCLUSIVE = 3  # a gate that cannot tell, or times that --require-reliable does not trust
INTERRUPTED = 128  # plus the signal's number: 130 for Ctrl-C, 143 for SIGTERM, 129 for SIGHUP
