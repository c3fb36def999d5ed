"""The environment variables of this installation: whether they are set, their values and meanings; secrets are hidden."""

import os

from pydantic import BaseModel

from alchemist_core.config import Command, Config, Result
from alchemist_core.settings import VARIABLES, load_settings

HIDDEN = "(hidden)"


class SettingsConfig(Config):
    """No options."""


class Variable(BaseModel):
    """An environment variable."""

    is_set: bool
    value: str | None
    """The effective value: of the variable, else the default; hidden if it is a secret."""
    meaning: str


class SettingsResult(Result):
    """The variables by name."""

    variables: dict[str, Variable]

    def summary(self) -> str:
        """Return two lines for each variable: its value, then its meaning."""
        lines = []
        for name, variable in self.variables.items():
            value = "none" if variable.value is None else variable.value
            lines += [f"{name} = {value} ({'set' if variable.is_set else 'default'})", f"    {variable.meaning}"]
        return "\n".join(lines)


def show(_config: SettingsConfig) -> SettingsResult:
    """List every environment variable with its value, whether it is set, and its meaning."""
    settings = load_settings()
    found = {}
    for name, about in VARIABLES.items():
        value = os.environ.get(name) if about.field is None else getattr(settings, about.field)
        is_shown = not about.is_secret or value is None
        shown = (None if value is None else str(value)) if is_shown else HIDDEN
        is_set = name in os.environ or f"{name}_FILE" in os.environ
        found[name] = Variable(is_set=is_set, value=shown, meaning=about.full_text)
    return SettingsResult(variables=found)


COMMANDS = {"": Command(SettingsConfig, show)}
