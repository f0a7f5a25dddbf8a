"""Generate, judge, score: candidates of some prompts, and the rows of tables that they give."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

import pandas as pd

from vhsbench.generators.prompts import PromptCache
from vhsbench.harness.inference.candidates import Candidates, Rows, encoded, generate
from vhsbench.harness.store.keys import IN_POOL
from vhsbench.verifiers.protocol import blocks_read

if TYPE_CHECKING:
    from PIL import Image

    from vhsbench.generators.protocol import Block, Generator
    from vhsbench.harness.judges.protocol import Metadata, Verdict
    from vhsbench.verifiers.protocol import Verifier


class Bench:
    """A generator with what judges and scores its candidates of `prompts`.

    `verdicts` judges images by their prompts' metadata. `shown` is the generator's name in the tables. Raises a
    ValueError for a verifier that cannot read what the generator makes.
    """

    def __init__(
        self,
        generator: Generator,
        prompts: Sequence[Metadata],
        verifiers: Sequence[Verifier],
        verdicts: Callable[[Sequence[Image.Image], Sequence[Metadata]], Sequence[Verdict]],
        shown: str = "",
    ) -> None:
        self.generator, self.prompts, self.verifiers = generator, prompts, verifiers
        self.verdicts, self.shown = verdicts, shown or generator.name
        self._encode = PromptCache(generator).encode
        for verifier in verifiers:
            verifier.check_host(generator)
            verifier.prepare(prompts)

    def make(self, keys: Sequence[tuple[int, int, int]], blocks: Iterable[Block] | None = None) -> Candidates:
        """Make candidates by prompt id, root seed and index, each prompt encoded once.

        Hidden states of `blocks` are kept, by default those that the verifiers read. Raises CandidateError.
        """
        cond = encoded(self._encode, [str(self.prompts[prompt_id]["prompt"]) for prompt_id, _, _ in keys])
        wanted = blocks_read(self.verifiers) if blocks is None else blocks
        return generate(self.generator, cond, Rows(self.shown, cond.prompts, keys), wanted)

    def judge(self, made: Candidates) -> pd.DataFrame:
        """Judge candidates, and return their rows of the table `candidates`."""
        metadata = [self.prompts[prompt_id] for prompt_id, _, _ in made.rows.keys]
        verdicts = self.verdicts(made.images, metadata)
        return self._rows(made).assign(
            tag=[m["tag"] for m in metadata],
            correct=[bool(v.correct) for v in verdicts],
            reason=[v.reason for v in verdicts],
        )

    def score(self, made: Candidates) -> dict[str, pd.DataFrame]:
        """Score candidates, and return their rows of the table `scores`, by verifier.

        Raises ScoresError, and what a verifier does.
        """
        rows = self._rows(made)
        return {v.name: rows.assign(verifier=v.name, **made.scored_by(v)) for v in self.verifiers}

    def _rows(self, made: Candidates) -> pd.DataFrame:
        keys = pd.DataFrame(made.rows.keys, columns=IN_POOL)
        return keys.assign(generator=self.shown, steps=self.generator.steps)
