"""Pages that open from disk: one file of a template, its script and its data, within a limit of size."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from vhsbench.harness.common.atomic import write_output
from vhsbench.harness.report.page_candidates import Album, Pool
from vhsbench.harness.report.style import mean_of_tasks, task_names
from vhsbench.version import __version__

GALLERY_N = 4
_SCRIPTS = ("page.js", "tables.js", "candidates.js", "budget.js", "differences.js", "start.js")
_SPARE_BYTES = 20_000  # for sentences about pictures, and their numbers


def write(
    file: Path,
    template: str,
    data: dict[str, Any],
    pools: Sequence[Pool],
    limit_mb: float,
    context: Callable[[Album], dict[str, Any]],
) -> None:
    """Write a page of at most `limit_mb`: pictures take what the rest leaves. The page loads nothing.

    data: what the script reads, to which pools and their pictures are added. context: what the template shows, which
    may depend on the pictures. Everything is escaped.
    """
    tasks = task_names(prompt["tag"] for prompt in data["prompts"])
    data |= {
        "pools": [pool.data for pool in pools],
        "judged": [i for i, pool in enumerate(pools) if pool.scores],
        "taskNames": tasks,
        "galleryN": GALLERY_N,
    }
    empty = Album(0)
    size = len(_render(template, data | {"pictures": [], "lost": 0}, context(empty)).encode())
    album = Album(limit_mb * 1e6 - size - _SPARE_BYTES)
    album.fill([pool for pool in pools if pool.scores])
    data |= {"pictures": album.pictures, "lost": album.lost}
    write_output(file, _render(template, data, context(album)))


def _render(template: str, data: dict[str, Any], context: dict[str, Any]) -> str:
    plotly = Markup(get_plotlyjs())
    return render(template, _SCRIPTS, data, task_names=data["taskNames"], plotly=plotly, **context)


def render(template: str, scripts: Sequence[str], data: dict[str, Any], **context: Any) -> str:
    """Fill a template of the assets, with everything escaped. The scripts are one, and read `data`."""
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(asset),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
    )
    environment.globals["of_tasks"] = mean_of_tasks(data.get("taskNames", ()))
    environment.policies["json.dumps_kwargs"] = {"ensure_ascii": False}  # prompts of any script, in UTF-8
    script = "\n".join(asset(name) for name in scripts)
    return environment.get_template(template).render(
        version=__version__,
        data=data,
        css=Markup(asset("page.css")),
        script=Markup(f'"use strict";\n(() => {{\n{script}}})();\n'),
        **context,
    )


def asset(name: str) -> str:
    """Read a file of the assets."""
    return files("vhsbench.harness.report").joinpath("assets", name).read_text(encoding="utf-8")
