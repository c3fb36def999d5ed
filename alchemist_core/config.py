"""Config says *what* a stage does: one frozen pydantic model a stage, the single source of flags, form, JSON and hash.

Where things are is never here: that is `settings`.
"""

import hashlib
import json
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict


def _split(value: Any) -> Any:
    return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value


# For a field that its owner sets: it becomes neither a flag nor an entry of a form.
NO_FLAG: dict[str, Any] = {"is_flag": False}
# For what a verb is about: it stands behind the verb as a bare word, `alchemist subset show NAME`.
BARE_WORD: dict[str, Any] = {"is_bare_word": True}

Words = Annotated[tuple[str, ...], BeforeValidator(_split)]
Integers = Annotated[tuple[int, ...], BeforeValidator(_split)]


class Config(BaseModel):
    """Root of every config model: frozen, unknown keys refused, defaults validated."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)

    def as_json(self) -> dict[str, Any]:
        """Return what `runs.config` stores."""
        return self.model_dump(mode="json")

    def fingerprint(self) -> str:
        """Return the config hash: sha256 over canonical JSON, the first 16 hex digits.

        >>> Config().fingerprint() == Config().fingerprint()
        True
        """
        return fingerprint(self.as_json())


class Report(BaseModel):
    """What a stage says when it ends: `--json` prints it as the last line, `runs.report` keeps it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    def summary(self) -> str:
        """Return the report as lines for a person."""
        return "\n".join(f"{name.replace('_', ' ')}: {_plain(value)}" for name, value in self if value is not None)


def _plain(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {item}" for key, item in value.items()) or "none"
    if isinstance(value, (list, tuple)):
        return ", ".join(str(item) for item in value) or "none"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def fingerprint(value: object) -> str:
    """Hash any JSON value canonically: sorted keys, no spaces, 16 hex digits of sha256.

    >>> fingerprint({"b": 1, "a": 2}) == fingerprint({"a": 2, "b": 1})
    True
    """
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
