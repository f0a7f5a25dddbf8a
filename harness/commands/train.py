"""`vhsbench train`: nano's world and its LoRA, and verifiers of any one-step generator."""

from __future__ import annotations

import json
import os
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vhsbench.harness.commands import completion
from vhsbench.harness.commands.logging_to import LogTo, logging_to
from vhsbench.harness.common.limits import LARGEST_TRAINING_SEED, MOST, MOST_THREADS
from vhsbench.harness.common.terminal import Bars, Json, console, path, print_json, quiet

if TYPE_CHECKING:
    from collections.abc import Callable

    from vhsbench.generators.training import Progress
    from vhsbench.harness.loggers.logs import Logs
    from vhsbench.verifiers.training.shards import DataCard

Config = Annotated[
    Path,
    typer.Argument(
        help="YAML, or a bundled name: train-vhs, train-nano-vhs, train-nano-mllm-ae, ...",
        autocompletion=completion.trainings,
    ),
]
Out = Annotated[Path | None, typer.Option(parser=path, help="Where all is kept; default: runs/<name>.")]
Changes = Annotated[
    list[str] | None, typer.Option("--set", help="KEY=VALUE, as finetune.batch=32; repeatable.")
]

app = typer.Typer(help="Train models from scratch.", no_args_is_help=True)


@app.command()
def nano(
    out: Annotated[Path, typer.Option(parser=path, help="Where stages and weights are kept.")] = Path(
        "runs/train-nano"
    ),
    seed: Annotated[
        int, typer.Option(min=0, max=LARGEST_TRAINING_SEED, help="Seed of all that is random.")
    ] = 0,
    scale: Annotated[
        float, typer.Option(min=0.001, max=1000, help="Times the recipe's amounts; 0.01 is a trial.")
    ] = 1.0,
    threads: Annotated[int, typer.Option(min=1, max=MOST_THREADS, help="CPU threads a process.")] = 1,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    processes: Annotated[
        int, typer.Option(min=1, max=MOST_THREADS, help="Stages at a time; they may share a GPU.")
    ] = 2,
    log_to: LogTo = None,
    as_json: Json = False,
) -> None:
    """Retrain the nano world from scratch. Run it again to resume; train.log tells how it gets on."""
    quiet()
    from dataclasses import asdict, replace

    from vhsbench.harness.training.nano import train
    from vhsbench.harness.training.nano_recipe import NanoRecipe

    recipe = replace(NanoRecipe(), seed=seed)
    recipe = recipe.scaled(scale) if scale != 1.0 else recipe
    with Bars() as bars, logging_to(log_to, out, asdict(recipe)) as logs:
        weights = train(out, recipe, _shown(bars, logs), threads, device, bars.say, processes)
    _say("weights", weights, as_json)


@app.command()
def lora(
    out: Annotated[Path, typer.Option(parser=path, help="The folder for the LoRA.")] = Path(
        "runs/train-lora"
    ),
    seed: Annotated[
        int, typer.Option(min=0, max=LARGEST_TRAINING_SEED, help="Seed of everything random.")
    ] = 0,
    steps: Annotated[int | None, typer.Option(min=1, max=MOST, help="Default: the bundled LoRA's.")] = None,
    threads: Annotated[int, typer.Option(min=1, max=MOST_THREADS, help="CPU threads.")] = 2,
    as_json: Json = False,
) -> None:
    """Train the LoRA that moves nano to another style of picture (for `nano-table7`)."""
    quiet()
    from dataclasses import replace

    import torch

    from vhsbench.generators.nano.lora import LoraRecipe, train_lora
    from vhsbench.generators.sana import nano as generator
    from vhsbench.harness.geneval.nano_prompts import nano_prompts

    torch.set_num_threads(threads)
    recipe = replace(LoraRecipe(), seed=seed)
    recipe = replace(recipe, steps=steps) if steps else recipe
    with Bars() as bars:
        folder = train_lora(generator().pipeline, nano_prompts()["train"], out, recipe, _shown(bars))
    _say("LoRA", folder, as_json)


@app.command()
def data(
    config: Config,
    out: Out = None,
    changes: Changes = None,
    as_json: Json = False,
) -> None:
    """Collect a training's data: images, captions, verdicts, features in shards. Run it again to resume.

    Under torchrun each process does its share of the shards.
    """
    quiet()
    from dataclasses import asdict

    from vhsbench.harness.training.config import load_train_config
    from vhsbench.harness.training.data import collect_data

    chosen = load_train_config(config, changes or ())
    main = os.environ.get("RANK", "0") == "0"
    with Bars() if main and not as_json else nullcontext() as bars:
        cards = collect_data(chosen, out or Path("runs") / chosen.name, report=_shown(bars))
    if not main:
        return
    if unfinished := [part for part, kinds in cards.items() if not kinds]:
        said = f"{', '.join(unfinished)}: other processes are still at it; the last of them completes it."
        print(said, file=sys.stderr)
    if as_json:
        print_json({p: {k: asdict(c) for k, c in kinds.items()} for p, kinds in cards.items()})
    else:
        _show_data({part: next(iter(kinds.values())) for part, kinds in cards.items() if kinds})


@app.command()
def verifier(
    config: Config,
    out: Out = None,
    changes: Changes = None,
    ablations: Annotated[
        bool, typer.Option("--ablations", help="Also the configuration's ablations, and compare them.")
    ] = False,
    only: Annotated[
        list[str] | None, typer.Option("--ablation", help="Also this ablation alone; repeatable.")
    ] = None,
    log_to: LogTo = None,
    as_json: Json = False,
) -> None:
    """Train a verifier: collect its data if it is not there, align, fine-tune. Run it again to resume."""
    quiet()
    from vhsbench.harness.training.config import load_train_config

    chosen = load_train_config(config, changes or ())
    where = out or Path("runs") / chosen.name
    if only:
        chosen, ablations = chosen.with_ablations(only), True
    if ablations and "WORLD_SIZE" in os.environ:
        raise typer.BadParameter("--ablations starts its processes itself: set engine.processes.")
    main = os.environ.get("RANK", "0") == "0"
    logging = logging_to(log_to if main else None, where, chosen.model_dump(mode="json"))
    with Bars() if main else nullcontext() as bars, logging as logs:
        if ablations:
            from vhsbench.harness.training.ablations import markdown, train_all

            assert bars is not None
            table = train_all(chosen, where, _shown(bars, logs), bars.update)
        else:
            from vhsbench.harness.training.verifier import train

            checkpoint = train(chosen, where, _shown(bars, logs))
    if ablations and as_json:
        print_json({"ablations": json.loads(table.to_json(orient="records"))})
    elif ablations:
        print(markdown(table))
    elif main:
        _say("checkpoint", checkpoint, as_json)


def _say(what: str, folder: Path, as_json: bool) -> None:
    """Print where the result of a training is."""
    if as_json:
        print_json({what.lower(): str(folder)})
    else:
        print(f"{what}: {folder}")


def _show_data(cards: dict[str, DataCard]) -> None:
    """Print a line a part, and below it the share of correct images by task."""
    from rich.table import Table

    table = Table("part", "images", "prompts", "CLIP-Score", "correct")
    for part, card in cards.items():
        found = card.metrics
        score = f"{found['clip_score']:.1f}" if "clip_score" in found else "-"
        correct = f"{found['correct_percent']:.1f}%" if "correct_percent" in found else "-"
        table.add_row(part, str(card.rows), f"{found['prompts']:.0f}", score, correct)
        for key, value in found.items():
            if key.startswith("correct_percent."):
                table.add_row(f"  {key.removeprefix('correct_percent.')}", "", "", "", f"{value:.1f}%")
    console().print(table)


def _shown(bars: Bars | None, logs: Logs | None = None) -> Callable[[Progress], None]:
    """Show progress as bars, and log losses; show nothing in a process that is not the first."""

    def show(progress: Progress) -> None:
        if bars is not None:
            loss = "" if progress.loss != progress.loss else f" (loss {progress.loss:.3f})"  # nan: none
            what = f"{progress.name}{loss}"
            bars.update(what, progress.step, progress.steps, key=progress.name)
        if logs is not None:
            logs.log(progress.name, {"loss": progress.loss}, progress.step, progress.steps)

    return show
