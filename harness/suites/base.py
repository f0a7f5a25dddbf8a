"""What a suite is: prompts with their metadata, who judges their images, and how scores add up."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from vhsbench.harness.common.errors import VhsbenchError
from vhsbench.harness.common.files import ReadError

Metadata = dict[str, Any]  # a prompt: "prompt", "tag" (its task), and what its judges read
Placed = tuple[str, Metadata]  # a prompt with its place, for errors: "FILE, line 3"
Overall = Literal["prompts", "tasks"]


class SuiteError(VhsbenchError):
    """A suite that cannot be used as asked for; the message is one sentence for a user."""


def in_turn(prompts: Sequence[Placed], count: int) -> list[Placed]:
    """Choose the first `count` prompts when the tasks take turns, in the order of the suite."""
    turns: dict[str, int] = {}
    order = []
    for i, (_, prompt) in enumerate(prompts):
        turns[prompt["tag"]] = turn = turns.get(prompt["tag"], 0) + 1
        order.append((turn, i))
    return [prompts[i] for i in sorted(i for _, i in sorted(order)[:count])]


def first(prompts: Sequence[Placed], count: int) -> list[Placed]:
    """Choose the first `count` prompts."""
    return list(prompts[:count])


@dataclass(frozen=True)
class Suite:
    """Prompts, who judges their images, and how scores add up.

    read: reads all prompts; a prompt is {"prompt": text, "tag": its task, ...} with what `judges` read.
    judges: as entries of `judges:` in a run's YAML, such as "geneval"; the first says what is right. overall: the suite's score is the mean over its prompts or
    of its tasks' means. choose: some of the prompts, for a run that limits them. copy: where a user gets the file or
    folder that the suite's `path` is; "" for one that comes with the package.
    """

    name: str
    read: Callable[[], Iterable[Placed]]
    judges: tuple[str | Mapping[str, Any], ...]
    overall: Overall = "prompts"
    choose: Callable[[Sequence[Placed], int], list[Placed]] = in_turn
    copy: str = ""

    def prompts(self, limit: int | None = None) -> list[Placed]:
        """Read the prompts, `limit` of them. Raises ReadError or SuiteError, with the file and line."""
        found = list(self.read())
        for place, prompt in found:
            _check(place, prompt)
        return found if limit is None else self.choose(found, limit)

    @property
    def score(self) -> str:
        """How its score is made, in words."""
        return "mean over prompts" if self.overall == "prompts" else "mean of tasks"

    def info(self) -> dict[str, Any]:
        """Describe it for a listing."""
        return {
            "name": self.name,
            "prompts": None if self.copy else len(self.prompts()),
            "judge": ", ".join(entry if isinstance(entry, str) else entry["name"] for entry in self.judges),
            "score": self.score,
            "source": f"your own copy of {self.copy}" if self.copy else "",
        }


# columns that stand beside the tasks in tables
_TAKEN = {
    "below_one", "best_of_n", "budget", "cost", "delta", "difference", "drift", "generator", "geneval_overall", "n", "overall", "p",
    "paired", "prompts", "protocol", "run", "scoring", "source", "steps", "tag", "time", "times", "unit", "verifier",
}  # fmt: skip


def _check(place: str, prompt: Metadata) -> None:
    """Refuse a prompt without a text or a task, or of a task that tables cannot have a column of."""
    for key in ("prompt", "tag"):
        if not isinstance(text := prompt.get(key), str) or not text.strip():
            raise SuiteError(f"{place}: a prompt has a text '{key}', not {text!r}.")
    if prompt["tag"] in _TAKEN:
        raise SuiteError(
            f"{place}: the task '{prompt['tag']}' has the name of a column of tables; name it otherwise."
        )


def own_copy(name: str, path: str | None, copy: str) -> Path:
    """Return the path of the user's copy. Raises SuiteError where none was given."""
    if path is None:
        raise SuiteError(f"suite '{name}' does not come with vhsbench; give 'path', your own copy of {copy}.")
    return Path(path)


def needs_prompts(found: Sequence[Placed], path: Path) -> Sequence[Placed]:
    """Return what a file holds. Raises ReadError where that is nothing."""
    if not found:
        raise ReadError(f"{path}: has no prompts.")
    return found
