"""What a stranger may feed this tool, on the command line: one sentence each, in bounded time and memory."""

from __future__ import annotations

import json
import os
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file, save_file

from vhsbench import harness
from vhsbench.harness.regress.pool import CANDIDATES, MANIFEST
from vhsbench.harness.store.tables import SCHEMAS
from vhsbench.verifiers.nano import WEIGHTS

ROOT = Path(harness.__file__).parents[1]
CHECKOUT = Path(__file__).parents[2]  # the pools are not part of the package
Make = Callable[[Path], Any]
DEEP = "[" * 1_000_000
LONG = "a " * 100_000
BOMB = "a0: &a0 [1, 1]\n" + "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 11))
RUN = ["run", "x.yaml", "--dry-run"]
SCORE = ["score", "vhs", "--prompts", "prompts.txt", "--features"]
CHECKPOINT = [*SCORE, "features.safetensors", "--checkpoint", "vhs"]
IMAGES = ["score", "mllm-clip", "--prompts", "prompts.txt", "--images", "images"]
CONFIG = "generators: [{name: nano}]\nverifiers: [{name: vhs}]\nprompts: {source: nano, limit: 2}\npool: 2\n"


def text(name: str, content: str | bytes) -> Make:
    data = content if isinstance(content, bytes) else content.encode()
    return lambda at: (at / name).write_bytes(data)


def pipe(name: str) -> Make:
    return lambda at: os.mkfifo(at / name)


def zeros(name: str) -> Make:
    return lambda at: (at / name).symlink_to("/dev/zero")


def prompts(content: str | bytes) -> Make:
    """A run whose prompts come from a file."""

    def make(at: Path) -> None:
        (at / "x.yaml").write_text("generators: [{name: nano}]\nprompts: {source: p.jsonl}\n")
        text("p.jsonl", content)(at)

    return make


def features(content: bytes | Make) -> Make:
    def make(at: Path) -> None:
        (at / "prompts.txt").write_text("a\n")
        content(at) if callable(content) else (at / "features.safetensors").write_bytes(content)

    return make


def header(entry: dict[str, Any], body: bytes = b"") -> bytes:
    said = json.dumps({"features": entry}).encode()
    return struct.pack("<Q", len(said)) + said + body


def checkpoint(change: Make) -> Make:
    """Nano's VHS, changed."""

    def make(at: Path) -> None:
        shutil.copytree(WEIGHTS / "vhs", at / "vhs")
        (at / "prompts.txt").write_text("a red star\n")
        save_file({"features": torch.zeros(1, 64, 128)}, at / "features.safetensors")
        change(at / "vhs")

    return make


def configured(**changes: object) -> Make:
    def change(at: Path) -> None:
        file = at / "config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | changes))

    return checkpoint(change)


def weights(change: Callable[[torch.Tensor], torch.Tensor]) -> Make:
    def make(at: Path) -> None:
        tensors = load_file(at / "model.safetensors")
        key = "model.norm.weight"
        save_file(tensors | {key: change(tensors[key])}, at / "model.safetensors")

    return checkpoint(make)


def instead(name: str, make: Make) -> Make:
    """Another file of that name."""

    def change(at: Path) -> None:
        (at / name).unlink()
        make(at)

    return change


def run(**files: bytes | Make) -> Make:
    """A finished run of no rows, but for these files, `__` standing for the point."""

    def make(at: Path) -> None:
        there = at / "r"
        there.mkdir()
        (there / "run.json").write_text('{"status": "complete", "config": {}}')
        (there / "prompts.jsonl").write_text("")
        for name, schema in SCHEMAS.items():
            pq.write_table(schema.empty_table(), there / f"{name}.parquet")
        for name, content in files.items():
            file = there / name.replace("__", ".")
            file.unlink(missing_ok=True)
            content(there) if callable(content) else file.write_bytes(content)

    return make


def rows(count: int) -> bytes:
    """A table of candidates of so many million rows, in some kilobytes."""
    schema, million = SCHEMAS["candidates"], 1_000_000
    constant = {f.name: pa.array(["a"] if pa.types.is_string(f.type) else [0]).cast(f.type) for f in schema}
    part = pa.table({name: pa.repeat(one[0], million) for name, one in constant.items()}, schema)
    sink = pa.BufferOutputStream()
    with pq.ParquetWriter(sink, schema) as writer:
        for _ in range(count):
            writer.write_table(part)
    return sink.getvalue().to_pybytes()


def pool(change: Make) -> Make:
    def make(at: Path) -> None:
        shutil.copytree(CHECKOUT / "results/pools/nano", at / "pool")
        change(at / "pool")

    return make


def images(name: str, content: bytes) -> Make:
    def make(at: Path) -> None:
        (at / "images").mkdir()
        (at / "prompts.txt").write_text("a\n")
        (at / "images" / name).write_bytes(content)

    return make


PNG = bytes.fromhex("89504e470d0a1a0a0000000d49484452")
REGRESS = ["regress", "vhs", "vhs", "--pool", "pool"]
RESULT = {"filename": "a.png", "tag": "colors", "prompt": "a", "correct": True, "reason": "", "metadata": "{}",
          "details": "{}"}  # fmt: skip
CASES: dict[str, tuple[Make, list[str], str]] = {
    "yaml bomb": (text("x.yaml", BOMB), RUN, "more than 100,000 keys and values, with its aliases written out"),
    "yaml deep": (text("x.yaml", "a: " + "[" * 50_000), RUN, "x.yaml: nested more than 100 deep"),
    "yaml of itself": (text("x.yaml", "a: &a [*a]"), RUN, "an alias of what it stands in"),
    "yaml large": (text("x.yaml", "#" * (1 << 20)), RUN, "has 1,048,576 bytes; at most 262,144 are read"),
    "yaml that is Python": (text("x.yaml", "a: !!python/object/apply:os.system [true]"), RUN, "not YAML"),
    "yaml with NUL": (text("x.yaml", "a: \0"), RUN, "not YAML"),
    "yaml in no UTF-8": (text("x.yaml", b"a: \xff"), RUN, "x.yaml, line 1: not text in UTF-8 (byte 0xff)"),
    "yaml as a pipe": (pipe("x.yaml"), RUN, "x.yaml is a pipe, not a regular file"),
    "yaml as a device": (zeros("x.yaml"), RUN, "x.yaml is a device, not a regular file"),
    "a pool of a billion": (text("x.yaml", CONFIG + "seeds: [0]\n".replace("pool: 2", "") + "batch_size: 1000000000\n"), RUN, "key 'batch_size'"),
    "seeds without end": (text("x.yaml", CONFIG + "seeds: [99999999999999999999]\n"), RUN, "key 'seeds.0'"),
    "a generator twice": (text("x.yaml", "generators: [{name: nano}, {name: nano, options: {steps: 1}}]\n"), RUN, "nano"),
    "an unknown device": (text("x.yaml", CONFIG + "device: toaster\n"), RUN, "unknown device 'toaster'"),
    "memory as --out": (text("x.yaml", CONFIG), ["run", "x.yaml", "--out", "memory://x"], "would be lost with it"),
    "a chain as --out": (text("x.yaml", CONFIG), ["run", "x.yaml", "--out", "zip://a::b"], "chain of file systems"),
    "a training's bomb": (text("x.yaml", BOMB), ["train", "verifier", "x.yaml"], "more than 100,000 keys"),
    "prompts deep": (prompts(DEEP), RUN, "p.jsonl, line 1: nested more than 100 deep"),
    "prompts long": (prompts(json.dumps({"prompt": LONG, "tag": "colors", "include": [{"class": "star", "count": 1}]})), RUN, "at most 10,000"),
    "prompts that are no text": (prompts(b"\x80\x81"), RUN, "not text in UTF-8 (byte 0x80)"),
    "prompts of no metadata": (prompts('{"prompt": "a", "tag": "colors"}'), RUN, "include"),
    "prompts with an endless number": (prompts('{"prompt": "a", "x": 1e999}'), RUN, "the number 1e999 is too large"),
    "half a character": (prompts('{"prompt": "\\ud800"}'), RUN, "half of a surrogate pair"),
    "texts long": (lambda at: (features(b"")(at), text("prompts.txt", LONG)(at)), [*SCORE, "features.safetensors"], "200,000 characters; at most 10,000"),
    "texts as a device": (zeros("prompts.txt"), [*SCORE, "x"], "prompts.txt is a device"),
    "a long prompt to generate": (text("x", ""), ["generate", "nano", LONG], "at most 10,000"),
    "a long prompt to count": (text("x", ""), ["cost", "nano", "--prompt", LONG], "at most 10,000"),
    "features as a pipe": (features(pipe("f")), [*SCORE, "f"], "f is a pipe, not a regular file"),
    "features as a device": (features(zeros("f")), [*SCORE, "f"], "f is a device, not a regular file"),
    "features with an endless list": (features(struct.pack("<Q", 1 << 62) + b"{}"), [*SCORE, "features.safetensors"], "its list of tensors would have 4,611,686,018,427,387,904 bytes"),
    "features of many dimensions": (features(header({"dtype": "F32", "shape": [1] * 99_999, "data_offsets": [0, 4]}, b"1234")), [*SCORE, "features.safetensors"], "99,999 dimensions; at most 8"),
    "features of an endless dimension": (features(header({"dtype": "F32", "shape": [0, 1 << 63], "data_offsets": [0, 0]})), [*SCORE, "features.safetensors"], "at most 1,099,511,627,776 are read"),
    "features that are text": (features(b"hello, world"), [*SCORE, "features.safetensors"], "is not a safetensors file"),
    "a picture without end": (images("0.png", PNG + struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0) + b"1234"), IMAGES, "0.png"),
    "a picture cut off": (images("0.png", PNG), IMAGES, "0.png cannot be read"),
    "a hundred million layers": (configured(num_hidden_layers=10**8), CHECKPOINT, "'num_hidden_layers' is 100,000,000; a model has from -1 to 1,024"),
    "a billion wide": (configured(hidden_size=10**9), CHECKPOINT, "'hidden_size' is 1,000,000,000"),
    "a trillion words": (configured(vocab_size=10**12), CHECKPOINT, "'vocab_size' is 1,000,000,000,000"),
    "negative layers": (configured(num_hidden_layers=-1), CHECKPOINT, "'num_hidden_layers' is -1, not a whole number from 1"),
    "heads of text": (configured(num_attention_heads="4"), CHECKPOINT, "'num_attention_heads' is '4', not a whole number"),
    "a configuration deep": (checkpoint(text("config.json", DEEP)), CHECKPOINT, "config.json: nested more than 100 deep"),
    "a configuration as a pipe": (checkpoint(instead("config.json", pipe("config.json"))), CHECKPOINT, "config.json is a pipe"),
    "a tokenizer as a device": (checkpoint(instead("tokenizer.json", zeros("tokenizer.json"))), CHECKPOINT, "tokenizer.json is a"),
    "a template that asks twice": (checkpoint(text("chat_template.jinja", "{{ messages[0].content * 2 }}")), CHECKPOINT, "the chat has <image> 2 times, not once"),
    "weights of whole numbers": (weights(lambda t: t.long()), CHECKPOINT, "'model.norm.weight' holds I64"),
    "weights of no numbers": (weights(lambda t: t * float("nan")), CHECKPOINT, "'model.norm.weight' holds NaN or infinite numbers"),
    "weights elsewhere": (checkpoint(text("model.safetensors.index.json", '{"weight_map": {"a": "../x"}}')), CHECKPOINT, "names '../x', but only files directly in the same folder"),
    "a link out": (checkpoint(lambda at: (at / "x.json").symlink_to("/etc/hostname")), CHECKPOINT, "is a link out of its folder"),
    "run.json deep": (run(run__json=DEEP.encode()), ["report", "r"], "run.json: nested more than 100 deep"),
    "run.json as a pipe": (run(run__json=pipe("run.json")), ["report", "r"], "run.json is a pipe"),
    "a run's prompts as a device": (run(prompts__jsonl=zeros("prompts.jsonl")), ["report", "r"], "prompts.jsonl is a device"),
    "a table of 60 million rows": (run(candidates__parquet=lambda at: (at / "candidates.parquet").write_bytes(rows(60))), ["report", "r"], "says that it has 60,000,000 rows; at most 33,554,432 are read"),
    "a table as a pipe": (run(scores__parquet=pipe("scores.parquet")), ["report", "r"], "scores.parquet is a pipe"),
    "a table of nothing": (run(costs__parquet=b"PAR1"), ["report", "r"], "costs.parquet is damaged"),
    "a table of other columns": (run(scores__parquet=lambda at: pd.DataFrame({"x": [1]}).to_parquet(at / "scores.parquet")), ["report", "r"], "is no scores table of this version"),
    "costs without rows": (run(), ["plan", "--costs", "r", "--budget", "1s"], "r measured no pipeline"),
    "progress deep": (run(progress__json=DEEP.encode(), run__json=b'{"status": "running", "config": {}}'), ["status", "r"], "nested more than 100 deep"),
    "results deep": (text("x.jsonl", DEEP + "\n"), ["geneval", "summary", "x.jsonl"], "x.jsonl, line 1: nested more than 100 deep"),
    "results as a device": (zeros("x.jsonl"), ["geneval", "summary", "x.jsonl"], "x.jsonl is a device"),
    "results of other types": (text("x.jsonl", json.dumps(RESULT | {"correct": "yes"})), ["geneval", "summary", "x.jsonl"], "correct"),
    "classes as a pipe": (pipe("c"), ["geneval", "prompts", "--classes", "c"], "c is a pipe"),
    "a manifest deep": (pool(text(MANIFEST, DEEP)), REGRESS, "manifest.json: nested more than 100 deep"),
    "a manifest as a pipe": (pool(instead(MANIFEST, pipe(MANIFEST))), REGRESS, "manifest.json is a pipe"),
    "a pool's table changed": (pool(text(CANDIDATES, b"PAR1")), REGRESS, "is damaged"),
    "a baseline deep": (lambda at: ((at / "b/n").mkdir(parents=True), text("b/n/manifest.json", DEEP)(at)), ["baseline", "list", "--dir", "b"], "manifest.json: nested more than 100 deep"),
}  # fmt: skip


@pytest.fixture(scope="module")
def answers(tmp_path_factory) -> dict[str, dict[str, Any]]:
    """What became of each case, by name; those that are not there are what hung or ended the process."""
    cases = []
    for number, (name, (make, arguments, _)) in enumerate(CASES.items()):
        folder = tmp_path_factory.mktemp(f"case{number}")
        make(folder)
        cases.append([name, str(folder), arguments])
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT), "COLUMNS": "2000"}
    script = Path(__file__).with_name("attacked.py")
    with subprocess.Popen(
        [sys.executable, str(script)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        text=True, env=environment,
    ) as child:  # fmt: skip
        try:
            said, _ = child.communicate(json.dumps(cases), timeout=280)
        except subprocess.TimeoutExpired:
            child.kill()
            said, _ = child.communicate()
    return {answer["name"]: answer for answer in map(json.loads, said.splitlines())}


@pytest.mark.parametrize("name", CASES)
def test_an_attack_is_one_sentence(answers, name):
    assert name in answers, "it hung, or ended the process"
    answer = answers[name]
    assert answer["ended"] == ""
    errors = [line for line in answer["stderr"].splitlines() if line.startswith("error: ")]
    assert answer["code"] == 2, answer
    assert len(errors) == 1, answer
    assert CASES[name][2] in errors[0]
    assert "Traceback" not in answer["stderr"]
