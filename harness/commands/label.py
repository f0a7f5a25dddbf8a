"""`vhsbench label`: people judge a sample of a run's pictures."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vhsbench.harness.common.limits import MOST, MOST_CANDIDATES
from vhsbench.harness.common.terminal import Bars, Json, console, path, print_json, quiet

if TYPE_CHECKING:
    from vhsbench.harness.report.people import People
    from vhsbench.harness.report.people_sample import Drawn
    from vhsbench.harness.store.tables import Run


def label(
    run: Annotated[str, typer.Argument(help="A finished run's directory, or its fsspec URL.")],
    answers: Annotated[
        list[Path] | None,
        typer.Option("--import", help="Answers that the page let download; may be given several times."),
    ] = None,
    n: Annotated[
        int | None,
        typer.Option(
            "-n", "--best-of", min=1, max=MOST_CANDIDATES, help="Picks of how many candidates; default: 4."
        ),
    ] = None,
    count: Annotated[int, typer.Option(min=1, max=MOST, help="Pictures on the page, at most.")] = 200,
    out: Annotated[
        Path | None, typer.Option(parser=path, help="The page; default: people/label.html in the run.")
    ] = None,
    page_mb: Annotated[
        float | None, typer.Option(min=1, max=2000, help="Most MB of the page; default: 25.")
    ] = None,
    device: Annotated[
        str, typer.Option(help="Where pictures that were not kept are made again; default: the run's.")
    ] = "",
    as_json: Json = False,
) -> None:
    """Write a page on which people judge verifiers' picks, or --import their answers into the run."""
    quiet(models=not answers)
    from vhsbench.harness.store.folder import local_copy
    from vhsbench.harness.store.tables import load_run

    with ExitStack() as stack:
        found = load_run(folder := stack.enter_context(local_copy(run)))
        if answers:
            _import(found, answers, as_json)
            return
        drawn = _drawn(found, n)
        page = out or folder / _page()
        shown = _write(found, drawn, count, page, page_mb, device)
    where = str(out or f"{run.rstrip('/')}/{_page()}")
    said = {"page": where, "sample": drawn.name, "best_of": drawn.best_of, "shown": shown,
            "candidates": len(drawn.rows), "needed": _needed(drawn)}  # fmt: skip
    if as_json:
        print_json(said)
    else:
        _show(said, count)


def _page() -> str:
    from vhsbench.harness.report.label_page import PAGE

    return PAGE


def _drawn(run: Run, n: int | None) -> Drawn:
    """Return the run's sample; draw one where it has none, or one of other candidates that nobody has answered."""
    from vhsbench.harness.report import people_sample
    from vhsbench.harness.report.people_answers import stored_answers

    before = people_sample.read_sample(run.path)
    if before is not None:
        if people_sample.is_of(before, run) and n in (None, before.best_of):
            return before
        if stored_answers(run.path, before):
            raise people_sample.LabelError(
                f"{run.path / people_sample.FOLDER} has answers about picks of {before.best_of} of "
                f"{'these' if people_sample.is_of(before, run) else 'earlier'} candidates; move that folder away to draw another sample."
            )
    drawn = people_sample.draw(run, n or 4)
    people_sample.write_sample(run.path, drawn)
    return drawn


def _needed(drawn: Drawn) -> int:
    import numpy as np

    from vhsbench.harness.stats.stratified import FEWEST

    return int(np.minimum(np.bincount(drawn.strata), FEWEST).sum())


def _write(run: Run, drawn: Drawn, count: int, page: Path, page_mb: float | None, device: str) -> int:
    from vhsbench.harness.report.label_page import write_label_page

    limit = {} if page_mb is None else {"limit_mb": page_mb}
    with Bars() as bars:
        return write_label_page(
            run, drawn, count, page, device=device,
            progress=lambda done, of: bars.update("pictures", done, of), **limit,
        )  # fmt: skip


def _show(said: dict[str, Any], count: int) -> None:
    out = console()
    pictures = f"{said['shown']} of the {said['candidates']} candidates that a verifier, or none, picks of {said['best_of']}"
    out.print(f"{pictures}; accuracies are known from {said['needed']} answers on.", highlight=False)
    if said["shown"] < min(count, said["candidates"]):
        out.print("No more pictures fit in the page (--page-mb).", highlight=False)
    out.print(f"to open in a browser: {said['page']}", highlight=False, soft_wrap=True)


def _import(run: Run, files: list[Path], as_json: bool) -> None:
    """Store answers in the run, all or none, and print what all of them say."""
    from vhsbench.harness.report import people_sample
    from vhsbench.harness.report.people import read_people
    from vhsbench.harness.report.people_answers import read_answers, store

    drawn = people_sample.read_sample(run.path)
    if drawn is None or not people_sample.is_of(drawn, run):
        lacks = "no sample" if drawn is None else "a sample of earlier candidates"
        raise people_sample.LabelError(
            f"the run {run.path} has {lacks}; `vhsbench label RUN` draws one and writes its page."
        )
    store(run.path, drawn, [answer for file in files for answer in read_answers(file, drawn)])
    people = read_people(run)
    if as_json:
        print_json(_summary(people))
    elif people is not None:
        _show_people(people)


def _summary(people: People | None) -> dict[str, Any]:
    from vhsbench.harness.report.tables import records

    if people is None:
        return {
            "labellers": [],
            "answers": 0,
            "wanting": None,
            "conclusions": [],
            "accuracies": [],
            "agreements": [],
        }
    return {
        "labellers": people.labellers, "answers": len(people.answers), "wanting": people.wanting, "conclusions": people.conclusions,
        "accuracies": records(people.accuracies), "agreements": records(people.agreements),
    }  # fmt: skip


def _show_people(people: People) -> None:
    from vhsbench.harness.report import tables

    out = console()
    for sentence in [*people.about, *people.conclusions]:
        out.print(sentence, highlight=False, markup=False)
    for table in (people.accuracy_table, people.agreement_table):
        out.print(tables.markdown(table), highlight=False, markup=False, soft_wrap=True)
    out.print("`vhsbench report RUN` shows this in the report.", highlight=False)
