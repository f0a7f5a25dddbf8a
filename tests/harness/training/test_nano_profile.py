"""The rule that chooses nano's generator: how it steers, what it remembers, what it measures."""

from __future__ import annotations

import numpy as np

from vhsbench.generators.nano.training import Lessons
from vhsbench.harness.common.tasks import TAGS
from vhsbench.harness.geneval.nano_prompts import nano_prompts
from vhsbench.harness.training.nano_profile import PROFILE, Teaching, looked_at, profile_of


def test_the_profile_is_the_published_one():
    assert tuple(PROFILE) == TAGS
    assert [PROFILE[t] for t in TAGS] == [99, 88, 56, 88, 54, 48]


def test_a_task_below_gets_more_samples_and_one_above_more_doubt(tmp_path):
    teaching = Teaching(tmp_path / "looks.jsonl")
    assert teaching.lessons(0) == Lessons.even(6)
    seen = dict(PROFILE) | {"counting": 86.0, "position": 14.0}
    look = teaching.look(600, seen, 99.0)
    assert look.furthest == 40.0
    after = teaching.lessons(600)
    assert np.isclose(sum(after.shares), 1)
    count, place = TAGS.index("counting"), TAGS.index("position")
    assert after.shares[place] > 1 / 6 > after.shares[count]
    assert after.doubts[count] > 0
    assert after.doubts[place] == 0
    assert teaching.lessons(599) == Lessons.even(6)
    lower = teaching.look(700, dict(PROFILE) | {"counting": 46.0}, 99.0).lessons
    assert lower.doubts[count] < after.doubts[count]


def test_what_counts_is_where_a_task_is_going(tmp_path):
    """A task above its target that falls fast is doubted less, and one below that rises fast is taught no more."""
    teaching = Teaching(tmp_path / "looks.jsonl")
    count, place = TAGS.index("counting"), TAGS.index("position")
    before = teaching.look(600, dict(PROFILE) | {"counting": 86.0, "position": 14.0}, 99.0).lessons
    after = teaching.look(700, dict(PROFILE) | {"counting": 66.0, "position": 44.0}, 99.0).lessons
    assert after.doubts[count] < before.doubts[count]  # 66 - 3 x 20 is below 56
    assert after.doubts[place] > before.doubts[place]  # 44 + 3 x 30 is more than all


def test_the_nearest_look_counts_if_enough_is_possible(tmp_path):
    teaching = Teaching(tmp_path / "looks.jsonl")
    teaching.look(100, {t: v - 6 for t, v in PROFILE.items()}, 96.0)
    teaching.look(200, dict(PROFILE), 90.0)  # exact, but too few prompts are ever right
    teaching.look(300, {t: v - 7 for t, v in PROFILE.items()}, 96.0)
    assert teaching.best.step == 100


def test_a_killed_training_steers_as_if_it_had_not_been(tmp_path):
    whole = Teaching(tmp_path / "a")
    for step, gap in ((100, -20.0), (200, 10.0)):
        whole.look(step, {t: v + gap / 2 for t, v in PROFILE.items()}, 96.0)
    killed = Teaching(tmp_path / "b")
    killed.look(100, {t: v - 10 for t, v in PROFILE.items()}, 96.0)
    killed.look(200, {t: v - 30 for t, v in PROFILE.items()}, 96.0)  # of a training that then was killed
    resumed = Teaching(tmp_path / "b")
    assert resumed.lessons(150) == whole.lessons(150)
    resumed.look(200, {t: v + 5 for t, v in PROFILE.items()}, 96.0)
    assert [x.lessons for x in resumed.looks] == [x.lessons for x in whole.looks]
    assert Teaching(tmp_path / "b").looks == resumed.looks


def test_no_evaluation_prompt_is_looked_at():
    chosen = looked_at(96)
    assert [sum(p["tag"] == t for p in chosen) for t in TAGS] == [16] * 6
    held = {p["prompt"] for p in nano_prompts()["evaluation"]}
    assert not held & {p["prompt"] for p in chosen}


def test_shares_by_task_and_the_oracle():
    prompts = [{"tag": t, "prompt": t} for t in TAGS]
    correct = np.zeros((6, 4), dtype=bool)
    correct[0, :2] = correct[5, 0] = True
    by_task, oracle = profile_of(correct, prompts)
    assert [by_task[t] for t in TAGS] == [50, 0, 0, 0, 0, 25]
    assert np.isclose(oracle, 100 / 3)
