"""GenEval: prompts, detection, verdicts and scores."""

from vhsbench.harness.geneval.rules import COLORS, Detection, Verdict, evaluate, select

__all__ = ["COLORS", "Detection", "Verdict", "evaluate", "select"]
