"""Writes docs/recipe.md from the recipe's schema: `python -m sluice.reference > docs/recipe.md`."""

import inspect
import types
import typing
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from schemas.recipe import Recipe

HEAD = """# The recipe

A recipe is one YAML file. Unknown keys, wrong types and impossible values stop a run before any work, with file, line
and key. This page is generated from the schema (`make docs`); `sluice recipe schema` prints the same as JSON Schema.

Any key can be changed on the command line: `--set filter.language_score=0.5`,
`--set pretrain.stages.s1-general.tokens=1e6` (items of a list go by their `name` or position).
"""


def reference() -> str:
    """The page as Markdown: one table per section, in the order in which the recipe names them."""
    parts = [HEAD]
    seen: set[type[BaseModel]] = set()

    def section(model: type[BaseModel], title: str) -> None:
        seen.add(model)
        parts.append(f"\n## {title}\n\n{inspect.getdoc(model)}\n")
        parts.append("| key | type | default | meaning |\n|---|---|---|---|")
        below: list[tuple[type[BaseModel], str]] = []
        for name, field in model.model_fields.items():
            parts.append(f"| `{name}` | {_type(field)} | {_default(field)} | {field.description or ''} |")
            prefix = "" if title == "Top level" else title + "."
            below += [(found, f"{prefix}{name}") for found in _models(field.annotation) if found not in seen]
        for found, name in below:
            if found not in seen:
                section(found, name)

    section(Recipe, "Top level")
    return "\n".join(parts) + "\n"


def _models(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for argument in typing.get_args(annotation) for model in _models(argument)]


def _name(annotation: Any) -> str:
    arguments = typing.get_args(annotation)
    origin = typing.get_origin(annotation)
    if origin is typing.Literal:
        return ", ".join(f"`{value}`" for value in arguments)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(_name(argument) for argument in arguments if argument is not type(None))
    if origin is typing.Annotated:
        return _name(arguments[0])
    if origin is list:
        return f"list of {_name(arguments[0])}"
    if origin is dict:
        return f"mapping of {_name(arguments[0])} to {_name(arguments[1])}"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return "section"
    return {"str": "text", "int": "integer", "float": "number", "bool": "true or false"}.get(
        annotation.__name__, annotation.__name__
    )


def _type(field: FieldInfo) -> str:
    bounds = []
    for constraint in field.metadata:
        for sign, name in ((">=", "ge"), (">", "gt"), ("<=", "le"), ("<", "lt")):
            value = getattr(constraint, name, None)
            if value is not None:
                bounds.append(f"{sign} {value:,}")
    return ", ".join([_name(field.annotation), *bounds])


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    if value is PydanticUndefined or value is None or value in ({}, []):
        return "–"
    if isinstance(value, BaseModel):
        return "see below"
    if isinstance(value, dict):
        shown = {
            key: item.model_dump(exclude_none=True) if isinstance(item, BaseModel) else item
            for key, item in value.items()
        }
        return "; ".join(f"`{key}: {_flow(item)}`" for key, item in shown.items())
    return f"`{_flow(value)}`"


def _flow(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {item}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(str(item) for item in value) + "]"
    return str(value).lower() if isinstance(value, bool) else str(value)


if __name__ == "__main__":
    print(reference(), end="")
