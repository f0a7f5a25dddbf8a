"""references.bib: the benchmark, models and suites that a run used."""

from __future__ import annotations

import re
from collections.abc import Iterable
from importlib.resources import files

from vhsbench.harness.config.run import RunConfig

_ALWAYS = ("vhsbench", "latent-verifiers")
# of registered names whose entry has another key, or that rest on several papers
_KEYS = {
    "pixart-alpha-dmd": ("pixart-alpha", "dmd"),
    "flux-schnell": ("flux", "ladd"),
    "sd3.5-turbo": ("sd3", "ladd"),
    "nano-composed": ("geneval",),
    "drawbench": ("imagen",),
    "dpg-bench": ("ella",),
    "partiprompts": ("parti",),
    "soft-tifa": ("geneval2",),
}


def references(config: RunConfig) -> str:
    """Return BibTeX of what a run used; a plugin's names have no entry."""
    used = [e.name for e in config.generators] + [v.name for v in config.verifiers]
    used += [j.name for j in config.judged_by]
    suite = config.prompt_suite.name
    # nano's prompts are judged by GenEval's rules
    used.append("geneval" if suite == "nano" else suite)
    return entries([*_ALWAYS, *(key for name in used for key in _KEYS.get(name, (name,)))])


def entries(keys: Iterable[str]) -> str:
    """Return the known entries with these keys, each once."""
    text = files("vhsbench.harness.report").joinpath("assets", "references.bib").read_text(encoding="utf-8")
    known = {re.search(r"\{([^,]+),", entry)[1]: entry.strip() for entry in text.split("\n\n")}  # type: ignore[index]
    return "\n\n".join(known[key] for key in dict.fromkeys(keys) if key in known) + "\n"
