"""Write docs/commands.md: `python .ci/commands_page.py > docs/commands.md`."""

from __future__ import annotations

from collections.abc import Iterator
from enum import Enum
from typing import Any

import typer

from vhsbench.harness.cli import app
from vhsbench.harness.common.shown import markdown_table

HEAD = """# Command line: every command

This page is made of the commands themselves (`python .ci/commands_page.py`); `vhsbench COMMAND --help` says the same. What their exit codes mean is in
[regression.md](regression.md#exit-codes). `--debug`, anywhere on the line, shows the traceback of a user's mistake too.
"""


def page() -> str:
    """Return the page."""
    return "\n".join(
        [
            HEAD,
            *(section(name, command) for name, command in commands("vhsbench", typer.main.get_command(app))),
        ]
    )


def commands(name: str, command: Any) -> Iterator[tuple[str, Any]]:
    """Yield the commands of a group and of the groups in it, each with its full name, by name."""
    if not hasattr(command, "commands"):
        yield name, command
        return
    for below in sorted(command.commands):
        if not command.commands[below].hidden:
            yield from commands(f"{name} {below}", command.commands[below])


def section(name: str, command: Any) -> str:
    """Return a command's heading, help, and a row for each argument and option."""
    shown = [parameter for parameter in command.params if not getattr(parameter, "hidden", False)]
    rows = [[_spelled(parameter), _default(parameter), _escaped(parameter.help or "")] for parameter in shown]
    table = markdown_table(["argument or option", "default", "meaning"], rows) if rows else ""
    return f"## {name}\n\n{_prose(command.help or '')}\n\n{table}"


def _prose(text: str) -> str:
    return "\n\n".join(" ".join(part.split()) for part in text.split("\n\n"))


def _spelled(parameter: Any) -> str:
    if parameter.param_type_name == "argument":
        return f"`{(parameter.metavar or parameter.name).upper()}`{'...' if parameter.nargs == -1 else ''}"
    more = " (again for more)" if parameter.multiple else ""
    return ", ".join(f"`{spelling}`" for spelling in [*parameter.opts, *parameter.secondary_opts]) + more


def _default(parameter: Any) -> str:
    if parameter.required:
        return "(must be given)"
    value = parameter.default() if callable(parameter.default) else parameter.default
    if value in (None, False, "", (), []):
        return ""
    return f"`{value.value if isinstance(value, Enum) else value}`"


def _escaped(text: str) -> str:
    return " ".join(text.split()).replace("|", r"\|")


if __name__ == "__main__":
    print(page(), end="")
