"""vhsbench: best-of-N for text-to-image generators under tiny compute budgets.

The names of `__all__` are stable; everything else may move between versions. Importing this module loads nothing
else: each name is imported when it is first used.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vhsbench.version import __version__ as __version__

if TYPE_CHECKING:
    from vhsbench.generators import create as create_generator
    from vhsbench.harness.common.errors import VhsbenchError
    from vhsbench.harness.config.run import RunConfig, default_config, load_config
    from vhsbench.harness.cost.plan import plan
    from vhsbench.harness.geneval.detector import create as create_detector
    from vhsbench.harness.inference.best_of_n import best_of_n
    from vhsbench.harness.regress.run import compare_named as compare
    from vhsbench.harness.report.build import build as report
    from vhsbench.harness.stats.curves import accuracy_curves
    from vhsbench.harness.stats.expected import expected_accuracy
    from vhsbench.harness.store.tables import Run, load_run
    from vhsbench.harness.sweep.run import run
    from vhsbench.verifiers import create as create_verifier

__all__ = [
    "Run",
    "RunConfig",
    "VhsbenchError",
    "accuracy_curves",
    "best_of_n",
    "compare",
    "create_detector",
    "create_generator",
    "create_verifier",
    "default_config",
    "expected_accuracy",
    "load_config",
    "load_run",
    "plan",
    "report",
    "run",
]

_PLACES = {
    "Run": "harness.store.tables:Run",
    "RunConfig": "harness.config.run:RunConfig",
    "VhsbenchError": "harness.common.errors:VhsbenchError",
    "accuracy_curves": "harness.stats.curves:accuracy_curves",
    "best_of_n": "harness.inference.best_of_n:best_of_n",
    "compare": "harness.regress.run:compare_named",
    "create_detector": "harness.geneval.detector:create",
    "create_generator": "generators:create",
    "create_verifier": "verifiers:create",
    "default_config": "harness.config.run:default_config",
    "expected_accuracy": "harness.stats.expected:expected_accuracy",
    "load_config": "harness.config.run:load_config",
    "load_run": "harness.store.tables:load_run",
    "plan": "harness.cost.plan:plan",
    "report": "harness.report.build:build",
    "run": "harness.sweep.run:run",
}

# in a checkout the packages lie beside this folder; once installed they lie in it
_checkout = Path(__file__).resolve().parents[1]
if (_checkout / "pyproject.toml").is_file() and (_checkout / "harness" / "__init__.py").is_file():
    __path__.append(str(_checkout))


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    module, _, attribute = _PLACES[name].partition(":")
    value = getattr(import_module(f"{__name__}.{module}"), attribute)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
