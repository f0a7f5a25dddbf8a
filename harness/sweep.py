"""The sweep: candidates, verdicts and scores, shard by shard; then costs; then the whole tables."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

import generators
import verifiers
from generators.nano.world import SHAPES
from generators.noise import candidate_seed
from generators.prompts import PromptCache
from generators.protocol import Generator, HiddenStates
from harness.config import ConfigError, DetectorConfig, GeneratorConfig, RunConfig, VerifierConfig
from harness.environment import environment
from harness.geneval import prompts as geneval_prompts
from harness.geneval.detector import Detector, check_classes, classes_of, judge
from harness.geneval.detector import create as create_detector
from harness.geneval.rules import TAGS
from harness.measure import Cell, cell_name, measure_in_fresh_process
from harness.store import RunStore
from verifiers.protocol import Verifier

Progress = Callable[[str, int, int], None]  # what, done, of how many

PROMPTS_PER_SHARD = 8


def run(config: RunConfig, out: Path, progress: Progress = lambda *_: None) -> Path:
    """Do what is not yet done of a run in `out`; returns `out`. Restart it to resume."""
    if config.threads:
        torch.set_num_threads(config.threads)
    with RunStore(out, config.model_dump(mode="json")) as store:
        if store.info["status"] == "complete":
            return out
        prompts = load_prompts(config)
        store.write_prompts(prompts)
        store.update(
            started=store.info.get("started", _now()),
            environment=environment(config.threads or torch.get_num_threads()),
        )
        for entry in config.generators:
            _Sweep(config, store, entry, prompts, progress).run()
        _costs(config, store, prompts[0]["prompt"], progress)
        store.consolidate()
        store.update(status="complete", finished=_now(), damaged_shards_redone=store.damaged)
    return out


def load_prompts(config: RunConfig) -> list[dict[str, Any]]:
    """The prompts of a run, as GenEval metadata. Raises ConfigError for a bad file."""
    source, limit = config.prompts.source, config.prompts.limit
    if source == "nano":
        from harness.train_nano import balanced, nano_prompts

        prompts = nano_prompts()[config.prompts.split]
        return balanced(prompts, limit) if limit else prompts
    if source == "geneval":
        return geneval_prompts.official()[:limit]
    try:
        lines = Path(source).read_text().splitlines()
    except OSError as error:
        raise ConfigError(
            f"prompts.source is 'nano', 'geneval' or a file; '{source}' cannot be read: {error.strerror}."
        ) from error
    prompts = []
    for number, line in enumerate(lines, start=1):
        try:
            prompt = json.loads(line)
            if prompt["tag"] not in TAGS or not isinstance(prompt["prompt"], str):
                raise ValueError("no such tag")
        except (ValueError, KeyError, TypeError):
            raise ConfigError(f"{source}, line {number}: not a GenEval metadata object.") from None
        prompts.append(prompt)
    return prompts[:limit]


class _Sweep:
    """One generator's candidates, judged and scored."""

    def __init__(
        self,
        config: RunConfig,
        store: RunStore,
        entry: GeneratorConfig,
        prompts: Sequence[dict[str, Any]],
        progress: Progress,
    ) -> None:
        self.config, self.store, self.entry = config, store, entry
        self.prompts, self.progress = prompts, progress
        self.gallery = set(gallery_prompts(prompts, config.gallery_prompts))

    def run(self) -> None:
        starts = range(0, len(self.prompts), PROMPTS_PER_SHARD)
        shards = [(seed, start) for seed in self.config.seeds for start in starts]
        todo = [s for s in shards if not self._done(*s)]
        done, of = len(shards) - len(todo), len(shards)
        self.progress(f"candidates of {self.entry.key}", done, of)
        if not todo:
            return
        detector = load_detector(self.config, self.prompts)  # first: its mistakes are told soonest
        generator = generators.create(self.entry.name, device=self.config.device, **self.entry.options)
        self.encode = PromptCache(generator).encode
        judges: list[Verifier] = []
        for wanted in self.config.verifiers_of(self.entry):
            judges.append(create_verifier(wanted, self.config.device, generator.name))
            judges[-1].check_host(generator)
        info = self.store.info
        self.store.update(
            checkpoints=info.get("checkpoints", {}) | {v.name: v.checkpoint_sha256 for v in judges},
            needs=info.get("needs", {}) | {v.name: v.needs for v in judges},
            generators=info.get("generators", {}) | {self.entry.key: generator.info().source},
        )
        self.store.update(detector=detector.info())
        for count, (seed, start) in enumerate(todo, start=1):
            self._shard(generator, judges, detector, seed, start)
            self.progress(f"candidates of {self.entry.key}", done + count, of)

    def _key(self, seed: int, start: int) -> str:
        return f"{self.entry.key}_seed={seed}_prompt={start:05d}"

    def _done(self, seed: int, start: int) -> bool:
        key = self._key(seed, start)
        return all(self.store.has(table, key) for table in ("candidates", "scores"))

    def _shard(
        self, generator: Generator, judges: list[Verifier], detector: Detector, seed: int, start: int
    ) -> None:
        rows = [
            (prompt_id, index)
            for prompt_id in range(start, min(start + PROMPTS_PER_SHARD, len(self.prompts)))
            for index in range(self.config.pool_of(self.entry))
        ]
        candidates, scores = [], []
        size = self.config.batch_size
        for at in range(0, len(rows), size):
            verdicts, marks = self._batch(generator, judges, detector, seed, rows[at : at + size])
            candidates.append(verdicts)
            scores.extend(marks)
        key = self._key(seed, start)
        empty = pd.DataFrame(columns=[*_COLUMNS, "verifier", "p_yes", "p_no", "score"])
        self.store.write_shard("scores", key, pd.concat(scores) if scores else empty)
        self.store.write_shard("candidates", key, pd.concat(candidates))

    def _batch(
        self,
        generator: Generator,
        judges: list[Verifier],
        detector: Detector,
        seed: int,
        rows: list[tuple[int, int]],
    ) -> tuple[pd.DataFrame, list[pd.DataFrame]]:
        ids = sorted({prompt_id for prompt_id, _ in rows})
        cond = self.encode([self.prompts[i]["prompt"] for i in ids])
        cond = cond.select([ids.index(prompt_id) for prompt_id, _ in rows])
        noise = generator.noise([candidate_seed(seed, p, i) for p, i in rows])
        hidden: dict[int, HiddenStates] = {}
        latents = None
        for block in sorted({v.block for v in judges if v.block is not None}):
            hidden[block] = generator.head(cond, noise, block)
            latents = generator.tail(hidden[block]) if latents is None else latents
        if latents is None:
            latents = generator.denoise(cond, noise)
        images = generator.decode(latents)
        metadata = [self.prompts[p] for p, _ in rows]
        verdicts = judge(detector, images, metadata)
        self._keep(seed, rows, images)
        frame = pd.DataFrame(rows, columns=["prompt_id", "index"])
        frame.insert(0, "generator", self.entry.shown)
        frame.insert(1, "steps", generator.steps)
        frame["seed"] = seed
        scores = []
        for verifier in judges:
            read: Any = images if verifier.needs == "images" else latents
            if verifier.needs == "hidden":
                assert verifier.block is not None
                read = hidden[verifier.block].features
            s = verifier.score(list(cond.prompts), read)
            marks = {k: getattr(s, k).cpu().numpy() for k in ("p_yes", "p_no", "score")}
            scores.append(frame.assign(verifier=verifier.name, **marks))
        return frame.assign(
            tag=[m["tag"] for m in metadata],
            correct=[v.correct for v in verdicts],
            reason=[v.reason for v in verdicts],
        ), scores

    def _keep(self, seed: int, rows: list[tuple[int, int]], images: Sequence[Any]) -> None:
        """Save the pictures of the gallery's prompts, for the first seed."""
        if seed != self.config.seeds[0]:
            return
        for (prompt_id, index), image in zip(rows, images, strict=True):
            if prompt_id in self.gallery:
                file = image_file(self.store.path, self.entry.key, prompt_id, index)
                file.parent.mkdir(parents=True, exist_ok=True)
                image.save(file)


_COLUMNS = ["generator", "steps", "prompt_id", "seed", "index"]


def image_file(run: Path, key: str, prompt_id: int, index: int) -> Path:
    """Where a gallery picture lies; `key` is the generator entry's."""
    return run / "images" / key / f"{prompt_id:05d}_{index:04d}.png"


def gallery_prompts(prompts: Sequence[dict[str, Any]], count: int) -> list[int]:
    """Ids of `count` prompts, the six tasks in turn, spread over each task's prompts."""
    by_task = [[i for i, p in enumerate(prompts) if p["tag"] == tag] for tag in TAGS]
    by_task = [ids for ids in by_task if ids]
    per_task = -(-count // len(by_task)) if by_task else 0
    picks = [np.linspace(0, len(i) - 1, min(per_task, len(i))).astype(int) for i in by_task]
    return [ids[k] for ids, chosen in zip(by_task, picks, strict=True) for k in chosen][:count]


def load_detector(config: RunConfig, prompts: Sequence[dict[str, Any]]) -> Detector:
    """The run's detector, which knows every class of its prompts. Raises UnknownClass else."""
    known = {name for prompt in prompts for name in classes_of(prompt)} <= set(SHAPES)
    chosen = config.detector or DetectorConfig(name="shapes" if known else "mask2former")
    detector = create_detector(chosen.name, config.device, **chosen.options)
    for index, prompt in enumerate(prompts):
        check_classes(detector, prompt, f"prompt {index} of {config.prompts.source}")
    return detector


def create_verifier(entry: VerifierConfig, device: str, generator: str) -> Verifier:
    return verifiers.create(entry.name, **_verifier_options(entry, device, generator))


def _verifier_options(entry: VerifierConfig, device: str, generator: str) -> dict[str, Any]:
    return {"checkpoint": entry.checkpoint, "device": device, "generator": generator, **entry.options}


def _costs(config: RunConfig, store: RunStore, prompt: str, progress: Progress) -> None:
    """Measure every pipeline, each in a fresh process, after all generation: alone on the machine."""
    torch.cuda.empty_cache()  # what this process keeps would be missing there
    cells = [
        (entry, verifier, variant)
        for entry in config.generators
        for verifier in (None, *config.verifiers_of(entry))
        for variant in ("", *config.timing.variants)
    ]
    for done, (entry, verifier, variant) in enumerate(cells):
        progress("costs", done, len(cells))
        key = "_".join(filter(None, (entry.key, verifier.name if verifier else "none", variant)))
        if store.has("costs", key):
            continue
        measured = measure_in_fresh_process(
            Cell(
                entry.name,
                {"device": config.device, **entry.options},
                verifier.name if verifier else None,
                _verifier_options(verifier, config.device, entry.name) if verifier else {},
                prompt,
                config.timing,
                config.threads,
                variant,
            )
        )
        name = cell_name(entry.shown, measured.rows[0]["steps"], verifier.name if verifier else "", variant)
        store.update(cells=store.info.get("cells", {}) | {name: measured.about})
        store.write_shard("costs", key, pd.DataFrame(measured.rows).assign(generator=entry.shown))
    progress("costs", len(cells), len(cells))


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
