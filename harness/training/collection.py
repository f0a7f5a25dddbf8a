"""Images made, described and judged in one pass, and what verifiers read of them written as shards (A.1)."""

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
    """What one folder of shards is to hold; `described` asks for captions, which alignment always has.

    `rows` of the same images, if they are known, and the `card` of the folder that they are from.
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
    """A batch: features [B, ...] by kind, and a row a sample."""

    features: dict[Needs, torch.Tensor]
    rows: list[Row]


class Collector:
    """A generator with everything that looks at its images.

    `reads` are the kinds of features kept of every image; of hidden states only block `block` is.
    `dtype` is that of features (by default the generator's if it has 16 bits, else float16). `revision` says
    what the generator's weights are, by default the generator's own word.
    Raises DataError where VHS could not read what the generator makes.
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
        """All samples of a part, `batch_size` at a time, from then on half as many where memory runs out."""
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
            if made is None:  # here, where the failed batch's tensors are let go
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
        """Write a part's shards, one folder a kind of features, all from the same images.

        What is there is not made again. `worker` (i, n) does shards i, i + n, ...; returns None while shards
        of other workers are missing. Raises DataError for labels all of one class and for a disk too small,
        ShardError where a folder holds something else.
        """
        if not part.samples:
            raise DataError(f"data.{part.name}: there is nothing to make images of.")
        writers = self._writers(part, folders, shard_size)
        count = -(-len(part.samples) // shard_size)
        todo = [i for i in range(count) if not all(w.done(i) for w in writers.values())]
        mine = [i for i in todo if i % worker[1] == worker[0]]
        _check_room(writers, sum(len(part.samples[i * shard_size : (i + 1) * shard_size]) for i in mine))
        clock = _Clock(part, shard_size, count - len(todo), report)
        for i in mine:
            made = list(clock.over(self.batches(_slice(part, i, shard_size))))
            rows = [row for m in made for row in m.rows]
            for kind, writer in writers.items():
                if not writer.done(i):
                    writer.write(i, torch.cat([m.features[kind] for m in made]), rows)
        if not all(w.done(i) for w in writers.values() for i in range(count)):
            return None
        return {kind: _finish(writer, part) for kind, writer in writers.items()}

    def _writers(
        self, part: Part, folders: Mapping[Needs, Path], shard_size: int
    ) -> dict[Needs, ShardWriter]:
        """The folders, claimed for this part; one image is made to see the features' shapes."""
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
        """What the rows depend on beside the prompts and the generator."""
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
        """Other features of images whose rows are known."""
        return Made(self._features(samples, [r["prompt"] for r in rows], part.root, False)[0], rows)

    def _make(self, samples: Sequence[Sample], part: Part) -> Made:
        prompts, before = self._prompts(samples)
        features, images = self._features(samples, prompts, part.root)
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
            for row, verdict in zip(
                rows, judge(self.detector, images, [s.metadata for s in samples], seen), strict=True
            ):
                row["correct"] = verdict.correct
        if part.described and self.clip_score is not None:
            for row, score in zip(rows, self.clip_score(images, captions), strict=True):
                row["clip_score"] = self._rounded(score, row)
            for i, score in before.items():
                rows[i]["source_clip_score"] = self._rounded(score, rows[i])
        return Made(features, rows)

    def _rounded(self, clip_score: float, row: Row) -> float:
        if not math.isfinite(clip_score):
            which = candidate(self.generator.name, row["prompt"], row["seed"], row["index"], row["prompt_id"])
            raise DataError(f"the CLIP-Score of {which} is {clip_score}, not a number.")
        return round(clip_score, 4)

    def _prompts(self, samples: Sequence[Sample]) -> tuple[list[str], dict[int, float]]:
        """The samples' texts: what the captioner says of a picture where a sample has one.

        Also the CLIP-Scores of those pictures with the texts that they came with, by position.
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
        """What verifiers read of one image a prompt, on the CPU, and the images, if one is to `look` at them."""
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


def _slice(part: Part, i: int, size: int) -> Part:
    its = slice(i * size, (i + 1) * size)
    return replace(part, samples=part.samples[its], rows=part.rows[its])


def _check_same_images(part: Part, card: DataCard) -> None:
    """Refuse rows of other images than are to be made. Raises DataError."""
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
    """Refuse what is sure not to fit, before days are spent on it."""
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
    """Reports how many samples of a part there are, and in what time."""

    def __init__(self, part: Part, shard_size: int, done: int, report: Report) -> None:
        self._name, self._of, self._report = f"data {part.name}", len(part.samples), report
        self._done, self._started = min(done * shard_size, self._of), time.monotonic()

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
    """A part's figures: prompts, mean CLIP-Scores, share of correct images by task (class balance).

    As in B.1, clip_score is of the made images with their captions, source_clip_score of the pictures that
    the prompts were refined by with the texts that these came with. Raises DataError for labels all of one class.
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
