"""Config models: what a command does. One frozen pydantic model gives its options, form, stored JSON and hash.

Paths, addresses and credentials are never here: they are `settings`.
"""

import hashlib
import json
import os
import re
import textwrap
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Annotated, Any, NamedTuple, Self, get_args

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator
from pydantic.fields import FieldInfo


def split_commas(value: Any) -> Any:
    """Split a text of values separated by commas; a list, as in the project file, becomes a tuple.

    >>> split_commas("0.2, 0.5,")
    ('0.2', '0.5')
    """
    if isinstance(value, str):
        return tuple(part.strip() for part in value.split(",") if part.strip())
    return tuple(value) if isinstance(value, list) else value


def refuse_repeats(seeds: tuple[int, ...]) -> tuple[int, ...]:
    """Return the seeds; refuse repeated ones, which would count twice in every interval.

    >>> refuse_repeats((3, 4))
    (3, 4)
    """
    repeated = sorted({seed for seed in seeds if seeds.count(seed) > 1})
    if repeated:
        raise ValueError(f"{', '.join(map(str, repeated))} is repeated. Give each seed once")
    return seeds


# Marks a field that only code sets: it is neither an option nor a form field.
NO_FLAG: dict[str, Any] = {"is_flag": False}
# Marks the subject of a command, which is a positional argument: `alchemist subset show NAME`.
BARE_WORD: dict[str, Any] = {"is_bare_word": True}


def ratio_of(given: object) -> float | None:
    """Return the ratio that a percentage stands for; None if it is not text with a percentage.

    >>> ratio_of("20%"), ratio_of("0.2"), ratio_of("many%")
    (0.2, None, None)
    """
    text = given.strip() if isinstance(given, str) else ""
    try:
        return float(text[:-1]) / 100 if text.endswith("%") else None
    except ValueError:
        return None


def read_ratio(given: object) -> object:
    """Return the ratio that a percentage stands for, and anything else as it is, which its field then checks.

    >>> read_ratio("20%"), read_ratio(0.2)
    (0.2, 0.2)
    """
    ratio = ratio_of(given)
    return given if ratio is None else ratio


def or_word(word: str) -> dict[str, Any]:
    """Mark a number field that takes a word as well; a validator of its model reads the word before the field is checked."""
    return {"or_word": word}


Words = Annotated[tuple[str, ...], BeforeValidator(split_commas)]
Seeds = Annotated[tuple[int, ...], BeforeValidator(split_commas), AfterValidator(refuse_repeats)]


@dataclass(frozen=True, slots=True)
class Formerly:
    """Former name of a field and former words of its values, as in databases and hashes from before the rename.

    It is part of the field's annotation. Hashes are computed from the former names, so that a rename changes no hash; the
    command line and `Config` refuse them with the current ones.
    """

    name: str | None = None
    values: Mapping[str, str] = field(default_factory=dict)
    """The former word of each renamed value."""


@dataclass(frozen=True, slots=True)
class Located:
    """Marks text that may name a file or a folder, so that a relative path in the project file starts at that file's folder.

    It is part of the field's annotation. A field of type Path needs no mark.
    """

    prefix: str = ""
    """Only text with this prefix names one, after the prefix, such as clip:FOLDER."""
    suffix: str = ""
    """Only text with this suffix names one, such as .toml."""
    is_or_name: bool = False
    """Whether it may also be a name of a hub: it is a path only if it begins with a dot or exists."""

    def anchor(self, text: str, folder: Path) -> str:
        """Return the text with an absolute path; other text, such as hf:REPO/FILE, is returned unchanged.

        >>> Located(prefix="clip:", is_or_name=True).anchor("clip:./sd21", Path("/project"))
        'clip:/project/sd21'
        """
        name = text.removeprefix(self.prefix)
        is_path = text.startswith(self.prefix) and text.endswith(self.suffix) and not re.match(r"[a-z0-9]+:", name)
        if self.is_or_name:
            is_path = is_path and (name.startswith(".") or (folder / name).exists())
        return self.prefix + os.path.normpath(folder / name) if is_path else text


def mark_of(declared: FieldInfo) -> Located | None:
    """Return how the text of a field names a file, if it does; a field of type Path always does."""
    kinds = (declared.annotation, *get_args(declared.annotation))
    marks = [*declared.metadata, *(mark for kind in kinds for mark in getattr(kind, "__metadata__", ()))]
    return next((mark for mark in marks if isinstance(mark, Located)), Located() if Path in kinds else None)


@cache
def former_fields(model: type[BaseModel]) -> dict[str, Formerly]:
    """Return the renamed fields of a model by their current names."""
    return {
        name: mark
        for name, declared in model.model_fields.items()
        for mark in declared.metadata
        if isinstance(mark, Formerly)
    }


def former_names(model: type[BaseModel], values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the JSON of a config with former names, from which its hash is computed; former names are kept.

    >>> class Job(Config):
    ...     compile: Annotated[bool, Formerly("is_compiled")] = False
    >>> former_names(Job, {"compile": True, "note": 1})
    {'is_compiled': True, 'note': 1}
    """
    renamed = {}
    for name, value in values.items():
        mark = former_fields(model).get(name, Formerly())
        inner = _translate_inner(model, name, value, former_names)
        renamed[mark.name or name] = mark.values.get(inner, inner) if isinstance(inner, str) else inner
    return renamed


def current_names(model: type[BaseModel], values: Mapping[str, Any]) -> dict[str, Any]:
    """Return stored JSON of a config with current names; current names are kept.

    >>> class Job(Config):
    ...     dedup: Annotated[str, Formerly("duplicates", {"off": "keep"})] = "off"
    >>> current_names(Job, {"duplicates": "keep"})
    {'dedup': 'off'}
    """
    present = {mark.name or name: (name, mark) for name, mark in former_fields(model).items()}
    renamed = {}
    for key, value in values.items():
        name, mark = present.get(key, (key, Formerly()))
        words = {former: word for word, former in mark.values.items()}
        inner = _translate_inner(model, name, value, current_names)
        renamed[name] = words.get(inner, inner) if isinstance(inner, str) else inner
    return renamed


def _translate_inner(
    model: type[BaseModel], name: str, value: Any, translate: Callable[[type[BaseModel], Mapping[str, Any]], Any]
) -> Any:
    """Translate the value of a nested model; return any other value unchanged."""
    declared = model.model_fields.get(name)
    kinds = () if declared is None else (declared.annotation, *get_args(declared.annotation))
    inner = next((kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)), None)
    return value if inner is None or not isinstance(value, Mapping) else translate(inner, value)


def rename_words(
    model: type[BaseModel], words: Iterable[str], translate: Callable[[type[BaseModel], Mapping[str, Any]], Any]
) -> list[str]:
    """Translate the names in words such as name=value, by `former_names` or `current_names`.

    >>> class Job(Config):
    ...     compile: Annotated[bool, Formerly("is_compiled")] = False
    >>> rename_words(Job, ["compile=true"], former_names)
    ['is_compiled=true']
    """
    return [
        f"{name}{equals}{value}"
        for word in words
        for given, equals, text in [word.partition("=")]
        for name, value in translate(model, {given: text}).items()
    ]


LINE_LENGTH = 80
"""Width of a default terminal, in characters."""


def later_field(default: Any, **declared: Any) -> Any:
    """Declare a field that is omitted from JSON at its default, so that what was stored before the field existed keeps its identity."""
    return Field(default, exclude_if=lambda value: value == default, **declared)


class Config(BaseModel):
    """Base of every config model: frozen, refuses unknown keys, validates defaults."""

    # Validators are built at the first value: a command uses few of the models that it imports.
    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, defer_build=True)

    @model_validator(mode="before")
    @classmethod
    def _refuse_former_names(cls, values: Any) -> Any:
        for name, mark in former_fields(cls).items():
            if isinstance(values, Mapping) and mark.name in values:
                message = f"{mark.name} is now {name}"
                raise ValueError(message)
        return values

    @classmethod
    def from_stored(cls, values: Mapping[str, Any]) -> Self:
        """Read stored JSON, whose fields may have their former names."""
        return cls.model_validate(current_names(cls, values))

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """Return a copy with some fields changed.

        Raises:
            KeyError: There is no field of that name: pydantic would store the value without using it.
        """
        if unknown := sorted((update or {}).keys() - type(self).model_fields.keys()):
            message = f"{type(self).__name__} has no field {', '.join(unknown)}"
            raise KeyError(message)
        return super().model_copy(update=update, deep=deep)

    def as_json(self) -> dict[str, Any]:
        """Return the JSON that `runs.config` stores."""
        return self.model_dump(mode="json")

    def hashed_json(self) -> dict[str, Any]:
        """Return the JSON that hashes are computed from: `as_json` with the former names of renamed fields."""
        return former_names(type(self), self.as_json())

    def fingerprint(self) -> str:
        """Return the config hash: sha256 over canonical JSON, the first 16 hex digits.

        >>> Config().fingerprint() == Config().fingerprint()
        True
        """
        return fingerprint(self.hashed_json())


class Section(Config):
    """Base of every section of the project file with limits: refuses a string or a boolean where a number is required."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, strict=True, defer_build=True)


class Result(BaseModel):
    """Result of a command: `--json` prints it as the last line, `runs.result` stores it.

    >>> class Scored(Result):
    ...     n_shards: int
    ...     is_new: bool
    ...     warnings: list[str]
    >>> print(Scored(n_shards=1200, is_new=True, warnings=["One is late.", "One is damaged."]).summary())
    shards:   1,200
    new:      yes
    warnings: One is late.
              One is damaged.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    @property
    def exit_code(self) -> int:
        """Exit code of the command; 0 unless the result itself is bad news."""
        return 0

    def summary(self) -> str:
        """Return the result as lines of text: names in one column, values in the next."""
        return lay_out({_label(name): value for name, value in self if value is not None})


def lay_out(fields: Mapping[str, object]) -> str:
    """Return named values as lines: names in one column, values in the next, long values on several lines."""
    width = max(map(len, fields), default=0) + 2
    return "\n".join(
        line
        for label, value in fields.items()
        for line in _indent(f"{label}:".ljust(width), _lines(value, LINE_LENGTH - width))
    )


def _label(name: str) -> str:
    # n_ marks counts and is_ marks booleans in the code.
    return name.removeprefix("n_").removeprefix("is_").replace("_", " ")


def _indent(label: str, lines: list[str]) -> list[str]:
    return [(" " * len(label) if number else label) + line for number, line in enumerate(lines)]


def _lines(value: object, width: int) -> list[str]:
    """Return a list on one line, or an item per line if items are sentences or the line would be too long."""
    if isinstance(value, dict):
        texts = {str(key): _on_one_line(item) for key, item in value.items()}
        line = _on_one_line(value)
        key_width = max(map(len, texts), default=0)
        return [line or "none"] if len(line) <= width else [f"{key:<{key_width}} {text}" for key, text in texts.items()]
    if isinstance(value, (list, tuple)):
        texts_of_items = [_on_one_line(item) for item in value]
        has_sentences = any(" " in text for text in texts_of_items)
        return (
            texts_of_items
            if has_sentences
            else textwrap.wrap(", ".join(texts_of_items), width, break_long_words=False, break_on_hyphens=False)
            or ["none"]
        )
    return _plain(value).splitlines() or [""]


def _on_one_line(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_on_one_line(item)}" for key, item in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(map(_on_one_line, value)) or "none"
    return _plain(value)


def _plain(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, datetime):
        return f"{value.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"
    return f"{value:.6g}" if isinstance(value, float) else "none" if value is None else str(value)


def counted(n: int, noun: str) -> str:
    """Return a number with its noun, which takes an s unless the number is 1.

    >>> counted(1, "night"), counted(1200, "sample")
    ('1 night', '1,200 samples')
    """
    return f"{n:,} {noun}{'' if n == 1 else 's'}"


BOUNDS = {"gt": "above", "ge": "at least", "lt": "below", "le": "at most"}


def bounds_of(field: FieldInfo) -> str:
    """Return the bounds of a field in words.

    >>> from pydantic import Field
    >>> bounds_of(Field(0.5, gt=0, le=1))
    'above 0, at most 1'
    """
    rules = [
        (words, getattr(rule, name)) for rule in field.metadata for name, words in BOUNDS.items() if hasattr(rule, name)
    ]
    return ", ".join(f"{words} {value}" for words, value in rules)


def fingerprint(value: object) -> str:
    """Hash any JSON value canonically: sorted keys, no spaces, 16 hex digits of sha256.

    >>> fingerprint({"b": 1, "a": 2}) == fingerprint({"a": 2, "b": 1})
    True
    """
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


WITHOUT_DRY_RUN = "the same command without --dry-run"
"""A next step for which the command line prints the command itself, with the options that were given."""


class Command(NamedTuple):
    """A command: its config model and its function."""

    config: type[Config]
    run: Callable[..., Result | Any | None]
    next_step: Callable[[Any, Any], str | None] = lambda _config, _report: None
    """The next command, by its config and its result; None if there is none."""
