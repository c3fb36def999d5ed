"""Table 3: the same question on several corpora, each with its own raters. A part for each corpus is an experiment of its own.

So a killed run goes on in the middle of a part, and a part can be shown, or run again, alone.
"""

import re
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, model_validator

from alchemist_core.config import Words
from alchemist_core.errors import ConfigError
from alchemist_core.experiments.arms import QUESTIONS
from alchemist_core.experiments.figures import draw_arms
from alchemist_core.experiments.results import HEAD, RANDOM, ArmRow, cells, compare_cells, show
from alchemist_core.experiments.running import RunConfig
from alchemist_core.experiments.text_sheet import TextSheet
from alchemist_core.experiments.trial import Cell

NAME: Literal["datasets"] = "datasets"
DRAWN = "scenes"
OWN = ("dataset", "validation", "evaluation", "truth", "rater", "scenes")
UNSAFE = re.compile(r"[^A-Za-z0-9.]+")


class DatasetsConfig(RunConfig):
    """Which corpora are compared, and how each is."""

    experiment: Literal["datasets"] = Field(NAME, description="The question: Table 3")
    corpora: Words = Field(
        (DRAWN, f"{DRAWN}:n_train=6000+n_validation=3000"), min_length=1,
        description="Corpora, comma between them: DATASET/VALIDATION/EVALUATION by name, {seed} standing for the seed; or scenes, "
        "which are drawn, scenes:FIELD=VALUE+FIELD=VALUE with fields that differ",
    )  # fmt: skip

    @model_validator(mode="after")
    def _corpora_say_it_all(self) -> "DatasetsConfig":
        if given := [name for name in OWN if getattr(self, name)]:
            message = f"{', '.join(given)}: name what belongs to a corpus in --corpora"
            raise ValueError(message)
        return self

    def parts(self) -> dict[str, RunConfig]:
        """Return the experiment of each corpus, by the corpus.

        Raises:
            ConfigError: A word names no corpus, or two words name one.
        """
        given = self.model_dump(exclude={"corpora", "name", *OWN})
        parts = {
            word: RunConfig.model_validate({**given, **parse_corpus(word), "name": part_name(self.title, word)})
            for word in self.corpora
        }
        if len({part.name for part in parts.values()}) < len(self.corpora):
            raise ConfigError(f"--corpora {','.join(self.corpora)}: two of them are one corpus.")
        return parts

    @property
    def title(self) -> str:
        """The name of the result."""
        return self.name or NAME


def parse_corpus(word: str) -> dict[str, Any]:
    """Read what a word says of a corpus.

    >>> parse_corpus("web/good/test")["evaluation"]
    'test'
    >>> parse_corpus("scenes:n_train=600+side=32")
    {'scenes': ('n_train=600', 'side=32')}
    """
    kind, _, fields = word.partition(":")
    if kind == DRAWN:
        return {"scenes": tuple(field for field in fields.split("+") if field)}
    names = word.split("/")
    if len(names) != 3 or not all(names):
        raise ConfigError(f"--corpora {word}: give DATASET/VALIDATION/EVALUATION, or {DRAWN}:FIELD=VALUE+FIELD=VALUE.")
    return dict(zip(("dataset", "validation", "evaluation"), names, strict=True))


def part_name(title: str, word: str) -> str:
    """Name a corpus's own experiment.

    >>> part_name("table3", "scenes:n_train=600")
    'table3-scenes-n-train-600'
    """
    return f"{title}-{UNSAFE.sub('-', word).strip('-')}"[:80]


def make_datasets_sheet(parts: Mapping[str, dict[str, Any]]) -> TextSheet:
    """Lay the parts' results out as one table, the corpus first; equal results give equal sheets.

    Args:
        parts: Each corpus's result, as its experiment stores it.
    """
    title, lines, figures = QUESTIONS[NAME].title, [], {}
    notes = [title]
    for corpus, result in parts.items():
        rows = compare_cells([Cell(**cell) for cell in result["cells"]])
        lines += [(corpus, *cells(row)) for row in rows]
        for retention in dict.fromkeys(row.retention for row in rows):
            here = [row for row in rows if row.retention == retention]
            name = f"{corpus}, {retention:.0%} kept"
            figures[f"{UNSAFE.sub('-', corpus).strip('-')}-r{retention * 100:g}"] = name, draw_arms(here, name)
            notes.append(f"{name}: {_best(here)}")
    return TextSheet(notes, ("corpus", *HEAD), lines, figures)


def _best(rows: list[ArmRow]) -> str:
    """Name the arm of the subset's size that gains most."""
    of_size = [row for row in rows if row.gain is not None and row.arm != "full"]
    if not of_size:
        return f"no arm beside {RANDOM}."
    best = max(of_size, key=lambda row: row.gain.mean if row.gain else 0.0)
    return f"{best.arm} gains {show(best.gain)} nats a token over {RANDOM}."
