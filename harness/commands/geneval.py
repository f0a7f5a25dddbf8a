"""vhsbench geneval: prompts, evaluation of image folders, summaries."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vhsbench.harness.common.exit_codes import FAILURES
from vhsbench.harness.common.limits import LARGEST_SEED, MOST, MOST_CANDIDATES
from vhsbench.harness.common.terminal import Bars, Json, console, path, print_json, quiet

if TYPE_CHECKING:
    from vhsbench.harness.geneval.scores import GenEvalScore, GenEvalScores

app = typer.Typer(help="GenEval: prompts, evaluation of image folders, scores.", no_args_is_help=True)


@app.command()
def prompts(
    seed: Annotated[
        int | None,
        typer.Option(min=0, max=LARGEST_SEED, help="Default: 43, the official; 44 with --variants."),
    ] = None,
    n: Annotated[int, typer.Option("-n", "--n", min=1, max=MOST, help="Draws per task.")] = 100,
    classes: Annotated[Path | None, typer.Option(help="Class names, one a line; default: COCO's 80.")] = None,
    variants: Annotated[
        int | None,
        typer.Option(
            min=1, max=MOST, help="Training prompts, none of the official ones, this many lines each."
        ),
    ] = None,
) -> None:
    """Print prompts as JSON lines; by default the official 553, byte for byte."""
    from vhsbench.harness.geneval import prompts as sampler

    names = sampler.read_classes(classes) if classes else sampler.coco_classes()
    if variants:
        found = sampler.training(names, 44 if seed is None else seed, n, variants)
    else:
        found = sampler.sample(names, sampler.OFFICIAL_SEED if seed is None else seed, n)
    sys.stdout.write(sampler.to_json_lines(found))


@app.command()
def evaluate(
    folder: Annotated[Path, typer.Argument(help="Holds 00000/metadata.jsonl, 00000/samples/0000.png, ...")],
    out: Annotated[Path, typer.Option(parser=path, help="Results, JSON lines; run again to resume.")] = Path(
        "results.jsonl"
    ),
    detector: Annotated[str, typer.Option(help="mask2former, mmdet or shapes.")] = "mask2former",
    checkpoint: Annotated[
        str | None, typer.Option(help="mmdet's .pth file, or 'random'; default: the hub's.")
    ] = None,
    pipeline: Annotated[str | None, typer.Option(help="geneval (mmdet 2.x, default) or mmdet3.")] = None,
    colors: Annotated[str | None, typer.Option(help="open_clip weights: a tag, a file or 'random'.")] = None,
    batch_size: Annotated[int, typer.Option(min=1, max=MOST_CANDIDATES, help="Images at a time.")] = 8,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1, ...")] = "cpu",
    as_json: Json = False,
) -> None:
    """Judge a folder of images. Damaged images are listed beside the results, and the exit code is then 1."""
    quiet()
    from vhsbench.generators.checks import as_device
    from vhsbench.harness.common.images import ignored_sentence
    from vhsbench.harness.geneval.detector import create
    from vhsbench.harness.geneval.evaluation import damaged_file, evaluate_folder
    from vhsbench.harness.geneval.folders import read_folder

    read_folder(folder)  # reports its mistakes before a detector is loaded
    as_device(device)  # reports a wrong one even if the detector has no device
    given = {"checkpoint": checkpoint, "pipeline": pipeline, "colors": colors}
    judge = create(detector, device, **{k: v for k, v in given.items() if v is not None})
    with Bars() as bars:
        outcome = evaluate_folder(
            folder, out, judge, batch_size, lambda done, of: bars.update("images", done, of)
        )
    damaged = len(outcome.damaged)
    if as_json:
        found = {"evaluated": outcome.evaluated, "resumed": outcome.resumed, "damaged": outcome.damaged}
        found["ignored"] = outcome.ignored
        print_json({"out": str(out), "detector": judge.info(), **found})
    else:
        print(f"{outcome.evaluated} images in {out} ({outcome.resumed} from before), {damaged} damaged")
    if outcome.ignored:
        print(ignored_sentence(folder, outcome.ignored), file=sys.stderr)
    if damaged:
        first = outcome.damaged[0]
        print(f"damaged, in no score: {damaged}, listed in {damaged_file(out)}; the first: {first['filename']}: "
              f"{first['error']}", file=sys.stderr)  # fmt: skip
        raise typer.Exit(FAILURES)


@app.command()
def summary(
    results: Annotated[Path, typer.Argument(help="results.jsonl, ours or the official evaluator's.")],
    as_json: Json = False,
) -> None:
    """Print the official summary, then both overalls with 95% intervals and the reasons for failures."""
    from vhsbench.harness.common.files import LARGE, read_errors_as
    from vhsbench.harness.common.text import read_lines
    from vhsbench.harness.geneval.evaluation import damaged_file
    from vhsbench.harness.geneval.folders import FolderError, read_results
    from vhsbench.harness.geneval.scores import official_summary, scores

    read = read_results(results)
    rows = read.rows
    if not rows:
        raise FolderError(f"{results} has no results yet.")
    found = scores(rows)
    listed = damaged_file(results)
    with read_errors_as(FolderError):
        damaged = len(read_lines(listed, LARGE)) if listed.exists() else 0
    detectors = sorted({str(row.get("detector", "not recorded")) for row in rows})
    if as_json:
        about = {"damaged": damaged, "doubles": read.doubles, "detectors": detectors}
        print_json({**found.as_dict(), **about})
        return
    print(official_summary(rows))
    print(f"\nDetector: {'; '.join(detectors)}")
    print(f"Damaged, in no score: {damaged}")
    if read.doubles:
        print(f"Rows that repeat an image's row, counted once: {len(read.doubles)}, first {read.doubles[0]}")
    _show(found)


def _show(found: GenEvalScores) -> None:
    from rich.table import Table

    table = Table("share of correct images", "mean", "95% interval", "prompts", "images")
    named = {**found.tasks, "overall, prompt-weighted (VHS paper)": found.prompt_weighted,
             "overall, mean of tasks (GenEval)": found.task_mean}  # fmt: skip
    for name, score in named.items():
        table.add_row(name, f"{score.mean:.2%}", _interval(score), str(score.prompts), str(score.images))
    console().print(table)
    kinds = list(dict.fromkeys(kind for counts in found.failures.values() for kind in counts))
    failed: Any = Table("images that fail by", *kinds)
    for tag, counts in found.failures.items():
        failed.add_row(tag, *(str(counts.get(kind, 0)) for kind in kinds))
    if kinds:
        console().print(failed)


def _interval(score: GenEvalScore) -> str:
    return "-" if score.low != score.low else f"{score.low:.2%} to {score.high:.2%}"
