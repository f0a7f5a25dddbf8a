"""Tables, figures and the HTML page of finished runs; nothing is measured here."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from vhsbench.harness.common.atomic import write_output
from vhsbench.harness.common.shown import csv_bytes
from vhsbench.harness.cost import budgets as budgeting
from vhsbench.harness.report import comparisons, figures, gallery, over_figure, published, style, tables
from vhsbench.harness.report.calibration import reliability
from vhsbench.harness.report.captions_csv import read_captions
from vhsbench.harness.report.combine import load_runs
from vhsbench.harness.report.derived import Derived, derive
from vhsbench.harness.report.page import write_page
from vhsbench.harness.report.page_candidates import PAGE_MB
from vhsbench.harness.report.paper import Drawn, write_paper
from vhsbench.harness.report.paper_captions import FIGURES
from vhsbench.harness.report.paper_venues import VENUES
from vhsbench.harness.stats.curves import GENEVAL_OVERALL, OVERALL, winners
from vhsbench.harness.store.keys import CANDIDATE, PIPELINE, of_pool
from vhsbench.harness.store.tables import Run, StoreError
from vhsbench.harness.sweep.disk import check_room, report_gb
from vhsbench.harness.sweep.kept_images import Pictures, gallery_prompts

# what depends on whose times a report goes by
_TIMED_TABLES = (
    "budgets",
    "budgets_tflop",
    "budgets_gb",
    "budgets_j",
    "scoring",
    "generators",
    "drift",
    "headline",
    "latency",
    "costs",
    "verdict",
    "pairs",
    "headroom",
    "area",
    "time_to_accuracy",
    "strategies",
    "strategy_pairs",
)
_TIMED_FIGURES = (
    "accuracy_over_",
    "teaser",
    "strategies",
    "strategy_settings",
    "n_per_budget",
    "latency_breakdown",
)
# drawn only where measurements call for them
_SOMETIMES = ("teaser", "accuracy_over_memory")
_LEAST_SHARE = 0.01  # of the peak memory, by which pipelines must differ
MARGIN_N = 4  # the N at which verifiers are compared with random selection


def build(
    *paths: Path,
    out: Path | None = None,
    with_published: bool = False,
    costs_from: str = "",
    page_mb: float = PAGE_MB,
    strategies: Sequence[str] = (),
    with_diversity: bool = False,
    paper: str = "",
) -> dict[str, Any]:
    """Write tables/, figures/ and report.html of one run, or of several combined, and return a summary for JSON.

    They go to `out`, by default the run's folder. `with_published` adds tables with the paper's values beside the
    measured ones, `with_diversity` how different winners are to CLIP, which looks at the kept pictures; `strategies` are
    compared beside those of the configuration; `costs_from` takes times and FLOPs
    from elsewhere: "a100-paper", or another finished run. An earlier report's tables and figures of other times are
    then removed. `page_mb` limits the size of report.html. `paper` is a venue (paper_venues.VENUES), for which the folder
    paper/ is made. Raises StoreError for a run that cannot be read or
    combined, and DiskFullError, before anything is written, if there is not enough room.
    """
    if len(paths) > 1 and out is None:
        raise StoreError("several runs make one report; say with --out where it goes.")
    derived = derive(load_runs(paths), costs_from, strategies, with_diversity)
    out = out or derived.run.path
    found = _tables(derived, with_published)
    check_room(out, report_gb(derived.run, page_mb), "this report")
    for folder in ("tables", "figures"):
        (out / folder).mkdir(parents=True, exist_ok=True)
    _remove_stale(out, derived.times != "")
    for name, table in found.items():
        tables.write(table, out / "tables" / name, derived.protocol.digest)
    curves = tables.with_protocol(derived.curves, derived.protocol.digest)
    write_output(out / "tables" / "curves.csv", csv_bytes(curves))
    _figures(derived, out / "figures")
    draw_captions(derived.run, out / "figures")
    if paper:
        venue = VENUES[paper]
        _remove_paper(out / "paper")
        write_paper(derived, out / "paper", venue, _figures(derived, out / "paper" / "figures", venue.sheet))
    write_page(derived, out / "report.html", with_published, page_mb)
    return _summary(derived, out) | ({"paper": str(out / "paper" / "main.tex")} if paper else {})


def _tables(derived: Derived, with_published: bool) -> dict[str, tables.Table]:
    """Collect the tables by the name of their files."""
    accuracies, headline = derived.tables, {"headline": derived.headline}
    if with_published:
        accuracies = accuracies + [
            published.beside(table, derived.names, derived.config.kinds)
            for table in accuracies
            if table.published
        ]
        headline["headline_published"] = published.headline_beside(derived.headline, derived.names)
    costs = {"latency": derived.latency, "costs": derived.costs} if derived.has_costs else {}
    answer: dict[str, tables.Table] = {
        "verdict": derived.verdict_table,
        "pairs": derived.labelled(derived.standings.pairs),
        "headroom": derived.labelled(derived.standings.headroom),
        "area": derived.area,
        "time_to_accuracy": derived.time_to_accuracy,
    }
    if len(derived.judged):
        answer["judged"] = derived.judged
    if (over := derived.over_optimisation) is not None:
        answer |= {"over_optimisation": over.table, "parting": over.parting_table}
    if len(derived.diversity):
        answer["diversity"] = derived.diversity
    if len(derived.strategies[0]):
        answer |= dict(zip(("strategies", "strategy_pairs"), derived.strategies, strict=True))
    if (people := derived.people) is not None:
        answer |= {"people": people.accuracy_table, "people_agreement": people.agreement_table}
    return answer | {table.name: table for table in accuracies} | headline | costs | {"auc": derived.auc}


def _remove_stale(out: Path, other_times: bool) -> None:
    """Remove an earlier report's figures that may not be drawn again and, if these are `other_times`, all that shows times."""
    names = (*_SOMETIMES, *(_TIMED_FIGURES if other_times else ()))
    patterns = [f"figures/{name}*" for name in names]
    if other_times:
        patterns += [f"tables/{name}{also}.*" for name in _TIMED_TABLES for also in ("", "_published")]
    for pattern in patterns:
        for file in out.glob(pattern):
            file.unlink()


def _remove_paper(folder: Path) -> None:
    """Remove an earlier paper's figures and tables, some of which may not be written again."""
    for pattern in ["tables/*.tex", *(f"figures/{name}*" for name in FIGURES)]:
        for file in folder.glob(pattern):
            file.unlink()


def draw_captions(run: Run, folder: Path) -> Path | None:
    """Draw the captions that `vhsbench captions` wrote into a run; returns the figure's stem, None without captions."""
    rows = read_captions(run.path)
    if rows is None:
        return None
    folder.mkdir(parents=True, exist_ok=True)
    pictures = Pictures(run)
    stem = folder / "captions"
    style.save(gallery.captions_figure(pictures.kept(rows), pictures.image), stem, rows)
    return stem


def _figures(derived: Derived, folder: Path, sheet: style.Sheet = style.SCREEN) -> list[Drawn]:
    """Draw the figures of every pool; on a paper's sheet, those with a caption, without titles."""
    folder.mkdir(parents=True, exist_ok=True)
    pools = [_Figures(derived, folder, generator, steps, sheet) for generator, steps in derived.pools]
    for pool in pools:
        pool.draw()
    return [figure for pool in pools for figure in pool.drawn]


class _Figures:
    """The figures of one pool of candidates."""

    def __init__(
        self, derived: Derived, folder: Path, generator: str, steps: int, sheet: style.Sheet
    ) -> None:
        self.sheet, self.for_paper = sheet, sheet is not style.SCREEN
        self.drawn: list[Drawn] = []
        self.derived, self.folder, self.generator, self.steps = derived, folder, generator, steps
        run = derived.run
        self.candidates, self.scores, self.curves = (
            of_pool(frame, generator, steps) for frame in (run.candidates, run.scores, derived.curves)
        )
        self.models, self.looks = derived.models_of(generator, steps), derived.looks
        self.pool = int(self.curves["n"].max())
        several = len({g for g, _ in derived.pools}) != len(derived.pools)
        self.name = f"{generator}_{steps}steps" if several else generator
        self.title = style.pool_title((generator, steps), derived.pools)
        self.pool_name = self.title if len(derived.pools) > 1 else ""
        if self.for_paper:  # captions say it
            self.title = ""
        self.about = self._titled(f"{self.title}: {len(run.prompts)} prompts, pool of {self.pool}")

    def _titled(self, title: str) -> str:
        return "" if self.for_paper else title

    def draw(self) -> None:
        if self.models:
            self._over_cost()
            self._strategies()
            fig, steps = figures.n_per_budget(
                self.models,
                self.pool,
                self.derived.budgets,
                self.derived.config.tolerance,
                self.title,
                self.looks,
                self.sheet,
            )
            self._save_timed("n_per_budget", fig, steps)
        stages = self.derived.breakdown(self.generator, self.steps)
        if len(stages):
            fig = figures.latency_breakdown(
                stages, self._titled(f"{self.title}, one candidate"), self.looks, self.sheet
            )
            self._save_timed("latency_breakdown", fig, stages)
        if self.pool > 1:
            self._save(
                "accuracy_by_n",
                figures.accuracy_by_n(self.curves, self.about, self.looks, self.sheet),
                self.curves,
            )
        if len(self.scores):
            joined = self.scores.merge(self.candidates, on=CANDIDATE)[["verifier", "score", "correct"]]
            fig = figures.score_distributions(joined, self.about, self.looks, self.sheet)
            self._save("score_distributions", fig, joined)
            bins = reliability(self.candidates, self.scores)
            if len(bins):
                self._save("reliability", figures.reliability(bins, self.about, self.looks, self.sheet), bins)
            self._over_optimisation()
            self._galleries()

    def _save(self, name: str, fig: Figure, data: pd.DataFrame, claim: str = "") -> None:
        if self.for_paper and name not in FIGURES:
            return
        stem = name if len(self.derived.pools) == 1 else f"{name}_{self.name}"
        style.save(fig, self.folder / stem, data, self.sheet, with_png=not self.for_paper)
        self.drawn.append(Drawn(name, stem, fig.get_figwidth(), self.pool_name, claim))

    def _save_timed(self, name: str, fig: Figure, data: pd.DataFrame, claim: str = "") -> None:
        """Save a figure of times, saying whose they are where they are not the run's own."""
        if self.derived.times:
            axes = fig.axes[0]
            axes.set_xlabel(f"{axes.get_xlabel()}\n{self.derived.times}")
        self._save(name, fig, self.derived.labelled(data), claim)

    def _over_cost(self) -> None:
        verified = figures.overall(self.curves[self.curves["verifier"].isin(self.models)])
        for name, unit, points in _cost_points(verified, self.derived, self.generator, self.steps):
            marks = self.derived.budgets if name == "time" else []
            fig = figures.accuracy_over_cost(points, unit, self.about, marks, self.looks, self.sheet)
            if name == "tflop":  # counted, on whatever device
                self._save(f"accuracy_over_{name}", fig, points)
            else:
                self._save_timed(f"accuracy_over_{name}", fig, points)
            if name == "time" and (saving := self._saving(verified)) is not None:
                fig = figures.teaser(points, saving, self.title, self.looks, self.sheet)
                self._save_timed("teaser", fig, points, f"{saving}.")

    def _saving(self, verified: pd.DataFrame) -> comparisons.Saving | None:
        """Return what the VHS of the run saves, if there is one, and one MLLM w/ CLIP, and it does."""
        pairs = comparisons.rivals(self.derived.config.kinds, self.models)
        saving = comparisons.time_saving(verified, self.models, pairs[0]) if len(pairs) == 1 else None
        return saving if saving is not None and saving.holds else None

    def _strategies(self) -> None:
        rivals = self.derived.rivals.get((self.generator, self.steps))
        if rivals is None:
            return
        points = rivals.frontier()
        if len(points):
            fig = figures.strategies(points, self.about, self.derived.budgets, self.sheet)
            self._save_timed("strategies", fig, points)

    def _over_optimisation(self) -> None:
        over = self.derived.over_optimisation
        if over is None or self.pool == 1:
            return
        by_n, parting, diversity = (
            of_pool(table, self.generator, self.steps)
            for table in (over.by_n, over.parting, self.derived.diversity)
        )
        fig = over_figure.over_optimisation(by_n, parting, diversity, self.about, self.looks, self.sheet)
        self._save("over_optimisation", fig, by_n)

    def _galleries(self) -> None:
        run, config, pictures = self.derived.run, self.derived.config, self.derived.pictures
        prompts = {i: p["prompt"] for i, p in enumerate(run.prompts)}
        n = min(MARGIN_N, self.pool)
        picks = winners(self.candidates, self.scores, n)
        picks = picks[picks["prompt_id"].isin(gallery_prompts(run.prompts, config.gallery_prompts))]
        picks = picks[picks["seed"] == config.seeds[0]]
        columns = ["prompt_id", "prompt", "seed", "index", "verifier", "score", "correct"]
        if len(picks) and len(pictures.kept(picks)) == len(picks):
            picks = picks.assign(prompt=picks["prompt_id"].map(prompts))
            title = self._titled(f"best of {n} by each verifier, judged by GenEval's rules")
            fig = gallery.winners_figure(picks, pictures.image, title, self.looks, self.sheet)
            self._save("gallery", fig, picks[columns])
        cases = gallery.disagreements(self.candidates, self.scores, pictures)
        if len(cases):
            cases = cases.assign(prompt=cases["prompt_id"].map(prompts))
            title = self._titled("the surest verdicts that GenEval contradicts (marks are GenEval's)")
            fig = gallery.disagreements_figure(cases, pictures.image, title, self.looks, self.sheet)
            self._save("disagreements", fig, cases[[*columns, "kind", "reason"]])


def _cost_points(
    verified: pd.DataFrame, derived: Derived, generator: str, steps: int
) -> list[tuple[str, str, pd.DataFrame]]:
    """Collect (name, unit, points) of accuracy over time, GFLOP or TFLOP, and an accelerator's memory, where measured.

    On a CPU, the peak is that of a process, of which a verifier is the least part.
    """
    columns = ["verifier", "n", "cost", "accuracy", "low", "high"]

    def modelled(column: str) -> pd.DataFrame:
        models = derived.models_of(generator, steps, column)
        known = verified[verified["verifier"].isin(models)]
        pairs = zip(known["verifier"], known["n"], strict=True)
        return known.assign(cost=[models[v].predict(n) for v, n in pairs])[columns]

    flop = modelled("tflop")
    small = flop["cost"].max() < 0.1
    flop["cost"] *= 1000 if small else 1
    costs = derived.costs_of(generator, steps)
    whole = costs[costs["stage"] == budgeting.END_TO_END]
    peak = whole.groupby(["verifier", "n"])["peak_vram_gb"].max().rename("cost").dropna().reset_index()
    measured = verified.merge(peak, on=["verifier", "n"])[columns]
    if not _tells_apart(measured["cost"]):
        measured = measured.iloc[:0]
    found = [
        ("time", "wall-clock of best-of-N (ms)", modelled("wall_ms")),
        ("tflop", f"{'GFLOP' if small else 'TFLOP'} of best-of-N", flop),
        ("memory", "peak VRAM (GB)", measured),
    ]
    return [entry for entry in found if len(entry[2])]


def _tells_apart(memory: pd.Series) -> bool:
    """Return whether memory differs by so much that an axis of it means something."""
    return bool(memory.max() - memory.min() >= _LEAST_SHARE * memory.max())


def _timing(derived: Derived) -> str | None:
    """Say whether measured times can be trusted; None where times were published, not measured."""
    if not derived.has_costs:
        return None
    return "unreliable" if derived.unreliable else "reliable"


def _with_tflop(derived: Derived) -> pd.DataFrame:
    """Add to the rows of budgets what their N candidates cost in TFLOP; empty where that is not known."""
    rows, models = derived.budget_rows, derived.models["tflop"]
    pairs = zip(rows[PIPELINE].itertuples(index=False, name=None), rows["best_of_n"], strict=True)
    found = [models[key].predict(n) if key in models and not pd.isna(n) else None for key, n in pairs]
    return rows.assign(tflop=pd.Series(found, index=rows.index, dtype=float))


def _summary(derived: Derived, out: Path) -> dict[str, Any]:
    curves = derived.curves
    at = curves[(curves["n"] == MARGIN_N) & (curves["tag"] == OVERALL)]
    keep = [*PIPELINE, "n", "accuracy", "low", "high"]
    return {
        "run": str(out),
        "prompts": len(derived.run.prompts),
        "pool": derived.config.pool,
        "seeds": derived.config.seeds,
        "protocol": derived.protocol.record,
        "verdict": tables.records(derived.standings.verdicts),
        "strategies": tables.records(derived.strategies[0]),
        "strategy_verdict": derived.strategy_sentences,
        "budgets": tables.records(_with_tflop(derived)),
        "tables": {table.name: tables.records(table.rows) for table in derived.tables},
        "headline": tables.records(derived.headline),
        "latency": tables.records(derived.latency),
        "auc": tables.records(derived.auc),
        "at_n": tables.records(at[keep]),
        "times": derived.clock.label or None,
        "timing": _timing(derived),
        "timing_reasons": derived.unreliable,
        "unmeasured": derived.unmeasured
        + [why for rivals in derived.rivals.values() for why in rivals.unpriced],
        "notes": derived.notes,
        "left_out": derived.left_out,
        "failed_prompts": tables.records(derived.failed),
        "overall_columns": [OVERALL, GENEVAL_OVERALL],
        "report": str(out / "report.html"),
    }
