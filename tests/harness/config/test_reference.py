"""The reference of configuration keys is up to date, and knows every key."""

from __future__ import annotations

from pathlib import Path

from vhsbench.harness.commands.reference import MODELS, page
from vhsbench.harness.config.run import RunConfig

PAGE = Path(__file__).parents[3] / "docs" / "configuration.md"


def test_the_page_is_up_to_date():
    assert PAGE.read_text(encoding="utf-8") == page()


def test_every_key_has_a_row_and_a_meaning():
    rows = [line.split(" | ") for line in page().splitlines() if line.startswith("| `")]
    assert [row[0] for row in rows if row[-1].strip(" |") == ""] == []
    for key in RunConfig.model_fields:
        assert f"| `{key}`" in [row[0] for row in rows]
    assert len(rows) > 100
    for title in MODELS:
        assert f"## {title}\n" in page()
    assert "| `best_of_n` | list of whole number from 1 to 4,096 | `[1, 2, 4, 8]` |" in page()
