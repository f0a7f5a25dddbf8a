"""`vhsbench init`: a commented start that works as it is."""

from __future__ import annotations

from enum import StrEnum
from importlib.resources import files
from pathlib import Path
from typing import Annotated

import typer

from vhsbench.harness.common.errors import VhsbenchError
from vhsbench.harness.common.terminal import Json, path, print_json


class Start(StrEnum):
    """What can be started."""

    run = "run"
    gate = "gate"
    generator = "generator"
    verifier = "verifier"


class InitError(VhsbenchError):
    """A start that would overwrite something; the message is one sentence for a user."""


def init(
    what: Annotated[Start, typer.Argument(help="run, gate, generator or verifier.")],
    where: Annotated[
        Path | None,
        typer.Argument(
            parser=path,
            help="A file, or for a generator or verifier a folder; default: run.yaml, my-verifier ...",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Write a commented start: a run's or gate's configuration, or a generator or verifier of your own as a package."""
    written = _file(what, where) if what in (Start.run, Start.gate) else _package(what, where)
    if as_json:
        print_json({"written": [str(file) for file in written]})
        return
    for file in written:
        print(file)


def _file(what: Start, where: Path | None) -> list[Path]:
    return [_write(where or Path(f"{what}.yaml"), _start(f"{what}.yaml"))]


def _package(what: Start, where: Path | None) -> list[Path]:
    folder = where or Path(f"my-{what}")
    about = _start("pyproject.toml").replace("KIND", what)
    texts = {folder / "pyproject.toml": about, folder / f"my_{what}.py": _start(f"{what}.py")}
    for file in texts:
        _free(file)
    return [_write(file, text) for file, text in texts.items()]


def _start(name: str) -> str:
    return files("vhsbench.harness.commands").joinpath("starts", name).read_text(encoding="utf-8")


def _free(file: Path) -> None:
    if file.exists() or file.is_symlink():
        raise InitError(f"'{file}' is there already; nothing is overwritten: name another place.")


def _write(file: Path, text: str) -> Path:
    from vhsbench.harness.common.atomic import write_output

    _free(file)
    file.parent.mkdir(parents=True, exist_ok=True)
    write_output(file, text)
    return file
