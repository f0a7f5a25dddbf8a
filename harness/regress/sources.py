"""What a user names as baseline or candidate: a bundled verifier, a checkpoint, a run, an accepted baseline."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from vhsbench import verifiers
from vhsbench.harness.common.errors import VhsbenchError
from vhsbench.harness.common.registry import nearest
from vhsbench.harness.config.run import kept_config
from vhsbench.harness.regress.baselines import accepted_names, content_name, found, read
from vhsbench.harness.store.tables import load_run
from vhsbench.verifiers.checkpoint import kind_of
from vhsbench.verifiers.protocol import Verifier


class SourceError(VhsbenchError):
    """A baseline or candidate that cannot be used; the message is one sentence for a user."""


@dataclass(frozen=True)
class Source:
    """A checkpoint to load as `verifier`, or a finished run's scores by the label `verifier`."""

    text: str  # as the user named it
    verifier: str
    checkpoint: str | None = None  # None: the bundled one
    run: Path | None = None

    @property
    def kind(self) -> str:
        """The kind of verifier. Raises ConfigError for a run.json that this version cannot read."""
        kinds = kept_config(load_run(self.run)).kinds if self.run is not None else {}
        return kinds.get(self.verifier, self.verifier)

    @property
    def folder(self) -> Path | None:
        """The folder that holds it; None for a checkpoint of the hub."""
        if self.run is not None:
            return self.run
        if self.checkpoint is None:
            return Path(str(files("vhsbench.verifiers").joinpath("nano", "weights", self.verifier)))
        return Path(self.checkpoint) if Path(self.checkpoint).is_dir() else None

    def load(self, device: str = "cpu", generator: str | None = None) -> Verifier:
        """Build the verifier of a checkpoint, for what `generator` makes."""
        return verifiers.create(self.verifier, **self._options(device, generator))

    def identity(self, device: str = "cpu", generator: str | None = None) -> dict[str, Any]:
        """Return what decides the scores of what `load` would build; load nothing."""
        return verifiers.REGISTRY.identity(self.verifier, **self._options(device, generator))

    def _options(self, device: str, generator: str | None) -> dict[str, Any]:
        return {"checkpoint": self.checkpoint, "device": device, "generator": generator}


def resolve(text: str, baselines: Path | None = None) -> Source:
    """Find what `text` names.

    It is a registered verifier; VERIFIER=CHECKPOINT (a folder or hub id); a checkpoint's folder; a run's folder,
    RUN:LABEL if it has several verifiers; or the name of an accepted baseline in `baselines`, by default `found()`.

    Raises SourceError, with the nearest names, CheckpointError for a folder of no known verifier, or BaselineError
    for a baseline that is damaged.
    """
    if text in verifiers.REGISTRY:
        return Source(text, text)
    kind, equals, checkpoint = text.partition("=")
    if equals and kind in verifiers.REGISTRY and not Path(text).exists():
        return Source(text, kind, checkpoint)
    folder, _, chosen = text.rpartition(":")
    if folder and not Path(text).exists() and (Path(folder) / "run.json").is_file():
        return _run(text, Path(folder), chosen)
    path = Path(text)
    if (path / "run.json").is_file():
        return _run(text, path, None)
    if (path / "config.json").is_file():
        return Source(text, kind_of(path), str(path))
    if path.is_dir():
        raise SourceError(f"{text} is neither a checkpoint (it has no config.json) nor a run (no run.json).")
    baselines = baselines or found()
    accepted = accepted_names(baselines)
    if text in accepted:
        entry = read(text, baselines)
        content = baselines / text / content_name(entry)
        if (content / "run.json").is_file():
            return _run(text, content, entry.get("verifier"))
        inside = resolve(str(content), baselines)
        return Source(text, inside.verifier, inside.checkpoint)
    known = nearest(text, [*verifiers.REGISTRY.names(), *accepted])
    raise SourceError(f"'{text}' is not a folder, a verifier or an accepted baseline; {known}")


def _run(text: str, path: Path, chosen: str | None) -> Source:
    names = sorted(load_run(path).scores["verifier"].unique())
    if chosen is None and len(names) == 1:
        chosen = names[0]
    if chosen not in names:
        said = (
            f"the run {path} has no verifier '{chosen}'"
            if chosen
            else f"the run {path} has several verifiers"
        )
        raise SourceError(f"{said}; write {path}:VERIFIER with one of {', '.join(names) or 'none'}.")
    return Source(text, str(chosen), run=path)
