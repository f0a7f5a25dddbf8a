"""The README.md of what is shared: what was measured, on what, by which command, and how to pull it."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml

from vhsbench.harness.common.shown import markdown_table, printable
from vhsbench.harness.common.text import read_text
from vhsbench.harness.regress.pool import Manifest, load_pool
from vhsbench.harness.report import tables
from vhsbench.harness.report.combine import load_runs
from vhsbench.harness.report.derived import Derived, derive
from vhsbench.harness.report.recorded import recorded
from vhsbench.harness.sharing.kinds import Kind
from vhsbench.harness.sharing.sums import CARD, SUMS, Sums
from vhsbench.verifiers.checkpoint import read_card
from vhsbench.version import __version__

_TAGS = ["vhsbench", "best-of-n", "text-to-image"]


def card(folder: Path, kind: Kind, sums: Sums, place: str) -> str:
    """Write the card of what is in a folder and goes to `place`, as Markdown with the hub's metadata above it."""
    metadata, text = {"run": _run, "pool": _pool, "verifier": _verifier}[kind.name](folder, sums)
    head = yaml.safe_dump(metadata, sort_keys=False, allow_unicode=True)
    return f"---\n{head}---\n\n{text}\n{_how_to_pull(kind, sums, place)}"


def _how_to_pull(kind: Kind, sums: Sums, place: str) -> str:
    command = shlex.join(["vhsbench", kind.name, "pull", place, kind.name, "--sha256", sums.sha256])
    return (
        f"## Pull it\n\n```\n{command}\n```\n\nPushed by vhsbench {__version__}. {SUMS} lists all {len(sums.files):,} files; "
        f"`sha256sum -c {SUMS}` checks them, too.\n"
    )


def _run(folder: Path, sums: Sums) -> tuple[dict[str, Any], str]:
    derived = derive(load_runs([folder]))
    config, info = derived.config, derived.run.info
    shown = [name for name in sums.files if name.endswith(".parquet")]
    metadata = {
        "pretty_name": f"{config.name} (a run of vhsbench)",
        "tags": _TAGS,
        "configs": [{"config_name": name.removesuffix(".parquet"), "data_files": name} for name in shown],
    }
    devices = sorted({str(device) for device in derived.run.costs["device"].dropna()})
    facts = {
        "prompts": len(derived.run.prompts),
        "candidates of each prompt and seed": config.pool,
        "seeds": ", ".join(map(str, config.seeds)),
        "device": ", ".join(devices),
        "vhsbench": "; ".join(recorded(info, "packages", "vhsbench")),
        "commit": "; ".join(recorded(info, "git_commit")),
        "command": "; ".join(recorded(info, "command")),
        "times": "; ".join(derived.unreliable) or "reliable",
    }
    configuration = yaml.safe_dump(info["config"], sort_keys=False, allow_unicode=True)
    text = (
        f"# {printable(str(config.name))}\n\n{results(derived)}\n## What was measured\n\n{_facts(facts)}\n"
        "Made again by `vhsbench run config.yaml`, with\n\n"
        f"<details><summary>config.yaml</summary>\n\n```yaml\n{configuration}```\n\n</details>\n\n"
        "`vhsbench report FOLDER` makes all tables, figures and a page of the pulled tables.\n"
    )
    return metadata, text


def results(derived: Derived) -> str:
    """Write a run's verdicts and its accuracies by budget as Markdown."""
    verdicts = "".join(f"* {tables.markdown_escape(sentence)}\n" for sentence in derived.standings.sentences)
    found = "".join(
        f"\n**{table.title}**, of {len(derived.run.prompts)} prompts, with 95% intervals, protocol `{derived.protocol.digest}`\n\n{tables.markdown(table)}"
        for table in derived.tables
        if table.name == "budgets"
    )
    return f"{verdicts}{found}"


def _pool(folder: Path, sums: Sums) -> tuple[dict[str, Any], str]:
    pool = load_pool(folder)
    manifest: Manifest = pool.manifest
    right = pool.candidates["correct"].mean()
    facts = {
        "generator": manifest.generator,
        "weights": manifest.source,
        "options": yaml.safe_dump(manifest.options, default_flow_style=True).strip()
        if manifest.options
        else "",
        "steps": manifest.steps,
        "prompts": len(pool.prompts),
        "seeds": ", ".join(map(str, manifest.seeds)),
        "candidates of each prompt and seed": manifest.size,
        "judged right": f"{100 * right:.1f}% of {len(pool.candidates):,}",
        "keeps": ", ".join(manifest.keep),
        "type of features": manifest.dtype,
    }
    metadata = {
        "tags": _TAGS,
        "configs": [{"config_name": "candidates", "data_files": "candidates.parquet"}],
    }
    return metadata, (
        f"# A pool of {manifest.generator}'s candidates\n\nFrozen by vhsbench: "
        "`vhsbench regress BASELINE CANDIDATE --pool FOLDER` compares two verifiers on it.\n\n"
        + _facts(facts)
    )


def _verifier(folder: Path, sums: Sums) -> tuple[dict[str, Any], str]:
    metadata: dict[str, Any] = {
        "library_name": "vhsbench",
        "pipeline_tag": "image-text-to-text",
        "tags": _TAGS,
    }
    if (folder / CARD).is_file():
        own, text = _split(read_text(folder / CARD))
        return {**metadata, **own}, text
    facts = asdict(read_card(folder))
    return metadata, f"# A verifier: {facts['kind']}\n\n{_facts(facts)}"


def _split(text: str) -> tuple[dict[str, Any], str]:
    """Part a card into its metadata and its text."""
    if not text.startswith("---\n") or "\n---\n" not in text[4:]:
        return {}, text
    head, _, rest = text[4:].partition("\n---\n")
    try:
        found = yaml.safe_load(head)
    except yaml.YAMLError:
        return {}, rest
    return (found if isinstance(found, dict) else {}), rest.lstrip("\n")


def _facts(facts: Mapping[str, Any]) -> str:
    rows = [
        [key, tables.markdown_escape(str(value))] for key, value in facts.items() if value not in ("", None)
    ]
    return markdown_table(["", ""], rows)
