"""The reference of configuration keys, as Markdown, from the models that check configurations."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import BaseModel

from vhsbench.harness.common.shown import markdown_table

_WORDS = {
    "integer": "whole number",
    "number": "number",
    "string": "text",
    "boolean": "true or false",
    "object": "mapping",
}


def reference(titles: Mapping[str, type[BaseModel]]) -> str:
    """Write a section for every model, and one for each that its keys hold."""
    parts = []
    for title, model in titles.items():
        schema = model.model_json_schema()
        parts.append(f"## {title}\n\n{_table(schema, _properties(schema))}")
        parts += [
            f"### {title}: {key}\n\n{_table(schema, _properties(inner))}"
            for key, inner in _nested(schema, schema, "")
        ]
    return "\n".join(parts)


def _table(whole: Mapping[str, Any], properties: Mapping[str, Any]) -> str:
    rows = [
        [f"`{key}`", _escape(_type(whole, value)), _default(value), _escape(value.get("description", ""))]
        for key, value in properties.items()
    ]
    return markdown_table(["key", "value", "default", "meaning"], rows)


def _nested(
    whole: Mapping[str, Any], schema: Mapping[str, Any], above: str
) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield the schemas of what keys hold, with the path of their keys."""
    for key, value in _properties(schema).items():
        inner = _model(whole, value)
        if inner is not None:
            yield f"{above}{key}", inner
            yield from _nested(whole, inner, f"{above}{key}.")


def _properties(schema: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the keys of a model, also of one for which a text may stand."""
    if "properties" in schema:
        found: Mapping[str, Any] = schema["properties"]
        return found
    return next((p for part in schema.get("anyOf", ()) if (p := _properties(part))), {})


def _model(whole: Mapping[str, Any], value: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Return the schema of a model that a value is, or holds."""
    if "$ref" in value:
        found: Mapping[str, Any] = whole["$defs"][value["$ref"].rpartition("/")[2]]
        return found if _properties(found) else None
    parts = [*value.get("anyOf", ()), *([value["items"]] if isinstance(value.get("items"), dict) else [])]
    return next((m for part in parts if (m := _model(whole, part)) is not None), None)


def _type(whole: Mapping[str, Any], value: Mapping[str, Any]) -> str:
    if "$ref" in value:
        target = whole["$defs"][value["$ref"].rpartition("/")[2]]
        return _type(whole, target) if not _properties(target) else _of_model(target)
    if "anyOf" in value:
        kinds = [_type(whole, part) for part in value["anyOf"] if part.get("type") != "null"]
        return " or ".join(dict.fromkeys(kinds))
    if "enum" in value or "const" in value:
        return ", ".join(f"`{v}`" for v in value.get("enum", [value.get("const")]))
    if value.get("type") == "array":
        items = value.get("items", {})
        return f"list of {_type(whole, items)}" if items else "list"
    return _WORDS.get(str(value.get("type")), "any") + _range(value)


def _of_model(target: Mapping[str, Any]) -> str:
    return (
        "mapping, or a text alone"
        if any(p.get("type") == "string" for p in target.get("anyOf", ()))
        else "mapping"
    )


def _range(value: Mapping[str, Any]) -> str:
    low, high = value.get("minimum"), value.get("maximum")
    above, below = value.get("exclusiveMinimum"), value.get("exclusiveMaximum")
    said = [f"{word} {limit:,}" for word, limit in (("from", low), ("above", above), ("to", high), ("below", below))
            if limit is not None]  # fmt: skip
    return f" {' '.join(said)}" if said else ""


def _default(value: Mapping[str, Any]) -> str:
    if "default" not in value:
        return "(must be given)" if "default_factory" not in value else ""
    default = value["default"]
    if default is None or isinstance(default, dict):
        return ""
    return f"`{json.dumps(default)}`"


def _escape(text: str) -> str:
    return text.replace("|", r"\|")
