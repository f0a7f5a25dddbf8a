"""`vhsbench check`: nano keeps every rule, and a plugin that breaks one rule is told of that one."""

from __future__ import annotations

import json
import re
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from vhsbench import generators, verifiers
from vhsbench.generators.noise import gaussian
from vhsbench.generators.protocol import Conditioning, GeneratorDefaults, GeneratorInfo, HiddenStates
from vhsbench.generators.rules import RULES as GENERATOR_RULES
from vhsbench.harness.cli import app
from vhsbench.harness.common.errors import VhsbenchError
from vhsbench.verifiers.protocol import Scores, VerifierDefaults
from vhsbench.verifiers.rules import RULES as VERIFIER_RULES

SIDE = 4


class Painter(GeneratorDefaults):
    """Three blocks that mix noise with a number of the prompt; keeps every rule."""

    name, steps, blocks, device = "painter", 1, 3, torch.device("cpu")

    def encode(self, prompts):
        numbers = [[sum(map(ord, prompt)) % 97 / 97, len(prompt) / 40] for prompt in prompts]
        return Conditioning(tuple(prompts), {"numbers": torch.tensor(numbers)})

    def noise(self, seeds):
        return gaussian(seeds, (2, SIDE, SIDE))

    def block(self, x, cond, number):
        return x + torch.tanh(x + number) * cond.tensors["numbers"][:, :, None, None]

    def run(self, x, cond, blocks):
        for number in blocks:
            x = self.block(x, cond, number)
        return x

    def head(self, cond, noise, block):
        ends = (block,) if isinstance(block, int) else block
        streams = [self.run(noise, cond, range(end + 1)) for end in ends]
        read = torch.stack([s.flatten(2).transpose(1, 2) for s in streams]).mean(0)
        return HiddenStates(block, (streams[-1],), noise, cond, mean=read)

    def tail(self, hidden):
        last = hidden.block if isinstance(hidden.block, int) else hidden.block[-1]
        return self.run(hidden.streams[0], hidden.cond, range(last + 1, self.blocks))

    def denoise(self, cond, noise):
        return self.run(noise, cond, range(self.blocks))

    def decode(self, latents):
        pixels = (255 * torch.sigmoid(latents)).byte().permute(0, 2, 3, 1).numpy()
        return [Image.fromarray(np.concatenate([p, p[..., :1]], -1)) for p in pixels]

    def info(self):
        return GeneratorInfo(self.name, "toy", 0, self.blocks, SIDE * SIDE, 2, SIDE, 1, "MIT", "here")


class Reader(VerifierDefaults):
    """P(yes) of the latents' mean and the prompt's length; keeps every rule."""

    name, needs = "reader", "latents"

    def logits(self, prompts, features):
        return features.flatten(1).mean(1) + torch.tensor([len(prompt) / 40 for prompt in prompts])

    def score(self, prompts, features):
        yes = torch.sigmoid(self.logits(prompts, features))
        return Scores(p_yes=yes, p_no=1 - yes, score=yes)


class Ranker(Reader):
    """A score of any size alone."""

    def score(self, prompts, features):
        return Scores(score=100 * self.logits(prompts, features))


def change(base, **members):
    return type(f"{base.__name__}With{'And'.join(members)}", (base,), members)


def _spoiled(self, cond, noise):
    latents = Painter.run(self, noise, cond, range(self.blocks))
    latents[0] = torch.nan
    return latents


def _in_place(self, cond, noise):
    noise.mul_(1.5)
    return Painter.run(self, noise, cond, range(self.blocks))


def _batch_mean(self, x, cond, number):
    x = Painter.block(self, x, cond, number)
    return x - x.mean(0, keepdim=True) if number == self.blocks - 1 else x


# by the rule that alone is broken
BROKEN_GENERATORS = {
    "encode": change(Painter, encode=lambda self, prompts: Conditioning(tuple(prompts), {"numbers": torch.zeros(1, 2)})),
    "noise": change(Painter, noise=lambda self, seeds: gaussian(seeds, (SIDE, SIDE))),
    "latents": change(Painter, denoise=_spoiled),
    "hidden states": change(
        Painter, head=lambda self, cond, noise, block: HiddenStates(block, (noise.flatten(1),), noise, cond)
    ),
    "images": change(
        Painter, decode=lambda self, latents: [i.convert("RGBA") for i in Painter.decode(self, latents)]
    ),
    "device": change(Painter, device="cpu"),
    "inputs": change(Painter, denoise=_in_place),
    "determinism": change(
        Painter, denoise=lambda self, cond, noise: Painter.denoise(self, cond, noise + 1e-3 * torch.rand(1))
    ),
    "seeds": change(Painter, noise=lambda self, seeds: Painter.noise(self, [s + i for i, s in enumerate(seeds)])),
    "split": change(Painter, tail=lambda self, hidden: hidden.streams[0]),
    "batch": change(Painter, block=_batch_mean),
    "prompt": change(Painter, block=lambda self, x, cond, number: x + torch.tanh(x + number)),
    "candidates": change(
        Painter, block=lambda self, x, cond, number: cond.tensors["numbers"][:, :, None, None].expand(x.shape) + number
    ),
}  # fmt: skip


def _twisted(yes=1.0, no=1.0, score=1.0):
    def change_scores(self, prompts, features):
        found = Reader.score(self, prompts, features)
        return Scores(p_yes=yes * found.p_yes, p_no=no * found.p_no, score=score * found.score)

    return change_scores


def _centred(self, prompts, features):
    found = Reader.score(self, prompts, features)
    return Scores(p_yes=found.p_yes, p_no=found.p_no, score=found.score - found.score.mean())


def _noisy(self, prompts, features):
    return Scores(score=Reader.score(self, prompts, features).score + 1e-3 * torch.rand(len(prompts)))


BROKEN_VERIFIERS = {
    "scores": change(Reader, score=lambda self, prompts, features: Scores(score=self.logits(prompts, features)[:, None])),
    "probabilities": change(Reader, score=_twisted(yes=3.0)),
    "order": change(Reader, score=_twisted(score=-1.0)),
    "value": change(Reader, value=lambda self, score: 1 - score),
    "device": change(Reader, device="cpu"),
    "inputs": change(Reader, logits=lambda self, prompts, features: Reader.logits(self, prompts, features.mul_(2))),
    "determinism": change(Reader, score=_noisy),
    "batch": change(Reader, score=_centred),
    "prompt": change(Reader, logits=lambda self, prompts, features: features.flatten(1).mean(1)),
    "candidates": change(Reader, logits=lambda self, prompts, features: torch.tensor([len(p) / 40 for p in prompts])),
    "costs": change(Reader, parts=lambda self, prompts, features: ["llm"]),
}  # fmt: skip


@pytest.fixture
def register(monkeypatch):
    """Register a class as a plugin; returns its name."""

    def add(made):
        registry = (generators if issubclass(made, Painter) else verifiers).REGISTRY
        factory = f"create_{registry.kind}"
        monkeypatch.setattr(sys.modules[__name__], factory, lambda device="cpu", **_: made(), raising=False)
        targets = {name: registry.target(name) for name in registry}
        monkeypatch.setattr(registry, "_targets", targets | {made.name: f"{__name__}:{factory}"})
        return made.name

    return add


def checked(*arguments):
    """The exit code and {kind: {rule: (outcome, found)}}."""
    done = CliRunner().invoke(app, ["check", *arguments, "--json"])
    assert done.exit_code in (0, 1), done.output
    found = json.loads(done.stdout)
    rules = {part["kind"]: {r["rule"]: (r["outcome"], r["found"]) for r in part["rules"]} for part in found}
    return done.exit_code, rules


def broken(rules):
    return [rule for rule, (outcome, _) in rules.items() if outcome == "broken"]


@pytest.mark.parametrize("name", ["nano", *verifiers.KINDS, "clip-score"])
def test_the_bundled_ones_keep_every_rule(name):
    code, found = checked(name)
    (kind,) = found
    assert list(found[kind]) == [r.name for r in (GENERATOR_RULES if kind == "generator" else VERIFIER_RULES)]
    assert {outcome for outcome, _ in found[kind].values()} == {"holds"}
    assert code == 0


@pytest.mark.parametrize("made", [Painter, Reader, Ranker])
def test_a_sound_plugin_keeps_every_rule(register, made):
    code, kinds = checked(register(made))
    (found,) = kinds.values()
    assert {outcome for outcome, _ in found.values()} == {"holds"}
    assert code == 0


def test_every_rule_has_a_plugin_that_breaks_it():
    assert list(BROKEN_GENERATORS) == [rule.name for rule in GENERATOR_RULES]
    assert list(BROKEN_VERIFIERS) == [rule.name for rule in VERIFIER_RULES]


@pytest.mark.parametrize("rule", BROKEN_GENERATORS)
def test_the_rule_that_a_generator_breaks_is_named_alone(register, rule):
    code, found = checked(register(BROKEN_GENERATORS[rule]))
    assert (code, broken(found["generator"])) == (1, [rule])


@pytest.mark.parametrize("rule", BROKEN_VERIFIERS)
def test_the_rule_that_a_verifier_breaks_is_named_alone(register, rule):
    code, found = checked(register(BROKEN_VERIFIERS[rule]))
    assert (code, broken(found["verifier"])) == (1, [rule])


@pytest.mark.parametrize(
    ("made", "rule", "said"),
    [
        (BROKEN_GENERATORS["latents"], "latents", "32 of 96 numbers of latents are NaN or infinite"),
        (BROKEN_GENERATORS["device"], "device", "device is of type str, not torch.device"),
        (BROKEN_GENERATORS["inputs"], "inputs", "denoise changes z_T"),
        (BROKEN_GENERATORS["images"], "images", "an image is RGBA (4, 4), not RGB (4, 4), which info() says"),
        (BROKEN_GENERATORS["seeds"], "seeds", "in another order, 2 of 3 seeds have other noise"),
        (change(Painter, noise=lambda self, seeds: torch.randn(len(seeds), 2, SIDE, SIDE)), "seeds",
         "noise of the same seeds is another the second time"),
        (change(Painter, noise=lambda self, seeds: gaussian([s % 2**16 for s in seeds], (2, SIDE, SIDE))), "seeds",
         "a seed that differs in bit 31 has the same noise"),
        (BROKEN_VERIFIERS["scores"], "scores",
         "verifier 'reader' gave float32 [3, 1] as 'score' of 3 candidate(s), not a floating-point tensor [3]"),
        (BROKEN_VERIFIERS["order"], "order", "in 36 of 36 pairs the candidate of more P(yes) and less P(no) has the lower score"),
        (BROKEN_VERIFIERS["value"], "value", "a higher score has a lower value"),
        (BROKEN_VERIFIERS["inputs"], "inputs", "the features of 3 of 3 candidates are changed"),
        (change(Reader, score=lambda self, prompts, features: 1 / 0), "scores", "it raises ZeroDivisionError: division by zero"),
    ],
)  # fmt: skip
def test_what_breaks_a_rule_is_said_with_numbers(register, made, rule, said):
    (found,) = checked(register(made))[1].values()
    assert found[rule] == ("broken", said)


def test_a_rule_that_says_nothing_new_is_not_checked(register):
    _, found = checked(register(BROKEN_VERIFIERS["inputs"]))
    assert found["verifier"]["determinism"] == ("not checked", "'inputs' does not hold")
    assert found["verifier"]["batch"] == ("not checked", "'determinism' does not hold")


def test_the_console_shows_a_table_and_what_a_broken_rule_asks_for(register):
    done = CliRunner().invoke(app, ["check", register(BROKEN_VERIFIERS["order"])])
    assert done.exit_code == 1
    rows = {line.split()[0]: line.split() for line in done.stdout.splitlines() if line.strip()}
    assert rows["order"][:4] == ["order", "is", "broken:", "more"]
    assert all(rule.name in rows for rule in VERIFIER_RULES)
    assert "verifier reader" in done.stdout


def test_a_verifier_is_checked_on_the_candidates_of_the_generator_that_is_named(register):
    register(Painter)
    code, found = checked(register(Reader), "--generator", "painter")
    assert (code, broken(found["verifier"])) == (0, [])


def test_a_verifier_that_refuses_the_generator_is_not_checked_on_it(register):
    def refuse(self, generator):
        raise ValueError(f"it reads nothing of '{generator.name}'.")

    register(Painter)
    name = register(change(Reader, check_host=refuse))
    said = "verifier 'reader' cannot be checked on 'painter': it reads nothing of 'painter'."
    with pytest.raises(VhsbenchError, match=re.escape(said)):
        CliRunner().invoke(app, ["check", name, "--generator", "painter"], catch_exceptions=False)


def test_a_generator_and_a_verifier_of_one_name_are_both_checked(register):
    register(Painter)
    register(change(Reader, name="painter"))
    assert set(checked("painter")[1]) == {"generator", "verifier"}


def test_an_unknown_name_is_told_with_the_nearest():
    with pytest.raises(
        VhsbenchError, match="unknown generator or verifier 'mllm-clap'; did you mean 'mllm-clip'"
    ):
        CliRunner().invoke(app, ["check", "mllm-clap"], catch_exceptions=False)
