from __future__ import annotations

import json
import re

import pytest

from harness.report.charts import pipelines
from harness.report.derived import derive
from harness.report.page import _budget_range, write_page
from harness.store import load_run


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
