"""Bounds of users' numbers, beyond what any real run reaches, so that a slip is reported at once."""

from __future__ import annotations

MOST_CANDIDATES = 4096  # of a prompt, or of a batch
MOST = 1_000_000  # prompts, images, repeats, redraws, steps
LONGEST_PROMPT = 10_000  # characters: beyond any text encoder
MOST_THREADS = 1024  # or processes
LARGEST_SEED = 2**63 - 1  # what a table's column and torch hold
LARGEST_TRAINING_SEED = 2**32 - 1  # what every library takes
LONGEST_S = 7 * 86400  # of one measurement
