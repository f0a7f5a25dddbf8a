"""Train both stages of the paper (A.3), from shards to a checkpoint folder in the official format."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from vhsbench.harness.common.atomic import room_on_disk, write_atomic
from vhsbench.harness.common.files import read_errors_as
from vhsbench.harness.common.tensors import load_tensors
from vhsbench.harness.common.text import read_json_object
from vhsbench.verifiers.checkpoint import STATISTICS, VerifierCard, empty_model, load_model, save_checkpoint
from vhsbench.verifiers.clip import OFFICIAL, ClipPatches, OpenClipPatches, load_tower, tower_folder
from vhsbench.verifiers.features import Normalize, flatten_latents
from vhsbench.verifiers.mllm import Mllm, Question
from vhsbench.verifiers.nano import WEIGHTS
from vhsbench.verifiers.training.build import build
from vhsbench.verifiers.training.card import Metrics, model_card
from vhsbench.verifiers.training.data import Data, open_data
from vhsbench.verifiers.training.engine import Engine, Point, Report, TrainingError, Weights
from vhsbench.verifiers.training.objectives import Captioning, YesNo
from vhsbench.verifiers.training.recipe import Recipe, VerifierRecipe
from vhsbench.verifiers.training.samples import Samples, Tokens, precomputed
from vhsbench.verifiers.training.stage import Stage
from vhsbench.verifiers.training.state import held, sync_all, write_tensors, writing
from vhsbench.verifiers.training.statistics import feature_moments

TOWER = "clip"  # in a checkpoint's folder, if the user brought the vision tower
ALIGNED, CHECKPOINT = "aligned", "checkpoint"
Moments = tuple[torch.Tensor, torch.Tensor]


def train_verifier(
    recipe: Recipe, generator: str, data: Data, out: Path, report: Report = lambda _: None
) -> Path:
    """Train in `out`, or continue a killed run there; return the checkpoint's folder.

    `out` gets aligned/ (the end of stage 1) and checkpoint/, both loadable by path, statistics.csv and
    tensorboard/. Raises ShardError for unsuitable data, LabelError, TrainingError, DiskFullError,
    InUseError.
    """
    with room_on_disk(out):
        out.mkdir(parents=True, exist_ok=True)
    engine = Engine(recipe.engine, out, report)
    with held(out, engine.is_main):
        return _Training(recipe, generator, data, out, engine).run()


class _Training:
    def __init__(self, recipe: Recipe, generator: str, data: Data, out: Path, engine: Engine) -> None:
        self.recipe, self.generator, self.data, self.out = recipe, generator, data, out
        self.engine = engine
        verify = recipe.engine.verify_data and self.engine.is_main
        self.parts = open_data(recipe, generator, data, verify)
        self.train = self.parts["train"]
        _same_identity(out, self._identity(), self.engine)

    def _identity(self) -> dict[str, Any]:
        """Return what the result depends on."""
        recipe = self.recipe.model_dump(mode="json", exclude={"engine"})
        data = {name: data.card.sha256() for name, data in self.parts.items()}
        return {
            "generator": self.generator,
            **recipe,
            "precision": self.recipe.engine.precision,
            "data": data,
        }

    def run(self) -> Path:
        checkpoint = self.out / CHECKPOINT
        if checkpoint.exists():
            return checkpoint
        self._prepare()
        aligned = self._aligned()
        if aligned:
            mllm, question = load_model(aligned, self.card, torch.device("cpu"), torch.float32)
        else:
            mllm, question = build(self.recipe.verifier, self.card, self.recipe.seed)
        recipe = self.recipe.finetune
        every = recipe.validate_every or max(1, len(self.train) // recipe.batch)
        stage = Stage(
            "finetune", recipe, YesNo(question, recipe.loss, self.train.correct), self.samples["train"],
            self.tokens, (self.recipe.seed, 1), self.samples["validation"], every,
        )  # fmt: skip
        weights, point = self.engine.fit(mllm.requires_grad_(True), stage)
        dtype = getattr(torch, self.recipe.verifier.dtype)
        self._write(CHECKPOINT, mllm, question, weights, dtype, _metrics(point, "finetune"))
        self.engine.states.clear()
        return checkpoint

    def _prepare(self) -> None:
        """Prepare the features as visual tokens, and the card that describes them."""
        v, tower = self.recipe.verifier, None
        self.moments = self._moments() if v.kind == "vhs" else None
        if self.moments is not None:
            self.tokens: Tokens = Normalize(*self.moments).to(self.engine.device)
            tokens, width = self.train.card.feature_shape
        elif v.kind == "mllm-ae":
            self.tokens = flatten_latents
            width, height, across = self.train.card.feature_shape
            tokens = height * across
        else:
            clip = load_tower(tower_folder(_clip(v, self.generator)), self.engine.device, torch.float32)
            self.tokens, width, tokens = _Pictures(clip), clip.width, clip.tokens
            tower = v.clip if self.generator == "nano" else v.clip or OFFICIAL
            tower = TOWER if tower and Path(tower).is_dir() else tower
        self.card = VerifierCard(v.kind, self.generator, v.block, width, tokens, v.template, tower)
        self.samples: dict[str, Samples] = {**self.parts}
        if v.precompute:
            tokens_of, device = self.tokens, self.engine.device
            for name in ("train", "validation", "alignment"):
                same = name == "alignment" and self.parts[name] is self.train
                self.samples[name] = (
                    self.samples["train"]
                    if same
                    else precomputed(self.parts[name], lambda features: tokens_of(features.to(device)))
                )
            self.tokens = _as_is

    def _moments(self) -> Moments:
        """Compute mean and variance of the alignment's hidden states, once."""
        file = self.out / STATISTICS
        if not file.exists() and self.engine.is_main:
            mean, variance = feature_moments(self.parts["alignment"], self.data.statistics_samples)
            write_tensors(file, {"mean": mean, "variance": variance})
        self.engine.accelerator.wait_for_everyone()
        found = load_tensors(file)
        return found["mean"], found["variance"]

    def _aligned(self) -> Path | None:
        recipe, folder = self.recipe.align, self.out / ALIGNED
        if recipe is None or folder.exists():
            return None if recipe is None else folder
        mllm, question = build(self.recipe.verifier, self.card, self.recipe.seed)
        mllm.requires_grad_(recipe.train == "all")
        mllm.connector.requires_grad_(True)
        stage = Stage(
            "align", recipe, Captioning(question, recipe.template), self.samples["alignment"],
            self.tokens, (self.recipe.seed, 0),
        )  # fmt: skip
        weights, point = self.engine.fit(mllm, stage)
        # float32: the second stage continues from these weights
        self._write(ALIGNED, mllm, question, weights, torch.float32, _metrics(point, "align"))
        self.engine.states.clear()
        return folder

    def _write(
        self,
        name: str,
        mllm: Mllm,
        question: Question,
        weights: Weights,
        dtype: torch.dtype,
        metrics: Metrics,
    ) -> None:
        """Write a folder in the official format, atomically. Raises DiskFullError."""
        card = self.card
        if name == ALIGNED and self.recipe.align:  # with the question of its training, so that it captions
            card = replace(card, template=self.recipe.align.template)
        if self.engine.is_main:
            work = self.out / f".{name}.tmp"
            shutil.rmtree(work, ignore_errors=True)
            with writing(self.out):
                model = _filled(mllm, self.card, weights)
                save_checkpoint(work, model, question.tokenizer, card, self.moments, dtype)
                if self.card.vision_tower == TOWER:
                    shutil.copytree(str(self.recipe.verifier.clip), work / TOWER)
                cards = {part: data.card for part, data in self.parts.items()}
                (work / "README.md").write_text(
                    model_card(name, self.recipe, card, cards, metrics), encoding="utf-8"
                )
                sync_all(work)
                write_atomic(self.out / f"{name}.json", (json.dumps(metrics, indent=1) + "\n").encode())
            with writing(self.out):
                os.replace(work, self.out / name)
        self.engine.accelerator.wait_for_everyone()


class _Pictures:
    """Turns images uint8 [B, H, W, 3] into CLIP's patches [B, T, C]."""

    def __init__(self, tower: ClipPatches | OpenClipPatches) -> None:
        self._tower = tower

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        from PIL import Image

        patches = self._tower([Image.fromarray(image) for image in images.cpu().numpy()])
        return patches.clone()  # out of inference mode, so that the connector's gradient may keep it


def _clip(recipe: VerifierRecipe, generator: str) -> str | Path:
    return recipe.clip or (WEIGHTS / "clip" if generator == "nano" else OFFICIAL)


def _as_is(features: torch.Tensor) -> torch.Tensor:
    return features


def _filled(mllm: Mllm, card: VerifierCard, weights: Weights) -> Mllm:
    """Build a model of the same sizes with the given weights, on the CPU."""
    llm: Any = mllm.llm
    config = llm.config.to_dict() | {"mm_projector_type": mllm.projector}
    with torch.device("meta"):
        model = empty_model(config, card.feature_width)
    lacking = model.load_state_dict(weights, strict=False, assign=True).missing_keys
    assert set(lacking) <= {"llm.lm_head.weight"}  # tied, so it is stored once
    return model


def _metrics(point: Point, stage: str) -> Metrics:
    found = {f"validation_{k}": v for k, v in point.metrics.items()}
    if point.best_step:
        found["best_step"] = point.best_step
    return {"stage": stage, "steps": point.step, "seconds": point.seconds, **found}


def _same_identity(out: Path, identity: dict[str, Any], engine: Engine) -> None:
    file = out / "recipe.json"
    if file.exists():
        with read_errors_as(TrainingError):
            before = read_json_object(file)
        if differing := [k for k in identity if identity[k] != before.get(k)]:
            raise TrainingError(
                f"{out} holds a training with another '{differing[0]}': choose another folder, or make it the same."
            )
    elif engine.is_main:
        with room_on_disk(out):
            write_atomic(file, (json.dumps(identity, indent=1) + "\n").encode())
    engine.accelerator.wait_for_everyone()
