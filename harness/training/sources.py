"""The texts from which images are made: captions for alignment, prompts with GenEval metadata for labels (A.1)."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vhsbench.harness.common.atomic import write_atomic
from vhsbench.harness.common.errors import VhsbenchError
from vhsbench.harness.common.files import LARGE, read_errors_as
from vhsbench.harness.common.prompt_files import check_length, parse_texts
from vhsbench.harness.common.tasks import TAGS
from vhsbench.harness.common.text import parse_json, parse_json_lines, read_json, read_text
from vhsbench.harness.geneval import prompts as geneval
from vhsbench.harness.geneval.detector import Detector, check_classes
from vhsbench.harness.geneval.metadata import check
from vhsbench.harness.geneval.nano_prompts import as_evaluated, nano_prompts
from vhsbench.harness.geneval.prompts import Metadata
from vhsbench.harness.training.tagging import tag_all

if TYPE_CHECKING:
    from vhsbench.harness.training.data_config import CaptionsConfig, LabelsConfig

_SAMPLER_SEED = 44  # 43 draws the benchmark's own prompts
Tag = Callable[[Sequence[str]], list[str]]  # prompts -> a tagger's answers


class TrainingSourceError(VhsbenchError):
    """Captions or prompts that cannot be used; the message is one sentence for a user."""


@dataclass(frozen=True)
class Sample:
    """One image to make. `index` counts the samples of one prompt; both determine its noise.

    `metadata` has the prompt, and for labels GenEval's clauses; `picture` is the image that a captioner
    describes first; its description then becomes the prompt.
    """

    prompt_id: int
    index: int
    metadata: Mapping[str, Any]
    picture: Path | None = None


def caption_samples(config: CaptionsConfig) -> list[Sample]:
    """Make one sample per caption, in the file's order. Raises TrainingSourceError."""
    with read_errors_as(TrainingSourceError):
        entries = read_json(config.source, LARGE)
    if not isinstance(entries, list) or not entries:
        raise TrainingSourceError(f"{config.source} is no JSON list of captions.")
    found = []
    for number, entry in enumerate(entries[: config.limit]):
        text, name = _caption(entry, f"{config.source}, entry {number}")
        with read_errors_as(TrainingSourceError):
            check_length(text, f"{config.source}, entry {number}")
        picture = None
        if config.images is not None:
            if name is None:
                raise TrainingSourceError(
                    f"{config.source}, entry {number} names no image that a captioner could refine it by; "
                    "leave data.captions.images out."
                )
            picture = _inside(config.images, name, f"{config.source}, entry {number}")
        found.append(({"prompt": text, "tag": ""}, picture))
    return [Sample(p, i, m, picture) for (p, i, m), (_, picture) in
            zip(_numbered(m for m, _ in found), found, strict=True)]  # fmt: skip


def _caption(entry: Any, where: str) -> tuple[str, str | None]:
    """Return the text, and the image's name if there is one, of a string or a LLaVA-558k entry."""
    if isinstance(entry, str) and entry.strip():
        return " ".join(entry.split()), None
    try:
        said = [turn["value"] for turn in entry["conversations"] if turn["from"] == "gpt"]
        text, image = " ".join(said[-1].split()), entry.get("image")
    except (TypeError, KeyError, IndexError, AttributeError):
        raise TrainingSourceError(
            f"{where}: neither a text nor a LLaVA conversation with a gpt turn."
        ) from None
    if not text:
        raise TrainingSourceError(f"{where}: its caption is empty.")
    return text, image if isinstance(image, str) else None


def _inside(folder: Path, name: str, where: str) -> Path:
    file = folder / name
    if not file.resolve().is_relative_to(folder.resolve()):
        raise TrainingSourceError(f"{where}: image '{name}' would leave {folder}.")
    return file


def label_prompts(
    config: LabelsConfig, detector: Detector, seed: int, work: Path, tag: Tag | None = None
) -> tuple[list[Metadata], list[Metadata]]:
    """Read the prompts to label, with their GenEval metadata, as (train, validation).

    `tag` classifies texts that have none. Its answers are kept in `work`, and refused.jsonl beside them lists
    the texts that got no metadata, each with the reason. Raises TrainingSourceError, or UnknownClass for a prompt of
    an object that the detector does not know.
    """
    if config.prompts == "nano":
        return _nano(config.limit, config.validation_share)
    if config.prompts == "geneval":
        drawn = geneval.training(tuple(detector.classes), _SAMPLER_SEED, config.draws, variants=1)
        found = [{k: v for k, v in p.items() if k != "variant"} for p in drawn]
    else:
        file = Path(config.prompts)
        texts = _read_prompts(file, detector)
        if isinstance(texts[0], str):
            if tag is None:
                raise TrainingSourceError(f"{file} has no GenEval metadata; set data.labels.tagger to gemma.")
            found, refused = tag_all(texts, _answers(texts, tag, work), detector.classes)
            lines = "".join(json.dumps({"prompt": p, "reason": r}) + "\n" for p, r in refused)
            write_atomic(work / "refused.jsonl", lines.encode(), shared=True)
        else:
            found = texts
    unique = list({p["prompt"]: p for p in found}.values())[: config.limit]
    if len(unique) < 2:
        raise TrainingSourceError(
            f"{config.prompts} gives {len(unique)} prompt(s) with metadata; at least 2 are split."
        )
    return split(unique, config.validation_share, seed)


def split(prompts: Sequence[Metadata], share: float, seed: int) -> tuple[list[Metadata], list[Metadata]]:
    """Split into (train, validation): prompts for the same picture ("a and b", "b and a") stay on one side.

    About `share` of each task's pictures are for validation: at least one of a task that has two, and at least one
    overall.
    """
    rng = np.random.default_rng(seed)
    groups: dict[str, dict[str, list[Metadata]]] = {tag: {} for tag in TAGS}
    for p in prompts:
        groups[p["tag"]].setdefault(geneval.picture(p), []).append(p)
    held: set[int] = set()
    for found in groups.values():
        pictures = list(found.values())
        count = min(max(1, round(share * len(pictures))), len(pictures) - 1)
        for i in rng.permutation(len(pictures))[: max(count, 0)]:
            held |= {id(p) for p in pictures[i]}
    if not held:  # no task has two pictures
        held = {id(prompts[int(rng.integers(len(prompts)))])}
    return [p for p in prompts if id(p) not in held], [p for p in prompts if id(p) in held]


def label_samples(prompts: Sequence[Metadata], variants: int) -> list[Sample]:
    """Make `variants` samples per prompt, in order; the numbering of a repeated prompt continues."""
    return [Sample(*numbers) for numbers in _numbered(p for p in prompts for _ in range(variants))]


def samples_sha256(samples: Sequence[Sample]) -> str:
    """Hash what is to be made."""
    digest = hashlib.sha256()
    for s in samples:
        digest.update(f"{s.prompt_id} {s.index} {json.dumps(s.metadata)} {s.picture}\n".encode())
    return digest.hexdigest()


def _numbered(metadata: Iterator[Mapping[str, Any]]) -> Iterator[tuple[int, int, Mapping[str, Any]]]:
    """Yield numbered metadata as (prompt_id, index, metadata); ids follow the first appearance of a text."""
    ids: dict[str, int] = {}
    counts: Counter[int] = Counter()
    for m in metadata:
        prompt_id = ids.setdefault(m["prompt"], len(ids))
        yield prompt_id, counts[prompt_id], m
        counts[prompt_id] += 1


def _nano(limit: int | None, share: float) -> tuple[list[Metadata], list[Metadata]]:
    prompts = nano_prompts()
    if limit is None:
        return prompts["train"], prompts["validation"]
    return (
        as_evaluated(prompts["train"], limit),
        as_evaluated(prompts["validation"], max(1, round(limit * share))),
    )


def _answers(texts: Sequence[str], tag: Tag, work: Path) -> list[str]:
    """Return the tagger's answers, which are kept in `work`, in a file named by a hash of the texts."""
    digest = hashlib.sha256(json.dumps(list(texts)).encode()).hexdigest()
    file = work / f"tags-{digest[:16]}.json"
    if file.exists():
        answers: list[str] = read_json(file, LARGE)
        return answers
    answers = tag(texts)
    work.mkdir(parents=True, exist_ok=True)
    write_atomic(file, json.dumps(answers).encode(), shared=True)
    return answers


def _read_prompts(file: Path, detector: Detector) -> list[Any]:
    """Read a file of either texts or metadata. Raises TrainingSourceError, MetadataError or UnknownClass."""
    with read_errors_as(TrainingSourceError):
        text = read_text(file, LARGE)
        if text.lstrip().startswith("["):
            texts = parse_json(text, str(file))
            if not all(isinstance(t, str) and t.strip() for t in texts):
                raise TrainingSourceError(f"{file} is no JSON list of texts.")
            for number, prompt in enumerate(texts):
                check_length(prompt, f"{file}, entry {number}")
            found: list[Any] = [" ".join(t.split()) for t in texts]
        elif text.lstrip().startswith("{"):
            rows = parse_json_lines(text, str(file))
            found = [_metadata(row, f"{file}, line {n}", detector) for n, row in rows]
        else:
            found = [line.strip() for _, line in parse_texts(text, str(file))]
    if not found:
        raise TrainingSourceError(f"{file} has no prompts.")
    return list({json.dumps(p): p for p in found}.values())


def _metadata(row: Metadata, where: str, detector: Detector) -> Metadata:
    metadata = check(row, where)
    check_classes(detector, metadata, where)
    return {k: v for k, v in metadata.items() if k != "variant"}
