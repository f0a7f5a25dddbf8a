"""The benchmark of `fast`: its search, what it keeps between starts, its history, and a dry run on nano."""

from __future__ import annotations

import gc
import json
import math
import weakref
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vhsbench import generators, verifiers
from vhsbench.harness.inference.best_of_n import best_of_n

KNOWN = {
    "settings": {"generator": "sana-sprint", "device": "cuda", "variant": "fast", "shapes": "static", "batch": 32},
    "started": "2026-11-27T10:00:00+00:00", "device": "a GPU", "matmul_tflops": 780.0,
    "environment": {"git_commit": "abc", "packages": {"torch": "2.11"}},
    "vhs/candidate_fast": {"batch 1": 18.7, "batch 32": 4.6, "bound_ms": 2.7, "to_bound": 1.7},
    "vhs/whole": {"naive": 2200.0, "fast": 270.0, "naive_to_fast": 8.1}, "vhs/within": {"n": 96},
    "vhs/first_batch_s": 31.5, "vhs/candidate": {"batch 1": 36.0, "batch 8": 9.7},
}  # fmt: skip


@pytest.fixture(scope="module")
def script():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
        import fast

        yield fast


@given(fit=st.integers(0, 70), step=st.sampled_from([1, 4, 8]), most=st.integers(8, 64))
def test_the_largest_n_within_a_budget_is_found_in_whole_steps(script, fit, step, most):
    tried = []
    found = script.largest(lambda n: tried.append(n) or float(n), fit + 0.5, step, most)
    assert found == min(fit, most) // step * step
    assert len(tried) == len(set(tried)) <= 2 + 2 * math.log2(most)
    assert all(n % step == 0 for n in tried)


def test_a_second_start_measures_only_what_is_missing_and_none_goes_on_with_other_settings(script, tmp_path):
    file = tmp_path / "run.json"
    first = script.Figures(file, {"batch": 32}, 60)
    assert first.lacks("vhs/tflop")
    first.note("vhs/tflop", 2.1)
    second = script.Figures(file, {"batch": 32}, 60)
    assert not second.lacks("vhs/tflop")
    assert second.lacks("vhs/whole")
    assert second.known["started"] == first.known["started"]
    assert not script.Figures(file, {"batch": 32}, -1).lacks("vhs/whole")  # too late to start
    with pytest.raises(SystemExit, match="'batch': 32"):
        script.Figures(file, {"batch": 8}, 60)


def test_a_pipeline_is_freed_before_the_next_is_built(script, tmp_path, monkeypatch):
    built, left = [], []

    class Holding:
        """A pipeline whose parts hold each other."""

    def measured(figures, kind, options):
        left.append([each() is not None for each in built])
        pair = Holding()
        pair.me = pair
        built.append(weakref.ref(pair))

    monkeypatch.setattr(script, "_verifier", measured)
    gc.disable()
    try:
        script.main(["--out", str(tmp_path / "run.json"), "--device", "cpu", "--generator", "nano"])
    finally:
        gc.enable()
    assert left == [[], [False], [False, False]]


def test_history_has_a_line_a_run_and_a_figure(script, tmp_path):
    from fast_history import draw, line, record

    file = tmp_path / "history.csv"
    record(file, KNOWN)
    record(file, KNOWN | {"started": "2026-11-28T10:00:00+00:00", "vhs/within": {"n": 128}})
    record(file, KNOWN | {"vhs/within": {"n": 64}})  # the first run, which went on
    history = pd.read_csv(file)
    assert list(history["device"]) == ["a GPU", "a GPU"]
    assert list(history["vhs:n_within_550ms"]) == [128, 64]
    assert list(history["vhs:candidate_batch_ms"]) == [4.6, 4.6]
    assert list(history["vhs:first_batch_s"]) == [31.5, 31.5]
    assert list(history["vhs:candidate_plain_batch_ms"]) == [9.7, 9.7]  # whatever the batch
    assert history["mllm-ae:candidate_batch_ms"].isna().all()
    unknown = KNOWN | {"environment": {}}
    assert line(unknown)["commit"] is None
    assert line(unknown | {"code_commit": "def"})["commit"] == "def"
    only_plain = history.iloc[:1].assign(**{c: None for c in history if c.startswith("vhs:")})
    figure, data = draw(pd.concat([history, only_plain]))
    assert list(data["vhs:naive_to_fast"]) == [8.1, 8.1]
    ends = [axes.lines[0].get_ydata().tolist() for axes in figure.axes]
    assert ends == [[1.7, 1.7], [128, 64], [8.1, 8.1]]
    names = [label.get_text() for label in figure.axes[0].get_xticklabels()]
    assert names == ["sana-sprint, fast (static), abc"] * 2
    others = history.assign(device=["a GPU", "another GPU"], shapes="dynamic")
    names = [label.get_text() for label in draw(others)[0].axes[0].get_xticklabels()]
    assert names == ["sana-sprint, fast, abc, a GPU", "sana-sprint, fast, abc, another GPU"]


def test_a_dry_run_measures_every_figure_and_a_second_start_nothing(script, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("CXX", "no-such-compiler")
    monkeypatch.setattr(script, "BUDGET_MS", 0.0)
    monkeypatch.setattr(script, "PROMPTS", script.PROMPTS[:1])
    monkeypatch.setattr(script.variants, "CANDIDATES", 2)
    file = tmp_path / "nano.json"
    arguments = ["--out", str(file), "--device", "cpu", "--generator", "nano", "--only", "vhs"]
    arguments += ["--batch", "2", "--first", "2", "--repeats", "1"]
    script.main(arguments)
    known = json.loads(file.read_text())
    assert known["vhs/tflop"] > 0
    # in turns with the plain batch; no bound without a measured peak
    assert known["vhs/candidate_fast"].keys() == {"batch 1", "batch 2", "plain batch 2"}
    assert known["vhs/candidate"].keys() == {"batch 1", "batch 2"}
    assert known["vhs/decode"].keys() == {
        "first fast 1 s", "first fast 8 s", "plain 1", "plain 8", "fast 1", "fast 8",
    }  # fmt: skip
    assert known["vhs/applied"]["score_difference"] < 1e-4
    assert known["vhs/applied"].keys() >= {"scores_changed_percent", "compile_s", "parts", "remarks"}
    assert known["vhs/profile"]["stage_ms"].keys() == {"encode", "noise", "head", "score", "finish"}
    assert known["vhs/whole"]["naive_to_fast"] > 0
    assert known["vhs/within"]["n"] == 0
    assert "aten::" in (tmp_path / "nano-vhs-profile.txt").read_text()
    assert len(pd.read_csv(tmp_path / "history.csv")) == 1
    capsys.readouterr()
    script.main(arguments)
    assert capsys.readouterr().out == ""
    assert json.loads(file.read_text()) == known


def test_all_jobs_are_done_in_order_while_there_is_time(script, tmp_path, monkeypatch):
    done = []
    monkeypatch.setattr(script, "_measure", lambda options: done.append(vars(options)))
    arguments = ["--jobs", "--out", str(tmp_path / "h200.json"), "--device", "cpu"]
    script.main([*arguments, "--seconds", "0"])
    assert done == []
    assert next(iter(script.JOBS)) == "sd3"
    script.main([*arguments, "--seconds", "60"])
    assert [each["out"].name for each in done] == [f"h200-{name}.json" for name in script.JOBS]
    assert {(each["generator"], each["variant"], each["brief"]) for each in done} == {
        ("sana-sprint", "fast", False), ("sana-sprint", "fast-fp8", False), ("pixart-alpha-dmd", "fast", True),
        ("flux-schnell", "fast", True), ("sd3.5-turbo", "fast", True),
    }  # fmt: skip
    assert all(50 < each["seconds"] <= 60 for each in done)


def test_a_job_that_no_time_is_left_for_has_no_line_in_the_history(script, tmp_path):
    script.main(
        ["--out", str(tmp_path / "late.json"), "--device", "cpu", "--generator", "nano", "--seconds", "-1"]
    )
    assert list(tmp_path.iterdir()) == []


def test_calls_are_timed_in_turns_by_the_row(script, monkeypatch):
    made = []
    monkeypatch.setattr(script, "timed", lambda call, device: call())
    monkeypatch.setattr(
        script, "interleaved",
        lambda calls, device, repeats: {n: SimpleNamespace(wall_ms=[c(), 8.0, 8.0]) for n, c in calls.items()},
    )  # fmt: skip
    calls = {
        name: (lambda name=name: made.append(name) or 1.0, rows) for name, rows in (("plain", 2), ("fast", 4))
    }
    assert script.each_ms(calls, "a device", 3) == {"plain": 4.0, "fast": 2.0}
    assert made == 2 * ["plain", "fast"]


def test_the_known_flops_are_those_that_a_gpu_counted(script):
    folder = Path(__file__).parents[2] / "results" / "performance"
    static, dynamic = (
        json.loads((folder / f"h200-{name}.json").read_text()) for name in ("static", "dynamic")
    )
    for kind, run in (("vhs", static), ("mllm-ae", dynamic), ("mllm-clip", dynamic)):
        assert script.TFLOP["sana-sprint", kind] == pytest.approx(run[f"{kind}/tflop"], rel=1e-6)


def test_a_twin_shares_all_weights_and_is_changed_alone(script):
    generator, verifier = generators.create("nano"), verifiers.create("vhs")
    others = script.twin(generator, verifier)
    own, copied = ([p.data_ptr() for m in each.modules().values() for p in m.parameters()]
                   for each in (verifier, others[1]))  # fmt: skip
    assert own == copied
    expected = best_of_n(generator, verifier, "a photo of a star", range(3), 3).scores
    assert best_of_n(*others, "a photo of a star", range(3), 3).scores.equal(expected)
    others[1].model.read = None
    assert best_of_n(generator, verifier, "a photo of a star", range(3), 3).scores.equal(expected)
