"""The options of a command: one for each field of its config model, typed, bounded and described there."""

import argparse
import types
import typing
from collections.abc import Iterator, Mapping
from enum import Enum
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from alchemist_core.config import BARE_WORD, NO_FLAG, bounds_of


def flag_fields(model: type[BaseModel], prefix: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], FieldInfo]]:
    """Yield every field of a config model, nested models flattened: the last part of the path names the option."""
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from flag_fields(field.annotation, (*prefix, name))
        elif field.json_schema_extra != NO_FLAG:
            yield (*prefix, name), field


def usage_of(model: type[BaseModel]) -> str:
    """Return the usage of a command in one line: its required arguments, and whether it has more options."""
    named = [(flag_of(path[-1], field), path[-1].upper(), field.is_required()) for path, field in flag_fields(model)]
    bare = [flag if is_required else f"[{flag}]" for flag, word, is_required in named if flag == word]
    flags = [f"{flag} {word}" for flag, word, is_required in named if is_required and flag != word]
    rest = "..." if any(_flag_type(field.annotation)[0] is list for _, field in flag_fields(model)) else "[options]"
    return " ".join(["%(prog)s", *bare, *flags, rest])


def add_flag(parser: argparse.ArgumentParser, path: tuple[str, ...], field: FieldInfo) -> None:
    """Add the option of one field, or its positional argument."""
    kind, choices = _flag_type(field.annotation)
    options: dict[str, Any] = {
        "dest": ".".join(path), "default": argparse.SUPPRESS, "help": describe(path[-1], field).replace("%", "%%"),
    }  # fmt: skip
    if kind is list:
        # Arguments of another program, passed on unchanged.
        parser.add_argument(path[-1], nargs=argparse.REMAINDER, metavar="...", help=options["help"])
    elif field.json_schema_extra == BARE_WORD:
        # An optional one must not set a value: its default comes from the config model.
        several = get_origin(field.annotation) is tuple
        n_words = "+" if several else None if field.is_required() else "?"
        word = options | {"metavar": flag_of(path[-1], field), "nargs": n_words}
        parser.add_argument(path[-1], **{name: value for name, value in word.items() if name != "dest"})
    elif kind is bool:
        parser.add_argument(flag_of(path[-1], field), action=argparse.BooleanOptionalAction, **options)
    else:
        metavar = None if choices else path[-1].strip("_").upper()
        parser.add_argument(flag_of(path[-1], field), choices=choices, metavar=metavar, **options)


def flag_of(name: str, field: FieldInfo) -> str:
    """Return the option of a field, or the word that help shows where it is a positional argument.

    >>> flag_of("max_train_steps", FieldInfo(annotation=int))
    '--max-train-steps'
    """
    if field.json_schema_extra == BARE_WORD:
        return name.upper()
    # A field cannot have the name of a Python keyword: `from_` is the option --from.
    return "--" + name.rstrip("_").replace("_", "-")


def describe(name: str, field: FieldInfo) -> str:
    """Return the description of a field with its bounds and its default, which the description may explain itself.

    >>> describe("n", FieldInfo(annotation=int, default=None, description="Seeds; none: all of them"))
    'Seeds; default: all of them'
    """
    text = (field.description or name).replace("; none: ", "; default: ")
    remarks = [bounds_of(field)]
    if field.is_required():
        remarks.append("required")
    elif "default: " not in text:
        remarks.append(f"default: {_plain(field.get_default(call_default_factory=True))}")
    remark = "; ".join(filter(None, remarks))
    return f"{text} ({remark})" if remark else text


def _plain(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return ", ".join(map(str, value)) or "none"
    return "none" if value is None else str(value)


def _flag_type(annotation: Any) -> tuple[Any, list[str] | None]:
    """Return how a field is read from the command line; pydantic parses the value and checks its bounds."""
    if get_origin(annotation) in (typing.Union, types.UnionType):
        annotation = next(part for part in get_args(annotation) if part is not type(None))
    if get_origin(annotation) is Literal:
        return str, [str(choice) for choice in get_args(annotation)]
    if isinstance(annotation, type) and issubclass(annotation, Enum):
        return str, [str(choice.value) for choice in annotation]
    if get_origin(annotation) is list:
        return list, None
    return annotation, None


def explain(model: type[BaseModel], error: ValidationError, places: Mapping[str, str]) -> str:
    """Describe what is wrong with each refused value, and what its option does: a line for each value.

    Args:
        model: The config model.
        error: Its error.
        places: Where the project file can give the value of a field, by the field's name.
    """
    fields = {path[-1]: field for path, field in flag_fields(model)}
    return "\n".join(_explain_fault(fields, fault, places) for fault in error.errors())


def _explain_fault(fields: dict[str, FieldInfo], fault: ErrorDetails, places: Mapping[str, str]) -> str:
    # The location may end in an index within a list, or be that of a whole model.
    name = next((str(part) for part in reversed(fault["loc"]) if part in fields), None)
    wrong = fault["msg"].removeprefix("Value error, ").rstrip(".")
    if fault["type"] == "string_pattern_mismatch":
        wrong = "It does not have the required format"
    if name is None:
        return f"{wrong[:1].upper()}{wrong[1:]}."
    option, text = flag_of(name, fields[name]), describe(name, fields[name])
    if fault["type"] == "missing":
        or_file = f", here or as {places[name]} of alchemist.toml" if name in places else ""
        return f"{option} is required{or_file}. Help: {text}."
    given = "" if isinstance(fault["input"], dict) else f" {fault['input']!r}"
    return f"{option}{given} is not valid: {wrong}. Help: {text}."
