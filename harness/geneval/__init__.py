"""GenEval: prompts, detection, verdicts and scores."""

from vhsbench.harness.geneval.rules import COLORS, Detection, colored, evaluate, select

__all__ = ["COLORS", "Detection", "colored", "evaluate", "select"]
