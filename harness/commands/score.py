"""`vhsbench score`: a verifier on the user's own images or features, without a sweep."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from vhsbench.harness.commands import completion
from vhsbench.harness.common.limits import MOST_CANDIDATES
from vhsbench.harness.common.terminal import Bars, Json, path, print_json, quiet


def score(
    verifier: Annotated[
        str,
        typer.Argument(help="A name from `vhsbench list verifiers`.", autocompletion=completion.verifiers),
    ],
    prompts: Annotated[Path, typer.Option(help='One prompt a line, or JSON lines with "prompt".')],
    images: Annotated[
        Path | None, typer.Option(help="A folder of images, in natural order: 2.png before 10.png.")
    ] = None,
    features: Annotated[
        Path | None,
        typer.Option(help='Safetensors with "features": hidden [B, T, C] or latents [B, C, h, w].'),
    ] = None,
    checkpoint: Annotated[
        str | None, typer.Option(help="Folder, hub id (owner/name[@revision]) or random; default: bundled.")
    ] = None,
    normalization: Annotated[
        tuple[Path, Path] | None, typer.Option(help="Mean and variance of hidden states, two .pt files.")
    ] = None,
    generator: Annotated[
        str | None,
        typer.Option(help="Whose features they are; default: nano.", autocompletion=completion.generators),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(parser=path, help="scores.parquet or scores.csv; default: CSV on the terminal."),
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, max=MOST_CANDIDATES, help="Candidates a forward.")] = 8,
    device: Annotated[str, typer.Option(help="cpu, cuda or cuda:N.")] = "cpu",
    as_json: Json = False,
) -> None:
    """Score images or features against prompts, one prompt each."""
    from vhsbench.harness.inference.scoring import ScoringError, load_inputs, score_all, write

    if (images is None) == (features is None):
        raise ScoringError("give either --images or --features.")
    if out is not None and out.suffix not in (".parquet", ".csv"):
        raise ScoringError(f"--out is a .parquet or a .csv file, not '{out}'.")
    inputs = load_inputs(prompts, images, features)
    if inputs.ignored:
        print(inputs.ignored, file=sys.stderr)
    quiet()
    from vhsbench import verifiers

    given = {"checkpoint": checkpoint, "normalization": normalization, "generator": generator}
    options = {
        key: value for key, value in given.items() if value is not None
    }  # a plugin may lack the others
    judge = verifiers.create(verifier, device=device, **options)
    with Bars() as bars:
        scores = score_all(judge, inputs, batch_size, lambda done, of: bars.update("scores", done, of))
    if out is not None or not as_json:
        write(scores, out)
    if as_json:
        rows = scores.astype(object).where(scores.notna(), None).to_dict("records")
        print_json({"out": None if out is None else str(out), "scores": rows})
