"""`vhsbench captions`: what a verifier says of its winners after alignment (the paper's Fig. 7)."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from vhsbench.harness.common.limits import MOST_CANDIDATES
from vhsbench.harness.common.terminal import Bars, Json, print_json, quiet


def captions(
    run: Annotated[Path, typer.Argument(help="A finished run; it kept the pictures of some prompts.")],
    aligned: Annotated[
        Path, typer.Option(help="Checkpoint of the alignment stage, a folder in the official format.")
    ],
    n: Annotated[
        int,
        typer.Option("-n", "--best-of", min=1, max=MOST_CANDIDATES, help="Winners of how many candidates."),
    ] = 4,
    device: Annotated[str, typer.Option(help="cpu, cuda or cuda:N.")] = "cpu",
    verifier: Annotated[
        str | None, typer.Option(help="Whose winners, by label; default: the only verifier of its kind.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Caption a run's winners with an aligned verifier; `vhsbench report` then shows them."""
    quiet()
    from vhsbench.harness.report.build import draw_captions
    from vhsbench.harness.report.caption_winners import caption_winners
    from vhsbench.harness.store.tables import load_run

    with Bars() as bars:
        table = caption_winners(
            run,
            aligned,
            n,
            device,
            progress=lambda done, of: bars.update("captions", done, of),
            verifier=verifier,
        )
    if {word for caption in table["caption"] for word in caption.lower().split()} <= {"yes", "no"}:
        print(f"{aligned} only says yes or no: is it the verifier, not its alignment stage?", file=sys.stderr)
    figures = draw_captions(load_run(run), run / "figures")
    if as_json:
        print_json(json.loads(table.to_json(orient="records")))
        return
    for row in table.itertuples():
        print(f"{row.prompt}: {row.caption}")
    print(f"captions: {run / 'captions.csv'}, {figures}.pdf")
