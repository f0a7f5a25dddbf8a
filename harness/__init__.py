"""The bench: configuration, sweep, measuring, verdicts, statistics and reports."""
