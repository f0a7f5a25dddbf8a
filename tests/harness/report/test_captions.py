"""Captions of a run's winners; the bundled VHS stands for an aligned one, which has the same format."""

from __future__ import annotations

import json
import shutil

import pandas as pd
import pytest
from PIL import Image
from typer.testing import CliRunner

from vhsbench import verifiers
from vhsbench.generators.noise import candidate_seed
from vhsbench.harness.cli import app
from vhsbench.harness.config.run import ConfigError
from vhsbench.harness.report.build import build
from vhsbench.harness.report.caption_winners import caption_winners
from vhsbench.harness.report.captions_csv import COLUMNS, read_captions
from vhsbench.harness.stats.curves import winners
from vhsbench.harness.store.tables import load_run
from vhsbench.verifiers.captioning import CaptionError, captions
from vhsbench.verifiers.nano import WEIGHTS


@pytest.fixture(scope="module")
def captioned(make_run, tmp_path_factory):
    """A run, captioned by the command, with what that printed."""
    run = make_run(tmp_path_factory.mktemp("captions") / "run")
    arguments = ["captions", str(run), "--aligned", str(WEIGHTS / "vhs"), "--best-of", "2"]
    said = CliRunner().invoke(app, arguments)
    assert said.exit_code == 0, said.output
    assert "only says yes or no: is it the verifier" in said.stderr
    return run, said.stdout


def test_the_captions_are_of_the_winners_own_features(captioned, nano):
    folder, printed = captioned
    rows, run = read_captions(folder), load_run(folder)
    assert list(rows) == COLUMNS
    picks = winners(run.candidates, run.scores[run.scores["verifier"] == "vhs"], 2)
    kept = picks[picks["prompt_id"].isin(rows["prompt_id"])]
    assert rows["index"].tolist() == kept["index"].tolist()
    assert len(rows) == 6
    first = rows.iloc[0]
    vhs = verifiers.create("vhs")
    noise = nano.noise([candidate_seed(0, int(first["prompt_id"]), int(first["index"]))])
    hidden = nano.head(nano.encode([first["prompt"]]), noise, vhs.block).features
    assert captions(vhs, hidden) == [first["caption"]]
    assert set(rows["checkpoint"]) == {vhs.checkpoint_sha256}
    assert f"{first['prompt']}: {first['caption']}" in printed


def test_the_figure_and_the_report_show_them(captioned, tmp_path, read_data, undrawn):
    folder = captioned[0]
    with Image.open(folder / "figures" / "captions.png") as image:
        assert image.width / 300 == pytest.approx(7.16, abs=0.1)
    file = folder / "captions.csv"
    rows = pd.read_csv(file, keep_default_na=False)
    rows["caption"] = "a <b>red</b> star"
    text = file.read_bytes()
    try:
        rows.to_csv(file, index=False)
        with undrawn():
            build(folder, out=tmp_path)
    finally:
        file.write_bytes(text)
    page = (tmp_path / "report.html").read_text()
    assert "after alignment it says" in page
    assert "<b>red" not in page
    (pool,) = read_data(tmp_path / "report.html")["pools"]
    said = [caption for entry in pool["verifiers"] for caption in entry["captions"].values()]
    assert said == ["a <b>red</b> star"] * len(rows)
    assert pd.read_csv(tmp_path / "figures" / "captions.csv")["caption"].unique().tolist() == [
        "a <b>red</b> star"
    ]


def test_what_cannot_be_captioned_is_one_sentence(made, make_run, tmp_path):
    with pytest.raises(CaptionError, match="is not a checkpoint of the alignment stage"):
        caption_winners(made, tmp_path)
    only = make_run(tmp_path / "clip", verifiers=[{"name": "mllm-clip"}])
    with pytest.raises(
        CaptionError, match=r"best of 99 needs 99 candidates per prompt, but the run .* has \d+"
    ):
        caption_winners(made, WEIGHTS / "vhs", 99)
    with pytest.raises(CaptionError, match=r"has no scores by 'vhs' \(it has mllm-clip\)"):
        caption_winners(only, WEIGHTS / "vhs")
    bare = make_run(tmp_path / "bare", gallery_prompts=0)
    with pytest.raises(CaptionError, match="kept no pictures"):
        caption_winners(bare, WEIGHTS / "vhs")


def test_a_label_says_whose_winners(make_run, tmp_path):
    entries = [
        {"name": "vhs", "label": "a"},
        {"name": "vhs", "label": "b"},
        {"name": "mllm-ae", "label": "c"},
    ]
    run = make_run(tmp_path / "two", verifiers=entries, gallery_prompts=2)
    with pytest.raises(
        CaptionError, match=r"has 2 verifiers of kind 'vhs'; name one of a, b with --verifier\."
    ):
        caption_winners(run, WEIGHTS / "vhs")
    with pytest.raises(CaptionError, match=r"no scores by 'c', a verifier of kind 'vhs' \(it has a, b, c\)"):
        caption_winners(run, WEIGHTS / "vhs", verifier="c")
    rows = caption_winners(run, WEIGHTS / "vhs", 2, verifier="b")
    found = load_run(run)
    picks = winners(found.candidates, found.scores[found.scores["verifier"] == "b"], 2)
    assert set(rows["verifier"]) == {"b"}
    assert rows["index"].tolist() == picks[picks["prompt_id"].isin(rows["prompt_id"])]["index"].tolist()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"pool": "many"}, "key 'config.pool': input should be a valid integer"),
        ({"generators": [{"name": "nanno"}]}, "key 'config.generators.0.name': unknown generator 'nanno'; did you mean 'nano'?"),
        ({"generators": [{"name": "nano", "options": {"stepz": 1}}]}, "key 'config.generators.0.options': generator 'nano' has no"),
        ({"generators": [{"name": "nano", "label": "x"}]}, "key 'config.generators': lacks 'nano', which is in the run's tables."),
        (None, "key 'config': input should be a valid dictionary"),
    ],
)  # fmt: skip
def test_a_run_json_that_is_damaged_or_older_is_one_sentence(made, tmp_path, change, said):
    run = tmp_path / "run"
    shutil.copytree(made, run)
    info = json.loads((run / "run.json").read_text())
    info["config"] = info["config"] | change if change else change
    (run / "run.json").write_text(json.dumps(info))
    with pytest.raises((ConfigError, CaptionError)) as error:
        caption_winners(run, WEIGHTS / "vhs")
    assert f"{run}/run.json, {said}" in str(error.value)
    if "tables" not in said:
        with pytest.raises(ConfigError, match=r"run\.json, key 'config"):
            build(run, out=tmp_path)
