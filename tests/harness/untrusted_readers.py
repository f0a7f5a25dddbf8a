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
import torch
from PIL import Image
from safetensors.torch import save

from vhsbench.generators.loading import _files as pipeline_files
from vhsbench.generators.lora import _read as read_lora
from vhsbench.harness import suites
from vhsbench.harness.common.files import ReadError
from vhsbench.harness.common.images import FORMATS, DamagedImage, encode_image, read_image
from vhsbench.harness.common.models import model_files
from vhsbench.harness.common.questions import QuestionError
from vhsbench.harness.common.text import read_json_object
from vhsbench.harness.config.run import ConfigError, load_config, parse
from vhsbench.harness.cost.plan import from_run
from vhsbench.harness.geneval.detector import UnknownClass
from vhsbench.harness.geneval.folders import FolderError, read_metadata, read_results
from vhsbench.harness.geneval.metadata import MetadataError
from vhsbench.harness.geneval.prompts import PromptError, read_classes, sample
from vhsbench.harness.geneval.scores import official_summary, scores
from vhsbench.harness.geneval.shapes import ShapeDetector
from vhsbench.harness.inference.scoring import ScoringError, load_inputs, read_prompts
from vhsbench.harness.regress import baselines
from vhsbench.harness.regress.baselines import BaselineError
from vhsbench.harness.regress.pool import MANIFEST, PoolError, load_pool
from vhsbench.harness.report.captions_csv import FILE, read_captions
from vhsbench.harness.report.people_answers import read_answers
from vhsbench.harness.report.people_sample import FILE as SAMPLE
from vhsbench.harness.report.people_sample import FOLDER, Drawn, LabelError, read_sample
from vhsbench.harness.store import parquet
from vhsbench.harness.store.tables import SCHEMAS, StoreError, load_run
from vhsbench.harness.sweep.progress import NAME
from vhsbench.harness.sweep.run import load_prompts
from vhsbench.harness.sweep.status import status
from vhsbench.harness.training.config import load_train_config
from vhsbench.harness.training.data_config import CaptionsConfig
from vhsbench.harness.training.sources import TrainingSourceError, caption_samples
from vhsbench.harness.training.sources import _read_prompts as read_training_prompts
from vhsbench.verifiers.checkpoint import CheckpointError, kind_of, read_card
from vhsbench.verifiers.features import read_statistics
from vhsbench.verifiers.training.shards import ShardDataset, ShardError

SUITE_FILES = {"geneval2": "a.jsonl", "dpg-bench": "a.csv", "partiprompts": "a.tsv"}


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


def suite(data: bytes) -> None:
    for name, file in SUITE_FILES.items():
        with _file(data, file) as path, suppress(ReadError, QuestionError):
            assert all(prompt["tag"] for _, prompt in suites.create(name, str(path)).prompts())


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
    with _file(data, "captions.json") as file, suppress(TrainingSourceError):
        caption_samples(CaptionsConfig(source=file))


def results(data: bytes) -> None:
    with _file(data, "results.jsonl") as file, suppress(FolderError):
        if rows := read_results(file).rows:
            scores(rows)
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


def people_sample(data: bytes) -> None:
    with _file(data, "sample.jsonl") as file, suppress(StoreError):
        (file.parent / FOLDER).mkdir()
        file.rename(file.parent / SAMPLE)
        if (drawn := read_sample(file.parent)) is not None:
            assert len(drawn.strata) == len(drawn.rows)


def people_answers(data: bytes) -> None:
    row = dict.fromkeys(("generator", "tag"), "g") | dict.fromkeys(("disputed", "correct"), True)
    rows = pd.DataFrame([row | dict.fromkeys(("steps", "prompt_id", "seed", "index"), 1)])
    drawn = Drawn(4, "", rows)
    with _file(data.replace(b"SAMPLE", drawn.name.encode()), "answers.jsonl") as file, suppress(LabelError):
        read_answers(file, drawn)


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


def tables(data: bytes) -> None:
    for table in ("scores", "incidents", "costs"):
        with suppress(StoreError):
            parquet.decode(data, "x.parquet", table)
    with suppress(ValueError):
        parquet.about(data)


def features(data: bytes) -> None:
    with _file(data, "x.safetensors") as file, suppress(ScoringError):
        (file.parent / "prompts.txt").write_text("a\n", encoding="utf-8")
        load_inputs(file.parent / "prompts.txt", None, file)


def statistics(data: bytes) -> None:
    with _file(data, "normalization.safetensors") as file, suppress(CheckpointError):
        read_statistics(file.parent, 2, 2)


def pickled_statistics(data: bytes) -> None:
    with _file(data, "mean.pt") as file, suppress(CheckpointError):
        read_statistics((file, file), 2, 2)


def lora(data: bytes) -> None:
    with _file(data, "lora.safetensors") as file, suppress(ReadError):
        read_lora(file)


def official_card(data: bytes) -> None:
    with _file(data, "config.json") as file, suppress(CheckpointError):
        kind_of(file.parent)
        read_card(file.parent)


def verifier_card(data: bytes) -> None:
    with _file(data, "verifier.json") as file, suppress(CheckpointError):
        (file.parent / "config.json").write_bytes(b"{}")
        kind_of(file.parent)
        read_card(file.parent)


def weight_index(data: bytes) -> None:
    with _file(data, "model.safetensors.index.json") as file, suppress(ReadError):
        model_files(file.parent)


def tokenizer_config(data: bytes) -> None:
    with _file(data, "tokenizer_config.json") as file, suppress(ReadError):
        model_files(file.parent)


def pipeline_index(data: bytes) -> None:
    with _file(data, "model_index.json") as file, suppress(ReadError):
        pipeline_files(file.parent, read_json_object(file))


def training_config(data: bytes) -> None:
    with _file(data, "train.yaml") as file, suppress(ConfigError):
        load_train_config(file)


def training_prompts(data: bytes) -> None:
    with _file(data, "prompts") as file, suppress(TrainingSourceError, MetadataError, UnknownClass):
        read_training_prompts(file, ShapeDetector())


SHARD = save({"features": torch.zeros(1, 2)})
ROW = b'{"prompt_id": 0, "prompt": "a", "tag": "", "seed": 0, "index": 0, "caption": "a", "correct": true}\n'


def _shards(name: str, data: bytes) -> None:
    card = {
        "stage": "labels", "generator": "g", "revision": "", "steps": 1, "reads": "hidden", "block": 1,
        "feature_shape": [2], "dtype": "float32", "prompts_sha256": "",
        "shards": [{"file": "shard-00000.safetensors", "rows": 1, "sha256": ""}],
    }  # fmt: skip
    files = {
        "manifest.json": json.dumps(card).encode(),
        "shard-00000.safetensors": SHARD,
        "shard-00000.jsonl": ROW,
    }
    with _file(data, name) as file, suppress(ShardError):
        for other, content in files.items():
            if other != name:
                (file.parent / other).write_bytes(content)
        shards = ShardDataset(file.parent, verify=False)
        shards[0]
        shards.correct  # noqa: B018


def shard_manifest(data: bytes) -> None:
    _shards("manifest.json", data)


def shard_rows(data: bytes) -> None:
    _shards("shard-00000.jsonl", data)


def shard_features(data: bytes) -> None:
    _shards("shard-00000.safetensors", data)


def baseline(data: bytes) -> None:
    with _file(data, "x") as file, suppress(BaselineError, PoolError):
        (file.parent / "name").mkdir()
        file.rename(file.parent / "name" / baselines.MANIFEST)
        baselines.read("name", file.parent)
        baselines.pool_of("name", file.parent)
        baselines.listing(file.parent)


def baselines_log(data: bytes) -> None:
    with _file(data, baselines.LOG) as file, suppress(BaselineError):
        baselines.history(file.parent)


def costs(data: bytes) -> None:
    _run("costs.parquet", data)
    _run_of_costs(data)


def _run_of_costs(data: bytes) -> None:
    sink = pa.BufferOutputStream()
    pq.write_table(SCHEMAS["costs"].empty_table(), sink)
    with _file(data, "run.json") as file, suppress(StoreError):
        (file.parent / "costs.parquet").write_bytes(sink.getvalue().to_pybytes())
        from_run(file.parent)


READERS: dict[str, Callable[[bytes], None]] = {
    read.__name__: read
    for read in (config, config_file, suite, prompts, texts, classes, captions, results, metadata, image, run_json, run_prompts, run_progress, run_captions, people_sample, people_answers, run_table,
                 pool_manifest, pool_prompts, pool_table, pool_features, tables, features, statistics, pickled_statistics, lora, official_card, verifier_card, weight_index, tokenizer_config, pipeline_index, training_config, training_prompts, shard_manifest, shard_rows, shard_features, baseline, baselines_log, costs)
}  # fmt: skip


def _table(name: str) -> bytes:
    sink = pa.BufferOutputStream()
    row = {f.name: ["a"] if pa.types.is_string(f.type) else [1] for f in SCHEMAS[name]}
    pq.write_table(pa.table(row).cast(SCHEMAS[name]), sink)
    return sink.getvalue().to_pybytes()


def _bytes(write: Callable[[io.BytesIO], None]) -> bytes:
    stream = io.BytesIO()
    write(stream)
    return stream.getvalue()


def seeds() -> dict[str, list[bytes]]:
    """Files that the readers take, to begin with, for a fuzzer that changes them."""
    tensors = save({"features": torch.zeros(1, 1, 2)})
    run = (
        b'{"status": "complete", "config": {"tolerance": 0.1, "generators": [{"name": "nano"}]}, "cells": []}'
    )
    index = b'{"metadata": {}, "weight_map": {"a": "model-1.safetensors"}}'
    card = b'{"kind": "vhs", "generator": "nano", "block": 5, "feature_width": 2, "visual_tokens": 2}'
    official = b'{"mm_vision_tower": "hidden", "mm_hidden_size": 2, "mm_vision_select_feature": "block_7"}'
    result = {"filename": "a.png", "tag": "colors", "prompt": "a", "correct": True, "reason": "",
              "metadata": PROMPT.decode(), "details": "{}"}  # fmt: skip
    files = pool_files()
    return {
        "config": [b"generators: [{name: nano, options: {steps: 1}}]\nverifiers: [{name: vhs}]\npool: 4\nseeds: [0]\n"],
        "config_file": [b"generators:\n- name: nano\nprompts: &a {source: nano, limit: 2}\nname: x\n"],
        "suite": [
            b'{"prompt": "a", "atom_count": 1, "vqa_list": [["b?", "Yes"]]}\n', b"Prompt\tCategory\na\tb\n",
            b"item_id,text,proposition_id,dependency,question_natural_language\na,b,1,0,c?\na,b,2,1,d?\n",
        ],
        "prompts": [PROMPT], "texts": [PROMPT, b"a\nb\n"], "classes": [b"bench\ndog\n"],
        "captions": [b'["a b", {"id": 1, "image": "a.png", "conversations": [{"from": "gpt", "value": "a"}]}]'],
        "results": [json.dumps(result).encode()], "metadata": [PROMPT],
        "image": [encode_image(Image.new("RGB", (4, 4)), kind) for kind in FORMATS],
        "run_json": [run], "run_prompts": [PROMPT], "run_table": [_table("candidates")],
        "run_captions": [b"generator,steps,prompt_id,seed,index,caption\nnano,1,0,0,0,a star\n"],
        "people_sample": [
            b'{"best_of": 4, "candidates": "0"}\n{"generator": "g", "steps": 1, "prompt_id": 0, "seed": 0, "index": 0, '
            b'"disputed": true, "tag": "colors", "correct": true}\n'
        ],
        "people_answers": [b'{"sample": "SAMPLE", "place": 0, "labeller": "anna", "answer": "yes", "at": ""}\n'],
        "run_progress": [b'{"shards": {"done": 1, "of": 2}, "phases": {}, "started": 0, "updated": 1}'],
        "pool_prompts": [PROMPT], "pool_table": [files["candidates.parquet"]], "pool_features": [tensors],
        "tables": [_table(name) for name in SCHEMAS], "features": [tensors],
        "statistics": [save({"mean": torch.zeros(2), "variance": torch.ones(2)})],
        "pickled_statistics": [_bytes(lambda s: torch.save(torch.zeros(2), s))],
        "lora": [save({"transformer.a.lora_A.weight": torch.zeros(1, 2)}, {"format": "pt"})],
        "official_card": [official], "verifier_card": [card], "weight_index": [index],
        "tokenizer_config": [b'{"fast_tokenizer_files": ["tokenizer.json"], "tokenizer_class": "Qwen2Tokenizer"}'],
        "pipeline_index": [b'{"_class_name": "No such pipeline", "vae": ["diffusers", "AutoencoderDC"]}'],
        "training_config": [b"verifier: {kind: vhs, block: 5}\ngenerator: {name: nano}\n"],
        "training_prompts": [PROMPT, b'["a", "b"]', b"a\nb\n"],
        "shard_rows": [ROW], "shard_features": [SHARD], "baselines_log": [b'{"name": "a"}\n'],
        "baseline": [b'{"files": {"a": "0"}, "content": "content", "pool": {"path": "p", "sha256": "0"}}'],
        "costs": [_table("costs"), run],
    }  # fmt: skip
