"""Expectations, intervals and paired comparisons: pure functions of the measured tables."""
