"""The page on which people say of pictures whether they show what their prompt says: one file that opens from disk."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup
from PIL import Image

from vhsbench.harness.common.atomic import write_output
from vhsbench.harness.common.shown import printable
from vhsbench.harness.report.page_candidates import PAGE_MB, data_uri
from vhsbench.harness.report.page_file import asset, render
from vhsbench.harness.report.people_answers import LONGEST_NAME
from vhsbench.harness.report.people_sample import FOLDER, Drawn
from vhsbench.harness.store.tables import Run
from vhsbench.harness.sweep.remade import AllPictures

PAGE = f"{FOLDER}/label.html"  # in a run
SIDE = 512  # a larger picture is scaled down to this many pixels
_AT_ONCE = 64  # pictures
_ITEM_BYTES = 20  # of an item in the page's JSON, less its prompt and picture

Progress = Callable[[int, int], None]


def write_label_page(
    run: Run,
    drawn: Drawn,
    count: int,
    file: Path,
    limit_mb: float = PAGE_MB,
    device: str = "",
    progress: Progress = lambda *_: None,
) -> int:
    """Write a page with the first `count` candidates of a sample, fewer if they do not fit in `limit_mb`.

    Returns how many it shows. Nothing on it says what a judge or verifier thinks of a picture, or whose pick it is.
    Everything is escaped, and the page loads nothing. Raises RemadeError where pictures cannot be made again.
    """
    rows = drawn.rows.head(count)
    title = run.info["config"].get("name") or run.path.name
    data: dict[str, Any] = {"sample": drawn.name, "longestName": LONGEST_NAME, "items": []}
    room = limit_mb * 1e6 - len(_page(title, data).encode())
    items, pictures = data["items"], AllPictures(run, device)
    progress(0, len(rows))
    for start in range(0, len(rows), _AT_ONCE):
        batch = rows.iloc[start : start + _AT_ONCE]
        prompts = [printable(run.prompts[i]["prompt"]) for i in batch["prompt_id"]]
        fitting, room = _fitting(prompts, pictures.of(batch), room)
        items += fitting
        progress(len(items), len(rows))
        if len(fitting) < len(batch):
            break
    write_output(file, _page(title, data))
    return len(items)


def _fitting(
    prompts: Sequence[str], pictures: Iterable[Image.Image], room: float
) -> tuple[list[dict[str, str]], float]:
    """Encode pictures as long as there is room, and return what fits and what is left."""
    found: list[dict[str, str]] = []
    for prompt, picture in zip(prompts, pictures, strict=True):
        item = {"prompt": prompt, "picture": data_uri(picture, SIDE)}
        room -= len(item["picture"]) + 6 * len(prompt) + _ITEM_BYTES  # six bytes: of an escaped character
        if room < 0:
            break
        found.append(item)
    return found, room


def _page(title: str, data: dict[str, Any]) -> str:
    return render(
        "label.html.j2", ("page.js", "label.js"), data, title=title, label_css=Markup(asset("label.css"))
    )
