"""`vhsbench pool`, `regress` and `baseline`: test a verifier's checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vhsbench.harness.commands import completion
from vhsbench.harness.common.limits import MOST, MOST_CANDIDATES
from vhsbench.harness.common.terminal import Bars, Json, console, path, print_json, quiet

baseline_app = typer.Typer(
    help="Accept and list baselines, and show who replaced what when.", no_args_is_help=True
)
Baselines = Annotated[
    Path | None,
    typer.Option(
        "--dir",
        parser=path,
        help="Accepted baselines; default: the project's, else the package's, results/baselines.",
    ),
]


def register(app: typer.Typer) -> None:
    """Add this area's commands to the command line."""
    for command in (pool, regress):
        app.command()(command)
    app.add_typer(baseline_app, name="baseline")


def pool(
    out: Annotated[Path, typer.Option(parser=path, help="The pool's new folder.")],
    config: Annotated[
        Path | None,
        typer.Argument(
            help="A run's YAML configuration; default: nano's.", autocompletion=completion.experiments
        ),
    ] = None,
    prompts: Annotated[int | None, typer.Option(min=1, max=MOST, help="At most this many prompts.")] = None,
    size: Annotated[
        int | None, typer.Option(min=1, max=MOST_CANDIDATES, help="Candidates for each prompt and seed.")
    ] = None,
    keep: Annotated[
        list[str] | None,
        typer.Option(help="hidden, latents or images, each once; default: what verifiers read, and images."),
    ] = None,
    dtype: Annotated[
        str | None,
        typer.Option(help="Type of features: float32, float16, bfloat16; default: the generator's."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Freeze a pool of candidates: features, images, verdicts, and a hash of every file."""
    from vhsbench.harness.config.run import default_config, load_pool_config
    from vhsbench.harness.regress.pool import kinds_to_keep, make_pool

    chosen = load_pool_config(config) if config else default_config()
    update: dict[str, object] = {"pool": size} if size else {}
    if prompts:
        update["prompts"] = chosen.prompts.model_copy(update={"limit": prompts})
    quiet()
    with Bars() as bars:
        made = make_pool(chosen.model_copy(update=update), out, kinds_to_keep(keep), dtype, bars.update)
    if as_json:
        counts = {"prompts": len(made.prompts), "candidates": len(made.candidates)}
        print_json({"pool": str(out), **counts, "sha256": made.sha256})
    else:
        print(
            f"pool: {out} ({len(made.prompts)} prompts, {len(made.candidates)} candidates), SHA-256 {made.sha256}"
        )


def regress(
    baseline: Annotated[
        str,
        typer.Argument(
            help="A verifier, VERIFIER=CHECKPOINT, a checkpoint or run folder, or a baseline.",
            autocompletion=completion.verifiers,
        ),
    ],
    candidate: Annotated[
        str,
        typer.Argument(
            help="The verifier that must be no worse, named in the same ways.",
            autocompletion=completion.verifiers,
        ),
    ],
    pool: Annotated[Path | None, typer.Option(help="A frozen pool; default: the baseline's own.")] = None,
    config: Annotated[Path | None, typer.Option(help="gate.yaml; defaults: docs/regression.md.")] = None,
    out: Annotated[
        Path | None, typer.Option(parser=path, help="The folder for JSON, JUnit, Markdown and PNG.")
    ] = None,
    directory: Baselines = None,
    as_json: Json = False,
) -> None:
    """Compare a verifier's checkpoint with a baseline.

    Exit codes: 0 pass, 1 fail, 3 inconclusive, 4 inconclusive only because of unreliable
    times; 2 a mistake of yours, 70 a bug, 128 + n stopped by signal n.
    """
    from vhsbench.harness.regress.baselines import found as found_baselines
    from vhsbench.harness.regress.baselines import pool_of
    from vhsbench.harness.regress.gate_config import load_gate
    from vhsbench.harness.regress.pool import load_pool
    from vhsbench.harness.regress.report import show, write
    from vhsbench.harness.regress.run import regress as compare
    from vhsbench.harness.regress.sources import resolve

    gate = load_gate(config)
    directory = directory or found_baselines()
    quiet()
    sides = resolve(baseline, directory), resolve(candidate, directory)
    frozen = load_pool(pool) if pool else pool_of(baseline, directory)
    if as_json:
        found = compare(*sides, frozen, gate)
    else:
        with Bars() as bars:
            found = compare(*sides, frozen, gate, bars.update)
    if out is not None:
        write(found, out)
    if as_json:
        print_json(found.as_dict())
    else:
        show(found, console())
    raise typer.Exit(found.verdict.exit_code)


@baseline_app.command("accept")
def accept(
    source: Annotated[str, typer.Argument(help="A checkpoint's or finished run's folder, or a verifier.")],
    name: Annotated[str | None, typer.Option(help="Default: the verifier's name.")] = None,
    pool: Annotated[Path | None, typer.Option(help="The frozen pool to compare on.")] = None,
    note: Annotated[str, typer.Option(help="Why, for the log.")] = "",
    directory: Baselines = None,
    as_json: Json = False,
) -> None:
    """Make a checkpoint or run the accepted baseline; the log keeps who replaced what when."""
    from vhsbench.harness.regress.accept import accept as keep

    entry = keep(source, name, directory, pool, note)
    if as_json:
        print_json(entry)
        return
    replaced = f", in place of {entry['replaces'][:12]}" if entry["replaces"] else ""
    print(f"baseline '{entry['name']}' is {entry['source']} ({entry['sha256'][:12]}){replaced}")


@baseline_app.command("list")
def list_baselines(
    history: Annotated[bool, typer.Option("--log", help="Also show who replaced what when.")] = False,
    directory: Baselines = None,
    as_json: Json = False,
) -> None:
    """Verify and list the accepted baselines."""
    from rich.markup import escape
    from rich.table import Table

    from vhsbench.harness.regress import baselines

    directory = directory or baselines.found()
    found, log = baselines.listing(directory), baselines.history(directory)
    if as_json:
        print_json({"baselines": found, "log": log} if history else {"baselines": found})
        return
    if not found:
        print(f"there is no accepted baseline in {directory}; `vhsbench baseline accept` adds one.")
        return
    shown = [("baselines", found), ("log", log)] if history else [("baselines", found)]
    for title, rows in shown:
        table = Table("name", "source", "SHA-256", "when", "who", "replaces", "note", title=title)
        for row in rows:
            values = [row[k] or "" for k in ("name", "source", "sha256", "when", "who", "replaces", "note")]
            values[2], values[5] = values[2][:12], values[5][:12]
            table.add_row(*map(escape, values))
        console().print(table)
