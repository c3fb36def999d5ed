"""Finds the class of a scorer: a built-in one, one that an installed package adds, or one by its address.

A package adds a scorer by an entry point in the group `alchemist.scorers`: its name is the scorer's, its value the class.
"""

import importlib
from importlib.metadata import entry_points

from alchemist_core.errors import ConfigError
from alchemist_core.scorers.scorer import Scorer

ENTRY_POINTS = "alchemist.scorers"
BUILT_IN = {
    "aesthetic": "alchemist_core.scorers.aesthetic:AestheticScore",
    "captions": "alchemist_core.scorers.captions:CaptionStatistics",
    "classifier": "alchemist_core.scorers.classifier:Classifier",
    "clip": "alchemist_core.scorers.clip:ClipScore",
    "critic": "alchemist_core.scorers.critic:CriticScore",
    "density": "alchemist_core.scorers.density:DensityScore",
    "pixels": "alchemist_core.scorers.pixels:PixelHeuristics",
    "siglip": "alchemist_core.scorers.clip:SiglipScore",
    "vlm": "alchemist_core.scorers.vlm:VisionLanguageModel",
}
"""Modules and classes by name; a module is imported when its scorer is used."""


def scorer_names() -> list[str]:
    """Return the names of the built-in scorers and of those that installed packages add."""
    return sorted({*BUILT_IN, *(point.name for point in entry_points(group=ENTRY_POINTS))})


def find_scorer(use: str) -> type[Scorer]:
    """Return the class of a scorer.

    Args:
        use: Name of a built-in or installed scorer, or `module:Class`.

    Raises:
        ConfigError: There is none, or it cannot be imported, or it is not a scorer.
    """
    found = _import(BUILT_IN.get(use, use)) if ":" in BUILT_IN.get(use, use) else _load_added(use)
    if not (isinstance(found, type) and issubclass(found, Scorer)):
        raise ConfigError(f"{use} is not a scorer: {found!r} is no subclass of alchemist_core.scorers.Scorer.")
    return found


def _import(address: str) -> object:
    module, _, name = address.partition(":")
    try:
        return getattr(importlib.import_module(module), name)
    except Exception as error:  # a module's code may raise anything
        raise ConfigError(
            f"The scorer {address} cannot be imported: {error}. Write module:Class, and install its package in this environment."
        ) from error


def _load_added(use: str) -> object:
    point = next((point for point in entry_points(group=ENTRY_POINTS) if point.name == use), None)
    if point is None:
        known = ", ".join(scorer_names()) or "none"
        raise ConfigError(f"There is no scorer {use!r}. Built in and installed: {known}; or write module:Class.")
    try:
        return point.load()
    except Exception as error:
        raise ConfigError(
            f"The scorer {use} ({point.value}) cannot be loaded: {error}. Repair or remove its package."
        ) from error
