"""Collect the data of both of the paper's stages for one generator (A.1): `vhsbench train data`."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from vhsbench import generators
from vhsbench.generators.checks import as_device
from vhsbench.generators.training import Progress
from vhsbench.harness.geneval.detector import Detector
from vhsbench.harness.geneval.detector import create as create_detector
from vhsbench.harness.training.captioners import open_captioner
from vhsbench.harness.training.clip_score import open_clip_score
from vhsbench.harness.training.collection import Collector, DataError, Part
from vhsbench.harness.training.data_config import DataConfig
from vhsbench.harness.training.gemma import open_gemma
from vhsbench.harness.training.sources import caption_samples, label_prompts, label_samples
from vhsbench.verifiers.protocol import Needs
from vhsbench.verifiers.training.shards import MANIFEST, DataCard, ShardDataset
from vhsbench.verifiers.verifier import NEEDS

if TYPE_CHECKING:
    from vhsbench.harness.training.config import TrainConfig

# the first noise root of each part, beyond any run's seeds; those of consecutive seeds are 16 apart
_ROOTS = {"train": 1_000_001, "validation": 1_000_002, "alignment": 1_000_003}


def root_of(part: str, seed: int) -> int:
    """Return the root of the noise from which a part's images are made."""
    return _ROOTS[part] + 16 * seed


def collect_data(
    config: TrainConfig,
    out: Path,
    device: str | None = None,
    report: Callable[[Progress], None] = lambda _: None,
) -> dict[str, dict[Needs, DataCard]]:
    """Collect the missing data of `config`; return cards by part and kind of features. Restart it to resume.

    `device` is the engine's by default. Under torchrun or accelerate each process makes its share of the
    shards; a part that waits for shards of another process has no cards yet. Raises DataError, or what its parts
    raise.
    """
    reads = _reads(config)
    data, device = config.data, device or _device(config.engine.device)
    as_device(device)
    worker = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    folders = {kind: data.folders(out, kind) for kind in reads}
    detector = create_detector(data.detector.name, device, **data.detector.options)
    parts = [_known(part, data.rows_of) for part in _parts(data, config.seed, detector, out, device)]
    unknown = any(part.card is None and part.described for part in parts)
    generator = generators.create(config.generator.name, device=device, **config.generator.options)
    collector = Collector(
        generator, reads, config.verifier.block,
        detector=detector,
        captioner=open_captioner(data.captioner, device) if unknown else None,
        clip_score=open_clip_score(data.clip_score, device) if data.clip_score and unknown else None,
        dtype=getattr(torch, data.dtype) if data.dtype else None,
        batch_size=data.batch_size,
        revision=_moved(config.generator.name, config.generator.options),
    )  # fmt: skip
    cards: dict[str, dict[Needs, DataCard]] = {}
    for part in parts:
        where = {kind: folders[kind][part.name] for kind in reads}
        found = collector.collect(part, where, data.shard_size, report, worker)
        cards[part.name] = found or {}
    return cards


def _moved(name: str, options: Mapping[str, Any]) -> str:
    """Identify the weights of a generator with a LoRA by content; "" without one."""
    made = generators.REGISTRY.identity(name, **options)
    if not made.get("lora"):
        return ""
    own = made["weights"]
    weights = own.get("sha256") or own.get("commit") or f"random {own.get('random')}"
    return f"{weights} with LoRA {made['lora']['sha256']} at {made['lora']['strength']:g}"


def _reads(config: TrainConfig) -> tuple[Needs, ...]:
    """Return the kinds of features to write. Raises DataError for data that could not train the verifier."""
    data, kind = config.data, config.verifier.kind
    captioned = data.captions is not None or data.alignment is not None or data.labels.captions
    if config.align is not None and not captioned:
        raise DataError(
            "alignment needs captions: set data.captions, or data.labels.captions to describe the labelled "
            "images, or align to null."
        )
    reads = data.reads or (NEEDS[kind],)
    if NEEDS[kind] not in reads:
        raise DataError(f"data.reads lacks {NEEDS[kind]}, which a {kind} reads.")
    return reads


def _device(kind: str) -> str:
    """Return this process's own GPU, if there are several processes."""
    return f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if kind == "cuda" else kind


def _known(part: Part, folder: Path | None) -> Part:
    """Give a part the rows of the same images in another data folder, if one is named. Raises DataError."""
    if folder is None:
        return part
    found = sorted(folder.glob(f"*/{part.name}/{MANIFEST}"))
    if not found:
        raise DataError(f"data.rows_of: {folder} has no finished {part.name}; collect it first.")
    known = ShardDataset(found[0].parent)
    return replace(part, rows=known.rows, card=known.card)


def _parts(data: DataConfig, seed: int, detector: Detector, out: Path, device: str) -> list[Part]:
    """List what to collect: the parts for which no finished folder is named."""
    parts = []
    if data.captions is not None and data.alignment is None:
        parts.append(
            Part("alignment", "alignment", caption_samples(data.captions), root_of("alignment", seed))
        )
    given = [data.train, data.validation]
    if all(given):
        return parts
    if any(given):
        raise DataError("data.train and data.validation are split from the same prompts: name both or none.")
    work = data.folder or out / "data"
    tag = None
    if data.labels.tagger == "gemma":
        tag = open_gemma(data.labels.tagger_options, device, "data.labels.tagger_options").tags
    prompts = label_prompts(data.labels, detector, seed, work, tag)
    for name, found in zip(("train", "validation"), prompts, strict=True):
        samples = label_samples(found, data.labels.variants)
        parts.append(Part(name, "labels", samples, root_of(name, seed), data.labels.captions))
    return parts
