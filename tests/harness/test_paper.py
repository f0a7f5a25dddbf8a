from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from vhsbench.harness.cli import app


@pytest.fixture(scope="module")
def record():
    return json.loads(CliRunner().invoke(app, ["paper", "--json"]).stdout)


def row(record, table, **where):
    rows = record["tables"][table]["rows"]
    return next(r for r in rows if all(r[k] == v for k, v in where.items()))


def test_everything_is_labelled_published_with_its_source(record):
    assert record["label"] == "published"
    assert record["paper"] == "Tiny Inference-Time Scaling with Latent Verifiers"
    assert list(record["tables"]) == ["table1", "table5", "table6", "table7", "claims", "figure6"]
    for table in record["tables"].values():
        assert table["status"] == "published"
        assert table["place"]
        assert all(r["source"] for r in table["rows"])


@pytest.mark.parametrize(
    ("table", "where", "overall"),
    [
        ("table1", {"budget_ms": 550, "verifier": "VHS"}, 78.1),
        ("table1", {"budget_ms": 1650, "generator": "SANA-1.5"}, 79.4),
        ("table5", {"verifier": "VHS", "scoring": "none"}, 74.7),
        ("table6", {"budget_ms": 1650, "generator": "FLUX-Schnell", "steps": 2}, 73.3),
        ("table7", {"lora_epoch_fraction": 1.0, "verifier": "VHS"}, 76.3),
    ],
)
def test_golden_rows(record, table, where, overall):
    assert row(record, table, **where)["overall"] == overall


def test_headline_and_shares(record):
    claims = {r["key"]: r["value"] for r in record["tables"]["claims"]["rows"]}
    assert claims["time_per_candidate"] == -63.3
    assert claims["tflop_per_candidate"] == -51
    assert claims["peak_vram"] == -14.5
    assert claims["overall_gain"] == 2.7
    assert [r["percent"] for r in record["tables"]["figure6"]["rows"]] == [80, 40, 20]


def test_what_a_person_sees():
    printed = CliRunner().invoke(app, ["paper"], terminal_width=200, env={"COLUMNS": "200"}).stdout
    assert "published: Table 1 (main comparison by time budget)" in printed
    assert "50 of 53 checks agree" in printed
    assert "73.746" in printed
    assert "Nothing here was measured" in printed
