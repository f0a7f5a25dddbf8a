"""GenEval: prompts, detection, verdicts and scores."""

from vhsbench.harness.geneval.rules import COLORS, TAGS, Detection, Verdict, evaluate, select

__all__ = ["COLORS", "TAGS", "Detection", "Verdict", "evaluate", "select"]
