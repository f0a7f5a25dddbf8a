"""`import vhsbench`: its stable names, and that importing it costs nothing."""

from __future__ import annotations

import ast
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import vhsbench


@pytest.mark.parametrize("name", vhsbench.__all__)
def test_a_stable_name_is_there_and_documented(name):
    value = getattr(vhsbench, name)
    assert inspect.getdoc(value)
    module, _, attribute = vhsbench._PLACES[name].partition(":")
    assert value is getattr(sys.modules[f"vhsbench.{module}"], attribute)


def test_type_checkers_and_users_see_the_same_names():
    tree = ast.parse(Path(vhsbench.__file__).read_text(encoding="utf-8"))
    (block,) = [
        node for node in tree.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
    ]
    typed = {
        alias.asname or alias.name: f"{node.module}:{alias.name}".removeprefix("vhsbench.")
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert typed == vhsbench._PLACES
    assert sorted(typed) == sorted(vhsbench.__all__)


def test_importing_it_loads_nothing_of_its_dependencies():
    code = "import sys, vhsbench; dir(vhsbench); print(*sorted(m.partition('.')[0] for m in sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert not {"torch", "numpy", "pandas", "pydantic", "typer"} & set(loaded.split())
    assert "vhsbench" in loaded


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="'vhsbench' has no attribute 'rnu'"):
        vhsbench.rnu  # noqa: B018


def test_verifiers_are_compared_by_name():
    pool = Path(__file__).parents[1] / "results/pools/nano"
    same = vhsbench.compare("vhs", "vhs", pool)
    assert same.verdict.outcome == "pass"
    assert {d.difference for d in same.comparison.differences} == {0.0}


def test_best_of_n_by_the_stable_names():
    generator = vhsbench.create_generator("nano")
    verifier = vhsbench.create_verifier("vhs", generator="nano")
    best = vhsbench.best_of_n(generator, verifier, "a photo of a red circle", [0, 1, 2])
    assert best.index == int(best.scores.argmax())
    assert best.scores.shape == (3,)
    assert best.image.size == (64, 64)
