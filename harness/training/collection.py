"""Make, describe and judge images in one pass, and write what verifiers read of them as shards (A.1)."""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image

from vhsbench.generators.training import Progress
from vhsbench.harness.common.errors import VhsbenchError
from vhsbench.harness.common.files import LARGE
from vhsbench.harness.common.images import DamagedImage, read_image
from vhsbench.harness.common.models import folder_sha256
from vhsbench.harness.common.tasks import TAGS
from vhsbench.harness.common.text import read_json_lines
from vhsbench.harness.cost.memory import is_out_of_memory
from vhsbench.harness.geneval.detector import Detector, judge
from vhsbench.harness.inference.candidates import Rows, candidate, encoded, finite_rows, in_turn, refuse_rows
from vhsbench.harness.inference.route import ROUTES
from vhsbench.harness.training.sources import Sample, samples_sha256
from vhsbench.verifiers.protocol import Needs
from vhsbench.verifiers.training.shards import DataCard, DataStage, ShardWriter, read_data_card

if TYPE_CHECKING:
    from vhsbench.generators.protocol import Block, Generator
    from vhsbench.harness.training.captioners import Captioner
    from vhsbench.harness.training.clip_score import ClipScore

Report = Callable[[Progress], None]
Row = dict[str, Any]


class DataError(VhsbenchError):
    """Data that cannot be collected, or cannot train; the message is one sentence for a user."""


@dataclass(frozen=True)
class Part:
    """The content of one folder of shards; `described` asks for captions, which alignment always has.

    `rows` are known rows of the same images, and `card` that of the folder they come from.
    """

    name: str
    stage: DataStage
    samples: Sequence[Sample]
    root: int  # of the samples' noise
    described: bool = True
    rows: Sequence[Row] = ()
    card: DataCard | None = None


@dataclass(frozen=True)
class Made:
    """A batch: features [B, ...] by kind, and a row per sample."""

    features: dict[Needs, torch.Tensor]
    rows: list[Row]


class Collector:
    """A generator with everything that looks at its images.

    `reads` are the kinds of features kept of every image; of hidden states only block `block`.
    `dtype` is that of the features (by default the generator's if it has 16 bits, else float16). `revision`
    identifies the generator's weights, by default as the generator does.
    Raises DataError if a VHS could not read what the generator makes.
    """

    def __init__(
        self,
        generator: Generator,
        reads: Sequence[Needs],
        block: Block | None = None,
        *,
        detector: Detector | None = None,
        captioner: Captioner | None = None,
        clip_score: ClipScore | None = None,
        dtype: torch.dtype | None = None,
        batch_size: int = 16,
        revision: str = "",
    ) -> None:
        if "hidden" in reads:
            if generator.steps > 1:
                raise DataError(
                    f"VHS reads a one-step generator's hidden states, but {generator.name} is set to "
                    f"{generator.steps} steps; set generator.options.steps to 1, or train another verifier."
                )
            if block is None:
                raise DataError(
                    "hidden states need a block: they are collected by a vhs's configuration, as its verifier.block."
                )
        self.generator, self.reads = generator, tuple(reads)
        self.block = block if "hidden" in reads else None
        self.detector, self.captioner, self.clip_score = detector, captioner, clip_score
        self.revision = revision or (generator.revision or generator.info().source)
        self._dtype, self.batch_size = dtype, batch_size

    def batches(self, part: Part) -> Iterator[Made]:
        """Make all samples of a part, `batch_size` at a time; if memory runs out, that is halved for good."""
        start = 0
        while start < len(part.samples):
            batch = slice(start, start + self.batch_size)
            samples, rows = part.samples[batch], list(part.rows[batch])
            made: Made | None = None
            try:
                made = self._again(samples, rows, part) if rows else self._make(samples, part)
            except Exception as error:
                if not is_out_of_memory(error) or len(samples) == 1:
                    raise
            if made is None:  # here, after the exception has released the failed batch's tensors
                self.batch_size = len(samples) // 2
                if torch.cuda.is_available():
                    torch.cuda.empty_cache()
                continue
            yield made
            start += len(samples)

    def collect(
        self,
        part: Part,
        folders: Mapping[Needs, Path],
        shard_size: int,
        report: Report = lambda _: None,
        worker: tuple[int, int] = (0, 1),
    ) -> dict[Needs, DataCard] | None:
        """Write a part's shards, one folder per kind of features, all from the same images.

        Finished shards are not made again. `worker` (i, n) makes shards i, i + n, ...; returns None while shards
        of other workers are missing. Raises DataError if all labels are of one class or the disk is too small,
        ShardError if a folder holds something else.
        """
        if not part.samples:
            raise DataError(f"data.{part.name}: there is nothing to make images of.")
        writers = self._writers(part, folders, shard_size)
        shards = dict(enumerate(_shards(part, shard_size)))
        missing = {i: shard for i, shard in shards.items() if not _whole(writers, i)}
        index, workers = worker
        mine = {i: shard for i, shard in missing.items() if i % workers == index}
        _check_room(writers, sum(len(shard.samples) for shard in mine.values()))
        clock = _Clock(part, len(shards) - len(missing), shard_size, report)
        for i, shard in mine.items():
            _write(writers, i, list(clock.over(self.batches(shard))))
        if not all(_whole(writers, i) for i in missing):
            return None
        return {kind: _finish(writer, part) for kind, writer in writers.items()}

    def _writers(
        self, part: Part, folders: Mapping[Needs, Path], shard_size: int
    ) -> dict[Needs, ShardWriter]:
        """Claim the folders for this part; one image is made to find the features' shapes."""
        generator = self.generator
        probe = self._features(part.samples[:1], [part.samples[0].metadata["prompt"]], part.root, False)[0]
        folder = Path(self.revision)
        revision = folder_sha256(folder) if folder.is_dir() else self.revision
        cards = {
            kind: DataCard(
                stage=part.stage,
                generator=generator.name,
                revision=revision,
                steps=generator.steps,
                reads=kind,
                block=self.block if kind == "hidden" else None,
                feature_shape=tuple(probe[kind].shape[1:]),
                dtype=str(probe[kind].dtype).removeprefix("torch."),
                prompts_sha256=samples_sha256(part.samples),
                collection=self._settings(part) | {"shard_size": shard_size},
            )
            for kind in self.reads
        }
        for card in cards.values():
            _check_same_images(part, card)
        return {kind: ShardWriter(folders[kind], card) for kind, card in cards.items()}

    def _settings(self, part: Part) -> dict[str, Any]:
        """Return what the rows depend on, in addition to the prompts and the generator."""
        if part.card is not None:
            return {**part.card.collection, "seed": part.root}
        labelled = part.stage == "labels" and self.detector is not None
        described = part.described and self.captioner is not None
        return {
            "seed": part.root,
            "detector": self.detector.info() if labelled and self.detector else None,
            "captioner": self.captioner.name if described and self.captioner else None,
            "clip_score": self.clip_score.name if part.described and self.clip_score else None,
        }

    def _again(self, samples: Sequence[Sample], rows: list[Row], part: Part) -> Made:
        """Make other features of images whose rows are known."""
        return Made(self._features(samples, [r["prompt"] for r in rows], part.root, False)[0], rows)

    def _make(self, samples: Sequence[Sample], part: Part) -> Made:
        """Make the images of some samples; judge, describe and rate them as the part asks."""
        prompts, before = self._prompts(samples)
        features, images = self._features(samples, prompts, part.root)
        metadata = [s.metadata for s in samples]
        labelled = part.stage == "labels"
        seen = self.detector.detect(images) if self.detector is not None and labelled else None
        captions = [""] * len(images)
        if part.described and self.captioner is not None:
            captions = self.captioner.caption(images, seen)
        rows: list[Row] = [
            {
                "prompt_id": s.prompt_id, "prompt": prompt, "tag": s.metadata["tag"], "seed": part.root,
                "index": s.index, "caption": caption,
            }
            for s, prompt, caption in zip(samples, prompts, captions, strict=True)
        ]  # fmt: skip
        if labelled:
            assert self.detector is not None
            for row, verdict in zip(rows, judge(self.detector, images, metadata, seen), strict=True):
                row["correct"] = verdict.correct
        if part.described and self.clip_score is not None:
            self._rate(rows, self.clip_score(images, captions), before)
        return Made(features, rows)

    def _rate(self, rows: Sequence[Row], scores: Sequence[float], before: Mapping[int, float]) -> None:
        """Add the CLIP-Scores of all rows, and of their source pictures by position."""
        for row, score in zip(rows, scores, strict=True):
            row["clip_score"] = self._rounded(score, row)
        for i, score in before.items():
            rows[i]["source_clip_score"] = self._rounded(score, rows[i])

    def _rounded(self, clip_score: float, row: Row) -> float:
        if not math.isfinite(clip_score):
            which = candidate(self.generator.name, row["prompt"], row["seed"], row["index"], row["prompt_id"])
            raise DataError(f"the CLIP-Score of {which} is {clip_score}, not a number.")
        return round(clip_score, 4)

    def _prompts(self, samples: Sequence[Sample]) -> tuple[list[str], dict[int, float]]:
        """Return the samples' prompts: the captioner's description if a sample has a picture.

        Also returns the CLIP-Scores of those pictures with their original texts, by position.
        """
        prompts = [str(s.metadata["prompt"]) for s in samples]
        pictured = [i for i, s in enumerate(samples) if s.picture is not None]
        if not pictured:
            return prompts, {}
        if self.captioner is None:
            raise DataError("a captioner is needed to refine captions by their images.")
        try:
            pictures = [read_image(s.picture) for s in samples if s.picture is not None]
        except DamagedImage as error:
            raise DataError(f"data.captions.images: {error}") from error
        scores = self.clip_score(pictures, [prompts[i] for i in pictured]) if self.clip_score else []
        for i, text in zip(pictured, self.captioner.caption(pictures), strict=True):
            prompts[i] = text or prompts[i]
        return prompts, dict(zip(pictured, scores, strict=False))

    @torch.inference_mode()
    def _features(
        self, samples: Sequence[Sample], prompts: Sequence[str], root: int, look: bool = True
    ) -> tuple[dict[Needs, torch.Tensor], list[Image.Image]]:
        """Make one image per prompt; return what verifiers read of it, on the CPU, and if `look` the images."""
        cond = encoded(self.generator.encode, prompts)
        rows = Rows(self.generator.name, prompts, [(s.prompt_id, root, s.index) for s in samples])
        found: dict[Needs, torch.Tensor] = {}
        blocks = [self.block] if self.block is not None else []
        for needs, _, state in in_turn(self.generator, cond, rows, blocks):
            if needs in self.reads:
                found[needs] = self._stored(ROUTES[needs].reads(state), rows)
            if not look and len(found) == len(self.reads):
                return found, []
        return found, state

    def _stored(self, features: torch.Tensor | list[Image.Image], rows: Rows) -> torch.Tensor:
        if isinstance(features, list):
            return torch.from_numpy(np.stack([np.asarray(i.convert("RGB")) for i in features]))
        dtype = self._dtype or (features.dtype if features.element_size() == 2 else torch.float16)
        stored = features.to("cpu", dtype)
        if not (sound := finite_rows(stored)).all():
            refuse_rows("features", finite_rows(features), rows.name)
            raise DataError(
                f"the features of {rows.name(sound.tolist().index(False))} are not finite in "
                f"{str(dtype).removeprefix('torch.')}; set data.dtype to bfloat16 or float32."
            )
        return stored


def _shards(part: Part, size: int) -> list[Part]:
    """Cut the part into pieces of `size` samples."""
    cuts = [slice(start, start + size) for start in range(0, len(part.samples), size)]
    return [replace(part, samples=part.samples[cut], rows=part.rows[cut]) for cut in cuts]


def _whole(writers: Mapping[Needs, ShardWriter], i: int) -> bool:
    """Return whether every kind of features has shard `i`."""
    return all(writer.done(i) for writer in writers.values())


def _write(writers: Mapping[Needs, ShardWriter], i: int, made: Sequence[Made]) -> None:
    """Write shard `i` of the kinds of features that lack it."""
    rows = [row for m in made for row in m.rows]
    for kind, writer in writers.items():
        if not writer.done(i):
            writer.write(i, torch.cat([m.features[kind] for m in made]), rows)


def _check_same_images(part: Part, card: DataCard) -> None:
    """Refuse known rows of other images. Raises DataError."""
    if part.card is None:
        return
    for key in ("stage", "generator", "revision", "steps", "prompts_sha256"):
        if (before := getattr(part.card, key)) != (now := getattr(card, key)):
            raise DataError(
                f"data.rows_of: its {part.name} is of {key} {before}, not {now}: not the same images."
            )
    if (before := part.card.collection.get("seed")) != part.root:
        raise DataError(
            f"data.rows_of: its {part.name} is of seed {before}, not {part.root}: not the same images."
        )


def _check_room(writers: Mapping[Needs, ShardWriter], samples: int) -> None:
    """Refuse what cannot fit on the disk, before days are spent on it. Raises DataError."""
    needed: dict[int, int] = {}
    free: dict[int, tuple[int, Path]] = {}
    for writer in writers.values():
        device = writer.folder.stat().st_dev
        size = getattr(torch, writer.card.dtype).itemsize * int(np.prod(writer.card.feature_shape))
        needed[device] = needed.get(device, 0) + size * samples
        free[device] = shutil.disk_usage(writer.folder).free, writer.folder
    for device, size in needed.items():
        if size > free[device][0]:
            raise DataError(
                f"{samples} samples need {size / 1e9:.1f} GB, but the disk of {free[device][1]} has "
                f"{free[device][0] / 1e9:.1f} GB left; make room, or lower data's limits."
            )


class _Clock:
    """Reports how many samples of a part are done, and in what time."""

    def __init__(self, part: Part, shards_done: int, shard_size: int, report: Report) -> None:
        self._name, self._of, self._report = f"data {part.name}", len(part.samples), report
        self._done, self._started = min(shards_done * shard_size, self._of), time.monotonic()
        if self._done < self._of:
            self._tell()

    def over(self, batches: Iterator[Made]) -> Iterator[Made]:
        for made in batches:
            yield made
            self._done = min(self._done + len(made.rows), self._of)
            self._tell()

    def _tell(self) -> None:
        seconds = time.monotonic() - self._started
        self._report(Progress(self._name, self._done, self._of, float("nan"), seconds))


def _finish(writer: ShardWriter, part: Part) -> DataCard:
    if writer.finished:
        return read_data_card(writer.folder)
    rows = [row for f in sorted(writer.folder.glob("shard-*.jsonl")) for _, row in read_json_lines(f, LARGE)]
    return writer.finish(summarise(rows, part.name))


def summarise(rows: Sequence[Row], name: str) -> dict[str, float]:
    """Summarise a part: prompts, mean CLIP-Scores, share of correct images by task (class balance).

    As in B.1, clip_score is of the made images with their captions, source_clip_score of the pictures that
    refined the prompts with their original texts. Raises DataError if all labels are of one class.
    """
    found = {"prompts": float(len({r["prompt_id"] for r in rows}))}
    for key in ("clip_score", "source_clip_score"):
        scores = [r[key] for r in rows if key in r]
        if scores:
            found[key] = float(np.mean(scores))
    if "correct" not in rows[0]:
        return found
    correct = np.array([r["correct"] for r in rows])
    if correct.all() or not correct.any():
        raise DataError(
            f"the {len(rows)} labels of data.{name} are all {'right' if correct[0] else 'wrong'}; "
            "a verifier needs both classes: take other prompts, or more variants of each."
        )
    found["correct_percent"] = 100 * float(correct.mean())
    tags = np.array([r["tag"] for r in rows])
    for tag in TAGS:
        if (tags == tag).any():
            found[f"correct_percent.{tag}"] = 100 * float(correct[tags == tag].mean())
    return found
