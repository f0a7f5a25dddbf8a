"""Files from others are data: whatever they hold, a reader gives values or one of the project's sentences."""

from __future__ import annotations

import ast
import inspect
import io
import json
import runpy
import subprocess
import sys
import tempfile
from pathlib import Path

import diffusers
import pytest
import safetensors.torch
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from vhsbench import harness
from vhsbench.harness.common.errors import VhsbenchError
from vhsbench.verifiers import create

MANY = settings(max_examples=60, suppress_health_check=list(HealthCheck))
FEW = settings(max_examples=20, suppress_health_check=list(HealthCheck))

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


MODULE = runpy.run_path(str(Path(__file__).with_name("untrusted_readers.py")))
READERS, SEEDS = MODULE["READERS"], MODULE["seeds"]()
RESULT = {"filename": "a.png", "tag": "colors", "prompt": "a", "correct": True, "reason": "", "metadata": "{}",
          "details": "{}"}  # fmt: skip
LIKELY = [
    b"[" * 100_000,
    b"null\n",
    json.dumps(list(RESULT)).encode(),
    *(json.dumps({"tag": "colors", "prompt": "a", "include": part}).encode()
      for part in (["x"], [{"class": [], "count": 1}], [{"class": "x", "count": "a"}],
                   [{"class": "x", "count": 1, "position": ["left of", 7]}])),
    *(json.dumps(RESULT | {key: value}).encode() for key in RESULT for value in (5, [1], {"a": 1}, None)),
]  # fmt: skip


def said(error: Exception) -> str:
    assert str(error).strip()
    return str(error)


@pytest.mark.parametrize("reader", READERS)
def test_likely_nonsense_is_a_sentence(reader):
    for data in LIKELY:
        READERS[reader](data)


texts = st.text(max_size=120) | st.text("[]{}:-&*!|>'\"%@ab\n\t ", max_size=60)
lines = st.lists(trees.map(json.dumps), max_size=3).map("\n".join)
changed_results = st.dictionaries(st.sampled_from(list(RESULT)), trees, max_size=3).map(
    lambda changes: json.dumps(RESULT | changes)
)


@pytest.mark.parametrize("reader", SEEDS)
def test_a_sound_file_cut_anywhere_or_with_a_byte_changed_is_values_or_a_sentence(reader):
    for whole in SEEDS[reader]:
        READERS[reader](whole)
        step = max(1, len(whole) // 40)
        for at in range(0, len(whole), step):
            READERS[reader](whole[:at])
            READERS[reader](whole[:at] + bytes([whole[at] ^ 0x11]) + whole[at + 1 :])


@pytest.mark.parametrize("reader", READERS)
@settings(FEW, max_examples=15)
@given(junk | (texts | trees.map(json.dumps) | lines | changed_results).map(str.encode))
def test_anything_is_values_or_a_sentence(reader, data):
    READERS[reader](data)


@MANY
@given(texts | trees.map(json.dumps))
def test_configurations(text):
    READERS["config"](text.encode())


@pytest.mark.parametrize("kind", ["cut", "flip"])
def test_a_damaged_picture_is_a_sentence(kind):
    stream = io.BytesIO()
    Image.new("RGB", (8, 8), (1, 2, 3)).save(stream, "png")
    whole = stream.getvalue()
    for at in range(len(whole)):
        flipped = whole[:at] + bytes([whole[at] ^ 0x55]) + whole[at + 1 :]
        READERS["image"](whole[:at] if kind == "cut" else flipped)


def test_coverage_guided_fuzzing_finds_nothing(tmp_path):
    pytest.importorskip("atheris", reason="atheris is not installed (Linux wheels only)")
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    for reader, name in enumerate(READERS):
        for number, data in enumerate([*LIKELY[1::5], *SEEDS.get(name, [])]):
            (corpus / f"{reader}-{number}").write_bytes(bytes([reader]) + data)
    script = Path(__file__).with_name("fuzz.py")
    done = subprocess.run(
        [sys.executable, str(script), "all", "-runs=100000", "-max_total_time=6", "-rss_limit_mb=4096",
         str(corpus)],
        capture_output=True, text=True, timeout=120, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "cov: " in done.stderr


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
        except VhsbenchError as error:
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


# calls that load a model, tokenizer or processor, by which a folder's own code could run
LOADERS = {
    "from_pretrained",
    "from_config",
    "download",
    "load_custom_generate",
    "get_class_from_dynamic_module",
}
FUNCTIONS = {"pipeline", "transformers.pipeline"}
NO_SUCH_PARAMETER = {  # with settings of our own, and no parameter that they could reach
    "generators/random_weights.py: getattr(diffusers, class_name).from_config": (
        diffusers.ConfigMixin.from_config, diffusers.ConfigMixin.extract_init_dict,
    ),
}  # fmt: skip


def loading(tree: ast.Module) -> list[tuple[str, ast.Call | None]]:
    """What the module names that loads, with the call where it is called there."""
    calls = {id(node.func): node for node in ast.walk(tree) if isinstance(node, ast.Call)}
    return [
        (ast.unparse(node), calls.get(id(node)))
        for node in ast.walk(tree)
        if (isinstance(node, ast.Attribute) and node.attr in LOADERS)
        or (isinstance(node, (ast.Attribute, ast.Name)) and ast.unparse(node) in FUNCTIONS
            and isinstance(node.ctx, ast.Load) and id(node) in calls)
    ]  # fmt: skip


def refuses_code(call: ast.Call | None) -> bool:
    """Whether it is written out, not left to a default or to what ** holds."""
    given = {k.arg: k.value for k in call.keywords} if call else {}
    value = given.get("trust_remote_code")
    return isinstance(value, ast.Constant) and value.value is False


def test_every_loader_refuses_code_in_so_many_words():
    root = Path(__file__).parents[2]  # of the checkout: benchmarks are not in the package
    found, exempt = 0, set()
    for package in ("generators", "verifiers", "harness", "benchmarks"):
        for file in sorted((root / package).rglob("*.py")):
            tree = ast.parse(file.read_text())
            for name, call in loading(tree):
                where = f"{file.relative_to(root)}: {name}"
                if where in NO_SUCH_PARAMETER:
                    exempt.add(where)
                    continue
                found += 1
                assert refuses_code(call), f"{where} lacks trust_remote_code=False"
            imported = {
                alias.name
                for node in ast.walk(tree)
                if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("transformers")
                for alias in node.names
            }
            assert "pipeline" not in imported, file
            called = {ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
            assert not called & {"torch.hub.load", "torch.jit.load", "exec", "eval"}, file
    assert found >= 8
    assert exempt == set(NO_SUCH_PARAMETER)
    for functions in NO_SUCH_PARAMETER.values():
        assert all("trust_remote_code" not in inspect.getsource(f) for f in functions)


@pytest.mark.parametrize(
    ("source", "right"),
    [
        ("AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)", True),
        ("AutoTokenizer.from_pretrained(folder, local_files_only=True)", False),
        ("AutoTokenizer.from_pretrained(folder, trust_remote_code=True)", False),
        ("AutoTokenizer.from_pretrained(folder, trust_remote_code=None)", False),
        ("AutoTokenizer.from_pretrained(folder, trust_remote_code=trusted)", False),
        ("AutoTokenizer.from_pretrained(folder, **{'trust_remote_code': False})", False),
        ("load = getattr(diffusers, name).from_pretrained", False),
        ("transformers.pipeline('text-generation', model)", False),
        ("self.pipeline(prompt_embeds=x)", None),
    ],
)
def test_the_walk_sees_an_absent_argument(source, right):
    found = [refuses_code(call) for _, call in loading(ast.parse(source))]
    assert found == ([] if right is None else [right])


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
                    assert file.name == "torch_files.py", f"{file} reads a file of torch's by itself"
