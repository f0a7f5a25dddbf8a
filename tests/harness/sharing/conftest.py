"""A small finished run, pool and checkpoint to push, none of which takes a model to make."""

from __future__ import annotations

import runpy
import shutil
from pathlib import Path

import pytest

import vhsbench.verifiers.nano

WRITE_RUN = runpy.run_path(str(Path(__file__).parents[1] / "report" / "conftest.py"))["write_run"]
POOL = Path(__file__).parents[3] / "results" / "pools" / "nano"


@pytest.fixture(scope="session")
def finished(tmp_path_factory) -> Path:
    """A finished run with two pictures, and a report that is not pushed."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    WRITE_RUN(folder, prompts=8, pool=2, gallery_prompts=1, bootstrap=10)
    (folder / "report.html").write_text("<p>derived</p>")
    return folder


@pytest.fixture
def run(finished, tmp_path) -> Path:
    """A copy of it to damage."""
    shutil.copytree(finished, tmp_path / "run")
    return tmp_path / "run"


@pytest.fixture(scope="session")
def checkpoint() -> Path:
    return vhsbench.verifiers.nano.WEIGHTS / "vhs"


@pytest.fixture(scope="session")
def pool() -> Path:
    return POOL
