"""docs/tutorial.md works as it stands: its blocks are run in their order, in an empty folder; its notebook was."""

from __future__ import annotations

import json
import re
import runpy
import shlex
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest

from vhsbench import verifiers
from vhsbench.harness.cli import app

PAGE = Path(__file__).parents[1] / "docs" / "tutorial.md"
_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_FILE = re.compile(r"# (\S+\.\w+)\n")


@pytest.fixture
def reader(tmp_path, monkeypatch) -> Iterator[Reader]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(verifiers.REGISTRY, "_targets", None)
    yield Reader(monkeypatch)
    sys.modules.pop("my_verifier", None)


class Reader:
    """Does what a page's blocks say: a file that one names is written, Python run, and each line of a shell done."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.patch = monkeypatch
        self.names: dict[str, object] = {"__name__": "tutorial"}
        self.done: list[str] = []

    def follow(self, language: str, code: str) -> None:
        if file := _FILE.match(code):
            Path(file[1]).write_text(code, encoding="utf-8")
        elif language == "python":
            exec(code, self.names)
        else:
            for line in code.splitlines():
                self.shell(shlex.split(line, comments=True))

    def shell(self, words: list[str]) -> None:
        self.done.append(" ".join(words[:2]))
        if words[0] == "vhsbench":
            assert not app(words[1:], standalone_mode=False)  # its exit code
        elif words[:3] == ["pip", "install", "-e"]:
            self.install(Path(words[3]))

    def install(self, folder: Path) -> None:
        """Do what matters of `pip install -e`, which would ask an index for setuptools."""
        project = tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        about = folder / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
        about.mkdir()
        head = f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n"
        (about / "METADATA").write_text(head, encoding="utf-8")
        lines = [
            f"[{group}]\n" + "".join(f"{name} = {target}\n" for name, target in entries.items())
            for group, entries in project["entry-points"].items()
        ]
        (about / "entry_points.txt").write_text("\n".join(lines), encoding="utf-8")
        self.patch.syspath_prepend(str(folder.resolve()))


@pytest.mark.slow
def test_the_tutorial_runs_from_its_first_block_to_its_last(reader, undrawn, capfd):
    with undrawn():
        for language, code in _BLOCK.findall(PAGE.read_text(encoding="utf-8")):
            reader.follow(language, code)
    printed = capfd.readouterr().out
    assert reader.done == [
        "git clone", "pip install", "vhsbench init", "pip install", "vhsbench check", "vhsbench run",
    ]  # fmt: skip
    verdict, budgets = reader.names["verdict"], reader.names["budgets"]
    assert [*verdict["budget"]] == [60, 150]
    assert all(sentence in printed for sentence in verdict["sentence"])
    assert set(budgets["verifier"]) == {"none", "vhs", "my-verifier"}
    scores = pd.read_parquet("runs/tutorial/scores.parquet")
    assert scores.groupby("verifier").size().to_dict() == {"my-verifier": 72, "vhs": 72}
    assert set(reader.names["overall"]["verifier"]) == {"vhs", "my-verifier", "oracle", "random"}
    assert Path("accuracy.png").read_bytes().startswith(b"\x89PNG")


def test_its_verifier_looks_for_the_colours_of_the_prompt():
    from PIL import Image

    (source,) = [
        code for _, code in _BLOCK.findall(PAGE.read_text(encoding="utf-8")) if "class MyVerifier" in code
    ]
    names: dict[str, object] = {"__name__": "my_verifier"}
    exec(source, names)
    pictures = [Image.new("RGB", (4, 4), color) for color in ("red", "blue", "red")]
    said = names["create"]().score(["a red ring", "a red ring", "a ring"], pictures)
    assert said.score.tolist() == [0, -2, 0]


NOTEBOOK = PAGE.with_suffix(".ipynb")
SCRIPT = runpy.run_path(str(PAGE.parents[1] / ".ci" / "tutorial_notebook.py"))


def test_the_notebook_is_of_the_page():
    """If not: `pip install . nbclient ipykernel && python .ci/tutorial_notebook.py`."""
    kept = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    wanted = list(SCRIPT["cells"](PAGE.read_text(encoding="utf-8")))
    assert [(cell["cell_type"], cell["source"]) for cell in kept] == wanted
    code = [text for kind, text in wanted if kind == "code"]
    assert code[:2] == ["%%bash\nvhsbench init verifier my-verifier", "%pip install -e my-verifier"]
    assert code[2].startswith(
        "%%writefile my-verifier/my_verifier.py\n# my-verifier/my_verifier.py\nimport numpy"
    )


def test_the_notebook_has_the_outputs_of_a_real_run():
    assert NOTEBOOK.stat().st_size < 1_000_000
    cells = [c for c in json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"] if c["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in cells] == [*range(1, len(cells) + 1)]
    said = {cell["source"]: cell["outputs"] for cell in cells}
    assert {output["output_type"] for outputs in said.values() for output in outputs} == {
        "stream",
        "execute_result",
    }
    (run,) = (
        "".join(o["text"] for o in outputs) for cell, outputs in said.items() if "\nvhsbench run" in cell
    )
    assert "candidates of nano: 2 of 2" in run
    assert "runs/tutorial/report.html" in run
    (verdict,) = ([o["text"] for o in outputs] for cell, outputs in said.items() if "verdict.csv" in cell)
    assert [line.partition(":")[0] for line in verdict[0].splitlines()] == ["60 ms", "150 ms"]
    (picture,) = (o["data"] for outputs in said.values() for o in outputs if "data" in o)
    assert picture["image/png"].startswith("iVBORw0KGgo")


def test_what_a_machine_says_of_itself_is_not_kept():
    pieces = [
        {"output_type": "stream", "name": "stdout", "text": "\x1b[1mto /tmp/x"},
        {"output_type": "stream", "name": "stdout", "text": "/runs\x1b[0m\n"},
        {"output_type": "execute_result", "data": {}},
        {"output_type": "stream", "name": "stderr", "text": "end"},
    ]
    assert SCRIPT["_joined"](pieces, "/tmp/x/") == [
        {"output_type": "stream", "name": "stdout", "text": "to runs\n"}, *pieces[2:],
    ]  # fmt: skip
