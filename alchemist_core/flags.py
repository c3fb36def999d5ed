"""Flags from config models: each field becomes one typed flag, and a value that breaks a bound gets that flag's own text."""

import argparse
import types
import typing
from collections.abc import Iterator
from enum import Enum
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from alchemist_core.config import BARE_WORD, NO_FLAG, bounds_of


def flag_fields(model: type[BaseModel], prefix: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], FieldInfo]]:
    """Yield every field of a config model, nested models flattened: the last part of the path names the flag."""
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from flag_fields(field.annotation, (*prefix, name))
        elif field.json_schema_extra != NO_FLAG:
            yield (*prefix, name), field


def usage_of(model: type[BaseModel]) -> str:
    """Return a command's usage in one line: what must be given, and that there is more."""
    named = [(flag_of(path[-1], field), path[-1].upper(), field.is_required()) for path, field in flag_fields(model)]
    bare = [flag if is_required else f"[{flag}]" for flag, word, is_required in named if flag == word]
    flags = [f"{flag} {word}" for flag, word, is_required in named if is_required and flag != word]
    rest = "..." if any(_flag_type(field.annotation)[0] is list for _, field in flag_fields(model)) else "[flags]"
    return " ".join(["%(prog)s", *bare, *flags, rest])


def add_flag(parser: argparse.ArgumentParser, path: tuple[str, ...], field: FieldInfo) -> None:
    """Add the flag of one field, or its bare word."""
    kind, choices = _flag_type(field.annotation)
    options: dict[str, Any] = {
        "dest": ".".join(path), "default": argparse.SUPPRESS, "help": describe(path[-1], field).replace("%", "%%"),
    }  # fmt: skip
    if kind is list:
        # What another program is given, unchanged.
        parser.add_argument(path[-1], nargs=argparse.REMAINDER, metavar="...", help=options["help"])
    elif field.json_schema_extra == BARE_WORD:
        # One that may be left out stays out of the options: its default is the config model's.
        word = options | {"metavar": flag_of(path[-1], field), "nargs": None if field.is_required() else "?"}
        parser.add_argument(path[-1], **{name: value for name, value in word.items() if name != "dest"})
    elif kind is bool:
        parser.add_argument(flag_of(path[-1], field), action=argparse.BooleanOptionalAction, **options)
    else:
        metavar = None if choices else path[-1].strip("_").upper()
        parser.add_argument(flag_of(path[-1], field), choices=choices, metavar=metavar, **options)


def flag_of(name: str, field: FieldInfo) -> str:
    """Return what a user types for a field, or the word that help shows where its value stands bare.

    >>> flag_of("n_steps", FieldInfo(annotation=int))
    '--n-steps'
    """
    if field.json_schema_extra == BARE_WORD:
        return name.upper()
    # A field may not be called as Python's own words are: `from_` is the flag --from.
    return "--" + name.rstrip("_").replace("_", "-")


def describe(name: str, field: FieldInfo) -> str:
    """Return a field's text with its bounds and its default."""
    default = "required" if field.is_required() else f"default: {_plain(field.get_default(call_default_factory=True))}"
    bounds = bounds_of(field)
    return f"{field.description or name} ({bounds + '; ' if bounds else ''}{default})"


def _plain(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return ", ".join(map(str, value)) or "none"
    return "none" if value is None else str(value)


def _flag_type(annotation: Any) -> tuple[Any, list[str] | None]:
    """Return how a field is read from the command line; pydantic does the parsing and the bounds."""
    if get_origin(annotation) in (typing.Union, types.UnionType):
        annotation = next(part for part in get_args(annotation) if part is not type(None))
    if get_origin(annotation) is Literal:
        return str, [str(choice) for choice in get_args(annotation)]
    if isinstance(annotation, type) and issubclass(annotation, Enum):
        return str, [str(choice.value) for choice in annotation]
    if get_origin(annotation) is list:
        return list, None
    return annotation, None


def explain(model: type[BaseModel], error: ValidationError) -> str:
    """Say of each refused value what is wrong with it, and what its flag is for."""
    fields = {path[-1]: field for path, field in flag_fields(model)}
    return "\n".join(line for fault in error.errors() for line in _explain_fault(fields, fault))


def _explain_fault(fields: dict[str, FieldInfo], fault: ErrorDetails) -> Iterator[str]:
    if fault["type"] == "missing":
        said = "is required"
    else:
        wrong = "not of the form that is needed" if fault["type"] == "string_pattern_mismatch" else fault["msg"]
        given = "" if isinstance(fault["input"], dict) else f" (given: {fault['input']!r})"
        said = wrong.removeprefix("Value error, ") + given
    # The place may end in a position within a list, or be a whole model's.
    name = next((str(part) for part in reversed(fault["loc"]) if part in fields), None)
    if name is None:
        yield said
    else:
        yield f"{flag_of(name, fields[name])}: {said}"
        yield f"    {describe(name, fields[name])}"
