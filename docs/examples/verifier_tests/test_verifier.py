"""Copy this folder into your project. `pytest --vhs-candidate=path/to/checkpoint` tests a new checkpoint."""

import pytest


@pytest.mark.vhs_gate(best_of_n=(2, 4), inconclusive="skip")
def test_is_no_worse_than_the_baseline(verifier_regression):
    verifier_regression.check()


@pytest.mark.vhs_gate(timing_repeats=0)
def test_ranks_candidates_better_than_chance(verifier_regression):
    found = verifier_regression.compare()
    assert found.comparison.separation[0].candidate > 0.6  # AUC


def test_scoring_time(verifier_regression, benchmark):
    """`pytest --benchmark-autosave` keeps the times; `--benchmark-compare --benchmark-compare-fail=mean:10%` gates."""
    benchmark(verifier_regression.scoring())


def test_keeps_the_rules_of_the_protocol(protocol_check):
    """The rules of `vhsbench check`; `protocol_check("name")` checks a registered generator or verifier."""
    protocol_check()
