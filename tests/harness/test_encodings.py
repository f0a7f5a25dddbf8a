"""Text has one encoding, whatever the machine's locale says."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]  # of the checkout: benchmarks are not in the package
PACKAGES = ("generators", "verifiers", "harness", "results", "benchmarks")
BINARY_OPENS = ("Image.open", "os.open")
OPTIONS = {
    "mode",
    "buffering",
    "encoding",
    "errors",
    "newline",
    "closefd",
    "opener",
    "dir",
    "prefix",
    "suffix",
    "delete",
}


def without_encoding(source: str) -> list[str]:
    """The calls that would read or write text in the locale's encoding."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func)
        keywords = {k.arg: k.value for k in node.keywords}
        method = name.rsplit(".", 1)[-1]
        if isinstance(node.func, ast.Attribute) and method in ("read_text", "write_text"):
            text = True
        elif method in ("open", "fdopen", "NamedTemporaryFile", "TemporaryFile") and name not in BINARY_OPENS:
            if not keywords.keys() <= OPTIONS:
                continue  # opens something else than a file
            at = 1 if name in ("open", "os.fdopen", "io.open") else 0
            mode = keywords.get("mode", node.args[at] if len(node.args) > at else ast.Constant("r"))
            text = not (isinstance(mode, ast.Constant) and "b" in str(mode.value))
        else:
            text = any(
                ast.unparse(keywords[k]) == "True" for k in ("text", "universal_newlines") if k in keywords
            )
        if text and "encoding" not in keywords:
            found.append(ast.unparse(node))
    return found


@pytest.mark.parametrize(
    "source",
    ["open('x')", "open('x', 'a')", "open(f, mode='w')", "file.open()", "file.open('w')", "a.b().read_text()",
     "file.write_text(x)", "os.fdopen(1, 'w')", "subprocess.run(x, text=True)", "open(x, mode)"],
)  # fmt: skip
def test_the_locales_encoding_is_found(source):
    assert without_encoding(source) == [ast.unparse(ast.parse(source))]


@pytest.mark.parametrize(
    "source",
    ["open('x', 'rb')", "file.open('ab')", "open(x, encoding='utf-8')", "a.read_text(encoding='utf-8')",
     "Image.open(x)", "os.open(x, os.O_RDONLY)", "subprocess.run(x, encoding='utf-8')", "file.read_bytes()",
     "pipeline.open(passes=True)"],
)  # fmt: skip
def test_bytes_and_named_encodings_are_not(source):
    assert without_encoding(source) == []


@pytest.mark.parametrize("package", PACKAGES)
def test_every_text_file_is_opened_with_an_encoding(package):
    files = sorted((ROOT / package).rglob("*.py"))
    assert files
    assert [(str(f), c) for f in files for c in without_encoding(f.read_text(encoding="utf-8"))] == []
