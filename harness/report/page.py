"""report.html: one file that opens from disk, with interactive charts and a gallery to search."""

from __future__ import annotations

import base64
import json
from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd
import yaml
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from vhsbench.harness.common.atomic import write_output
from vhsbench.harness.common.images import encode_image
from vhsbench.harness.cost.reliability import in_one_line
from vhsbench.harness.report import charts, published, tables
from vhsbench.harness.report.captions_csv import read_captions
from vhsbench.harness.report.derived import Derived
from vhsbench.harness.report.style import TASK_NAMES, label
from vhsbench.harness.stats.curves import winners
from vhsbench.harness.store.keys import PIPELINE, SCORE
from vhsbench.harness.store.tables import environments
from vhsbench.harness.sweep.kept_images import Pictures
from vhsbench.version import __version__

IMAGE_SIDE = 256  # a larger picture is scaled down to this many pixels
GALLERY_N = 4


def write_page(derived: Derived, file: Path, with_published: bool = False) -> None:
    """Write the page. Everything from the run is escaped; the page loads nothing."""
    assets = files("vhsbench.harness.report").joinpath("assets")
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    template = environment.from_string(assets.joinpath("report.html.j2").read_text(encoding="utf-8"))
    cards = _gallery(derived)
    page = template.render(
        title=derived.config.name,
        version=__version__,
        run=derived.run,
        config=derived.config,
        facts=_facts(derived),
        tables=_tables(derived, with_published),
        notes=derived.notes,
        times=derived.times,
        unreliable=in_one_line(derived.unreliable),
        verdict=derived.standings.sentences,
        verdict_table=Markup(tables.html(derived.verdict_table)),
        headline=Markup(tables.html(_headline(derived, with_published))) if len(derived.headline) else "",
        plain=_plain(derived),
        unmeasured=derived.unmeasured,
        failed=Markup(tables.html(derived.failed)) if len(derived.failed) else "",
        tasks=charts.task_names(derived),
        gallery=cards,
        shown_verifiers={card["verifier"]: card["label"] for card in cards},
        task_names=TASK_NAMES,
        environment_text=yaml.safe_dump(_environment(derived), sort_keys=False, allow_unicode=True),
        config_text=yaml.safe_dump(derived.run.info["config"], sort_keys=False, allow_unicode=True),
        data=_data(derived),
        gallery_n=GALLERY_N,
        with_published=with_published,
        css=Markup(assets.joinpath("report.css").read_text(encoding="utf-8")),
        script=Markup(assets.joinpath("report.js").read_text(encoding="utf-8")),
        plotly=Markup(get_plotlyjs()),
    )
    write_output(file, page)


def _data(derived: Derived) -> dict[str, Any]:
    """Collect what the page's script reads."""
    lines = charts.pipelines(derived)
    by_n, values = charts.accuracy_by_n(derived)
    figures = {"by-n": by_n}
    if derived.has_costs:
        figures["stages"] = charts.stage_times(derived)
    if lines:
        figures["over-time"] = charts.accuracy_over_time(lines, derived.times)
        figures["scores"] = charts.score_histograms(derived)
        if (chart := charts.reliability_chart(derived)) is not None:
            figures["reliability"] = chart
    return {
        "pipelines": lines,
        "tolerance": derived.config.tolerance,
        "byTask": values,
        "figures": {name: json.loads(figure.to_json()) for name, figure in figures.items()},
        "budgets": _budget_range(derived, lines),
    }


def _budget_range(derived: Derived, lines: list[dict[str, Any]]) -> dict[str, float]:
    """Compute the slider's range: from below the cheapest single candidate to the most expensive whole pool."""
    if not lines:
        return {}
    ends = [(p["fixed_ms"], p["per_candidate_ms"], len(p["tasks"]["overall"]["accuracy"])) for p in lines]
    low = min(fixed + each for fixed, each, _ in ends)
    high = max(fixed + n * each for fixed, each, n in ends)
    step = float(f"{max(high - low, high / 10) / 400:.1g}")  # one pipeline of one candidate has one time
    first, last = int(0.9 * low / step), int(high / step) + 1
    start = round(derived.budgets[0] / step)
    return {"low": first * step, "high": last * step, "step": step, "start": start * step}


def _facts(derived: Derived) -> list[tuple[str, str]]:
    devices = ", ".join(sorted({str(d) for d in derived.run.costs["device"].dropna()})) or "unknown"
    seeds = ", ".join(map(str, derived.config.seeds))
    pools = ", ".join(g if s == 1 else f"{g} ({s} steps)" for g, s in derived.pools)
    return [
        ("prompts", str(len(derived.run.prompts))),
        ("candidates", f"{len(derived.run.candidates):,}"),
        ("generators", pools),
        ("verifiers", ", ".join(label(v) for v in derived.needs) or "none"),
        ("seeds", seeds),
        ("times", derived.clock.label) if derived.times else ("times measured on", devices),
        ("costs left out", derived.left_out or "none"),
    ]


def _tables(derived: Derived, with_published: bool) -> list[dict[str, Any]]:
    found = []
    for table in derived.tables:
        shown = published.beside(table, derived.names) if with_published and table.published else table
        found.append({"title": shown.title, "html": Markup(tables.html(shown))})
    return found


def _headline(derived: Derived, with_published: bool) -> pd.DataFrame:
    frame = derived.headline.round({"measured": 1, "low": 1, "high": 1})
    frame = published.headline_beside(frame, derived.names) if with_published else frame
    return frame.drop(columns=["key", "steps"])


def _plain(derived: Derived) -> list[dict[str, Any]]:
    found = [
        ("All pairs at every budget: difference in points, paired by prompt", derived.standings.pairs),
        ("Accuracy (%) averaged over the logarithm of time", derived.area),
        ("Time to reach an accuracy (%)", derived.time_to_accuracy),
        ("Share (%) of the way from one image to the oracle", derived.standings.headroom),
        ("T(N) against whole runs", derived.latency),
        ("Area under the ROC curve of the scores", derived.auc),
        ("Cost of every stage", derived.costs),
    ]
    return [{"title": title, "html": Markup(tables.html(frame))} for title, frame in found if len(frame)]


def _environment(derived: Derived) -> Any:
    info = derived.run.info
    found = [e for part in info.get("combined") or [info] for e in environments(part)]
    return {"environments": found, "checkpoints": info.get("checkpoints", {})}


def _gallery(derived: Derived) -> list[dict[str, Any]]:
    """Collect each verifier's winners among the pictures that were kept."""
    run, pictures = derived.run, derived.pictures
    if run.scores.empty:
        return []
    picks = pictures.kept(winners(run.candidates, run.scores, GALLERY_N))
    encoded: dict[Path, str] = {}
    said = read_captions(run.path)
    captioned = {} if said is None else {_candidate(r): r["caption"] for _, r in said.iterrows()}
    cards = []
    for _, row in picks.sort_values(["prompt_id", *PIPELINE]).iterrows():
        file = pictures.file(row)
        assert file is not None
        if file not in encoded:
            encoded[file] = _data_uri(pictures, row)
        cards.append(
            {
                "prompt": run.prompts[row["prompt_id"]]["prompt"], "tag": row["tag"],
                "verifier": row["verifier"], "label": label(row["verifier"]),
                "generator": row["generator"], "score": f"{row['score']:+.3f}",
                "correct": bool(row["correct"]), "reason": row["reason"], "image": encoded[file],
                "caption": captioned.get(_candidate(row), ""),
            }
        )  # fmt: skip
    return cards


def _candidate(row: Any) -> tuple[Any, ...]:
    """Return the key of a candidate and the verifier that picked it."""
    return tuple(row[k] for k in SCORE)


def _data_uri(pictures: Pictures, row: Any) -> str:
    """Encode a small copy of the picture; "" for a lost one."""
    image = pictures.image(row)
    if image is None:
        return ""
    small = max(image.size) <= IMAGE_SIDE
    image.thumbnail((IMAGE_SIDE, IMAGE_SIDE))
    kind = "png" if small else "jpeg"
    data = encode_image(image, kind, **({} if small else {"quality": 85}))
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
