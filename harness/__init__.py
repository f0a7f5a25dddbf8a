"""The bench: configuration, sweep, measuring, verdicts, statistics and reports."""

__version__ = "0.1.0"
