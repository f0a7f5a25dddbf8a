"""What a sweep and a pool share: candidates, their verdicts and their scores, as rows of the tables."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from PIL import Image

from vhsbench.generators.noise import candidate_seed
from vhsbench.generators.protocol import Conditioning, HiddenStates
from vhsbench.harness.common.images import pixels_digest
from vhsbench.harness.config.run import parse
from vhsbench.harness.inference.bench import Bench
from vhsbench.harness.judges import JudgeDefaults, JudgeError, Verdict
from vhsbench.harness.regress.pool import make_pool
from vhsbench.harness.store.parquet import SCHEMAS
from vhsbench.harness.sweep.run import load_prompts
from vhsbench.harness.sweep.shards import Worker, shards
from vhsbench.verifiers.protocol import Scores, VerifierDefaults

PROMPTS = [{"prompt": "one", "tag": "colors"}, {"prompt": "two", "tag": "position"}]
KEYS = [(1, 5, 0), (0, 5, 0), (1, 5, 1), (1, 6, 0)]


class Painter:
    """A picture is of one colour: its seed's, and its prompt's length."""

    name, steps, blocks, device = "painter", 2, 9, torch.device("cpu")

    def __init__(self):
        self.encoded, self.heads = Counter(), []

    def encode(self, prompts):
        self.encoded.update(prompts)
        return Conditioning(tuple(prompts), {"length": torch.tensor([[float(len(p))] for p in prompts])})

    def noise(self, seeds):
        return torch.tensor([[float(s % 200)] for s in seeds])

    def head(self, cond, noise, block):
        self.heads.append(block)
        return HiddenStates(block, (noise + cond.tensors["length"],), noise, cond)

    def tail(self, hidden):
        return hidden.streams[0]

    def denoise(self, cond, noise):
        return noise + cond.tensors["length"]

    def decode(self, latents):
        return [Image.new("L", (1, 1), int(v)) for v in latents[:, 0]]


class Reader(VerifierDefaults):
    needs = "hidden"

    def __init__(self, name, block):
        self.name, self.block = name, block

    def check_host(self, generator):
        if self.block >= generator.blocks:
            raise ValueError(f"'{generator.name}' has no block {self.block}.")

    def score(self, prompts, features):
        value = features[:, 0] / 1000
        return Scores(value, 1 - value, value + self.block)


class Bright(JudgeDefaults):
    """Right where the picture is brighter than 100; says what it saw of which prompt."""

    def __init__(self, name="bright", decides=True):
        self.name, self.decides = name, decides

    def judge(self, images, prompts):
        seen = [(i.getpixel((0, 0)), m["prompt"]) for i, m in zip(images, prompts, strict=True)]
        return [Verdict(v / 255, v > 100 if self.decides else None, f"{v} of {p}") for v, p in seen]


def values():
    """The right pixel of each key."""
    return [candidate_seed(seed, p, i) % 200 + len(PROMPTS[p]["prompt"]) for p, seed, i in KEYS]


@pytest.fixture
def bench():
    return Bench(
        Painter(),
        PROMPTS,
        [Reader("late", 7), Reader("early", 3)],
        [Bright(), Bright("second", False)],
        "shown",
    )


def test_a_verifier_is_told_of_the_prompts_metadata():
    told = []
    reader = Reader("asking", 3)
    reader.prepare = told.extend
    Bench(Painter(), PROMPTS, [reader], [])
    assert told == PROMPTS


def test_candidates_are_of_their_keys_and_each_prompt_is_encoded_once(bench):
    made = bench.make(KEYS)
    assert [i.getpixel((0, 0)) for i in made.images] == values()
    assert made.rows.prompts == ("two", "one", "two", "two")
    bench.make(KEYS[:1])
    assert bench.generator.encoded == {"one": 1, "two": 1}


def test_hidden_states_are_those_that_the_verifiers_read_or_those_asked_for(bench):
    made = bench.make(KEYS)
    assert bench.generator.heads == [3, 7]
    assert list(made.states) == [("hidden", 3), ("hidden", 7), ("latents", None), ("images", None)]
    assert next(iter(bench.make(KEYS, [5]).states)) == ("hidden", 5)
    assert list(bench.make(KEYS, []).states) == [("latents", None), ("images", None)]
    with pytest.raises(KeyError):
        made.read("hidden", 5)


def test_verdicts_are_rows_of_the_table_candidates(bench):
    rows = bench.judge(bench.make(KEYS)).decided().candidates
    assert set(rows.columns) == set(SCHEMAS["candidates"].names)
    assert rows[["prompt_id", "seed", "index"]].to_numpy().tolist() == [list(key) for key in KEYS]
    assert rows["tag"].tolist() == ["position", "colors", "position", "position"]
    assert rows["correct"].tolist() == [v > 100 for v in values()]
    assert rows["reason"].tolist() == [
        f"{v} of {PROMPTS[p]['prompt']}" for v, (p, _, _) in zip(values(), KEYS, strict=True)
    ]
    assert set(rows["generator"]) == {"shown"}
    assert set(rows["steps"]) == {2}


def test_every_judge_has_rows_of_the_table_verdicts_of_the_same_pictures(bench):
    made = bench.make(KEYS)
    rows = bench.judge(made).verdicts
    assert set(rows.columns) == set(SCHEMAS["verdicts"].names)
    assert rows["judge"].tolist() == ["bright"] * 4 + ["second"] * 4
    for judge, correct in (("bright", [v > 100 for v in values()]), ("second", [None] * 4)):
        mine = rows[rows["judge"] == judge]
        assert mine[["prompt_id", "seed", "index"]].to_numpy().tolist() == [list(key) for key in KEYS]
        assert mine["value"].tolist() == [v / 255 for v in values()]
        assert mine["correct"].tolist() == correct
        assert mine["picture"].tolist() == [pixels_digest(image) for image in made.images]


def test_a_first_judge_that_does_not_say_what_is_right_is_refused():
    bench = Bench(Painter(), PROMPTS, [], [Bright("second", False), Bright()])
    with pytest.raises(JudgeError, match=r"judge 'second' has no threshold .* put another before it"):
        bench.judge(bench.make(KEYS)).decided()


@pytest.mark.parametrize("value", [-0.1, 1.5, float("nan")])
def test_a_value_that_is_not_from_0_to_1_is_refused(value):
    judge = Bright()
    judge.judge = lambda images, prompts: [Verdict(value) for _ in images]
    bench = Bench(Painter(), PROMPTS, [], [judge])
    with pytest.raises(
        JudgeError, match=f"judge 'bright' gave an image of 'two' the value {value:g}; a value is from 0"
    ):
        bench.judge(bench.make(KEYS))
    judge.judge = lambda images, prompts: []
    with pytest.raises(JudgeError, match="judge 'bright' gave 0 verdict"):
        bench.judge(bench.make(KEYS))


def test_scores_are_rows_of_the_table_scores(bench):
    found = bench.score(bench.make(KEYS))
    assert list(found) == ["late", "early"]
    for name, block in (("late", 7), ("early", 3)):
        rows = found[name]
        assert set(rows.columns) == set(SCHEMAS["scores"].names)
        assert set(rows["verifier"]) == {name}
        assert rows["score"].tolist() == pytest.approx([v / 1000 + block for v in values()], abs=1e-6)
        assert rows["p_no"].tolist() == pytest.approx([1 - v / 1000 for v in values()], abs=1e-6)


def test_a_verifier_that_cannot_read_the_generator_is_refused_at_once():
    with pytest.raises(ValueError, match="'painter' has no block 9"):
        Bench(Painter(), PROMPTS, [Reader("far", 9)], [Bright()])


def test_a_pool_and_a_sweep_hold_the_same(tmp_path):
    config = parse(
        "generators: [{name: nano}]\nverifiers: [{name: vhs}]\nprompts: {limit: 2}\npool: 2\nbatch_size: 3\n",
        "x.yaml",
    )
    prompts = load_prompts(config)
    (shard,) = shards(config, len(prompts))
    ran = Worker(config, prompts, 0).work(shard).tables["candidates"]
    kept = make_pool(config, tmp_path / "pool").candidates
    assert ran[kept.columns].to_numpy().tolist() == kept.to_numpy().tolist()
