"""Open the shards of a training, and check them against the recipe before anything is trained."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from vhsbench.verifiers.training.losses import class_weights
from vhsbench.verifiers.training.objectives import captions_of
from vhsbench.verifiers.training.recipe import Recipe
from vhsbench.verifiers.training.shards import DataStage, ShardDataset, ShardError
from vhsbench.verifiers.verifier import NEEDS


@dataclass(frozen=True)
class Data:
    """Folders of finished shards. Without `alignment` the captions of `train` are used.

    `statistics_samples` is the most samples from which a VHS's normalisation is computed (A.2).
    """

    train: Path
    validation: Path
    alignment: Path | None = None
    statistics_samples: int = 50_000


def open_data(recipe: Recipe, generator: str, data: Data, verify: bool) -> dict[str, ShardDataset]:
    """Open the shards by part: alignment, train, validation; `verify` compares every file's SHA-256.

    Raises ShardError for shards of another generator, block or revision, without captions, of several
    steps for a VHS, or with prompts in both train and validation; LabelError if there is only one class.
    """
    kind = recipe.verifier.kind

    def opened(folder: Path, stage: DataStage | None) -> ShardDataset:
        return ShardDataset(
            folder, stage=stage, generator=generator, reads=NEEDS[kind], block=recipe.verifier.block,
            verify=verify,
        )  # fmt: skip

    train, validation = opened(data.train, "labels"), opened(data.validation, "labels")
    alignment = opened(data.alignment, None) if data.alignment else train
    parts = {"alignment": alignment, "train": train, "validation": validation}
    for name, part in parts.items():
        if kind == "vhs" and part.card.steps != 1:
            raise ShardError(
                f"a VHS reads hidden states of one-step generation, but the {name} shards were made in "
                f"{part.card.steps} steps."
            )
        if part.card.revision != train.card.revision:
            raise ShardError(
                f"the {name} shards are of revision '{part.card.revision}' of '{generator}', "
                f"the train shards of '{train.card.revision}': collect them from one."
            )
    class_weights(train.correct)
    if both := {r["prompt"] for r in train.rows} & {r["prompt"] for r in validation.rows}:
        raise ShardError(f"the prompt '{min(both)}' is in both train and validation: split by prompt.")
    if recipe.align is not None and not captions_of(alignment.rows):
        raise ShardError(f"shards without captions cannot align a verifier: {alignment.folder}.")
    return parts
