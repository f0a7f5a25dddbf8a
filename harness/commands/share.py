"""`vhsbench run push`, `run pull` and the same of pools and verifiers: to the hub or any fsspec URL, and back."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from vhsbench.harness.common.terminal import Bars, Json, path, print_json, quiet

_FOLDERS = {"run": "a finished run", "pool": "a frozen pool", "verifier": "a verifier's checkpoint"}

Destination = Annotated[
    str, typer.Argument(help="OWNER/NAME on the Hugging Face hub, an fsspec URL (s3://...), or ./FOLDER.")
]
Private = Annotated[bool, typer.Option("--private", help="Make a new repository of the hub private.")]
Source = Annotated[
    str, typer.Argument(help="OWNER/NAME[@COMMIT] on the Hugging Face hub, an fsspec URL, or ./FOLDER.")
]
Target = Annotated[Path, typer.Argument(parser=path, help="The new folder.")]
Digest = Annotated[
    str | None, typer.Option("--sha256", help="Accept only what a push gave this digest; it pins a URL.")
]

verifier_app = typer.Typer(help="Share a verifier's checkpoint.", no_args_is_help=True)


def register(app: typer.Typer) -> None:
    """Add this area's commands: `run push` and the like beside `run`, which takes a configuration."""
    for kind in ("run", "pool"):
        app.command(f"{kind} push")(_push(kind))
        app.command(f"{kind} pull")(_pull(kind))
    verifier_app.command("push")(_push("verifier"))
    verifier_app.command("pull")(_pull("verifier"))
    app.add_typer(verifier_app, name="verifier")


def _push(kind: str) -> Callable[..., None]:
    def push(
        folder: Annotated[str, typer.Argument(help="Its folder, or URL.")],
        destination: Destination,
        private: Private = False,
        as_json: Json = False,
    ) -> None:
        quiet(models=False)
        from vhsbench.harness.sharing.kinds import KINDS
        from vhsbench.harness.sharing.push import push as share
        from vhsbench.harness.store.folder import check_lasting

        check_lasting(destination)
        with Bars() as bars:
            made = share(folder, destination, KINDS[kind], bars.update, private)
        again = shlex.join(["vhsbench", *made.pull])
        if as_json:
            print_json({**asdict(made), "pull": again})
            return
        print(f"{kind}: {made.place}{_at(made.commit)} ({made.files:,} files), SHA-256 {made.sha256}")
        print(f"pull it with: {again}")

    push.__doc__ = (
        f"Push {_FOLDERS[kind]} to the hub or a URL, with a card of what was measured. Run it again to go on."
    )
    return push


def _pull(kind: str) -> Callable[..., None]:
    def pull(
        source: Source,
        folder: Target,
        sha256: Digest = None,
        as_json: Json = False,
    ) -> None:
        quiet(models=False)
        from vhsbench.harness.sharing.kinds import KINDS
        from vhsbench.harness.sharing.pull import pull as take

        with Bars() as bars:
            made = take(source, folder, KINDS[kind], sha256, bars.update)
        if as_json:
            print_json(asdict(made))
            return
        print(f"{kind}: {made.folder} ({made.files:,} files) from {made.place}, SHA-256 {made.sha256}")

    pull.__doc__ = f"Pull {_FOLDERS[kind]} into a new folder, every file verified. Run it again to go on."
    return pull


def _at(commit: str | None) -> str:
    return f"@{commit}" if commit else ""


class TwoWords(typer.core.TyperGroup):
    """Commands whose names may be two words, such as `run push` beside `run`."""

    def resolve_command(self, context: Any, words: list[str]) -> Any:
        two = " ".join(words[:2])
        return super().resolve_command(context, [two, *words[2:]] if two in self.commands else words)
