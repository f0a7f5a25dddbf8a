from __future__ import annotations

import pytest

from vhsbench.results.audit import audit


def test_the_published_numbers_agree_but_for_three():
    found = audit()
    odd = found[~found["agrees"]]
    assert odd[["check", "source", "printed"]].to_numpy().tolist() == [
        ["overall", "Table 1", 73.1],
        ["same row", "Table 7", 79.1],
        ["text and table", "supplement B.3", 650.0],
    ]
    assert odd["expected"].tolist() == pytest.approx([73.74, 78.8, 550.0], abs=0.01)
    assert "MLLM w/ AE, best of 3 at 550 ms" in odd["what"].iloc[0]
    assert "MLLM w/ CLIP at 1100 ms" in odd["what"].iloc[1]


def test_every_row_and_every_stated_gain_is_checked():
    counts = audit()["check"].value_counts()
    assert counts["overall"] == 16 + 6 + 11 + 6
    assert counts["stated gain"] == 2 + 3
    assert counts["same row"] == 3 + 3 + 2


def test_a_slip_would_be_found(monkeypatch):
    from vhsbench.results import audit as module
    from vhsbench.results.readers import table

    def slipped(name):
        rows = table(name)
        rows.loc[rows["verifier"] == "VHS", "overall"] -= 0.4
        return rows

    monkeypatch.setattr(module, "table", slipped)
    found = module.audit()
    assert (~found["agrees"]).sum() > 3
