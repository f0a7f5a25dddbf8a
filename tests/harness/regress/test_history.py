"""The history of accepted baselines and comparisons: what joins, what stays empty, and the files."""

from __future__ import annotations

import csv
import json
import subprocess
from dataclasses import replace

import numpy as np
import pytest
from typer.testing import CliRunner

from vhsbench.harness.cli import app
from vhsbench.harness.regress.accept import accept
from vhsbench.harness.regress.compare import compare
from vhsbench.harness.regress.gate import decide
from vhsbench.harness.regress.gate_config import GateConfig
from vhsbench.harness.regress.history import HistoryError, history
from vhsbench.harness.regress.history_page import chart, write
from vhsbench.harness.regress.report import write as write_report
from vhsbench.harness.regress.run import Regression
from vhsbench.harness.regress.speed import Speed

GATE = GateConfig(best_of_n=(2, 4), permutations=99, auc_permutations=99)
NASTY = '<script>alert("x")</script>'


@pytest.fixture
def compared(simulated):
    candidates, a, b = simulated(np.random.default_rng(4), 24, 4, (1.0, 1.0))
    return compare(candidates, a, b, GATE)


@pytest.fixture
def record(compared, tmp_path):
    """Write a comparison of the day, device and checkpoints."""

    def put(day, device, ms, baseline="b" * 64, candidate="c" * 64, pool="p" * 64, name="main", **more):
        speed = Speed(device, 1, 30, 1.0, ms, ms, ms, ms, 0.1, 0.1, 1.0)
        inputs = {"baseline": baseline, "candidate": candidate, "pool": pool}
        when = None if day is None else f"2026-01-{day:02}T00:00:00+00:00"
        found = replace(compared, baseline=name, candidate=more.pop("source", "new"))
        regression = Regression(GATE, decide(found, GATE), found, speed, inputs, None, when, f"{day}" * 20)
        folder = tmp_path / "records" / f"{day}-{device[:4]}"
        write_report(regression, folder)
        return folder

    return put


def test_a_row_for_each_n_by_date_with_its_commit_and_device(record, compared, tmp_path):
    record(2, "H100", 3.0)
    record(1, "A100", 5.0)
    rows = history([tmp_path / "records"])
    assert list(rows["when"].str[:10]) == ["2026-01-01"] * 2 + ["2026-01-02"] * 2
    assert list(rows["at"]) == ["N=2", "N=4"] * 2
    overall = [d.candidate for d in compared.differences if d.tag == "overall"]
    assert list(rows["accuracy"]) == overall * 2
    assert list(rows["auc"]) == [compared.separation[0].candidate] * 4
    assert list(zip(rows["device"], rows["ms"], rows["commit"], strict=True))[::2] == [
        ("A100", 5.0, "1" * 20), ("H100", 3.0, "2" * 20),
    ]  # fmt: skip
    lines = [line for line in chart(rows).data if "100" in line.name]
    assert [(line.name, list(line.y)) for line in lines] == [("main, A100", [5.0]), ("main, H100", [3.0])]


def test_a_pool_is_never_joined_with_another(record, tmp_path):
    for day, pool in ((1, "p" * 64), (2, "q" * 64), (3, "p" * 64)):
        record(day, "A100", 5.0, pool=pool)
    names = {line.name: len(line.x) for line in chart(history([tmp_path / "records"])).data}
    assert names["main, pppppppp, N=4"] == 2
    assert names["main, qqqqqqqq, N=4"] == 1
    assert names["main, A100"] == 3


def test_an_accepted_checkpoint_has_the_accuracy_measured_on_its_pool_and_no_time(
    record, compared, tmp_path, pool
):
    folder = tmp_path / "baselines"
    entry = accept("vhs", "main", folder, pool.path)
    unknown = accept("vhs", "other", folder)  # on no pool: nothing is known of it
    for number in (1, 2):
        record(number, "A100", 5.0, baseline=entry["checkpoint_sha256"], pool=pool.sha256)
    rows = history([tmp_path])
    accepted = rows[(rows["event"] == "accepted") & (rows["baseline"] == "main")]
    assert list(accepted["accuracy"]) == [d.baseline for d in compared.differences if d.tag == "overall"]
    assert list(accepted["auc"]) == [compared.separation[0].baseline] * 2
    assert accepted[["device", "ms", "verdict"]].isna().all(axis=None)
    (other,) = rows[rows["baseline"] == "other"].to_dict("records")
    assert other["when"] == unknown["when"]
    assert np.isnan(other["accuracy"])
    assert not isinstance(other["pool"], str)


def test_a_checkpoint_is_recorded_as_the_gate_knows_it_and_with_its_commit(tmp_path, damaged, pool):
    """Date, commit and hash of a checkpoint in a repository, in the log and in regression.json alike."""
    from vhsbench.harness.regress.run import regress
    from vhsbench.harness.regress.sources import resolve

    folder = damaged(0.1)
    git = ("git", "-C", str(folder), "-c", "user.name=a", "-c", "user.email=a@b")
    for command in (("init", "-q"), ("add", "."), ("commit", "-qm", "one")):
        subprocess.run([*git, *command], check=True)
    head = subprocess.run(
        [*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True
    ).stdout.strip()
    gate = GATE.model_copy(update={"timing_repeats": 0})
    found = regress(resolve("vhs"), resolve(str(folder)), pool, gate)
    entry = accept(str(folder), "main", tmp_path / "baselines", pool.path)
    assert found.commit == entry["commit"] == head
    assert found.inputs["candidate"] == entry["checkpoint_sha256"]
    assert found.as_dict()["when"][:2] == entry["when"][:2] == "20"


def test_records_of_earlier_versions_leave_the_unknown_empty(record, tmp_path):
    file = record(1, "A100", 5.0) / "regression.json"
    old = {k: v for k, v in json.loads(file.read_text()).items() if k not in ("when", "commit", "exit_code")}
    file.write_text(json.dumps(old))
    log = tmp_path / "log.jsonl"
    log.write_text('{"when": "2025-01-01T00:00:00+00:00", "who": "a", "name": "main", "source": "vhs"}\n')
    rows = history([tmp_path])
    assert list(rows["event"]) == ["compared", "compared", "accepted"]
    assert rows["commit"].isna().all()
    write(rows, tmp_path / "out")
    first = next(csv.DictReader((tmp_path / "out" / "history.csv").open()))
    assert (first["when"], first["commit"], first["ms"]) == ("", "", "5.0")


@pytest.mark.parametrize("text", ["{}", "[]", "no", '{"comparison": 3, "speed": null}'])
def test_a_damaged_record_is_a_sentence(text, tmp_path):
    (tmp_path / "regression.json").write_text(text)
    with pytest.raises(HistoryError, match=r"regression\.json"):
        history([tmp_path])
    with pytest.raises(HistoryError, match="there is no"):
        history([tmp_path / "none"])


def test_the_command_writes_a_table_and_a_page_that_loads_nothing(record, tmp_path):
    record(1, "A100", 5.0, name=NASTY, source=NASTY)
    out = tmp_path / "out"
    done = CliRunner().invoke(app, ["history", str(tmp_path / "records"), "--out", str(out), "--json"])
    assert done.exit_code == 0, done.output
    said = json.loads(done.stdout)
    assert [row["at"] for row in said["history"]] == ["N=2", "N=4"]
    assert {f.name for f in out.iterdir()} == {"history.csv", "history.md", "history.html"}
    page = (out / "history.html").read_text(encoding="utf-8")
    assert "<script>alert" not in page
    assert "default-src 'none'" in page
    assert "<script src" not in page
    shown = CliRunner().invoke(app, ["history", str(tmp_path / "records")])
    assert "2026-01-01" in shown.stdout
