"""The sweep's unit of work: some prompts of one generator and seed, done by a worker that holds the models.

A shard depends on the configuration and the prompts alone, so that it may be done again, anywhere, in any order.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

import pandas as pd
import torch

from vhsbench import generators
from vhsbench.harness.common.errors import VhsbenchError
from vhsbench.harness.common.images import encode_image
from vhsbench.harness.common.shown import one_line
from vhsbench.harness.config.entries import GeneratorConfig
from vhsbench.harness.config.models import load_bench, load_judges
from vhsbench.harness.config.run import RunConfig
from vhsbench.harness.cost.environment import made_by
from vhsbench.harness.cost.memory import is_out_of_memory
from vhsbench.harness.inference.candidates import Candidates
from vhsbench.harness.store.parquet import SCHEMAS
from vhsbench.harness.sweep.identity import Identity, as_json, of_entry, of_judges
from vhsbench.harness.sweep.kept_images import gallery_prompts, image_name

SMALLEST_SHARD = 8  # prompts
MOST_SHARDS = 512  # of a run; with more, shards grow
ATTEMPTS = 3  # of a prompt: two with its shard, one alone
FAILED, OUT_OF_MEMORY = "failed", "out_of_memory"
TABLES = (
    "incidents",
    "scores",
    "candidates",
)  # of a shard, in the order of writing; verdicts are a shard a judge


@dataclass(frozen=True)
class Shard:
    """Prompts start..stop-1 of one generator (an index into the configuration's) and seed."""

    key: str
    entry: int
    seed: int
    start: int
    stop: int


@dataclass(frozen=True)
class Finished:
    """What a shard gave: rows by table, the gallery's pictures as PNG by file name, and what made it."""

    shard: Shard
    tables: dict[str, pd.DataFrame]
    images: dict[str, bytes]
    about: dict[str, dict[str, Any]]
    identity: Identity | None = None  # None: of a shard that no worker could do
    judged: dict[str, Identity] = field(default_factory=dict)  # of the verdicts, by judge
    made: dict[str, Any] = field(default_factory=dict)  # by which versions, on what


def shard_size(groups: int, prompts: int) -> int:
    """Return the prompts per shard of a run of `groups` pairs of generator and seed.

    SMALLEST_SHARD, doubled until the run has no more than MOST_SHARDS or a shard holds all prompts.
    """
    size = SMALLEST_SHARD
    while size < prompts and groups * -(-prompts // size) > MOST_SHARDS:
        size *= 2
    return size


def shards(config: RunConfig, prompts: int) -> list[Shard]:
    """Return all shards of a run, generator by generator.

    Their size follows from what cannot change when a run is resumed. Keys name it where it is not the smallest.
    """
    size = shard_size(len(config.generators) * len(config.seeds), prompts)
    suffix = "" if size == SMALLEST_SHARD else f"+{size}"
    return [
        Shard(
            f"{entry.key}_seed={seed}_prompt={start:05d}{suffix}",
            number, seed, start, min(start + size, prompts),
        )
        for number, entry in enumerate(config.generators)
        for seed in config.seeds
        for start in range(0, prompts, size)
    ]  # fmt: skip


class WorkerError(VhsbenchError):
    """A worker that cannot do its shards; the message is one sentence for a user."""


class Worker:
    """One generator with everything that judges and scores its candidates, loaded once.

    A batch is judged and scored while the next is generated, if the configuration's `overlap` says so (by
    default where generation is on a GPU); with a variant on a CUDA stream of its own, so that judging does not wait for
    what is queued of the next batch. Never more than two batches are alive.
    """

    def __init__(self, config: RunConfig, prompts: Sequence[dict[str, Any]], entry: int) -> None:
        self.config, self.prompts = config, prompts
        self.entry: GeneratorConfig = config.generators[entry]
        self.gallery = set(gallery_prompts(prompts, config.gallery_prompts))
        identity, judged = of_entry(config, prompts, self.entry), of_judges(config, prompts)
        judges = load_judges(config, prompts)  # configuration errors surface first
        self.bench = load_bench(config, self.entry, prompts, judges)
        self.generator = self.bench.generator
        info = self.generator.info()
        self.about: dict[str, dict[str, Any]] = {
            "checkpoints": {v.name: v.checkpoint_sha256 for v in self.bench.verifiers},
            "needs": {v.name: v.needs for v in self.bench.verifiers},
            "blocks": {v.name: v.block for v in self.bench.verifiers if v.block is not None},
            "generators": {self.entry.key: info.source},
            "loras": {self.entry.key: dict(info.lora)} if info.lora else {},
            "judges": {judge.name: judge.info() for judge in judges},
        }
        if (of_entry(config, prompts, self.entry), of_judges(config, prompts)) != (identity, judged):
            raise WorkerError(
                f"files of the models of '{self.entry.key}' changed while they were read; run it again."
            )
        if "detector" in identity.inputs:
            self.about["detector"] = judges[0].info()
        self.identity = replace(identity, loaded=as_json(self._loaded()))
        self.judged = {
            judge.name: replace(judged[judge.name], loaded=as_json({"judge": judge.info()}))
            for judge in judges
        }
        self.made = made_by(str(self.generator.device))
        self.on_cpu = torch.device(self.generator.device).type == "cpu"
        self.behind: ThreadPoolExecutor | None = None
        if config.overlap or (config.overlap is None and not self.on_cpu):
            threads = torch.get_num_threads()  # bits may depend on it, and a new thread would not inherit it
            self.behind = ThreadPoolExecutor(1, "judge", torch.set_num_threads, (threads,))
        apart = self.behind is not None and self.entry.variant and not self.on_cpu
        self.stream = torch.cuda.Stream(self.generator.device) if apart else None

    def _loaded(self) -> dict[str, Any]:
        """Return what the models say of themselves; of another package's, nothing else is known."""
        bundled = self.entry.name in generators.SPECS  # whose source is a path, and whose files are known
        return {
            "generator": {} if bundled else {"weights": self.generator.info().source},
            "verifiers": {v.name: {"checkpoint": v.checkpoint_sha256} for v in self.bench.verifiers},
            "detector" if "detector" in self.about else "judge": self.bench.judges[0].info(),
        }

    def work(self, shard: Shard) -> Finished:
        """Do a shard. A prompt that fails ATTEMPTS times is an incident, and has no rows.

        Raises what went wrong if it is not one prompt's fault: if none of several can be done.
        """
        incidents: dict[Any, Any] = {}
        ids = range(shard.start, shard.stop)
        for _ in range(ATTEMPTS - 1):
            with suppress(Exception):  # whose it is shows when each prompt is made alone
                return self._finished(shard, [self._prompts(shard.seed, ids, incidents)], incidents)
        parts, error = self._one_by_one(shard.seed, ids, incidents)
        if error is not None and not parts and len(ids) > 1:
            raise error
        return self._finished(shard, parts, incidents)

    def _one_by_one(
        self, seed: int, ids: Sequence[int], incidents: dict[Any, Any]
    ) -> tuple[list[_Part], Exception | None]:
        """Make the pools of each prompt alone; returns what could be made, and the last error."""
        parts, error = list[_Part](), None
        for prompt_id in ids:
            try:
                parts.append(self._prompts(seed, [prompt_id], incidents))
            except Exception as caught:
                error = caught
                self._note(incidents, seed, prompt_id, FAILED, 0, caught)
        return parts, error

    def _prompts(self, seed: int, ids: Sequence[int], incidents: dict[Any, Any]) -> _Part:
        """Make the pools of some prompts, in smaller batches if memory runs out."""
        rows = [
            (prompt_id, seed, index) for prompt_id in ids for index in range(self.config.pool_of(self.entry))
        ]
        size = min(self.config.batch_size, len(rows))
        while True:
            try:
                return self._batches([rows[at : at + size] for at in range(0, len(rows), size)])
            except Exception as error:
                if not is_out_of_memory(error) or size == 1:
                    raise
                self._note(incidents, seed, ids[0], OUT_OF_MEMORY, size, error)
            size //= 2
            if torch.cuda.is_available():
                torch.cuda.empty_cache()

    def _batches(self, batches: Iterable[Sequence[tuple[int, int, int]]]) -> _Part:
        """Generate, judge and score batches. Whatever overlaps, the first error in their order is raised."""
        part = _Part()
        if self.behind is None:
            for rows in batches:
                part.add(self._judge(self.bench.make(rows)))
            return part
        judging: Future[_Part] | None = None
        for rows in batches:
            try:
                made = self.bench.make(rows)
            except Exception:
                if judging is not None:
                    judging.result()
                raise
            if judging is not None:
                part.add(judging.result())  # no third batch before the first is done with
            if self.stream is not None:
                self.stream.wait_stream(torch.cuda.current_stream(self.stream.device))
            judging = self.behind.submit(self._judge_behind, made)
            del made
        if judging is not None:
            part.add(judging.result())
        return part

    def _judge_behind(self, made: Candidates) -> _Part:
        if self.stream is None:
            return self._judge(made)
        with torch.cuda.stream(self.stream):
            try:
                return self._judge(made)
            finally:
                self.stream.synchronize()  # the batch's memory is the other stream's, which may use it again at once

    def _judge(self, made: Candidates) -> _Part:
        """Make the verdicts, scores and the gallery's pictures of a batch."""
        judged = self.bench.judge(made)
        return _Part(
            [judged.candidates], list(self.bench.score(made).values()), [judged.verdicts], self._kept(made)
        )

    def _kept(self, made: Candidates) -> dict[str, bytes]:
        """Return the pictures of the gallery's prompts, for the first seed."""
        return {
            image_name(self.entry.key, prompt_id, index): encode_image(image)
            for (prompt_id, seed, index), image in zip(made.rows.keys, made.images, strict=True)
            if seed == self.config.seeds[0] and prompt_id in self.gallery
        }

    def _note(
        self, incidents: dict[Any, Any], seed: int, prompt_id: int, kind: str, batch: int, error: Exception
    ) -> None:
        row = incident(self.entry.shown, self.generator.steps, seed, prompt_id, kind, batch, one_line(error))
        incidents[prompt_id, kind, batch] = row

    def _finished(self, shard: Shard, parts: Iterable[_Part], incidents: dict[Any, Any]) -> Finished:
        parts = list(parts)
        return Finished(
            shard,
            {
                "candidates": _concat("candidates", [f for p in parts for f in p.candidates]),
                "scores": _concat("scores", [f for p in parts for f in p.scores]),
                "verdicts": _concat("verdicts", [f for p in parts for f in p.verdicts]),
                "incidents": pd.DataFrame(list(incidents.values()), columns=SCHEMAS["incidents"].names),
            },
            {name: png for p in parts for name, png in p.images.items()},
            self.about,
            self.identity.of_prompts(self.prompts[shard.start : shard.stop]),
            {n: made.of_prompts(self.prompts[shard.start : shard.stop]) for n, made in self.judged.items()},
            self.made,
        )


@dataclass
class _Part:
    """What batches gave, one after another."""

    candidates: list[pd.DataFrame] = field(default_factory=list)
    scores: list[pd.DataFrame] = field(default_factory=list)
    verdicts: list[pd.DataFrame] = field(default_factory=list)
    images: dict[str, bytes] = field(default_factory=dict)

    def add(self, next_batch: _Part) -> None:
        self.candidates += next_batch.candidates
        self.scores += next_batch.scores
        self.verdicts += next_batch.verdicts
        self.images |= next_batch.images


def lost(shard: Shard, generator: str, steps: int, reason: str) -> Finished:
    """Return a shard that no worker can make: every prompt of it failed."""
    rows = [
        incident(generator, steps, shard.seed, prompt_id, FAILED, 0, reason)
        for prompt_id in range(shard.start, shard.stop)
    ]
    tables = {table: _concat(table, []) for table in ("candidates", "scores", "verdicts")}
    return Finished(
        shard, {**tables, "incidents": pd.DataFrame(rows, columns=SCHEMAS["incidents"].names)}, {}, {}
    )


def incident(
    generator: str, steps: int, seed: int, prompt_id: int, kind: str, batch: int, reason: str
) -> dict[str, Any]:
    """Return a row of the incidents table; `batch` is 0 where none is to blame."""
    values = (generator, steps, seed, prompt_id, kind, batch, reason)
    return dict(zip(SCHEMAS["incidents"].names, values, strict=True))


def failed_prompts(incidents: pd.DataFrame) -> set[int]:
    """Return the prompts that failed, by rows of the incidents table."""
    return set(incidents.loc[incidents["kind"] == FAILED, "prompt_id"].astype(int))


def _concat(table: str, frames: list[pd.DataFrame]) -> pd.DataFrame:
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=SCHEMAS[table].names)
