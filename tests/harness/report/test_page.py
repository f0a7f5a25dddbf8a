from __future__ import annotations

import base64
import json
import re
from dataclasses import replace

import numpy as np
import pytest
from rich.console import Console

from vhsbench.harness.commands.listing import show_summary
from vhsbench.harness.common.tasks import TAGS
from vhsbench.harness.report import page_candidates
from vhsbench.harness.report.build import _summary
from vhsbench.harness.report.combine import load_runs
from vhsbench.harness.report.derived import derive
from vhsbench.harness.report.page import warnings, write_page
from vhsbench.harness.report.page_budgets import pipelines, units
from vhsbench.harness.report.recorded import failed_prompts
from vhsbench.harness.stats.curves import winners
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
    assert r"\u003c/script\u003e\u003cscript\u003edocument.title" in page
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
    assert vhs["costs"]["ms"]["each"] == pytest.approx(19.5)
    assert len(vhs["tasks"]["overall"]["accuracy"]) == 8


def test_the_slider_spans_from_below_one_candidate_to_the_whole_pool(made):
    derived = derive(load_run(made))
    lines = pipelines(derived)
    spans = units(lines, derived)
    # a made run counts thousandths of a TFLOP, and measures no energy
    assert [span["name"] for span in spans] == ["ms", "GFLOP", "GB", "J"]
    assert "no energy_j was measured" in spans[3]["unknown"]
    for span in spans[:3]:
        costs = [p["costs"][span["id"]] for p in lines]
        assert span["low"] < min(cost["fixed"] + cost["each"] for cost in costs)
        assert span["high"] >= max(cost["fixed"] + 8 * cost["each"] for cost in costs)
        assert span["low"] <= span["start"] <= span["high"]
    assert spans[0]["start"] == derived.budgets[0]


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


def test_a_page_keeps_to_its_limit_and_says_what_it_leaves_out(make_run, tmp_path, read_data):
    run = load_run(make_run(tmp_path / "run", gallery_prompts=24))
    derived = derive(run)
    write_page(derived, tmp_path / "all.html")
    whole = (tmp_path / "all.html").stat().st_size / 1e6
    everything = read_data(tmp_path / "all.html")
    assert len(everything["pictures"]) == len(everything["pools"][0]["pictures"]) == 24 * 8
    assert "All 192 kept pictures are shown." in (tmp_path / "all.html").read_text()
    limit = whole - 0.07
    write_page(derived, tmp_path / "some.html", limit_mb=limit)
    assert (tmp_path / "some.html").stat().st_size <= limit * 1e6
    data, page = read_data(tmp_path / "some.html"), (tmp_path / "some.html").read_text()
    pictures = data["pools"][0]["pictures"]
    assert 0 < len(pictures) < 192
    assert f"{len(pictures)} of 192 kept pictures are shown, those that a verifier picks first" in page
    assert f"{192 - len(pictures)} do not fit in a page of {limit:g} MB" in page
    # what verifiers pick among all candidates comes before the rest, over all tasks
    best = winners(run.candidates, run.scores, 8)
    picked = {str(int(row["prompt_id"]) * 8 + int(row["index"])) for _, row in best.iterrows()}
    assert picked <= set(pictures)
    tags = {data["prompts"][int(cell) // 8]["tag"] for cell in pictures}
    assert len(tags) == 6
    for place in pictures.values():
        assert data["pictures"][place] in everything["pictures"]


def test_a_page_without_room_for_all_prompts_lists_some_of_each_task(made, tmp_path, monkeypatch, read_data):
    monkeypatch.setattr(page_candidates, "_ROW_SHARE", 7e-4)  # of 10 MB: 7 kB, or 12 prompts
    derived = derive(load_run(made))
    write_page(derived, tmp_path / "report.html", limit_mb=10)
    data = read_data(tmp_path / "report.html")
    rows = data["pools"][0]["rows"]
    assert 6 <= len(rows) < 24
    assert {data["prompts"][prompt]["tag"] for prompt, _ in rows} == set(TAGS)
    assert len(data["pools"][0]["right"]) == 8 * len(rows)
    said = f"{len(rows)} of 24 prompts are listed here: more do not fit in a page of 10 MB"
    assert said in (tmp_path / "report.html").read_text()
    kept = {int(cell) // 8 for cell in data["pools"][0]["pictures"]}
    assert len(kept) == 6  # all that have pictures


def test_scores_and_verdicts_are_those_of_the_tables(loaded, made, tmp_path, read_data):
    write_page(derive(loaded), tmp_path / "report.html")
    data = read_data(tmp_path / "report.html")
    (pool,) = data["pools"]
    rows = loaded.candidates.sort_values(["prompt_id", "index"])
    assert pool["right"] == "".join("01"[right] for right in rows["correct"])
    assert [pool["reasons"][i] for i in pool["why"]] == rows["reason"].tolist()
    for entry in pool["verifiers"]:
        scores = loaded.scores[loaded.scores["verifier"] == entry["id"]].sort_values(["prompt_id", "index"])
        assert np.frombuffer(base64.b64decode(entry["scores"]), "<f8").tolist() == scores["score"].tolist()


def with_machines(run, *cpus):
    info = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(
        json.dumps(info | {"environments": [{"cpu": cpu, "cores": 2} for cpu in cpus]})
    )


def test_warnings_come_first(make_run, tmp_path):
    run = make_run(tmp_path / "run")
    with_failed(run, FAILED)
    with_machines(run, "Ann's <CPU>", "Bob's CPU", "Bob's CPU")
    derived = derive(load_run(run))
    found = warnings(derived)
    said = "it was made on different machines: Ann's <CPU>, 2 cores; Bob's CPU, 2 cores. Times were measured on test."
    assert found == [
        (False, "12 pools of candidates failed and count nowhere: see Failed prompts."),
        (False, said),
    ]
    write_page(derived, tmp_path / "report.html")
    page = without_library((tmp_path / "report.html").read_text())
    assert page.index('id="warnings"') < page.index('id="summary"')
    top = page[page.index('id="warnings"') : page.index('id="summary"')]
    assert "Ann&#39;s &lt;CPU&gt;, 2 cores; Bob" in top
    assert page.count("it was made on different machines") == 1


def test_times_that_cannot_be_trusted_are_the_first_warning(loaded, tmp_path):
    slow = loaded.costs["stage"] == "end_to_end"
    costs = loaded.costs.assign(wall_ms=loaded.costs["wall_ms"].where(~slow, loaded.costs["wall_ms"] * 2))
    derived = derive(replace(loaded, costs=costs))
    assert derived.unreliable
    write_page(derived, tmp_path / "report.html")
    page = without_library((tmp_path / "report.html").read_text())
    assert page.index('class="alarm" role="alert">timing unreliable: ') < page.index('id="summary"')


def test_one_machine_and_nothing_missing_warn_of_nothing(made, page):
    assert warnings(derive(load_run(made))) == []
    assert 'id="warnings"' not in page


def test_without_vhs_and_clip_they_are_no_headline(make_run, tmp_path):
    run = make_run(tmp_path / "run", verifiers=[{"name": "mllm-ae"}])
    write_page(derive(load_run(run)), tmp_path / "report.html")
    assert "VHS against MLLM w/ CLIP" not in (tmp_path / "report.html").read_text()
