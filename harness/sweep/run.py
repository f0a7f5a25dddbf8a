"""The sweep: candidates, verdicts and scores, shard by shard; then costs; then the whole tables."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from vhsbench.generators.checks import as_device
from vhsbench.generators.lora import find_lora
from vhsbench.harness.common.files import read_errors_as
from vhsbench.harness.config.models import chosen_detector
from vhsbench.harness.config.run import ConfigError, RunConfig
from vhsbench.harness.geneval.detector import check_classes, vocabulary
from vhsbench.harness.inference.bench import Judged
from vhsbench.harness.store import parquet
from vhsbench.harness.store.folder import StorageError
from vhsbench.harness.store.parquet import sha256
from vhsbench.harness.store.tables import RunStore, environments
from vhsbench.harness.sweep.config_changes import difference
from vhsbench.harness.sweep.costs import measure_costs, opened_here
from vhsbench.harness.sweep.disk import check_room, run_gb
from vhsbench.harness.sweep.local import local as local
from vhsbench.harness.sweep.progress import NAME as PROGRESS
from vhsbench.harness.sweep.progress import Journal
from vhsbench.harness.sweep.run_log import EVENTS, run_log
from vhsbench.harness.sweep.run_log import NAME as LOG
from vhsbench.harness.sweep.shards import FAILED, TABLES, Finished
from vhsbench.harness.sweep.survey import Expected, Found, check, is_whole, survey, verdicts_key
from vhsbench.harness.sweep.verdicts import Engine, judge_rest, note_models, write_verdicts

Progress = Callable[[str, int, int], None]  # what, done, of how many


def run(
    config: RunConfig,
    out: Path | str,
    progress: Progress = lambda *_: None,
    engine: Engine = local,
    redo: bool = False,
    command: str = "",
) -> Path | str:
    """Do what is not yet done of a run in `out`, a directory or fsspec URL; returns `out`.

    Restart it to resume, or to mend a finished one. Prompts that failed are in run.json's failed_prompts, and
    have no rows. What was made of other prompts, weights or versions than are here now is refused, by name of what
    differs (StoreError), or made again if `redo` says so. `command` is the command line that asks for it, for run.json.
    """
    if config.threads:
        torch.set_num_threads(config.threads)
    for entry in config.generators:
        if entry.lora is not None:
            find_lora(entry.name, entry.lora)  # now, not when hours of other generators are done
    prompts = load_prompts(config)
    known = _none if redo else difference
    with RunStore(out, config.model_dump(mode="json"), difference=known, beside=(PROGRESS, LOG)) as store:
        expected = Expected(config, prompts)
        if not redo and is_whole(store, expected):
            if store.reconfigured:  # in what no row depends on
                store.update()
            return out
        if store.folder.local:
            check_room(store.folder.local, run_gb(config, len(prompts)), "this run", resumes=True)
        if engine is local:  # others have their own
            for device in config.devices:
                as_device(device)
        found = survey(store, expected, redo)
        there = (
            f"{len(found.done)} of {len(expected.shards)} shards and the costs of {len(found.measured)} of "
            f"{len(expected.pipelines)} pipelines are there"
        )
        if found.unjudged:
            there += f"; {len(found.unjudged)} shards lack verdicts"
        with run_log(store.folder, there):
            _begin(store, expected, command)
            _work(expected, store, found, engine, Journal(store.folder, progress))
    return out


def _work(expected: Expected, store: RunStore, found: Found, engine: Engine, journal: Journal) -> None:
    """Do what is not there, and write the whole tables."""
    for damaged in store.damaged:
        EVENTS.warning("%s was damaged: removed, to be done again", damaged)
    try:
        judge_rest(expected, store, found.unjudged, engine, journal)
        _candidates(expected, store, found, engine, journal)
        pipelines = measure_costs(expected, store, found.measured, journal) or []
    except BaseException:
        with suppress(OSError, StorageError):  # a full disk must not hide why it stopped
            journal.close("stopped")
        raise
    keys = [shard.key for shard in expected.shards]
    verdicts = [verdicts_key(shard, judge) for shard in expected.shards for judge in expected.judges]
    store.consolidate(dict.fromkeys(TABLES, keys) | {"verdicts": verdicts, "costs": pipelines})
    failed = [i for i in journal.state["incidents"] if i["kind"] == FAILED]
    store.update(
        status="complete", finished=_now(), damaged_shards_redone=store.damaged, failed_prompts=failed,
        digests=store.digests | found.digests,
    )  # fmt: skip
    journal.close("complete")


def _none(old: object, new: object) -> str:
    """Return that no difference between configurations counts: what is of the old one is made again."""
    return ""


def _begin(store: RunStore, expected: Expected, command: str) -> None:
    store.write_prompts(expected.prompts)
    store.update(
        status="running",
        started=store.info.get("started", _now()),
        environments=[*environments(store.info), opened_here(expected.config, command)],
        identity=expected.record(),
    )


def load_prompts(config: RunConfig) -> list[dict[str, Any]]:
    """Load the prompts of a run, with what they are judged by, all checked against the detector's classes.

    Raises ConfigError for a file that cannot be read, and what its suite does, MetadataError or UnknownClass, naming
    its line.
    """
    suite = config.prompt_suite
    with read_errors_as(ConfigError):
        placed = suite.create().prompts(suite.limit)
    prompts = [prompt for _, prompt in placed]
    known = vocabulary(chosen_detector(config, prompts).name)
    for place, prompt in placed:
        if known is not None:  # a plugin's detector is asked when it is loaded
            check_classes(known, prompt, place)
    return prompts


def _candidates(expected: Expected, store: RunStore, found: Found, engine: Engine, journal: Journal) -> None:
    """Let the engine make the shards that are not there, and write each as it comes."""
    done, all_ = (Counter(shard.entry for shard in group) for group in (found.done, expected.shards))

    def show(entry: int) -> None:
        journal.update(f"candidates of {expected.config.generators[entry].key}", done[entry], all_[entry])

    for entry in range(len(expected.config.generators)):
        show(entry)
    journal.note(store.read_shards("incidents", [s.key for s in found.done]))
    for finished in engine(expected.config, expected.prompts, found.todo):
        check(expected, finished, found.loaded)
        Judged(finished.tables["candidates"], finished.tables["verdicts"]).decided()
        note_models(store, finished.about)
        found.digests |= _write(expected, store, finished)
        journal.note(finished.tables["incidents"])
        done[finished.shard.entry] += 1
        show(finished.shard.entry)


def _write(expected: Expected, store: RunStore, finished: Finished) -> dict[str, str]:
    """Write a shard's pictures and tables, each with what made it; returns the pictures' digests."""
    images = {name: sha256(png) for name, png in finished.images.items()}
    for name, png in finished.images.items():
        store.write_picture(name, png)
    # so that tables of two doings of a shard are never taken for one
    parts = [parquet.encode(finished.tables[table], table) for table in TABLES]
    about = {
        **(finished.identity or expected.of(finished.shard)).about(),
        "made": finished.made,
        "images": images,
        "together": sha256(b"".join(parts)),
    }
    write_verdicts(
        expected, store, finished, about["together"]
    )  # first: of candidates that are not there, they do not count
    for table in TABLES:
        store.write_shard(table, finished.shard.key, finished.tables[table], about)
    return images


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
