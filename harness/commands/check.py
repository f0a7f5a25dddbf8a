"""`vhsbench check`: whether a generator or verifier keeps the rules of its protocol."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vhsbench.harness.commands import completion
from vhsbench.harness.commands.generate import (
    Checkpoint,
    Device,
    Dtype,
    Resolution,
    Steps,
    Weights,
    open_generator,
    open_verifier,
)
from vhsbench.harness.common.exit_codes import FAILURES
from vhsbench.harness.common.terminal import Json, console, print_json, quiet

if TYPE_CHECKING:
    from rich.console import Console

    from vhsbench.harness.common.rules import Finding

_STYLES = {"holds": "green", "broken": "bold red", "not checked": "yellow"}


def check(
    name: Annotated[
        str,
        typer.Argument(
            help="A name from `vhsbench list`, of a generator or a verifier.",
            autocompletion=completion.registered,
        ),
    ],
    generator: Annotated[
        str,
        typer.Option(
            help="Whose candidates a verifier is checked on; the other options are this generator's.",
            autocompletion=completion.generators,
        ),
    ] = "nano",
    weights: Weights = None,
    resolution: Resolution = None,
    steps: Steps = None,
    checkpoint: Checkpoint = None,
    device: Device = None,
    dtype: Dtype = None,
    as_json: Json = False,
) -> None:
    """Check a generator or verifier, such as a plugin, by the rules of its protocol: exit code 0, or 1 if one is broken.

    `--weights random` and `--checkpoint random` check full-size ones without their weights.
    """
    quiet()
    from vhsbench import generators, verifiers
    from vhsbench.harness.common.registry import RegistryError, nearest
    from vhsbench.harness.common.rules import broken
    from vhsbench.harness.inference.conformance import check_generator, check_verifier

    kinds = [k for k, known in (("generator", generators), ("verifier", verifiers)) if name in known.REGISTRY]
    if not kinds:
        known = [*generators.REGISTRY.names(), *verifiers.REGISTRY.names()]
        raise RegistryError(f"unknown generator or verifier '{name}'; {nearest(name, known)}")
    found: dict[str, list[Finding]] = {}
    for kind in kinds:  # a plugin may have one of each under a name
        painter = open_generator(
            name if kind == "generator" else generator, device, steps, resolution, weights, dtype
        )
        if kind == "generator":
            found[kind] = check_generator(painter)
        else:
            found[kind] = check_verifier(open_verifier(name, painter, generator, checkpoint), painter)
    count = sum(len(broken(findings)) for findings in found.values())
    if as_json:
        print_json(_plain(name, found, generator))
    else:
        for kind, findings in found.items():
            _show(f"{kind} {name}", findings, console())
    if count:
        raise typer.Exit(FAILURES)


def _plain(name: str, found: dict[str, list[Finding]], generator: str) -> list[dict[str, Any]]:
    on = {"verifier": {"generator": generator}, "generator": {}}
    return [
        {"name": name, "kind": kind, **on[kind], "rules": [asdict(finding) for finding in findings]}
        for kind, findings in found.items()
    ]


def _show(title: str, findings: Sequence[Finding], out: Console) -> None:
    """Print a line a rule, and below them what the broken rules ask for."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for heading in ("rule", "", "found"):
        table.add_column(heading, overflow="fold", no_wrap=heading == "rule")
    for finding in findings:
        table.add_row(finding.rule, Text(finding.outcome, _STYLES[finding.outcome]), Text(finding.found))
    out.print(table)
    for finding in findings:
        if finding.outcome == "broken":
            out.print(f"{finding.rule} is broken: {finding.says}", highlight=False, markup=False)
