"""Files from others are data: whatever they hold, a reader gives values or one of the project's sentences."""

from __future__ import annotations

import ast
import json
import tempfile
from pathlib import Path

import pytest
import safetensors.torch
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import harness
from harness.config import ConfigError, parse
from harness.journal import NAME
from harness.status import status
from harness.storage import Folder
from harness.store import SCHEMAS, StoreError, load_run
from harness.sweep import load_prompts
from verifiers import create

MANY = settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
FEW = settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck))

keys = st.sampled_from(
    ["generators", "name", "options", "verifiers", "prompts", "source", "seeds", "pool", "timing", "tag",
     "prompt", "include", "status", "config", "phases", "incidents", "x"]
)  # fmt: skip
leaves = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
trees = st.recursive(
    leaves | st.sampled_from(["nano", "vhs", "complete", "colors"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=4),
    max_leaves=12,
)
junk = st.binary(max_size=200) | st.text(max_size=80).map(str.encode)


def said(error: Exception) -> str:
    assert str(error).strip()
    return str(error)


@MANY
@given(st.text(max_size=120) | trees.map(json.dumps) | st.text("[]{}:-&*!|>'\"%@ab\n\t ", max_size=60))
def test_configurations(text):
    try:
        parse(text, "x.yaml")
    except ConfigError as error:
        said(error)


@MANY
@given(junk | st.lists(trees.map(json.dumps), max_size=3).map("\n".join).map(str.encode))
def test_prompt_files(data):
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "prompts.jsonl"
        file.write_bytes(data)
        try:
            load_prompts(parse(f"generators: [{{name: nano}}]\nprompts: {{source: '{file}'}}\n", "x"))
        except ConfigError as error:
            said(error)


@FEW
@given(
    trees.map(json.dumps).map(str.encode) | junk, junk, st.sampled_from(["run.json", "prompts.jsonl", NAME])
)
def test_run_directories(data, table, which):
    with tempfile.TemporaryDirectory() as name:
        folder = Folder(name)
        folder.write("run.json", json.dumps({"status": "complete", "config": {}}).encode())
        for known in SCHEMAS:
            folder.write(f"{known}.parquet", table)
        folder.write("prompts.jsonl", b"")
        folder.write(which, data)
        for read in (load_run, status):
            try:
                read(Path(name))
            except StoreError as error:
                said(error)


@pytest.fixture(scope="module")
def checkpoint():
    source = Path(harness.__file__).parents[1] / "verifiers/nano/weights/vhs"
    return {f.name: f.read_bytes() for f in source.iterdir() if f.is_file()}


@settings(FEW, max_examples=12)
@given(st.data())
def test_checkpoints(checkpoint, data):
    name = data.draw(st.sampled_from(sorted(checkpoint)))
    whole = checkpoint[name]
    kind = data.draw(st.sampled_from(["cut", "junk", "tree", "flip"]))
    if kind == "cut":
        changed = whole[: data.draw(st.integers(0, len(whole) - 1))]
    elif kind == "junk":
        changed = data.draw(junk)
    elif kind == "tree":
        changed = json.dumps(data.draw(trees)).encode()
    else:
        at = data.draw(st.integers(0, min(len(whole), 2000) - 1))
        changed = whole[:at] + bytes([whole[at] ^ data.draw(st.integers(1, 255))]) + whole[at + 1 :]
    with tempfile.TemporaryDirectory() as folder:
        for file, content in {**checkpoint, name: changed}.items():
            (Path(folder) / file).write_bytes(content)
        try:
            create("vhs", checkpoint=folder)
        except (ValueError, OSError) as error:
            if type(error).__module__.split(".")[0] not in ("verifiers", "generators"):
                raise
            said(error)


def test_a_pickle_is_not_opened(tmp_path, checkpoint):
    for file, content in checkpoint.items():
        (tmp_path / file).write_bytes(content)
    weights = next(tmp_path.glob("model*.safetensors"))
    tensors = safetensors.torch.load_file(weights)
    torch.save(tensors, weights.with_suffix(".bin"))
    weights.unlink()
    with pytest.raises(ValueError, match=str(tmp_path)):
        create("vhs", checkpoint=str(tmp_path))


def test_no_module_reads_or_writes_pickles_of_files():
    """pickle may pass objects between this program's own processes, never to or from a file."""
    root = Path(harness.__file__).parents[1]
    for package in ("generators", "verifiers", "harness", "results"):
        for file in (root / package).rglob("*.py"):
            for node in ast.walk(ast.parse(file.read_text())):
                if isinstance(node, ast.Attribute):
                    spelled = ast.unparse(node)
                    assert spelled not in ("pickle.load", "pickle.dump", "joblib.load", "yaml.load"), file
                    assert not spelled.endswith((".to_pickle", ".read_pickle")), file
                if isinstance(node, ast.keyword) and node.arg in ("allow_pickle", "trust_remote_code"):
                    assert isinstance(node.value, ast.Constant), file
                    assert node.value.value is False, file
                if isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.load":
                    options = {k.arg: ast.unparse(k.value) for k in node.keywords}
                    assert options.get("weights_only") == "True", file
