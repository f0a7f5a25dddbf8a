"""The training loop survives a kill, and the training of nano starts to learn within seconds."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from open_clip import CLIP
from torch import nn

from vhsbench.generators.nano.models import build_autoencoder, build_pipeline
from vhsbench.generators.nano.training import (
    Classroom,
    Lessons,
    crossed,
    halved,
    mixed_share,
    train_autoencoder,
    train_generator,
)
from vhsbench.generators.nano.world import BACKGROUND, COLORS, PALETTE, SHAPES
from vhsbench.generators.training import Until, cosine, fit, muon_and_adamw, trapezoid
from vhsbench.harness.common.files import ReadError
from vhsbench.harness.common.tasks import TAGS
from vhsbench.harness.geneval.prompts import every
from vhsbench.harness.training.nano_recipe import NanoRecipe
from vhsbench.verifiers.checkpoint import VerifierCard
from vhsbench.verifiers.nano.models import TEMPLATE, build_verifier, clip_config


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


def test_matrices_updated_together_are_updated_as_by_torch():
    """The same gradients move the same weights: tall, wide and square ones, and one without a gradient."""
    from vhsbench.generators.training import StackedMuon

    def moved(optimizer: type[torch.optim.Muon]) -> list[torch.Tensor]:
        torch.manual_seed(0)
        weights = [
            torch.nn.Parameter(torch.randn(s)) for s in [(32, 32)] * 3 + [(64, 32)] * 2 + [(32, 64), (8, 8)]
        ]
        muon = optimizer(weights, lr=2e-2, weight_decay=0.1, adjust_lr_fn="original")
        for _ in range(4):
            for weight in weights[:-1]:
                weight.grad = torch.randn(weight.shape)
            muon.step()
        return weights

    for mine, torchs in zip(moved(StackedMuon), moved(torch.optim.Muon), strict=True):
        torch.testing.assert_close(mine, torchs, rtol=0, atol=1e-4)


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


def test_what_shape_and_colour_add_together_is_a_share_of_each():
    """Latents of crossed scenes: shapes s, t and colours p, q as sp, tq, sq, tp."""
    rng = np.random.default_rng(0)
    shapes, colours = rng.standard_normal((2, 2, 60, 4, 8, 8))
    pairs = rng.standard_normal((2, 2, 60, 4, 8, 8))

    def latents(apart: float, together: float) -> torch.Tensor:
        cells = [(0, 0), (1, 1), (0, 1), (1, 0)]  # of shape and colour
        return torch.tensor(
            np.stack([apart * (shapes[s] + colours[c]) + together * pairs[s, c] for s, c in cells])
        )

    assert mixed_share(latents(1.0, 0.0)).item() == pytest.approx(0.0, abs=1e-9)
    assert mixed_share(latents(0.0, 1.0)).item() == pytest.approx(1.0, rel=0.05)
    some = mixed_share(latents(1.0, 0.5)).item()
    assert some == pytest.approx(0.25 / (1 + 0.25), rel=0.05)
    assert mixed_share(1000 * latents(1.0, 0.5)).item() == pytest.approx(some, rel=1e-4)


def test_crossed_scenes_exchange_colours_and_keep_shapes():
    """Each of four pictures is the only one with its outlines and colours, so that a + b - c - d is what mixes them."""
    a, b, recoloured, exchanged = crossed(np.random.default_rng(0), 6)

    def outlines(pictures):
        return ((pictures - (2 * BACKGROUND - 1)).abs() > 1e-5).any(1)

    def colours(pictures):  # those that fill a pixel
        paints = 2 * torch.tensor(list(PALETTE.values()))[:, :, None, None] - 1
        return ((pictures[:, None] - paints).abs().amax(2) < 1e-5).any((2, 3)).tolist()

    assert torch.equal(outlines(a), outlines(recoloured))
    assert torch.equal(outlines(b), outlines(exchanged))
    assert not torch.equal(outlines(a), outlines(b))
    assert colours(a) == colours(exchanged) != colours(recoloured) == colours(b)


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


def test_an_auxiliary_head_learns_too_and_leaves_the_generator_as_it_is(tmp_path):
    vae = train_autoencoder(2, 0, tmp_path, lambda _: None, batch=2)[0].requires_grad_(False)
    losses: list[float] = []
    made, _ = train_generator(
        vae, every(SHAPES), 6, 0, tmp_path, lambda p: losses.append(p.loss),
        lambda pipeline: Until(lambda: halved(pipeline) is None, 2, 2), batch=4, glance=5,
    )  # fmt: skip
    plain = build_pipeline(vae, 0)
    before, after = plain.transformer.state_dict(), made.transformer.state_dict()
    assert after.keys() == before.keys()
    name = "proj_out.weight"  # which the head has, too
    assert not torch.equal(after[name], before[name])
    assert losses[-1] < losses[0]


def test_modules_with_the_same_names_are_all_trained():
    models = [nn.Sequential(nn.Linear(40, 40)) for _ in range(2)]
    held = [p for o in muon_and_adamw(models) for group in o.param_groups for p in group["params"]]
    assert {id(p) for p in held} == {id(p) for m in models for p in m.parameters()}
    assert len(held) == 4


def test_a_class_is_taught_in_the_shares_of_its_lessons():
    room = Classroom(every(SHAPES), channels=4)
    assert room.tags == TAGS
    lessons = Lessons((0.0, 0.5, 0.0, 0.0, 0.0, 0.5), (0.0,) * 6)
    noise, prompts, scenes = room.batch(np.random.default_rng(0), 40, lessons)
    again = room.batch(np.random.default_rng(0), 40, lessons)
    assert noise.shape == (40, 4, 8, 8)
    assert torch.equal(noise, again[0])
    assert scenes.present.sum(1).tolist() == [2] * 40
    colours = [sum(c in p.split() for c in COLORS) for p in prompts]
    assert colours == [0] * 20 + [2] * 20


def test_a_candidate_costs_about_what_it_does_at_full_size():
    """VHS / CLIP and AE / CLIP by operations (the paper: 0.37 and 0.50); the published range of the issue is .33 to .55."""
    from fvcore.nn import FlopCountAnalysis

    vae = build_autoencoder().eval()
    dit = build_pipeline(vae, 0).transformer.eval()

    def operations(model: nn.Module, *inputs: torch.Tensor) -> float:
        count = FlopCountAnalysis(model, inputs)
        return count.unsupported_ops_warnings(False).uncalled_modules_warnings(False).total() / 1e6

    noise, text, one = torch.randn(1, 4, 8, 8), torch.randn(1, 16, 96), torch.ones(1)
    whole = operations(_Denoise(dit), noise, text, one)
    dit.transformer_blocks = dit.transformer_blocks[: NanoRecipe().block + 1]
    head = operations(_Denoise(dit), noise, text, one)
    decode = operations(_Decode(vae), noise)
    card = VerifierCard("vhs", "nano", 6, 128, 64, TEMPLATE, None)
    llm = operations(_Ask(build_verifier(card, 0)[0]), torch.randn(1, 64, 128), torch.zeros(1, 24).long())
    clip = operations(_See(CLIP(**clip_config())), torch.randn(1, 3, 64, 64))
    every_stage = whole + decode + clip + llm
    assert 0.33 < (head + llm) / every_stage < 0.45
    assert 0.43 < (whole + llm) / every_stage < 0.55


class _Denoise(nn.Module):
    def __init__(self, dit):
        super().__init__()
        self.dit = dit

    def forward(self, noise, text, one):
        return self.dit(noise, encoder_hidden_states=text, guidance=one, timestep=one, return_dict=False)[0]


class _Decode(nn.Module):
    def __init__(self, vae):
        super().__init__()
        self.vae = vae

    def forward(self, latents):
        return self.vae.decode(latents).sample


class _Ask(nn.Module):
    def __init__(self, mllm):
        super().__init__()
        self.mllm = mllm

    def forward(self, visual, ids):
        return self.mllm.states(ids[0, :4], visual, ids)


class _See(nn.Module):
    def __init__(self, clip):
        super().__init__()
        self.clip = clip

    def forward(self, pixels):
        return self.clip.encode_image(pixels)
