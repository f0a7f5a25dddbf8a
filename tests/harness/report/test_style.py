"""The looks of verifiers: by place in the run, no two alike."""

from __future__ import annotations

from itertools import combinations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.markers import MarkerStyle

from vhsbench.harness.report.charts import SYMBOLS
from vhsbench.harness.report.colors import oklab
from vhsbench.harness.report.style import label, looks, pool_title
from vhsbench.verifiers import KINDS

TODAY = {"vhs": ("#D55E00", "o"), "mllm-clip": ("#0072B2", "s"), "mllm-ae": ("#009E73", "^")}
ANY_KIND = st.sampled_from([*KINDS, "a-plugin's"])


def seen(found, name):
    return found[name].color, found[name].marker


def test_the_known_kinds_look_as_they_always_did():
    found = looks({kind: kind for kind in KINDS})
    assert {kind: seen(found, kind) for kind in KINDS} == TODAY
    assert [found[name].label for name in (*KINDS, "none")] == [
        "VHS",
        "MLLM w/ CLIP",
        "MLLM w/ AE",
        "no verifier",
    ]
    assert seen(looks({"mllm-clip": "mllm-clip"}), "mllm-clip") == TODAY["mllm-clip"]


def test_the_verifier_of_a_kinds_name_has_its_look_else_the_first_of_the_kind():
    found = looks({"old": "vhs", "vhs": "vhs", "b": "mllm-ae", "c": "mllm-ae"})
    assert seen(found, "vhs") == TODAY["vhs"]
    assert seen(found, "b") == TODAY["mllm-ae"]
    assert [found[name].label for name in ("old", "vhs", "b")] == ["old", "VHS", "b"]
    assert label("old") == "old"


@given(st.lists(ANY_KIND, max_size=12))
def test_no_two_of_twelve_share_a_colour_or_a_marker(kinds):
    names = {f"v{i}": kind for i, kind in enumerate(kinds)}
    found = looks(names)
    for a, b in combinations([*names, "oracle", "random"], 2):
        assert found[a].color != found[b].color
    drawn = [found[name].marker for name in names]
    assert len(set(drawn)) == len(drawn)
    assert len({SYMBOLS[marker] for marker in drawn}) == len(drawn)
    assert all(MarkerStyle(marker) for marker in drawn)


@given(st.lists(ANY_KIND, max_size=100))
def test_no_two_look_alike_however_many(kinds):
    names = {f"v{i}": kind for i, kind in enumerate(kinds)}
    assert len({seen(looks(names), name) for name in names}) == len(names)


def test_the_colours_of_any_number_are_apart():
    found = looks({f"v{i}": "a-plugin's" for i in range(60)})
    seen = oklab([look.color for name, look in found.items() if name != "none"])
    apart = np.linalg.norm(seen[:, None] - seen[None], axis=-1)
    assert apart[~np.eye(len(seen), dtype=bool)].min() > 0.08  # 0.02 can just be seen
    assert np.linalg.norm(seen - oklab(["#FFFFFF"]), axis=-1).min() > 0.2


def test_distances_of_colours_are_oklabs():
    white, red = oklab(["#FFFFFF", "#FF0000"])
    np.testing.assert_allclose(white, [1, 0, 0], atol=1e-4)
    np.testing.assert_allclose(red, [0.628, 0.2249, 0.1258], atol=1e-3)


def test_adding_a_verifier_changes_no_look():
    names = {"vhs": "vhs", "a": "vhs", "mllm-clip": "mllm-clip", "b": "mllm-clip"}
    before, after = looks(names), looks(names | {"c": "vhs", "d": "mllm-ae"})
    assert {name: before[name] for name in names} == {name: after[name] for name in names}


def test_a_pool_is_named_with_its_steps_where_its_generator_has_several():
    pools = [("nano", 1), ("nano", 2), ("flux", 4)]
    assert [pool_title(pool, pools) for pool in pools] == ["nano, 1 step", "nano, 2 steps", "flux"]
