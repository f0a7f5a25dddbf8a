from __future__ import annotations

import numpy as np
import pytest

from vhsbench.verifiers.metrics import calibration_error, yes_no_metrics


def test_calibration_error_by_hand():
    # bins of tenths: 0.95 twice, one right; 0.15 once, wrong
    error = calibration_error([0.95, 0.95, 0.15], [True, False, False])
    assert error == pytest.approx((abs(1.9 - 1) + abs(0.15 - 0)) / 3)


def test_a_probability_of_one_is_in_the_last_bin():
    assert calibration_error([1.0, 1.0], [True, True]) == 0


def test_yes_and_no_are_renormalised():
    found = yes_no_metrics(np.array([0.3, 0.1]), np.array([0.1, 0.3]), [True, False])
    assert found == pytest.approx({"auc": 1.0, "accuracy": 1.0, "ece": 0.25})
