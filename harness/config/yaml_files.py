"""YAML checked by a pydantic model; an error is one sentence with the file, line and key."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from vhsbench.harness.common.errors import VhsbenchError
from vhsbench.harness.common.files import read_errors_as
from vhsbench.harness.common.registry import nearest
from vhsbench.harness.common.settings import model_in
from vhsbench.harness.common.shown import first_line
from vhsbench.harness.common.text import DEPTH, read_text
from vhsbench.harness.config.local_paths import Base, NoSuchPath

Model = TypeVar("Model", bound=BaseModel)

_LIMIT = 1 << 18  # bytes of a file: the parser needs seconds for so many
_NODES = 100_000  # keys and values of a file, once its aliases are written out


class ConfigError(VhsbenchError):
    """A configuration that cannot be used; the message is one sentence for a user."""


def read(path: Path, model: type[Model], example: str) -> Model:
    """Read a file as `model`; `example` is a line that such a file may have. Raises ConfigError."""
    with read_errors_as(ConfigError):
        text = read_text(path, _LIMIT)
    return parse(text, str(path), model, example, Base(path.parent.resolve()))


def parse(text: str, file: str, model: type[Model], example: str, base: Base | None = None) -> Model:
    """Check a configuration's text; `file` names it in errors, and its paths are relative to `base`. Raises ConfigError."""
    tree, data = _load(text, file)
    if not isinstance(data, dict):
        raise ConfigError(f"{file}: a configuration is a mapping, for example '{example}'.")
    return check(data, file, model, tree, base=base)


def parse_entry(text: str, file: str, model: type[Model]) -> Model:
    """Check the text of one entry, a name alone or a mapping, with paths from the working directory. Raises ConfigError."""
    tree, data = _load(text, file)
    return check(data, file, model, tree, base=Base(Path.cwd()))


def check(
    data: Any,
    file: str,
    model: type[Model],
    tree: yaml.Node | None = None,
    under: tuple[str, ...] = (),
    base: Base | None = None,
) -> Model:
    """Check `data` and return the configuration that it is. Raises ConfigError.

    `tree` knows its lines; `under` are the file's keys that it stands below. Its paths become absolute, from
    `base`; without one they stay as they are.
    """
    try:
        return model.model_validate(data if base is None else base.anchored(data, model))
    except NoSuchPath as error:
        raise ConfigError(f"{_where(file, tree, list(error.place), under)}: {error}.") from None
    except ValidationError as error:
        first: Any = error.errors()[0]
        raise ConfigError(_sentence(file, tree, first, model, under)) from None


def _load(text: str, file: str) -> tuple[yaml.Node | None, Any]:
    """Return the text's tree, which knows lines, and its data."""
    try:
        tree = yaml.compose(text, Loader=yaml.SafeLoader)
        _refuse_bombs(tree, file)
        _refuse_duplicates(tree, file)
        return tree, yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f", line {mark.line + 1}" if mark else ""
        raise ConfigError(f"{file}{where}: not YAML: {error.problem}.") from error
    except ConfigError:
        raise
    except RecursionError:
        raise ConfigError(f"{file}: nested more than {DEPTH} deep.") from None
    except (yaml.YAMLError, ValueError, TypeError) as error:
        # no mark: a character that YAML forbids, an impossible date, a key that is a list
        raise ConfigError(f"{file}: not YAML: {first_line(error)}.") from error


def _sentence(
    file: str, tree: yaml.Node | None, error: dict[str, Any], model: type[BaseModel], under: tuple[str, ...]
) -> str:
    place = [p for p in error["loc"] if isinstance(p, (str, int))]
    where = _where(file, tree, place, under)
    if error["type"] == "extra_forbidden":
        return f"{where}: unknown key; {nearest(str(place[-1]), _known_keys(model, place[:-1]))}"
    if error["type"] == "missing":
        return f"{where}: is required."
    message = str(error["msg"]).removeprefix("Value error, ").rstrip(".")
    given = "" if error["type"] == "value_error" else f", not {error['input']!r}"
    end = "" if (message + given).endswith(("?", ".")) else "."
    return f"{where}: {message[0].lower()}{message[1:]}{given}{end}"


def _where(file: str, tree: yaml.Node | None, place: list[str | int], under: tuple[str, ...]) -> str:
    number, written = _line(tree, place)
    key = ".".join(map(str, (*under, *written)))
    line = f", line {number}" if tree is not None else ""
    return f"{file}{line}, key '{key}'" if key else file


def _known_keys(model: type[BaseModel], place: list[str | int]) -> list[str]:
    """Return the keys that `model` has at `place`."""
    for part in place:
        if isinstance(part, str):
            model = model_in(model.model_fields[part].annotation) or model
    return list(model.model_fields)


def _line(node: yaml.Node | None, place: list[str | int]) -> tuple[int, list[str | int]]:
    """Return the line (from 1) of the key at `place`, or of its nearest parent, and the place as it is written.

    What is written is shorter where a text alone stands for a key: `verifiers.0`, not `verifiers.0.name`.
    """
    line = 1
    for depth, part in enumerate(place):
        if isinstance(node, yaml.ScalarNode):
            return line, place[:depth]
        if isinstance(node, yaml.MappingNode):
            pair = next((p for p in node.value if p[0].value == str(part)), None)
            if pair is None:
                break
            line, node = pair[0].start_mark.line + 1, pair[1]
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
            node = node.value[part]
            line = node.start_mark.line + 1
    return line, place


def _refuse_bombs(tree: yaml.Node | None, file: str) -> None:
    """Raise ConfigError where the tree is too deep, holds itself, or grows too large by its aliases."""
    sizes: dict[yaml.Node, int] = {}  # once aliases are written out; 0 while it is counted

    def size(node: yaml.Node, depth: int) -> int:
        if depth > DEPTH:
            raise ConfigError(f"{file}: nested more than {DEPTH} deep.")
        if node not in sizes:
            sizes[node] = 0
            if isinstance(node, yaml.ScalarNode):
                _refuse_half(node, file)
            inside = node.value if isinstance(node, yaml.CollectionNode) else []
            parts = [p for part in inside for p in (part if isinstance(part, tuple) else (part,))]
            sizes[node] = 1 + sum(size(part, depth + 1) for part in parts)
        if not sizes[node]:
            raise ConfigError(f"{file}, line {node.start_mark.line + 1}: an alias of what it stands in.")
        if sizes[node] > _NODES:
            raise ConfigError(f"{file}: more than {_NODES:,} keys and values, with its aliases written out.")
        return sizes[node]

    if tree is not None:
        size(tree, 1)


def _refuse_half(node: yaml.ScalarNode, file: str) -> None:
    try:
        node.value.encode()
    except UnicodeEncodeError as error:
        half = ascii(error.object[error.start]).strip("'")
        raise ConfigError(
            f"{file}, line {node.start_mark.line + 1}: {half} is half of a surrogate pair, which is no character."
        ) from None


def _refuse_duplicates(node: yaml.Node | None, file: str) -> None:
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, value in node.value:
            if key.value in seen:
                line = key.start_mark.line + 1
                raise ConfigError(f"{file}, line {line}, key '{key.value}': is given twice.")
            seen.add(key.value)
            _refuse_duplicates(value, file)
    elif isinstance(node, yaml.SequenceNode):
        for value in node.value:
            _refuse_duplicates(value, file)
