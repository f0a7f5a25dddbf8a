"""The test of a judge before a run spends time on it: whether it tells pictures apart that are known."""

from __future__ import annotations

from collections.abc import Sequence

from vhsbench.harness.common.errors import VhsbenchError
from vhsbench.harness.judges.known import Pair
from vhsbench.harness.judges.protocol import Judge, JudgeError

NEEDED = 0.5  # pairs of a task told apart, less those the wrong way round, as a share of all; chance is 0


def self_test(judge: Judge, pairs: Sequence[Pair]) -> dict[str, float]:
    """Test a judge on the known pairs of the tasks that it `tells`: NEEDED of each must be told apart.

    Returns the share of each task's pairs told apart, less those told the wrong way round; nothing for a judge that
    cannot judge by the known prompts. Raises JudgeError, and what the judge does.
    """
    found = {}
    for task in judge.tells:
        mine = [pair for pair in pairs if pair.prompt["tag"] == task and _can_judge(judge, pair)]
        if not mine:
            continue
        prompts = [pair.prompt for pair in mine]
        right = judge.judge([pair.right for pair in mine], prompts)
        wrong = judge.judge([pair.wrong for pair in mine], prompts)
        apart = [a.value - b.value for a, b in zip(right, wrong, strict=True)]
        yes, no = sum(d > 0 for d in apart), sum(d < 0 for d in apart)
        found[task] = (yes - no) / len(mine)
        if found[task] < NEEDED:
            first = next(pair for pair, d in zip(mine, apart, strict=True) if d <= 0)
            raise JudgeError(
                f"judge '{judge.name}' does not tell known pictures apart: of {len(mine)} pairs of the task {task}, it prefers "
                f"the right picture in {yes} and the wrong one in {no} (first '{first.prompt['prompt']}'); its classes, "
                "checkpoint or colour model may be wrong, or its world another; `self_test: false` in its entry of "
                "'judges' goes on without this test."
            )
    return found


def check_reference(judge: Judge, pairs: Sequence[Pair]) -> None:
    """Judge all known pictures as the judge's reference does too. Raises JudgeError for another verdict on any."""
    exact = judge.reference()
    if exact is judge:
        return
    mine = [pair for pair in pairs if _can_judge(judge, pair)]
    prompts = [pair.prompt for pair in mine] * 2
    images = [pair.right for pair in mine] + [pair.wrong for pair in mine]
    verdicts = [[(v.value, v.correct, v.reason) for v in by.judge(images, prompts)] for by in (judge, exact)]
    differ = [prompt for prompt, one, other in zip(prompts, *verdicts, strict=True) if one != other]
    if differ:
        raise JudgeError(
            f"judge '{judge.name}' gives {len(differ)} of {len(images)} known pictures another verdict than in full precision "
            f"(first '{differ[0]['prompt']}'); leave its 'dtype' out."
        )


def _can_judge(judge: Judge, pair: Pair) -> bool:
    try:
        judge.check_prompt(pair.prompt, "a known prompt")
    except VhsbenchError:
        return False
    return True
