"""The training loop survives a kill, and the training of nano starts to learn within seconds."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable

import pytest
import torch
from torch import nn

from vhsbench.generators.nano import WEIGHTS
from vhsbench.generators.nano.training import train_autoencoder, train_generator
from vhsbench.generators.nano.world import SHAPES
from vhsbench.generators.training import Until, cosine, fit, muon_and_adamw, trapezoid
from vhsbench.harness.common.files import ReadError
from vhsbench.harness.geneval.prompts import every
from vhsbench.harness.training.nano import NanoRecipe, train
from vhsbench.verifiers.nano import WEIGHTS as BUNDLED_VERIFIERS


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


def test_a_damaged_state_is_one_sentence(tmp_path):
    (tmp_path / "a").write_bytes(b"PK\x03\x04 cut short")
    with pytest.raises(ReadError, match=r"a: holds no plain tensors \("):
        regression(tmp_path / "a")


def test_a_training_ends_when_it_is_enough_and_is_asked_with_the_average_in_place(tmp_path):
    model = nn.Sequential(nn.Linear(40, 40))
    steps: list[int] = []
    asked: list[tuple[int, bool, torch.Tensor]] = []

    def loss(_: int) -> torch.Tensor:
        assert model.training
        return model(torch.ones(1, 40)).square().mean()

    def enough() -> bool:
        asked.append((len(steps), model.training, model[0].bias.detach().clone()))
        return len(asked) == 3

    fit(
        "t", [model], loss, muon_and_adamw([model]), 20, tmp_path / "s", ema=0.5,
        report=lambda p: steps.append(p.step), until=Until(enough, first=3, every=2),
    )  # fmt: skip
    assert [(step, training) for step, training, _ in asked] == [(3, False), (5, False), (7, False)]
    assert steps == [1, 2, 3, 4, 5, 6, 7]
    assert torch.equal(model[0].bias, asked[-1][2])  # what was enough is what is kept
    assert not torch.equal(asked[0][2], asked[1][2])


def test_killed_while_it_asks_a_training_asks_again(tmp_path):
    asked: list[int] = []

    def trained(answer: Callable[[], bool]) -> list[int]:
        torch.manual_seed(0)
        model, steps = nn.Sequential(nn.Linear(40, 40)), []
        fit(
            "t", [model], lambda _: model(torch.ones(1, 40)).square().mean(), muon_and_adamw([model]), 9,
            tmp_path / "s", save_every_s=-1, report=lambda p: steps.append(p.step),
            until=Until(answer, first=4, every=3),
        )  # fmt: skip
        return steps

    def killed() -> bool:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        trained(killed)
    assert trained(lambda: asked.append(1) is None) == [4]
    assert asked == [1]


def test_asking_does_not_change_the_training(tmp_path):
    def trained(until: Until | None) -> torch.Tensor:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(40, 40))
        optimizers = muon_and_adamw([model])
        fit(
            "t", [model], lambda _: model(torch.ones(1, 40)).square().mean(), optimizers, 9, tmp_path / "s",
            ema=0.5, until=until,
        )  # fmt: skip
        return model[0].weight.detach()

    assert torch.equal(trained(None), trained(Until(lambda: False, first=1, every=1)))


def test_schedules():
    assert trapezoid(0.3) == 1.0
    assert trapezoid(1.0) == 0.0
    assert cosine(0.03) == pytest.approx(1.0)
    assert cosine(1.0) == pytest.approx(0.0)
    assert cosine(0.01) < cosine(0.02)


def test_autoencoder_and_generator_start_to_learn(tmp_path, monkeypatch):
    monkeypatch.setattr("vhsbench.generators.nano.training._HELD_OUT", 16)
    losses: dict[str, list[float]] = {}

    def report(p):
        losses.setdefault(p.name, []).append(p.loss)

    vae, metrics = train_autoencoder(8, 0, tmp_path, report, batch=8)
    train_generator(vae.requires_grad_(False), every(SHAPES), 8, 0, tmp_path, report, batch=8)
    for name in ("autoencoder", "generator"):
        assert losses[name][-1] < losses[name][0], name
    assert metrics["psnr_db"] > 5


def test_train_nano_ends_the_generators_training_by_what_it_can_do(nano, tmp_path, monkeypatch):
    from vhsbench.harness.training import nano as training

    monkeypatch.setattr(training, "_CHECK_PROMPTS", 12)  # two of each task
    said: list[str] = []
    stages = training.Stages(tmp_path, NanoRecipe(), lambda _: None, say=said.append)
    assert stages._enough(nano.pipeline)  # the bundled one: every prompt is possible
    assert said[0].startswith("generator: best_of_1_percent")
    low = {"best_of_1_percent": 60.0, "oracle_best_of_16_percent": 94.9}
    monkeypatch.setattr(stages, "_quality", lambda *_: low)
    assert not stages._enough(nano.pipeline)
    assert list(tmp_path.iterdir()) == []


def test_train_nano_goes_on_from_a_finished_generator_to_loadable_verifiers(tmp_path):
    """A minute's worth of the real command: every later stage, and a second call that does nothing."""
    from vhsbench import verifiers

    recipe = NanoRecipe(
        clip_steps=3, candidates=96, validation_candidates=24, align_steps=3, finetune_steps=4, batch=8
    )
    for stage in ("autoencoder", "generator"):
        (tmp_path / f"{stage}.json").write_text("{}")
    shutil.copytree(WEIGHTS, tmp_path / "weights" / "generator")
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
        made, bundled = verifiers.create(kind, checkpoint=weights / kind), verifiers.create(kind)
        assert made.info().parameters == bundled.info().parameters
        assert "validation_loss" in (weights / kind / "README.md").read_text()
    # the CLIP that this training made, not the bundled one
    clip = "clip/open_clip_model.safetensors"
    assert (weights / "mllm-clip" / clip).read_bytes() == (weights / clip).read_bytes()
    assert (weights / clip).read_bytes() != (BUNDLED_VERIFIERS / clip).read_bytes()
    before = {f: f.stat().st_mtime_ns for f in weights.rglob("*.safetensors")}
    train(tmp_path, recipe)
    assert before == {f: f.stat().st_mtime_ns for f in weights.rglob("*.safetensors")}
    with pytest.raises(ValueError, match="another recipe"):
        train(tmp_path, NanoRecipe())
