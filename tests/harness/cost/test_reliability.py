"""What speaks against measured times: load, spoilt rounds, T(N) off whole runs, drift, impossible halves."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from vhsbench.harness.cost.reliability import in_one_line, unreliable

TIMES = {
    ("", "encode", 1): 10.0, ("", "noise", 1): 1.0, ("", "denoise", 1): 30.0, ("", "decode", 1): 20.0,
    ("vhs", "head", 1): 24.0, ("vhs", "tail", 1): 8.0, ("vhs", "score", 1): 5.0,
    ("", "end_to_end", 1): 61.0, ("vhs", "end_to_end", 1): 68.0, ("vhs", "end_to_end", 4): 158.0,
}  # fmt: skip
NEEDS = {"vhs": "hidden"}


def costs(times=TIMES, turns=12, others=0.0, noise=0.0, **by_turn):
    chance = np.random.default_rng(0)
    found = [
        (
            *key,
            turn,
            ms * by_turn.get(f"{key[0]}_{key[1]}", lambda turn: 1.0)(turn) * (1 + noise * chance.normal()),
        )
        for key, ms in times.items()
        for turn in range(turns)
    ]
    frame = pd.DataFrame(found, columns=["verifier", "stage", "n", "visit", "wall_ms"])
    return frame.assign(
        generator="nano", steps=1, variant="", batch=1, status="ok", note="", others_percent=others
    )


def test_a_quiet_machine_is_reliable():
    assert unreliable(costs(noise=0.01), NEEDS) == []
    assert in_one_line([]) == ""


@pytest.mark.parametrize(
    ("frame", "said"),
    [
        (costs(others=60.0), "others took 60% of the processors (median) in 24 of 24 turns"),
        (costs({**TIMES, ("vhs", "end_to_end", 4): 180.0}), "T(N) of nano with vhs is -12% off the whole runs of N = 4"),
        (costs({**TIMES, ("vhs", "head", 1): 36.0}), "the head of nano with vhs took 20% more time than the whole forward"),
        (costs({**TIMES, ("vhs", "tail", 1): 2.0}), "head and tail of nano with vhs took 13% less time than the whole"),
        (costs(vhs_head=lambda turn: 1.0 if turn < 6 else 1.3), "head of nano with vhs became 30% slower than other stages"),
        (costs(noise=0.5, turns=4), "T(1) of nano with vhs is known only to ±"),
    ],
    ids=["load", "T(N)", "head", "halves", "drift", "interval"],
)  # fmt: skip
def test_what_speaks_against_times_is_said_with_its_numbers(frame, said):
    reasons = unreliable(frame, NEEDS)
    assert any(reason.startswith(said) for reason in reasons), reasons
    assert in_one_line(reasons).startswith("timing unreliable: ")


def test_turns_that_are_slower_for_all_alike_speak_against_nothing():
    slow = {f"{v}_{s}": lambda turn: 1.5 if turn % 4 == 3 else 1.0 for v, s, _ in TIMES}
    assert unreliable(costs(noise=0.005, **slow), NEEDS) == []


def test_a_few_loaded_turns_are_no_reason():
    frame = costs()
    frame.loc[frame["visit"] < 6, "others_percent"] = 90.0
    assert unreliable(frame, NEEDS) == []


def test_spoilt_rounds_are_counted():
    frame = costs()
    frame.loc[(frame["stage"] == "head") & (frame["visit"] > 1), "status"] = "tainted"
    assert "only 2 of 12 times of head count, nano with vhs" in unreliable(frame, NEEDS)


def test_a_pipeline_without_times_is_not_of_unreliable_ones():
    frame = costs({key: ms for key, ms in TIMES.items() if key[1] != "score"}, noise=0.01)
    assert unreliable(frame, NEEDS) == []
    assert in_one_line(["a", "b", "c", "d"]) == "timing unreliable: a; b; and 2 more."


def test_costs_of_an_earlier_version_are_judged_by_what_they_have():
    old = costs(noise=0.01).drop(columns=["visit", "others_percent"])
    assert unreliable(old, NEEDS) == []
