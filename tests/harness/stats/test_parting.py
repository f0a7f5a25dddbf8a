"""Where two measures of the same winners part, on curves whose peaks are known."""

from __future__ import annotations

import numpy as np
import pytest

from vhsbench.harness.stats.parting import NONE, Drawn

RISING = np.array([0.0, 1.0, 2.0, 3.0])


def parting(first, second):
    return Drawn(np.ones(len(first))).parting(np.asarray(first, float), np.asarray(second, float))


def test_measures_part_at_the_first_peak_of_the_one_that_falls():
    found = parting([RISING] * 5, [[0.0, 5.0, 4.0, 1.0]] * 5)
    assert (found.at, found.low, found.high, found.falls) == (2, 2, 2, 1)  # all prompts say the same
    swapped = parting([[0.0, 5.0, 4.0, 1.0]] * 5, [[0.0, 1.0, 2.0, 0.0]] * 5)
    assert (swapped.at, swapped.falls) == (2, 0)  # the other falls too, but later


@pytest.mark.parametrize("other", [RISING, np.zeros(4), np.full(4, 0.1), [0.3, 0.1, 0.2, 0.3], RISING / 3])
def test_measures_do_not_part_where_both_are_highest_at_the_end(other):
    found = parting([RISING] * 5, [other] * 5)
    assert (found.at, found.low, found.high, found.falls) == (NONE, NONE, NONE, None)


def test_measures_that_fall_together_do_not_part():
    assert parting([[1.0, 2.0, 0.0]] * 3, [[0.0, 9.0, 8.0]] * 3).at == NONE


def test_prompts_that_disagree_make_the_interval_reach_beyond_the_pool():
    falls, rises = [3.0, 2.0, 1.0, 0.0], RISING * 0.9
    found = parting([RISING] * 20, [falls] * 11 + [rises] * 9)
    assert (found.at, found.low, found.high) == (1, 1, NONE)
    sure = parting([RISING] * 20, [falls] * 19 + [rises])
    assert (sure.at, sure.low, sure.high) == (1, 1, 1)


def test_one_prompt_has_no_interval():
    found = parting([RISING], [[3.0, 2.0, 1.0, 0.0]])
    assert found.at == 1
    assert np.isnan([found.low, found.high]).all()
    assert np.isnan(Drawn([1.0]).change(RISING[None])[1]).all()


def test_prompts_count_by_their_weights_and_changes_have_the_bootstraps_interval():
    values = np.array([[0.0, 1.0], [0.0, 3.0], [0.0, 8.0]])
    drawn = Drawn([1.0, 1.0, 2.0], draws=4000)
    assert drawn.mean(values)[1] == pytest.approx(5)
    mean, low, high = drawn.change(values + np.array([[10.0], [20.0], [30.0]]))
    assert (mean[0], low[0], high[0]) == (0, 0, 0)
    assert mean[1] == pytest.approx(5)
    # all draws of one prompt have probability 1/27, more than what is left out
    assert (low[1], high[1]) == (1, 8)
