"""Shared fixtures. Everything runs offline, from what the package bundles."""

from __future__ import annotations

import os
from collections.abc import Iterator

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the command line does: read when torch loads
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import pytest
import torch

import generators
from generators.sana import SanaSprint

torch.set_num_threads(2)


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    """A run, also one in a module's fixture, sets its process's threads, on which floats' last bits depend."""
    yield
    torch.set_num_threads(2)


@pytest.fixture(scope="session")
def nano() -> SanaSprint:
    return generators.create("nano")
