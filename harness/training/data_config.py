"""The key `data` of a training's configuration: what is collected, and where (the paper's A.1)."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from vhsbench.harness.common.settings import HUB_ID, TAG, Amount, CandidateCount, Local, LocalOptions, Strict
from vhsbench.harness.config.entries import DetectorConfig
from vhsbench.verifiers.protocol import Needs

_Path = Annotated[Path | None, Local(needed=False)]  # not needed if its shards are already there
_GEMMA = LocalOptions({"weights": Local(other=HUB_ID)})
PARTS = ("alignment", "train", "validation")


class CaptionerConfig(Strict):
    """The captioner: `gemma` (the paper's), or `scene`, which says what the detector `shapes` sees."""

    short = "name"

    name: Literal["gemma", "scene"]
    """gemma (the paper's), or scene, which says what the detector shapes sees."""
    options: Annotated[dict[str, Any], _GEMMA] = Field(default_factory=dict)
    """weights and device of gemma."""


class ClipScoreConfig(Strict):
    """The CLIP of the CLIP-Score: an open_clip name and weights, "nano", or a folder with a CLIP like nano's."""

    model: Annotated[str, Local(names="nano", other=rf"{TAG}|hf-hub:.*")] = "ViT-B-32-quickgelu"
    """An open_clip name, nano, or a folder with a CLIP like nano's."""
    pretrained: Annotated[str, Local(names=TAG)] = "openai"
    """Its weights, an open_clip tag."""


class CaptionsConfig(Strict):
    """Stage 1: the texts from which images are made.

    `source` is a JSON list of strings, or LLaVA-558k's list of conversations. If `images` holds the
    pictures that LLaVA's entries name, the captioner describes these first (B.1).
    """

    short = "source"

    source: Annotated[Path, Local(needed=False)]
    """A JSON list of texts, or LLaVA-558k's list of conversations."""
    images: _Path = None
    """The folder with the pictures that LLaVA's entries name, for the captioner to describe first."""
    limit: Amount | None = None
    """How many texts; by default all."""


class LabelsConfig(Strict):
    """Stage 2: prompts, and the number of images of each.

    `prompts` is `nano`, `geneval` (its sampler with another seed, `draws` times a task), or a file: GenEval's
    JSON lines, or texts (a JSON list, or one per line) that the tagger classifies. `limit` and
    `validation_share` are of the prompts; of `nano`, whose prompts come again, `limit` is of those for training.
    """

    prompts: Annotated[str, Local(names="nano|geneval", needed=False)] = "geneval"
    """nano, geneval (its sampler with another seed), or a file: GenEval's JSON lines, or texts that the tagger classifies."""
    draws: Amount = 1200
    """Prompts a task, of geneval's sampler."""
    variants: Amount = 20
    """Images a prompt."""
    validation_share: Annotated[float, Field(gt=0, lt=1)] = 0.05
    """Of the prompts."""
    limit: Amount | None = None
    """How many prompts; by default all."""
    tagger: Literal["gemma"] | None = None
    """What classifies texts: gemma."""
    tagger_options: Annotated[dict[str, Any], _GEMMA] = Field(default_factory=dict)
    """weights and device of gemma."""
    captions: bool = False  # describe these images too
    """Describe these images too."""


class DataConfig(Strict):
    """Where the shards are, and how they are made.

    `alignment`, `train` and `validation` name finished folders of shards, in place of those in `folder`.
    `rows_of` is a data folder of the same images by another block or kind of features, whose captions and verdicts
    are used. `reads` are the kinds of features written in one pass over the images; by default what the verifier reads.
    """

    folder: _Path = None
    """Where the shards are written."""
    alignment: _Path = None
    """A finished folder of shards, in place of that in folder."""
    train: _Path = None
    """The same of training."""
    validation: _Path = None
    """The same of validation."""
    rows_of: _Path = None
    """A data folder of the same images by another block or kind of features, whose captions and verdicts are used."""
    captions: CaptionsConfig | None = None
    """The texts of stage 1; without it, stage 1 has no data of its own."""
    labels: LabelsConfig = LabelsConfig()
    """The prompts of stage 2."""
    reads: Annotated[tuple[Needs, ...], Field(min_length=1)] | None = None
    """Kinds of features written in one pass: hidden, latents, images; by default what the verifier reads."""
    captioner: CaptionerConfig = CaptionerConfig(name="gemma")
    """What describes images."""
    detector: DetectorConfig = DetectorConfig(name="mask2former")
    """What judges them."""
    clip_score: ClipScoreConfig | None = ClipScoreConfig()
    """Which CLIP scores captions; null for none."""
    dtype: Literal["float16", "bfloat16", "float32"] | None = None  # of features; None: the generator's
    """Of features; by default the generator's."""
    batch_size: CandidateCount = 16
    """Images made at once."""
    shard_size: Amount = 256
    """Samples a shard."""

    @model_validator(mode="after")
    def _scene_needs_shapes(self) -> DataConfig:
        if self.captioner.name == "scene" and self.detector.name != "shapes":
            raise ValueError("captioner 'scene' says what the detector 'shapes' sees; set detector to it")
        return self

    def folders(self, out: Path, reads: Needs) -> dict[str, Path]:
        """Return the folders of shards of one kind of features, by part: alignment, train, validation."""
        return {part: getattr(self, part) or (self.folder or out / "data") / reads / part for part in PARTS}
