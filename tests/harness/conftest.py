from __future__ import annotations

import pytest


class Clock:
    """Time that passes only by `sleep`."""

    def __init__(self):
        self.now = 0.0

    def perf_counter(self):
        return self.now

    def sleep(self, seconds):
        self.now += seconds


@pytest.fixture
def fake_time() -> Clock:
    """Stands for the module `time`, for tests that must not depend on how busy the machine is."""
    return Clock()
