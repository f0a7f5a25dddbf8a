"""Exit codes of the command line, the same in every command; docs/reliability.md has the table."""

from __future__ import annotations

DONE = 0
FAILURES = 1  # done with failures, or a gate that failed
MISTAKE = 2  # wrong usage, or a user's mistake, printed in one sentence
INCONCLUSIVE = 3  # a gate that cannot decide
UNRELIABLE = 4  # a gate that only its times leave undecided, or times that --require-reliable does not trust
BUG = 70  # an error that nobody foresaw, with its traceback; as EX_SOFTWARE of sysexits.h, and not Python's 1
INTERRUPTED = 128  # plus the signal's number: 130 for Ctrl-C, 143 for SIGTERM, 129 for SIGHUP
CLOSED_PIPE = 141  # who read the output stopped, as `| head -1` does: 128 + SIGPIPE, which Windows has not
