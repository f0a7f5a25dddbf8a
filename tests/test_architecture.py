"""The arrows between rooms, as pyproject.toml's import contracts say them: downwards alone, and in no circle."""

from __future__ import annotations

import ast
import importlib.util
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("generators", "harness", "results", "verifiers")


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """The package as it is installed, by links: in a checkout its folders lie beside it."""
    package = tmp_path_factory.mktemp("tree") / "vhsbench"
    package.mkdir()
    for file in (ROOT / "vhsbench").glob("*.py"):
        (package / file.name).write_bytes(file.read_bytes())
    for name in PACKAGES:
        for file in (ROOT / name).rglob("*.py"):
            copy = package / file.relative_to(ROOT)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(file.read_bytes())
    return package.parent


def lint(tree):
    command = [sys.executable, "-c", "from importlinter.cli import lint_imports_command as c; c()"]
    options = [str(ROOT / "pyproject.toml"), "--no-cache"]
    return subprocess.run(
        [*command, *options],
        cwd=tree, env=os.environ | {"PYTHONPATH": str(tree)}, capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_rooms_import_downwards_and_in_no_circle(tree):
    done = lint(tree)
    assert "Contracts: 2 kept, 0 broken." in done.stdout, done.stdout + done.stderr
    assert done.returncode == 0


@pytest.mark.parametrize(
    ("file", "line", "contract"),
    [
        ("harness/stats/expected.py", "from vhsbench.harness.report import tables", "a room imports rooms below it alone"),
        ("generators/checks.py", "from vhsbench.harness.store import tables", "a room imports rooms below it alone"),
        ("harness/store/folder.py", "from vhsbench.harness.store import tables", "no modules import each other in a circle"),
    ],
)  # fmt: skip
def test_an_arrow_upwards_is_seen(tree, file, line, contract):
    module = tree / "vhsbench" / file
    before = module.read_text(encoding="utf-8")
    module.write_text(f"{before}\n{line}\n", encoding="utf-8")
    try:
        done = lint(tree)
    finally:
        module.write_text(before, encoding="utf-8")
    assert done.returncode == 1
    assert f"{contract} BROKEN" in done.stdout


def test_every_room_has_its_layer():
    layers = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"][
        "contracts"
    ][0]["layers"]
    named = {name.strip() for layer in layers for name in layer.split("|")}
    rooms = {f"vhsbench.harness.{f.parent.name}" for f in (ROOT / "harness").glob("*/__init__.py")}
    modules = {f"vhsbench.harness.{f.stem}" for f in (ROOT / "harness").glob("*.py")} - {
        "vhsbench.harness.__init__"
    }
    others = {f"vhsbench.{name}" for name in PACKAGES if name != "harness"}
    assert named == rooms | modules | others


def test_every_name_that_a_script_imports_exists():
    """Scripts import some names only where they are needed, so that a name that moved is not missed at their start."""
    wanted = {
        (str(file.relative_to(ROOT)), node.module, name.name)
        for folder in ("benchmarks", ".ci")
        for file in (ROOT / folder).glob("*.py")
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("vhsbench")
        for name in node.names
    }
    assert len(wanted) > 100
    assert [row for row in sorted(wanted) if not _exists(*row[1:])] == []


def _exists(module: str, name: str) -> bool:
    found = importlib.import_module(module)
    return hasattr(found, name) or (
        hasattr(found, "__path__") and importlib.util.find_spec(f"{module}.{name}") is not None
    )


def test_every_package_of_the_tree_is_in_the_wheel():
    setuptools = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]
    found = {
        "vhsbench." + ".".join(f.parent.relative_to(ROOT).parts)
        for name in PACKAGES
        for f in (ROOT / name).rglob("__init__.py")
    }
    assert set(setuptools["packages"]) == found | {"vhsbench"}


def test_every_data_file_of_the_tree_is_in_the_wheel():
    """But for `results/`, which keeps runs and pools too: of it, what the report reads."""
    setuptools = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]
    shipped = {
        file
        for package, patterns in setuptools["package-data"].items()
        for pattern in patterns
        for file in (ROOT / package.removeprefix("vhsbench.").replace(".", "/")).glob(pattern)
        if package != "vhsbench"
    }
    found = {
        file
        for name in ("generators", "harness", "verifiers", "results/published")
        for file in (ROOT / name).rglob("*")
        if file.is_file() and file.suffix not in (".py", ".pyc")
    }
    assert sorted(str(f.relative_to(ROOT)) for f in found - shipped) == []


def prints(source):
    """The lines on which a module calls `print`."""
    calls = (node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call))
    return [call.lineno for call in calls if isinstance(call.func, ast.Name) and call.func.id == "print"]


def test_only_commands_print(tree):
    """Modules log, or report progress to who calls them."""
    assert prints("x = 1\nif x:\n    print(x)\n") == [3]
    found = {
        f.relative_to(tree / "vhsbench").as_posix(): prints(f.read_text(encoding="utf-8"))
        for f in tree.rglob("*.py")
    }
    assert found["harness/cli.py"]
    assert [
        f"{name}, line {line}"
        for name, lines in found.items()
        for line in lines
        if name not in ("harness/cli.py", "harness/common/terminal.py")  # whose print_json commands use
        and not name.startswith("harness/commands/")
    ] == []
