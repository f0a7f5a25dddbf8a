"""Readers of files that others may have made, each as a function of the file's bytes.

A reader gives values or raises one of the project's own sentences; anything else is a finding.
"""

from __future__ import annotations

import hashlib
import io
import json
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from harness.common.images import DamagedImage, read_image
from harness.config import ConfigError, load_config, parse
from harness.geneval.detector import UnknownClass
from harness.geneval.folders import FolderError, read_metadata, read_results
from harness.geneval.metadata import MetadataError
from harness.geneval.prompts import PromptError, read_classes, sample
from harness.geneval.scores import official_summary, scores
from harness.journal import NAME
from harness.regress.pool import MANIFEST, PoolError, load_pool
from harness.report.captions import FILE, read_captions
from harness.scoring import ScoringError, read_prompts
from harness.status import status
from harness.store import SCHEMAS, StoreError, load_run
from harness.sweep import load_prompts
from harness.training.data_config import CaptionsConfig
from harness.training.sources import SourceError, caption_samples


@contextmanager
def _file(data: bytes, name: str) -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / name
        file.write_bytes(data)
        yield file


def config(data: bytes) -> None:
    with suppress(ConfigError, UnicodeDecodeError):
        parse(data.decode(), "x.yaml")


def prompts(data: bytes) -> None:
    with _file(data, "prompts.jsonl") as file, suppress(ConfigError, MetadataError, UnknownClass):
        load_prompts(parse(f"generators: [{{name: nano}}]\nprompts: {{source: '{file}'}}\n", "x"))


def config_file(data: bytes) -> None:
    with _file(data, "config.yaml") as file, suppress(ConfigError):
        load_config(file)


def texts(data: bytes) -> None:
    with _file(data, "prompts.txt") as file, suppress(ScoringError):
        assert all(isinstance(prompt, str) for prompt in read_prompts(file))


def classes(data: bytes) -> None:
    with _file(data, "classes.txt") as file, suppress(PromptError):
        sample(read_classes(file), 0, 1)


def captions(data: bytes) -> None:
    with _file(data, "captions.json") as file, suppress(SourceError):
        caption_samples(CaptionsConfig(source=file))


def results(data: bytes) -> None:
    with _file(data, "results.jsonl") as file, suppress(FolderError):
        if rows := read_results(file).rows:
            scores(rows, replicates=2)
            official_summary(rows)


def metadata(data: bytes) -> None:
    with _file(data, "metadata.jsonl") as file, suppress(FolderError, MetadataError):
        read_metadata(file)


def image(data: bytes) -> None:
    with _file(data, "0000.png") as file, suppress(DamagedImage):
        read_image(file)


def _run(changed: str, data: bytes) -> None:
    files = {"run.json": b'{"status": "complete", "config": {}}', "prompts.jsonl": b""}
    for name, schema in SCHEMAS.items():
        sink = pa.BufferOutputStream()
        pq.write_table(schema.empty_table(), sink)
        files[f"{name}.parquet"] = sink.getvalue().to_pybytes()
    with tempfile.TemporaryDirectory() as folder:
        for name, content in (files | {changed: data}).items():
            (Path(folder) / name).write_bytes(content)
        for read in (load_run, status):
            with suppress(StoreError):
                read(Path(folder))


def run_json(data: bytes) -> None:
    _run("run.json", data)


def run_prompts(data: bytes) -> None:
    _run("prompts.jsonl", data)


def run_progress(data: bytes) -> None:
    _run(NAME, data)


def run_captions(data: bytes) -> None:
    with _file(data, FILE) as file, suppress(StoreError):
        read_captions(file.parent)


def run_table(data: bytes) -> None:
    _run("candidates.parquet", data)


PROMPT = (
    b'{"tag": "colors", "include": [{"class": "star", "count": 1, "color": "red"}], "prompt": "a red star"}\n'
)


def pool_files() -> dict[str, bytes]:
    """The files of a pool of one candidate."""
    row = {"generator": "g", "steps": 1, "prompt_id": 0, "seed": 0, "index": 0, "tag": "colors",
           "correct": True, "reason": ""}  # fmt: skip
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pandas(pd.DataFrame([row]), SCHEMAS["candidates"]), sink)
    return {"prompts.jsonl": PROMPT, "candidates.parquet": sink.getvalue()}


def _pool(files: dict[str, bytes], manifest: bytes | None = None) -> None:
    listed = {n: {"sha256": hashlib.sha256(d).hexdigest(), "size": len(d)} for n, d in files.items()}
    said = {
        "generator": "g", "options": {}, "source": "", "steps": 1, "detector": {}, "seeds": [0], "size": 1,
        "batch": 1, "blocks": [], "keep": ["latents"], "dtype": "float32", "files": listed,
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        for name, data in files.items():
            (Path(folder) / name).parent.mkdir(exist_ok=True)
            (Path(folder) / name).write_bytes(data)
        (Path(folder) / MANIFEST).write_bytes(manifest if manifest is not None else json.dumps(said).encode())
        with suppress(PoolError, MetadataError):
            pool = load_pool(Path(folder))
            pool.texts(0, len(pool.candidates))
            if "latents" in pool.manifest.keep:
                list(pool.batches("latents", None))


def pool_manifest(data: bytes) -> None:
    _pool(pool_files(), data)


def pool_prompts(data: bytes) -> None:
    _pool(pool_files() | {"prompts.jsonl": data})


def pool_table(data: bytes) -> None:
    _pool(pool_files() | {"candidates.parquet": data})


def pool_features(data: bytes) -> None:
    _pool(pool_files() | {"latents/000000.safetensors": data})


READERS: dict[str, Callable[[bytes], None]] = {
    read.__name__: read
    for read in (config, config_file, prompts, texts, classes, captions, results, metadata, image, run_json, run_prompts, run_progress, run_captions, run_table,
                 pool_manifest, pool_prompts, pool_table, pool_features)
}  # fmt: skip
