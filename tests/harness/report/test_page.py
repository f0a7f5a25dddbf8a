from __future__ import annotations

import json
import re
from dataclasses import replace

import pytest
from rich.console import Console

from vhsbench.harness.commands.listing import show_summary
from vhsbench.harness.report.build import _summary
from vhsbench.harness.report.charts import pipelines
from vhsbench.harness.report.combine import load_runs
from vhsbench.harness.report.derived import derive, failed_prompts
from vhsbench.harness.report.page import _budget_range, write_page
from vhsbench.harness.store.tables import StoreError, load_run


@pytest.fixture(scope="module")
def page(built):
    return (built / "report.html").read_text()


@pytest.fixture(scope="module")
def data(page):
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.S)[1])


def without_library(page: str) -> str:
    """The page less plotly's own source."""
    scripts = re.findall(r"<script>.*?</script>", page, re.S)
    return page.replace(max(scripts, key=len), "")


def test_what_a_prompt_says_is_text(page):
    assert "<script>document.title" not in page
    assert "&lt;/script&gt;&lt;script&gt;document.title" in page
    assert page.count("</script>") == 3


def test_nothing_is_loaded_from_elsewhere(page):
    ours = without_library(page)
    assert not re.search(r'(?:src|href)="(?!data:|#)', ours)
    assert "default-src 'none'" in ours
    assert "http://" not in ours
    assert "https://" not in ours


def test_published_tables_say_so(page):
    assert "<td>published</td>" in page
    assert "<td>measured here</td>" in page


def test_the_slider_has_every_judged_pipeline(data):
    assert [p["name"] for p in data["pipelines"]] == ["nano: MLLM w/ AE", "nano: MLLM w/ CLIP", "nano: VHS"]
    vhs = data["pipelines"][-1]
    assert vhs["per_candidate_ms"] == pytest.approx(19.5)
    assert len(vhs["tasks"]["overall"]["accuracy"]) == 8


def test_the_slider_spans_from_below_one_candidate_to_the_whole_pool(made):
    derived = derive(load_run(made))
    lines = pipelines(derived)
    span = _budget_range(derived, lines)
    assert span["low"] < min(p["fixed_ms"] + p["per_candidate_ms"] for p in lines)
    assert span["high"] >= max(p["fixed_ms"] + 8 * p["per_candidate_ms"] for p in lines)
    assert span["low"] <= span["start"] <= span["high"]


def test_a_run_without_verifiers_or_pictures_has_a_page(make_run, tmp_path):
    run = make_run(tmp_path / "run", verifiers=[], gallery_prompts=0, budgets_ms=[100])
    write_page(derive(load_run(run)), tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    assert "This run kept no pictures" in page
    assert 'id="slider"' not in without_library(page)


def with_failed(run, rows):
    info = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps(info | {"failed_prompts": rows}))


FAILED = [
    {"generator": "nano", "steps": 1, "seed": 0, "prompt_id": number, "kind": "failed", "batch": 0,
     "reason": "RuntimeError: <img src=x onerror=alert(1)> [bold]"}
    for number in range(12)
]  # fmt: skip


def test_failed_prompts_are_named_with_their_reasons_as_text(make_run, tmp_path, capsys):
    run = make_run(tmp_path / "run", marked="<script>document.title='x'</script>")
    with_failed(run, FAILED)
    derived = derive(load_run(run))
    write_page(derived, run / "report.html")
    page = without_library((run / "report.html").read_text())
    failed = page[page.index('id="failed"') : page.index("VHS against")]
    assert failed.count("<tr>") == 1 + 12
    assert "a photo of single object number 0&lt;script&gt;document.title=" in failed
    assert "RuntimeError: &lt;img src=x onerror=alert(1)&gt; [bold]" in failed
    assert "<img src=x" not in page
    show_summary(_summary(derived, run), Console(width=200))
    said = capsys.readouterr().out
    assert (
        "failed: nano, seed 0, prompt 1 (a photo of single object number 1): RuntimeError: <img src=x" in said
    )
    assert "[bold]" in said
    assert "failed: 2 more, all named in the report" in said


def test_a_task_of_one_prompt_has_no_interval_and_is_named(make_run, tmp_path, capsys):
    run = make_run(tmp_path / "run")
    whole = load_run(run)
    assert derive(whole).notes == []
    first = {tag: i for i, tag in reversed([*enumerate(p["tag"] for p in whole.prompts)])}
    kept = [i for i, p in enumerate(whole.prompts) if p["tag"] != "counting" or i == first["counting"]]
    few = replace(
        whole,
        candidates=whole.candidates[whole.candidates["prompt_id"].isin(kept)],
        scores=whole.scores[whole.scores["prompt_id"].isin(kept)],
    )
    derived = derive(few)
    said = "no interval of counting: one prompt says nothing about how prompts vary."
    assert derived.notes == [said]
    counting = derived.curves[derived.curves["tag"] == "counting"]
    assert counting["low"].isna().all()
    assert derived.curves.loc[derived.curves["tag"] == "overall", "low"].notna().all()
    write_page(derived, tmp_path / "report.html")
    assert said in without_library((tmp_path / "report.html").read_text())
    show_summary(_summary(derived, tmp_path), Console(width=200))
    assert f"note: {said}" in capsys.readouterr().out


def test_a_run_of_one_prompt_is_shown_without_intervals(make_run, tmp_path, capsys):
    whole = load_run(make_run(tmp_path / "run"))
    one = replace(
        whole,
        candidates=whole.candidates[whole.candidates["prompt_id"] == 0],
        scores=whole.scores[whole.scores["prompt_id"] == 0],
    )
    derived = derive(one)
    write_page(derived, tmp_path / "report.html")
    show_summary(_summary(derived, tmp_path), Console(width=200))
    said = capsys.readouterr().out
    assert "AUC of vhs: " in said
    assert not re.search(r"\bnan\b", said)
    assert "note: no interval of single_object, overall, geneval_overall: one prompt" in said


def test_without_failed_prompts_nothing_is_said(page, made):
    assert "Failed prompts" not in page
    assert len(derive(load_run(made)).failed) == 0


@pytest.mark.parametrize(
    "rows",
    [
        5,
        [5],
        [{}],
        [FAILED[0] | {"prompt_id": 99}],
        [FAILED[0] | {"prompt_id": -1}],
        [FAILED[0] | {"seed": None}],
    ],
)
def test_failed_prompts_that_make_no_sense_are_a_sentence(make_run, tmp_path, rows):
    run = make_run(tmp_path / "run", verifiers=[], gallery_prompts=0)
    with_failed(run, rows)
    with pytest.raises(StoreError, match=r"run.json is damaged: failed_prompts names none of its prompts"):
        failed_prompts(load_run(run))


def test_failed_prompts_of_combined_runs_are_all_named(make_run, tmp_path):
    runs = [make_run(tmp_path / str(seed), seeds=[seed]) for seed in (0, 1)]
    for seed, run in enumerate(runs):
        with_failed(run, [FAILED[3] | {"seed": seed}])
    assert failed_prompts(load_runs(runs))["seed"].tolist() == [0, 1]
