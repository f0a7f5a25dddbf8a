"""Shared fixtures. Everything runs offline, from what the package bundles."""

from __future__ import annotations

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the command line does: read when torch loads
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import pytest
import torch

import generators
from generators.sana import SanaSprint


@pytest.fixture(autouse=True, scope="session")
def _threads() -> None:
    torch.set_num_threads(2)


@pytest.fixture(scope="session")
def nano() -> SanaSprint:
    return generators.create("nano")
