"""Every error of the project's own is a user's mistake by its base class."""

from __future__ import annotations

import importlib
import inspect
import pkgutil

import pytest

from vhsbench import generators, harness, results, verifiers
from vhsbench.harness.common.errors import VhsbenchError
from vhsbench.harness.loggers.protocol import LoggerError

OPTIONAL = {
    "vhsbench.harness.sweep.ray_engine",
    "vhsbench.harness.geneval.mmdet_backend",
    "vhsbench.harness.loggers.mlflow_runs",
    "vhsbench.harness.loggers.wandb_runs",
}  # their packages are extras


def _modules():
    for package in (generators, harness, results, verifiers):
        for found in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            yield found.name


@pytest.mark.parametrize("name", sorted(_modules()))
def test_errors_have_the_one_base(name):
    try:
        module = importlib.import_module(name)
    except (ImportError, LoggerError):
        assert name in OPTIONAL
        return
    own = [
        kind
        for _, kind in inspect.getmembers(module, inspect.isclass)
        if kind.__module__ == name and issubclass(kind, Exception) and not kind.__name__.startswith("_")
    ]
    assert [kind.__name__ for kind in own if not issubclass(kind, VhsbenchError)] == []
