"""The training loop survives a kill, and the training of nano starts to learn within seconds."""

from __future__ import annotations

import re
import shutil

import pytest
import torch
from torch import nn

from generators import nano as nano_package
from generators.nano.training import train_autoencoder, train_generator
from generators.nano.world import SHAPES
from generators.training import cosine, fit, muon_and_adamw, trapezoid
from harness.geneval.prompts import every
from harness.train_nano import Recipe, train


class Killed(Exception):
    pass


def regression(state, stop_at=None, seen=None):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(40, 40), nn.Tanh(), nn.Linear(40, 1))

    def loss(step: int) -> torch.Tensor:
        if step == stop_at:
            raise Killed
        if seen is not None:
            seen.append(step)
        x = torch.randn(32, 40, generator=torch.Generator().manual_seed(step))
        return (model(x) - x[:, :1]).square().mean()

    fit("t", [model], loss, muon_and_adamw([model]), 30, state, ema=0.9, save_every_s=0.0)
    return model


def test_a_killed_training_ends_as_if_it_had_not_been(tmp_path):
    whole = regression(tmp_path / "a")
    with pytest.raises(Killed):
        regression(tmp_path / "b", stop_at=17)
    steps: list[int] = []
    resumed = regression(tmp_path / "b", seen=steps)
    assert steps[0] == 17
    for one, other in zip(whole.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(one, other)
    assert not (tmp_path / "b").exists()


def test_progress_ends_where_the_training_stops(tmp_path):
    model = nn.Sequential(nn.Linear(40, 40))
    seen: list[tuple[int, int]] = []

    def loss(_: int) -> torch.Tensor:
        return model(torch.ones(1, 40)).square().mean()

    optimizers = muon_and_adamw([model])
    fit(
        "t",
        [model],
        loss,
        optimizers,
        9,
        tmp_path / "s",
        report=lambda p: seen.append((p.step, p.steps)),
        stop=2,
    )
    assert seen == [(1, 2), (2, 2)]


def test_schedules():
    assert trapezoid(0.3) == 1.0
    assert trapezoid(1.0) == 0.0
    assert cosine(0.03) == pytest.approx(1.0)
    assert cosine(1.0) == pytest.approx(0.0)
    assert cosine(0.01) < cosine(0.02)


def test_autoencoder_and_generator_start_to_learn(tmp_path):
    losses: dict[str, list[float]] = {}

    def report(p):
        losses.setdefault(p.name, []).append(p.loss)

    vae, metrics = train_autoencoder(8, 0, tmp_path, report, batch=8)
    train_generator(vae.requires_grad_(False), every(SHAPES), 8, 0, tmp_path, report, batch=8)
    for name in ("autoencoder", "generator"):
        assert losses[name][-1] < losses[name][0], name
    assert metrics["psnr_db"] > 5


def test_train_nano_goes_on_from_a_finished_generator_to_loadable_verifiers(tmp_path):
    """A minute's worth of the real command: every later stage, and a second call that does nothing."""
    import verifiers

    recipe = Recipe(
        clip_steps=3, candidates=96, validation_candidates=24, align_steps=3, finetune_steps=4, batch=8
    )
    for stage in ("autoencoder", "generator"):
        (tmp_path / f"{stage}.json").write_text("{}")
    shutil.copytree(nano_package.WEIGHTS, tmp_path / "weights" / "generator")
    said: list[str] = []
    weights = train(tmp_path, recipe, say=said.append)
    assert said[:3] == [
        "stage autoencoder: done before",
        "stage generator: done before",
        "stage clip: begins",
    ]
    assert re.fullmatch(r"stage clip: done in 0:\d\d:\d\d; .*retrieval_of_128_percent [\d.]+", said[3])
    assert len(said) == 2 + 2 * 5
    for kind in ("vhs", "mllm-ae", "mllm-clip"):
        assert verifiers.create(kind, checkpoint=weights / kind).info().parameters > 0
        assert "validation_loss" in (weights / kind / "README.md").read_text()
    # the CLIP that this training made, not the bundled one
    assert (weights / "mllm-clip" / "clip" / "open_clip_model.safetensors").exists()
    before = {f: f.stat().st_mtime_ns for f in weights.rglob("*.safetensors")}
    train(tmp_path, recipe)
    assert before == {f: f.stat().st_mtime_ns for f in weights.rglob("*.safetensors")}
    with pytest.raises(ValueError, match="another recipe"):
        train(tmp_path, Recipe())
