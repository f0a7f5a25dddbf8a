"""The command line. Heavy imports happen inside the commands, so that --help answers at once."""

from __future__ import annotations

import gc
import os
import shlex
import signal
import sys
import traceback
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from vhsbench.harness.commands import completion, generate, paper, share
from vhsbench.harness.commands import cost as cost_commands
from vhsbench.harness.commands import regress as regress_commands
from vhsbench.harness.commands.captions import captions
from vhsbench.harness.commands.check import check
from vhsbench.harness.commands.compare import compare
from vhsbench.harness.commands.config import app as config_app
from vhsbench.harness.commands.geneval import app as geneval_app
from vhsbench.harness.commands.history import history
from vhsbench.harness.commands.init import init
from vhsbench.harness.commands.judge import judge
from vhsbench.harness.commands.label import label
from vhsbench.harness.commands.leaderboard import leaderboard
from vhsbench.harness.commands.logging_to import LogTo, logging_to
from vhsbench.harness.commands.run import Engine
from vhsbench.harness.commands.score import score
from vhsbench.harness.commands.status import status
from vhsbench.harness.commands.stopping import stopping
from vhsbench.harness.commands.train import app as train_app
from vhsbench.harness.common.errors import VhsbenchError
from vhsbench.harness.common.exit_codes import BUG, FAILURES, INTERRUPTED, MISTAKE, UNRELIABLE
from vhsbench.harness.common.limits import MOST_THREADS
from vhsbench.harness.common.processes import TIED_TO, end_with_parent
from vhsbench.harness.common.shown import printable_lines
from vhsbench.harness.common.terminal import Json, console, flush_output, open_output, print_json, quiet
from vhsbench.version import __version__

if TYPE_CHECKING:
    from vhsbench.harness.loggers.logs import Logs

DEBUG = "--debug"
Venue = Literal["cvpr", "neurips", "iclr", "acl"]
RequireReliable = Annotated[
    bool, typer.Option("--require-reliable", help="Exit with 4 if the measured times cannot be trusted.")
]

app = typer.Typer(
    name="vhsbench",
    cls=share.TwoWords,
    help="Compute-matched best-of-N benchmarks for text-to-image generators and latent verifiers.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


def main() -> None:
    """Run the command line: a user's mistake is one sentence on stderr; a bug of ours keeps its traceback (70).

    `--debug`, anywhere on the line, shows the traceback of a user's mistake too.
    """
    if TIED_TO in os.environ:
        end_with_parent(int(os.environ.pop(TIED_TO)))  # first: imports take seconds
    # torch's CPU threads sleep while they wait: spinning, they slow a shared machine by tens of times
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    open_output()
    debug = DEBUG in sys.argv
    sys.argv = [argument for argument in sys.argv if argument != DEBUG]
    try:
        try:
            app()
        finally:
            flush_output()
    except VhsbenchError as error:
        if debug:
            traceback.print_exc()
        print(f"error: {printable_lines(str(error))}", file=sys.stderr)
        sys.exit(MISTAKE)
    except KeyboardInterrupt:
        print("stopped; nothing that was finished is lost: run the same command to resume.", file=sys.stderr)
        sys.exit(INTERRUPTED + signal.SIGINT)
    except Exception:  # Python's exit code would be 1, which is a gate that fails
        traceback.print_exc()
        sys.exit(BUG)


@app.callback(invoke_without_command=True)
def version(
    show: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
    debug: Annotated[  # for --help: `main` takes it from wherever it stands
        bool, typer.Option(DEBUG, help="Show the traceback of an error; may stand anywhere.")
    ] = False,
) -> None:
    if show:
        print(__version__)
        raise typer.Exit


@app.command()
def run(
    config: Annotated[
        Path | None,
        typer.Argument(
            help="YAML, or a bundled name (table1, nano-table1, ...); default: nano.",
            autocompletion=completion.experiments,
        ),
    ] = None,
    out: Annotated[
        str | None, typer.Option(help="Run directory or fsspec URL (s3://...); default: runs/<name>.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only print cells, N by budget, GPU hours and disk.")
    ] = False,
    redo: Annotated[
        bool,
        typer.Option(
            "--redo", help="Make again what was made of other prompts, weights, settings or versions."
        ),
    ] = False,
    engine: Annotated[
        Engine, typer.Option(help="Where shards are done: this process, or Ray.")
    ] = Engine.local,
    address: Annotated[
        str | None, typer.Option(help="Of a Ray cluster; default: RAY_ADDRESS, else one on this machine.")
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(min=1, max=MOST_THREADS, help="Ray workers; default: what the cluster holds."),
    ] = None,
    gpus_per_worker: Annotated[
        float | None, typer.Option(min=0, help="Of each Ray worker, may be a fraction; default: 1 on CUDA.")
    ] = None,
    log_to: LogTo = None,
    require_reliable: RequireReliable = False,
    as_json: Json = False,
) -> None:
    """Do a whole sweep: candidates, verdicts, scores, costs; then tables and figures. Resumes, and mends.

    Exit code 1: done, but some prompts failed and are left out (`vhsbench status` says which).
    """
    from vhsbench.harness.commands.run import sweep
    from vhsbench.harness.config.run import default_config, load_config

    chosen = load_config(config) if config else default_config()
    if dry_run:
        from vhsbench.harness.commands.dry_run import print_plan

        print_plan(chosen, as_json)
        return
    where = out or str(Path("runs") / chosen.name)
    quiet()
    with logging_to(log_to, where, chosen.model_dump(mode="json")) as logs:
        failed = sweep(
            chosen, where, engine, address, workers, gpus_per_worker, not as_json, redo, logs.progress
        )
        reliable = _report([where], as_json, again=["report", where], logs=logs)
    if failed:  # first: what is missing matters more than its times
        print(failed, file=sys.stderr)
        raise typer.Exit(FAILURES)
    _check_times(reliable, require_reliable)


@app.command()
def report(
    runs: Annotated[
        list[str], typer.Argument(help="Finished runs (or URLs); several are put together, into --out.")
    ],
    out: Annotated[
        str | None, typer.Option(help="Where it goes, a folder or URL; default: into the run.")
    ] = None,
    published: Annotated[
        bool, typer.Option("--published", help="The paper's values beside the measured ones.")
    ] = False,
    costs_from: Annotated[
        str, typer.Option(help="Times of another device: a100-paper, or another finished run or its URL.")
    ] = "",
    page_mb: Annotated[
        float | None,
        typer.Option(min=1, max=2000, help="Most MB of report.html, with its pictures; default: 25."),
    ] = None,
    strategy: Annotated[
        list[str] | None,
        typer.Option(
            help="Compare it with best-of-N, as 'cascade:vhs>mllm-clip'; may be given several times."
        ),
    ] = None,
    diversity: Annotated[
        bool, typer.Option("--diversity", help="How different winners are to CLIP, by the kept pictures.")
    ] = False,
    venue: Annotated[
        Venue | None,
        typer.Option(
            "--paper", help="Also a folder paper/: figures, tables, numbers and references for this venue."
        ),
    ] = None,
    require_reliable: RequireReliable = False,
    as_json: Json = False,
) -> None:
    """Derive tables, figures and report.html of finished runs."""
    quiet(models=diversity)
    reliable = _report(
        runs, as_json, out, published, costs_from, page_mb, strategy or (), diversity, venue or "",
        again=sys.argv[1:],
    )  # fmt: skip
    _check_times(reliable, require_reliable)


@app.command()
def measure(
    run: Annotated[str, typer.Argument(help="A finished run's directory, or its fsspec URL.")],
    require_reliable: RequireReliable = False,
    as_json: Json = False,
) -> None:
    """Measure the costs of a finished run again, without its candidates, and make its report anew."""
    from vhsbench.harness.commands.run import costs_again

    quiet()
    costs_again(run, not as_json)
    _check_times(_report([run], as_json, again=["report", run]), require_reliable)


@app.command("list")
def list_(
    kind: Annotated[
        str | None, typer.Argument(help="generators, verifiers, judges or suites; default: all.")
    ] = None,
    as_json: Json = False,
) -> None:
    """List the registered generators, verifiers, judges and suites of prompts."""
    quiet()
    from vhsbench.harness.commands.listing import listing, show

    found = listing(kind)
    if as_json:
        print_json(found)
    else:
        show(found, console())


@app.command()
def doctor(as_json: Json = False) -> None:
    """Say what this machine can run."""
    quiet()
    from vhsbench.harness.commands.doctor import diagnose, show

    found = diagnose()
    if as_json:
        print_json(found)
    else:
        show(found, console())


generate.register(app)
paper.register(app)
app.command()(init)
app.add_typer(config_app, name="config")
app.command()(score)
app.command()(judge)
app.command()(captions)
app.command()(check)
app.command()(compare)
app.command()(history)
app.command()(label)
app.command()(leaderboard)
app.command()(cost_commands.cost)
app.command()(cost_commands.plan)
app.add_typer(geneval_app, name="geneval")
regress_commands.register(app)
share.register(app)
app.add_typer(train_app, name="train")
app.command()(status)


def _report(
    runs: list[str],
    as_json: bool,
    out: str | None = None,
    published: bool = False,
    costs_from: str = "",
    page_mb: float | None = None,
    strategies: Sequence[str] = (),
    diversity: bool = False,
    venue: str = "",
    *,
    again: list[str],
    logs: Logs | None = None,
) -> bool:
    """Make the report of runs, and return whether its times are reliable.

    `again` are the arguments that make it, for a user who stopped it; `logs` get it, too.
    """
    told = f"stopped while the report was made; no measurement is lost: make it with `{shlex.join(['vhsbench', *again])}`."
    with stopping(told), ExitStack() as stack:
        from vhsbench.harness.report.build import build
        from vhsbench.harness.store.folder import is_url, local_copy, local_output

        gc.freeze()  # the libraries' objects stay: each collection would look at all of them again
        stack.callback(gc.unfreeze)
        target = None if out is None else stack.enter_context(local_output(out))
        folders = [stack.enter_context(local_copy(run)) for run in runs]
        limit = {} if page_mb is None else {"page_mb": page_mb}
        summary = build(
            *folders,
            out=target,
            with_published=published,
            costs_from=costs_from,
            strategies=strategies,
            with_diversity=diversity,
            paper=venue,
            **limit,
        )
        if logs is not None:
            logs.report(summary, target or folders[0])
    if is_url(where := out or runs[0]):  # not the copy that it was written in
        summary |= {"run": where.rstrip("/"), "report": f"{where.rstrip('/')}/report.html"}
        summary |= {"paper": f"{where.rstrip('/')}/paper/main.tex"} if venue else {}
    if as_json:
        print_json(summary)
    else:
        from vhsbench.harness.commands.listing import show_summary

        show_summary(summary, console())
    return not summary["timing_reasons"]


def _check_times(reliable: bool, required: bool) -> None:
    if required and not reliable:
        raise typer.Exit(UNRELIABLE)


if __name__ == "__main__":
    main()
