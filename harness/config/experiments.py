"""The configurations that ship with the package: experiments and trainings, by name. Light to import."""

from __future__ import annotations

from importlib.resources import files
from importlib.resources.abc import Traversable


def bundled(trainings: bool = False) -> list[str]:
    """List the names of the bundled configurations: of runs, or of trainings (train-...)."""
    names = [f.name.removesuffix(".yaml") for f in _folder().iterdir()]
    return sorted(n for n in names if n.startswith("train-") == trainings)


def bundled_text(name: str) -> str:
    """Return the YAML of a bundled configuration. Raises FileNotFoundError."""
    return _folder().joinpath(f"{name}.yaml").read_text(encoding="utf-8")


def _folder() -> Traversable:
    return files("vhsbench.harness.config").joinpath("bundled")
