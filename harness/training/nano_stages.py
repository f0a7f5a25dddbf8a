"""The stages of nano's training, from the autoencoder to the verifiers: one method each."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vhsbench import generators
from vhsbench.generators.nano.scenes import draw, random_scenes
from vhsbench.generators.nano.training import train_autoencoder, train_generator
from vhsbench.generators.nano.world import caption
from vhsbench.generators.training import Progress, Until
from vhsbench.harness.common.shown import markdown_table
from vhsbench.harness.cost.measure import device_name
from vhsbench.harness.geneval.nano_prompts import as_evaluated, nano_prompts, taught_prompts
from vhsbench.harness.geneval.shapes import ShapeDetector
from vhsbench.harness.training.captioners import SceneCaptioner
from vhsbench.harness.training.clip_score import open_clip_score
from vhsbench.harness.training.collection import Collector, Part
from vhsbench.harness.training.config import load_train_config, merged
from vhsbench.harness.training.data import root_of
from vhsbench.harness.training.data_config import ClipScoreConfig
from vhsbench.harness.training.nano_profile import PROFILE, Teaching, looked_at, profile_of, verdicts
from vhsbench.harness.training.nano_recipe import Site
from vhsbench.harness.training.nano_texts import TextStream
from vhsbench.harness.training.sources import label_samples
from vhsbench.verifiers.clip import save_clip
from vhsbench.verifiers.nano.models import clip_config, clip_ids, clip_tokenizer
from vhsbench.verifiers.protocol import Needs
from vhsbench.verifiers.training.clip import train_clip
from vhsbench.verifiers.training.data import Data
from vhsbench.verifiers.training.llm import right_answers, save_llm, train_llm
from vhsbench.verifiers.training.recipe import NEW_LLM, Recipe
from vhsbench.verifiers.training.shards import ShardDataset
from vhsbench.verifiers.training.train import train_verifier
from vhsbench.verifiers.verifier import NEEDS

Metrics = dict[str, Any]

_READS: tuple[Needs, ...] = ("hidden", "latents", "images")
_SHARD = 2048
_QUALITY_ROOT = 1_000_011  # of noise that no check has seen


class Stages:
    """Each stage writes its result below `out` and returns its metrics."""

    def __init__(self, site: Site) -> None:
        self.site, self.out, self.recipe, self.device = site, site.out, site.recipe, site.device
        self.weights = site.out / "weights"

    def run(self, name: str) -> Metrics:
        """Run the stage of this name (see nano_recipe.PLANS)."""
        if name in ("candidates", "early"):
            return self.collect(name, (0, 1))
        alone = {
            "llm": self.llm, "clip": self.clip, "autoencoder": self.autoencoder, "generator": self.generator,
        }  # fmt: skip
        return alone[name]() if name in alone else self.verifier(name)

    def autoencoder(self) -> Metrics:
        r = self.recipe
        vae, metrics = train_autoencoder(
            r.autoencoder_steps, r.seed, self.out, self.site.report, r.autoencoder_batch, self.device,
            r.channels,
        )  # fmt: skip
        vae.save_pretrained(self.out / "autoencoder")
        return metrics

    def generator(self) -> Metrics:
        """Train the generator towards SANA-Sprint's profile; keep the check nearest to it."""
        from diffusers import AutoencoderDC

        r = self.recipe
        vae = AutoencoderDC.from_pretrained(
            self.out / "autoencoder", use_safetensors=True, trust_remote_code=False
        )
        vae.requires_grad_(False)
        teaching, prompts = Teaching(self.out / "looks.jsonl"), looked_at(r.generator_check_prompts)
        best, step = self.out / "generator", 0

        def report(progress: Progress) -> None:
            nonlocal step
            step = progress.step
            self.site.report(progress)

        def near_enough(pipeline: Any) -> bool:
            now = self.out / ".generator.tmp"
            shutil.rmtree(now, ignore_errors=True)
            _save_half(pipeline, now)
            correct, oracle = profile_of(verdicts(now, prompts, self.device), prompts)
            look = teaching.look(step, correct, oracle)
            if teaching.best is look:
                shutil.rmtree(best, ignore_errors=True)
                os.replace(now, best)
            found = ", ".join(f"{tag} {value:.0f}" for tag, value in correct.items())
            self.site.say(
                f"generator: step {step}: {found}; furthest {look.furthest:.1f}, oracle {oracle:.1f}"
            )
            return look.rank <= (False, r.generator_tolerance)

        _, metrics = train_generator(
            vae, taught_prompts(), r.generator_steps, r.seed, self.out, report,
            lambda pipeline: Until(
                lambda: near_enough(pipeline), r.generator_least_steps, r.generator_check_every
            ),
            r.generator_batch, self.device, teaching.lessons, r.glance,
        )  # fmt: skip
        folder = self.weights / "generator"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(best, folder)
        shutil.rmtree(self.out / ".generator.tmp", ignore_errors=True)
        again = looked_at(2 * r.generator_check_prompts)
        correct, oracle = profile_of(
            verdicts(folder, again, self.device, root=_QUALITY_ROOT), again
        )  # by other noise, since the best of many checks flatters itself
        found: Metrics = metrics | {
            "step": teaching.best.step,
            "best_of_1_percent": float(np.mean(list(correct.values()))),
            "oracle_best_of_16_percent": oracle,
            "furthest_points": max(abs(correct[tag] - PROFILE[tag]) for tag in correct),
        }
        found |= {f"correct_percent.{tag}": value for tag, value in correct.items()}
        self._card(folder, "nano generator", found)
        return found

    def llm(self) -> Metrics:
        """Pretrain the language model on texts that are drawn step by step."""
        r = self.recipe
        texts = TextStream(nano_prompts()["train"], r.seed, r.llm_batch)
        llm, seconds = train_llm(
            texts, steps=r.llm_steps, seed=r.seed, state_file=self.out / "llm.state",
            device=self.device, report=self.site.report,
        )  # fmt: skip
        new = TextStream(nano_prompts()["validation"], r.seed, 1024)(1 << 40)
        asked = [d for d in new if d[1] in ("yes", "no")]
        described = [d for d in new if d[1] not in ("yes", "no")]
        metrics = {
            "seconds": seconds,
            "right_answers_percent": 100 * _said_right(llm, asked, self.device),
            "right_caption_tokens_percent": 100 * right_answers(llm, described, self.device),
        }
        save_llm(self.weights / "llm", llm)
        self._card(self.weights / "llm", "nano LLM", metrics)
        return metrics

    def clip(self) -> Metrics:
        r, config, tokenizer = self.recipe, clip_config(), clip_tokenizer()
        length = config["text_cfg"]["context_length"]
        mean, std = torch.tensor([[0.48145466, 0.4578275, 0.40821073],
                                  [0.26862954, 0.26130258, 0.27577711]])[..., None, None].to(self.device)  # fmt: skip

        def batch(step: int) -> tuple[torch.Tensor, torch.Tensor]:
            rng = np.random.default_rng((r.seed, 2, step))
            scenes = random_scenes(rng, rng.integers(1, 5, 128), self.device)
            ids = clip_ids(tokenizer, [caption(s) for s in scenes.items()], length)
            return (draw(scenes) - mean) / std, ids

        model, seconds = train_clip(
            config, batch, device=self.device, steps=r.clip_steps, seed=r.seed,
            state_file=self.out / "clip.state", report=self.site.report,
        )  # fmt: skip
        model = model.cpu().eval()
        with torch.no_grad():
            pixels, ids = batch(1 << 40)
            image, text = model(pixels.cpu(), ids)[:2]
        hits = (image @ text.T).argmax(1) == torch.arange(len(ids))
        metrics = {"seconds": seconds, "retrieval_of_128_percent": 100 * hits.float().mean().item()}
        save_clip(self.weights / "clip", model, config)
        self._card(self.weights / "clip", "nano CLIP", metrics)
        return metrics

    def collect(self, name: str, share: tuple[int, int]) -> Metrics:
        """Collect a share of what verifiers read: all kinds of features in one pass, or the early block's of the same images."""
        r, prompts = self.recipe, nano_prompts()
        early = name == "early"
        reads: tuple[Needs, ...] = ("hidden",) if early else _READS
        collector = Collector(
            generators.create("nano", weights=self.weights / "generator", device=self.device),
            reads,
            r.early_block if early else r.block,
            detector=ShapeDetector(),
            captioner=None if early else SceneCaptioner(),
            clip_score=None if early else open_clip_score(
                ClipScoreConfig(model=str(self.weights / "clip")), self.device
            ),
            dtype=torch.float16,
            batch_size=32 if self.device == "cpu" else 256,  # what fits a CPU's cache, and what fills a GPU
        )  # fmt: skip
        metrics: Metrics = {}
        for part, count in (("train", r.candidates), ("validation", r.validation_candidates)):
            samples = label_samples(as_evaluated(prompts[part], count), 1)
            made = Part(part, "labels", samples, root_of(part, r.seed))
            folders = {kind: self.data(kind, part) for kind in reads}
            if early:
                known = ShardDataset(self.data("hidden", part))
                made = replace(made, rows=known.rows, card=known.card)
                folders = {"hidden": self.out / "data" / "early" / part}
            cards = collector.collect(made, folders, _SHARD, self.site.report, share)
            if cards is not None:
                metrics |= {f"{part}_{k}": v for k, v in cards["hidden"].metrics.items()}
        return metrics

    def data(self, reads: Needs, part: str) -> Path:
        """Return the folder of a part's shards of one kind of features."""
        return self.out / "data" / reads / part

    def verifier(self, name: str) -> Metrics:
        kind = name.removesuffix("-early")
        where = self.out / "data" / ("early" if name != kind else NEEDS[kind])
        made = train_verifier(
            self._training(name), "nano", Data(where / "train", where / "validation"), self.out / name,
            lambda p: self.site.report(replace(p, name=f"{name} {p.name}")),
        )  # fmt: skip
        folder = self.weights / name
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(made, folder)
        with (folder / "README.md").open("a", encoding="utf-8") as card:
            card.write(f"\n{self._made()}\n")
        stages = {s: self.out / name / f"{s}.json" for s in ("aligned", "checkpoint")}
        found = {s: json.loads(f.read_text(encoding="utf-8")) for s, f in stages.items()}
        last = _last_loss(self.out / name)
        return {"aligned_caption_loss": last, **found["checkpoint"], "aligned_s": found["aligned"]["seconds"]}

    def _training(self, name: str) -> Recipe:
        """Return the bundled recipe train-nano-<kind> with this recipe's amounts and choices."""
        r, kind = self.recipe, name.removesuffix("-early")
        plain = load_train_config(Path(f"train-nano-{kind}")).recipe.model_dump()
        changed: dict[str, Any] = {
            "seed": r.seed,
            "verifier": {
                "block": None if kind != "vhs" else r.block if name == kind else r.early_block,
                "clip": str(self.weights / "clip") if kind == "mllm-clip" else None,
                "llm": {"name": str(self.weights / "llm") if r.pretrained else NEW_LLM},
            },
            "align": {
                "steps": r.align_steps, "batch": r.batch, "train": r.align,
                "optimizer": {"learning_rate": r.align_rate},
            },
            "finetune": {
                "steps": r.finetune_steps, "batch": r.batch, "optimizer": {"learning_rate": r.finetune_rate},
            },
            "engine": {"device": self.device, "threads": self.site.threads, "save_every": 500},
        }  # fmt: skip
        return Recipe.model_validate(merged(plain, changed))

    def _made(self) -> str:
        where = device_name(torch.device(self.device))
        if self.device == "cpu":
            where = f"CPU ({where}) with {torch.get_num_threads()} threads"
        return (
            f"Trained by `vhsbench train nano` on {where}, from procedural pictures of coloured shapes: "
            "no data of others. Licence: MIT."
        )

    def _card(self, folder: Path, title: str, metrics: Metrics) -> None:
        """Write a model card beside the weights."""
        measured = [(k, f"{v:.4g}") for k, v in metrics.items()]
        lines = [
            f"# {title}", "",
            self._made(), "",
            markdown_table(["recipe", ""], asdict(self.recipe).items()),
            markdown_table(["measured", ""], measured),
        ]  # fmt: skip
        if title == "nano generator":
            lines += [
                "The generator is chosen by SANA-Sprint's published share of right images, task by task, and by nothing that a "
                "verifier does; every check is in looks.jsonl of the training.", "",
                markdown_table(["task", "published"], PROFILE.items()),
            ]  # fmt: skip
        (folder / "README.md").write_text("\n".join(lines), encoding="utf-8")
        shutil.rmtree(folder / ".cache", ignore_errors=True)


def _save_half(pipeline: Any, folder: Path) -> None:
    """Save a pipeline in half precision, as it is bundled, and leave it as it is."""
    from vhsbench.generators.nano.training import halved

    halved(pipeline).save_pretrained(folder)
    for file in folder.rglob("*.json"):  # diffusers records the folders that it loaded from
        file.write_text(
            "".join(x for x in file.open(encoding="utf-8") if '"_name_or_path"' not in x), encoding="utf-8"
        )


def _said_right(llm: Any, dialogues: list[tuple[str, str]], device: str) -> float:
    """Return the share of right answers, without the token that ends each."""
    return 2 * right_answers(llm, dialogues, device) - 1  # the end is always right: two tokens an answer


def _last_loss(folder: Path) -> float:
    """Return the mean caption loss of the last tenth of stage 1."""
    from vhsbench.verifiers.training.log import read

    losses = [float(r["loss"]) for r in read(folder) if r["stage"] == "align" and r["split"] == "train"]
    return float(np.mean(losses[-max(1, len(losses) // 10) :]))
