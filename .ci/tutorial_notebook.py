"""Write docs/tutorial.ipynb: run docs/tutorial.md as a notebook, with its outputs, in an empty folder.

`pip install . nbclient ipykernel && python .ci/tutorial_notebook.py` takes a few minutes.
"""

from __future__ import annotations

import json
import os
import re
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

DOCS = Path(__file__).resolve().parents[1] / "docs"
PAGE, NOTEBOOK = DOCS / "tutorial.md", DOCS / "tutorial.ipynb"
_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_FILE = re.compile(r"# (\S+\.\w+)\n")
_SAVED = re.compile(r"savefig\(\"(\S+\.png)\"")


def cells(page: str) -> Iterator[tuple[str, str]]:
    """Yield the kind, markdown or code, and the text of a notebook's cells for a page."""
    at = 0
    for block in _BLOCK.finditer(page):
        language, code = block.groups()
        if "git clone" in code:  # how to install what the notebook runs in
            continue
        yield "markdown", page[at : block.start()].strip()
        at = block.end()
        if file := _FILE.match(code):
            yield "code", f"%%writefile {file[1]}\n{code.rstrip()}"
        elif language == "python":
            yield "code", code.rstrip()
            if saved := _SAVED.search(code):
                yield "code", f'from IPython.display import Image\n\nImage("{saved[1]}")'
        else:
            yield from (("code", _command(line)) for line in code.splitlines())
    yield "markdown", page[at:].strip()


def _command(line: str) -> str:
    return f"%{line}" if line.startswith("pip ") else f"%%bash\n{line}"  # a pipe gets no progress bars


def notebook(page: str) -> dict[str, Any]:
    """Return the notebook of a page, not yet run."""
    made = []
    for number, (kind, text) in enumerate(cells(page)):
        cell = {"cell_type": kind, "id": f"cell-{number}", "metadata": {}, "source": text}
        made.append(cell | ({"execution_count": None, "outputs": []} if kind == "code" else {}))
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    return {"nbformat": 4, "nbformat_minor": 5, "metadata": {"kernelspec": kernel}, "cells": made}


def executed(made: dict[str, Any]) -> dict[str, Any]:
    """Run a notebook; an installer's output, which is the machine's, is left out. Raises where a cell does."""
    import nbformat
    from nbclient import NotebookClient

    os.environ["COLUMNS"] = "140"
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    with tempfile.TemporaryDirectory() as folder:
        client = NotebookClient(
            nbformat.from_dict(made), timeout=1800, resources={"metadata": {"path": folder}}
        )
        done: dict[str, Any] = client.execute()
    for cell in done["cells"]:
        cell["metadata"] = {}
        if cell["cell_type"] == "code":
            assert cell["execution_count"]
            if cell["source"].startswith("%pip"):
                cell["outputs"] = []
            cell["outputs"] = _joined(cell["outputs"], f"{folder}/")
    return done


def _joined(outputs: list[dict[str, Any]], folder: str) -> list[dict[str, Any]]:
    """Join what a stream says in pieces, without colours and without the folder's path."""
    joined: list[dict[str, Any]] = []
    for said in outputs:
        if "text" not in said:
            joined.append(said)
        elif joined and joined[-1].get("name") == said["name"]:
            joined[-1]["text"] += said["text"]
        else:
            joined.append(dict(said))
    for said in joined:
        if "text" in said:
            said["text"] = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", said["text"]).replace(folder, "")
    return joined


if __name__ == "__main__":
    page = PAGE.read_text(encoding="utf-8")
    text = json.dumps(executed(notebook(page)), indent=1, ensure_ascii=False)
    NOTEBOOK.write_text(f"{text}\n", encoding="utf-8")
    print(f"{NOTEBOOK}: {len(text) // 1000} kB")
