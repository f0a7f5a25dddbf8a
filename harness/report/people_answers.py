"""People's answers about a run's sample, as JSON lines: a labelling page's download, and the run's own file of all."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from vhsbench.harness.common.atomic import write_output
from vhsbench.harness.common.files import LARGE, read_errors_as
from vhsbench.harness.common.shown import printable
from vhsbench.harness.common.text import read_json_lines
from vhsbench.harness.report.people_sample import FOLDER, Drawn, LabelError

FILE = f"{FOLDER}/answers.jsonl"
YES, NO, UNSURE = "yes", "no", "unsure"
VALUES = {YES: 1.0, NO: 0.0, UNSURE: 0.5}
LONGEST_NAME = 48


@dataclass(frozen=True)
class Answer:
    """What one labeller said of one candidate: `place` is its row in the sample, from 0."""

    sample: str
    place: int
    labeller: str
    answer: str
    at: str


def read_answers(file: Path, drawn: Drawn) -> list[Answer]:
    """Read answers about a sample; of two by one labeller about one candidate, the later line counts.

    Raises LabelError, with file and line, for a line that is no answer, or of another sample.
    """
    with read_errors_as(LabelError):
        lines = read_json_lines(file, LARGE)
    found: dict[tuple[str, int], Answer] = {}
    for number, row in lines:
        answer = _answer(row, drawn, f"{file}, line {number}")
        found[answer.labeller, answer.place] = answer
    return _sorted(found.values())


def stored_answers(run: Path, drawn: Drawn) -> list[Answer]:
    """Read the answers that a run has; none without a file."""
    return read_answers(run / FILE, drawn) if (run / FILE).exists() else []


def store(run: Path, drawn: Drawn, added: Iterable[Answer]) -> list[Answer]:
    """Add answers to a run's and return all, each labeller's own; a new one replaces that labeller's old one."""
    merged = {(a.labeller, a.place): a for a in [*stored_answers(run, drawn), *added]}
    answers = _sorted(merged.values())
    text = "".join(json.dumps(asdict(answer), ensure_ascii=False) + "\n" for answer in answers)
    write_output(run / FILE, text)
    return answers


def _sorted(answers: Iterable[Answer]) -> list[Answer]:
    return sorted(answers, key=lambda answer: (answer.labeller, answer.place))


def _answer(row: Mapping[str, Any], drawn: Drawn, where: str) -> Answer:
    sample, place, labeller, said = (row.get(key) for key in ("sample", "place", "labeller", "answer"))
    if sample != drawn.name:
        raise LabelError(
            f"{where}: it answers another sample ({printable(str(sample))[:40]}) than the run's ({drawn.name}); "
            "import it into the run whose page it was given on."
        )
    if not isinstance(place, int) or isinstance(place, bool) or not 0 <= place < len(drawn.rows):
        raise LabelError(f"{where}: 'place' must be a whole number from 0 to {len(drawn.rows) - 1}.")
    if not isinstance(labeller, str) or not is_name(labeller):
        raise LabelError(
            f"{where}: 'labeller' must be a name of 1 to {LONGEST_NAME} characters, none of them a control character."
        )
    if not isinstance(said, str) or said not in VALUES:
        raise LabelError(f"{where}: 'answer' must be one of {', '.join(VALUES)}.")
    return Answer(drawn.name, place, labeller, said, printable(str(row.get("at", "")))[:LONGEST_NAME])


def is_name(text: str) -> bool:
    """Tell whether a text can be a labeller's name."""
    return text == text.strip() == printable(text) and 0 < len(text) <= LONGEST_NAME
