"""The sweep: candidates, verdicts and scores, shard by shard; then costs; then the whole tables."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from generators.checks import as_device
from generators.lora import find_lora
from harness.common.files import ReadError, read_errors_as
from harness.common.text import parse_json_lines, read_text
from harness.config import ConfigError, RunConfig
from harness.cost.measure import Cell, cell_name, measure_in_fresh_process
from harness.environment import environment
from harness.geneval import prompts as geneval_prompts
from harness.geneval.detector import check_classes, vocabulary
from harness.geneval.metadata import check
from harness.journal import Journal
from harness.nano_prompts import balanced, nano_prompts
from harness.shards import (
    FAILED,
    TABLES,
    Finished,
    Shard,
    Worker,
    chosen_detector,
    shards,
    verifier_options,
)  # fmt: skip
from harness.shards import load_detector as load_detector
from harness.storage import StorageError
from harness.store import RunStore

Progress = Callable[[str, int, int], None]  # what, done, of how many
Engine = Callable[[RunConfig, Sequence[dict[str, Any]], Sequence[Shard]], Iterator[Finished]]


def local(config: RunConfig, prompts: Sequence[dict[str, Any]], todo: Sequence[Shard]) -> Iterator[Finished]:
    """The default engine: one shard after another in this process, each model loaded once."""
    worker: Worker | None = None
    loaded = -1
    for shard in todo:
        if worker is None or shard.entry != loaded:
            worker = None  # free the last models before the next are loaded
            worker, loaded = Worker(config, prompts, shard.entry), shard.entry
        yield worker.work(shard)


def run(
    config: RunConfig,
    out: Path | str,
    progress: Progress = lambda *_: None,
    engine: Engine = local,
) -> Path | str:
    """Do what is not yet done of a run in `out`, a directory or fsspec URL; returns `out`.

    Restart it to resume. Prompts that failed are in run.json's failed_prompts, and have no rows.
    """
    if config.threads:
        torch.set_num_threads(config.threads)
    for entry in config.generators:
        if entry.lora is not None:
            find_lora(entry.name, entry.lora)  # now, not when hours of other generators are done
    with RunStore(out, config.model_dump(mode="json")) as store:
        if store.info["status"] == "complete":
            return out
        if engine is local:  # others have their own
            for device in config.devices:
                as_device(device)
        prompts = load_prompts(config)
        store.write_prompts(prompts)
        store.update(
            started=store.info.get("started", _now()),
            environment=environment(config.threads or torch.get_num_threads()),
        )
        journal = Journal(store.folder, progress)
        try:
            _candidates(config, store, prompts, engine, journal)
            _costs(config, store, prompts[0]["prompt"], journal)
        except BaseException:
            with suppress(OSError, StorageError):  # a full disk must not hide why it stopped
                journal.close("stopped")
            raise
        store.consolidate()
        failed = [i for i in journal.state["incidents"] if i["kind"] == FAILED]
        store.update(
            status="complete", finished=_now(), damaged_shards_redone=store.damaged, failed_prompts=failed
        )
        journal.close("complete")
    return out


def load_prompts(config: RunConfig) -> list[dict[str, Any]]:
    """The prompts of a run, as GenEval metadata, all checked against the rules and the detector's classes.

    Raises ConfigError for a file that cannot be read, MetadataError or UnknownClass naming its line.
    """
    source, limit = config.prompts.source, config.prompts.limit
    if source == "nano":
        prompts = nano_prompts()[config.prompts.split]
        prompts = balanced(prompts, limit) if limit else prompts
        places = [f"prompt {i} of nano" for i in range(len(prompts))]
    elif source == "geneval":
        prompts = geneval_prompts.official()[:limit]
        places = [f"prompt {i} of geneval" for i in range(len(prompts))]
    else:
        found = _read_prompts(source)
        places, prompts = list(found)[:limit], list(found.values())[:limit]
    known = vocabulary(chosen_detector(config, prompts).name)
    for place, prompt in zip(places, prompts, strict=True):
        if known is not None:  # a plugin's detector is asked when it is loaded
            check_classes(known, prompt, place)
    return prompts


def _read_prompts(source: str) -> dict[str, dict[str, Any]]:
    """The metadata of a file of JSON lines, by file and line. Raises ConfigError or MetadataError."""
    try:
        text = read_text(Path(source))
    except ReadError as error:
        raise ConfigError(f"prompts.source is 'nano', 'geneval' or a file; {error}") from error
    with read_errors_as(ConfigError):
        found = {f"{source}, line {number}": prompt for number, prompt in parse_json_lines(text, source)}
    if not found:
        raise ConfigError(f"{source}: has no prompts.")
    return {place: check(prompt, place) for place, prompt in found.items()}


def _candidates(
    config: RunConfig,
    store: RunStore,
    prompts: Sequence[dict[str, Any]],
    engine: Engine,
    journal: Journal,
) -> None:
    """Have the engine do the shards that are not there, and write each as it comes."""
    every = shards(config, len(prompts))
    there = set.intersection(*(store.keys(table) for table in TABLES))
    done = {s for s in every if s.key in there and all(store.has(table, s.key) for table in TABLES)}
    todo = [s for s in every if s not in done]
    counts = {e: [sum(s.entry == e for s in group) for group in (done, every)]
              for e in range(len(config.generators))}  # fmt: skip
    for entry, (have, of) in counts.items():
        journal.update(_phase(config, entry), have, of)
    journal.note(store.read_shards("incidents", [s.key for s in every if s in done]))
    for finished in engine(config, prompts, todo):
        shard = finished.shard
        merged = {k: store.info.get(k, {}) | v for k, v in finished.about.items()}
        if any(store.info.get(k) != v for k, v in merged.items()):
            store.update(**merged)
        for name, png in finished.images.items():
            store.folder.write(name, png)
        for table in TABLES:
            store.write_shard(table, shard.key, finished.tables[table])
        counts[shard.entry][0] += 1
        journal.note(finished.tables["incidents"])
        journal.update(_phase(config, shard.entry), *counts[shard.entry])


def _phase(config: RunConfig, entry: int) -> str:
    return f"candidates of {config.generators[entry].key}"


def _costs(config: RunConfig, store: RunStore, prompt: str, journal: Journal) -> None:
    """Measure every pipeline, each in a fresh process, after all generation: alone on the machine."""
    torch.cuda.empty_cache()  # what this process keeps would be missing there
    cells = [
        (entry, verifier, variant)
        for entry in config.generators
        for verifier in (None, *config.verifiers_of(entry))
        for variant in ("", *config.timing.variants)
    ]
    for done, (entry, verifier, variant) in enumerate(cells):
        journal.update("costs", done, len(cells))
        key = "_".join(filter(None, (entry.key, verifier.name if verifier else "none", variant)))
        if store.has("costs", key):
            continue
        measured = measure_in_fresh_process(
            Cell(
                entry.name,
                {"device": config.device, **entry.build_options},
                verifier.name if verifier else None,
                verifier_options(verifier, config.device, entry.name) if verifier else {},
                prompt,
                config.timing,
                config.timing.threads or config.threads,
                variant,
            ),
            store.measuring,
        )
        name = cell_name(entry.shown, measured.rows[0]["steps"], verifier.name if verifier else "", variant)
        store.update(cells=store.info.get("cells", {}) | {name: measured.about})
        store.write_shard("costs", key, pd.DataFrame(measured.rows).assign(generator=entry.shown))
    journal.update("costs", len(cells), len(cells))


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
