"""Generate, judge, score: candidates of some prompts, and the rows of tables that they give."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pandas as pd

from vhsbench.generators.prompts import PromptCache
from vhsbench.harness.common.images import pixels_digest
from vhsbench.harness.common.shown import printable
from vhsbench.harness.inference.candidates import Candidates, Rows, encoded, generate
from vhsbench.harness.judges.protocol import JudgeError
from vhsbench.harness.store.keys import IN_POOL
from vhsbench.verifiers.protocol import blocks_read

if TYPE_CHECKING:
    from PIL import Image

    from vhsbench.generators.protocol import Block, Generator
    from vhsbench.harness.judges import Judge, Metadata
    from vhsbench.verifiers.protocol import Verifier


@dataclass(frozen=True)
class Judged:
    """Rows of the tables `candidates`, by the first judge, and `verdicts`, by all."""

    candidates: pd.DataFrame
    verdicts: pd.DataFrame

    def decided(self) -> Judged:
        """Raise JudgeError where the first judge did not say whether a candidate is right."""
        if self.candidates["correct"].isna().any():
            raise JudgeError(
                f"judge '{self.verdicts['judge'].iloc[0]}' has no threshold from which on an image is right, as the "
                "first of a run's judges must; put another before it."
            )
        return self


def verdict_rows(
    judge: Judge, rows: pd.DataFrame, images: Sequence[Image.Image], prompts: Sequence[Metadata]
) -> pd.DataFrame:
    """Judge images, and return the rows of the table `verdicts` of the candidates in `rows`.

    Raises JudgeError for verdicts that are not one an image, or whose value is not from 0 to 1.
    """
    verdicts = judge.judge(images, prompts)
    if len(verdicts) != len(rows):
        raise JudgeError(f"judge '{judge.name}' gave {len(verdicts)} verdict(s) on {len(rows)} image(s).")
    for verdict, prompt in zip(verdicts, prompts, strict=True):
        if not 0 <= verdict.value <= 1:
            raise JudgeError(
                f"judge '{judge.name}' gave an image of '{printable(prompt['prompt'])}' the value {verdict.value:g}; "
                "a value is from 0 to 1."
            )
    return rows.assign(
        judge=judge.name,
        value=[v.value for v in verdicts],
        correct=pd.Series([v.correct for v in verdicts], rows.index, dtype=object),
        reason=[v.reason for v in verdicts],
        picture=[pixels_digest(image) for image in images],
    )


class Bench:
    """A generator with what judges and scores its candidates of `prompts`.

    The first of `judges` says what is right. `shown` is the generator's name in the tables. Raises a ValueError for
    a verifier that cannot read what the generator makes.
    """

    def __init__(
        self,
        generator: Generator,
        prompts: Sequence[Metadata],
        verifiers: Sequence[Verifier],
        judges: Sequence[Judge],
        shown: str = "",
    ) -> None:
        self.generator, self.prompts, self.verifiers = generator, prompts, verifiers
        self.judges, self.shown = judges, shown or generator.name
        self._encode = PromptCache(generator).encode
        self.sizes: Sequence[int] = ()  # of batches as they are made, in falling order; () is as they come
        for verifier in verifiers:
            verifier.check_host(generator)
            verifier.prepare(prompts)

    def make(self, keys: Sequence[tuple[int, int, int]], blocks: Iterable[Block] | None = None) -> Candidates:
        """Make candidates by prompt id, root seed and index, each prompt encoded once.

        Hidden states of `blocks` are kept, by default those that the verifiers read. A batch is filled up to the next of
        `sizes`, with its last candidate. Raises CandidateError.
        """
        rows = len(keys)
        size = min((size for size in self.sizes if size >= rows), default=rows)
        keys = [*keys, *[keys[-1]] * (size - rows)]
        cond = encoded(self._encode, [str(self.prompts[prompt_id]["prompt"]) for prompt_id, _, _ in keys])
        wanted = blocks_read(self.verifiers) if blocks is None else blocks
        made = generate(self.generator, cond, Rows(self.shown, cond.prompts, keys), wanted)
        return made if size == rows else made.first(rows)

    def judge(self, made: Candidates) -> Judged:
        """Judge candidates by each judge."""
        rows = self._rows(made)
        metadata = [self.prompts[prompt_id] for prompt_id, _, _ in made.rows.keys]
        of_each = [verdict_rows(judge, rows, made.images, metadata) for judge in self.judges]
        first = of_each[0]
        candidates = rows.assign(
            tag=[m["tag"] for m in metadata], correct=first["correct"].infer_objects(), reason=first["reason"]
        )
        return Judged(candidates, pd.concat(of_each, ignore_index=True))

    def score(self, made: Candidates) -> dict[str, pd.DataFrame]:
        """Score candidates, and return their rows of the table `scores`, by verifier.

        Raises ScoresError, and what a verifier does.
        """
        rows = self._rows(made)
        return {v.name: rows.assign(verifier=v.name, **made.scored_by(v)) for v in self.verifiers}

    def _rows(self, made: Candidates) -> pd.DataFrame:
        keys = pd.DataFrame(made.rows.keys, columns=IN_POOL)
        return keys.assign(generator=self.shown, steps=self.generator.steps)
