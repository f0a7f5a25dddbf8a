"""`vhsbench cost` counts a pipeline's stages; `vhsbench plan` says what N a budget affords."""

from __future__ import annotations

import gc
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vhsbench.harness.commands import completion
from vhsbench.harness.common.limits import MOST_CANDIDATES
from vhsbench.harness.common.prompt_files import typed_prompt
from vhsbench.harness.common.terminal import Json, console, print_json, quiet

if TYPE_CHECKING:
    from vhsbench.harness.cost.plan import Priced

Prompt = Annotated[
    str | None,
    typer.Option(
        callback=typed_prompt,
        help="Count for this prompt; default: the first of the generator's bundled runs.",
    ),
]
Repeated = Annotated[
    list[str] | None,
    typer.Option("--generator", help="Only this one; repeatable.", autocompletion=completion.generators),
]


def cost(
    generator: Annotated[
        str, typer.Argument(help="A registered generator.", autocompletion=completion.generators)
    ],
    verifier: Annotated[
        str | None,
        typer.Option(help="A registered verifier; default: none.", autocompletion=completion.verifiers),
    ] = None,
    n: Annotated[int, typer.Option("-n", min=1, max=MOST_CANDIDATES, help="Candidates.")] = 4,
    steps: Annotated[int | None, typer.Option(min=1, help="Denoising steps; default: the family's.")] = None,
    prompt: Prompt = None,
    as_json: Json = False,
) -> None:
    """Count parameters and TFLOP of every stage from the architecture, without weights."""
    with _uncollected():
        quiet()
        from vhsbench.harness.cost.counting import count_pipeline

        counted = count_pipeline(generator, verifier, steps, prompt)
    n = n if verifier else 1
    model = counted.tflop
    found = {
        "generator": generator,
        "steps": counted.steps,
        "verifier": verifier,
        "n": n,
        "prompt": counted.prompt,
        "question_tokens": asdict(counted.question) if counted.question else None,
        "stages": counted.rows(n),
        "fixed_tflop": model.fixed,
        "per_candidate_tflop": model.per_candidate,
        "total_tflop": model.predict(n),
    }
    if as_json:
        print_json(found)
    else:
        _show_cost(found)


def plan(
    budget: Annotated[list[str], typer.Option(help="550ms, 1.1s, 3TFLOP, 24GB or 40J; repeatable.")],
    device: Annotated[
        str | None, typer.Option(help="a100-paper (default), or a data sheet: h100 ...")
    ] = None,
    costs: Annotated[
        Path | None, typer.Option(help="A finished run's directory, for what it measured.")
    ] = None,
    generator: Repeated = None,
    strategy: Annotated[
        list[str] | None,
        typer.Option(
            help="With --costs: a strategy with all but n given, as 'cascade:vhs>mllm-clip,k=2'; repeatable."
        ),
    ] = None,
    prompt: Prompt = None,
    tolerance: Annotated[
        float | None,
        typer.Option(min=0.0, help="By how much a budget may be passed; default: the run's, else 0.05."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Say what N every pipeline gets for each budget."""
    from vhsbench.harness.cost.plan import PAPER, WHAT, PlanError, from_device, from_run
    from vhsbench.harness.cost.plan import plan as make

    if device and costs:
        raise PlanError("give --device or --costs, not both: a plan is for one machine.")
    if prompt and costs:
        raise PlanError("give --prompt or --costs, not both: a run measured its own first prompt.")
    if strategy and not costs:
        raise PlanError("a strategy is planned from measured stages: give --costs FOLDER of a finished run.")
    quiet()
    if costs:
        pipelines = from_run(costs)
        if strategy:
            from vhsbench.harness.strategies.plan import priced
            from vhsbench.harness.strategies.registry import parse

            for text in strategy:
                pipelines += priced(costs, parse(text), pipelines[0].tolerance)
        pipelines = [p for p in pipelines if not generator or p.generator in generator]
    else:
        from vhsbench.harness.cost.cost_model import parse_budget

        units = [parse_budget(text)[1] for text in budget]
        pipelines = from_device(device or PAPER, units, generator or (), prompt)
    if not pipelines:
        raise PlanError(f"{costs} measured no pipeline of {', '.join(generator or ())}.")
    if tolerance is None:
        tolerance = pipelines[0].tolerance  # one run's, or the paper's
    rows = make(pipelines, budget, tolerance)
    if as_json:
        print_json({"tolerance": tolerance, "prompts": _prompts(pipelines), "plan": rows})
        return
    _show_plan(rows)
    if said := "; ".join(map(repr, _prompts(pipelines))):
        console().print(f"prompt: {said}", highlight=False, markup=False)
    if not costs and (unknown := dict.fromkeys(WHAT[r["unit"]] for r in rows if r["answer"] == "unknown")):
        text = (
            f"{' and '.join(unknown)} is known only where measured: give --costs FOLDER of a run that measured "
            "it, such as results/h200 of the repository."
        )
        console().print(text, highlight=False)
    for p in pipelines:
        if p.error_percent is not None:
            name = "+".join(filter(None, (p.verifier, p.variant)))
            text = f"T(N) of {p.generator} with {name}: at most {p.error_percent:.1f}% off end-to-end medians"
            console().print(text, highlight=False)
        if p.left_out:
            name = "+".join(filter(None, (p.verifier, p.variant)))
            console().print(
                f"left out of {p.generator} with {name}: {p.left_out}", highlight=False, markup=False
            )


def _prompts(pipelines: Sequence[Priced]) -> list[str]:
    """Return what costs were counted or measured with, each once."""
    return list(dict.fromkeys(p.prompt for p in pipelines if p.prompt))


@contextmanager
def _uncollected() -> Iterator[None]:
    """Do without garbage collection: a quarter of the CPU time went into walking modules that all stay alive."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()  # nor at exit
        if was_on:
            gc.enable()


def _show_cost(found: Mapping[str, Any]) -> None:
    from rich.table import Table

    title = f"{found['generator']}, {found['steps']} steps, verifier: {found['verifier'] or 'none'}; counted"
    table = Table(title=title)
    for name in ("stage", "parameters (B)", "TFLOP", "paid", f"TFLOP for N = {found['n']}"):
        table.add_column(name, justify="left" if name in ("stage", "paid") else "right")
    for row in found["stages"]:
        cells = (
            f"{row['parameters'] / 1e9:.4g}",
            f"{row['tflop']:.4g}",
            row["paid"],
            f"{row['total_tflop']:.4g}",
        )
        table.add_row(row["stage"], *cells)
    table.add_section()
    table.add_row("total", "", "", "", f"{found['total_tflop']:.4g}")
    console().print(table)
    line = f"TFLOP(N) = {found['fixed_tflop']:.4g} + N x {found['per_candidate_tflop']:.4g}"
    console().print(line, highlight=False)
    console().print(f"prompt: {found['prompt']!r}", highlight=False, markup=False)
    if question := found["question_tokens"]:
        said = f"the verifier's question: {question['before']} + {question['after']} text tokens"
        if question["guessed"]:
            said += f"; guessed, not counted: {', '.join(map(repr, question['guessed']))}"
        console().print(said, highlight=False, markup=False)
    if unknown := sorted({o for row in found["stages"] for o in row["uncounted_operators"]}):
        console().print(f"not counted, no formula known: {', '.join(unknown)}", highlight=False)


def _show_plan(rows: Sequence[Mapping[str, Any]]) -> None:
    from rich.table import Table

    bases = "; ".join(dict.fromkeys(r["basis"] for r in rows if r["basis"]))
    table = Table(caption=f"cost of N: {bases}" if bases else None)
    for name in ("budget", "generator", "verifier", "N", "cost of N", "note"):
        right = name in ("budget", "N", "cost of N")
        table.add_column(name, justify="right" if right else "left", overflow="fold")
    last = None
    for row in rows:
        if last not in (None, row["budget"]):
            table.add_section()
        last = row["budget"]
        generator = row["generator"] + (f" ({row['steps']} steps)" if row["steps"] > 1 else "")
        verifier = "+".join(filter(None, (row["verifier"], row["variant"])))
        price = "" if row["cost"] is None else f"{row['cost']:.4g} {row['unit']}"
        n = {"below one candidate": "none", "any N": "any", "unknown": ""}.get(row["answer"], str(row["n"]))
        table.add_row(row["budget"], generator, verifier, n, price, row["note"])
    console().print(table)
