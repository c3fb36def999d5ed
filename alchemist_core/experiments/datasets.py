"""Table 3: one question on several corpora, each with its own raters. Each corpus is a part, an experiment of its own.

A killed run therefore resumes in the middle of a part, and a part can be shown or run again alone.
"""

import re
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, model_validator

from alchemist_core.config import Words
from alchemist_core.errors import ConfigError
from alchemist_core.experiments.arms import QUESTIONS
from alchemist_core.experiments.results import FULL, HEAD, RANDOM, ArmRow, cells_of_row, compare_cells, is_oracle, show
from alchemist_core.experiments.running import RunConfig
from alchemist_core.experiments.sheets import Sheet, by_length, describe_left_out, draw_arms
from alchemist_core.experiments.trial import Cell
from alchemist_core.report.arm_names import arm_title
from alchemist_core.statistics import Estimate

NAME: Literal["datasets"] = "datasets"
DRAWN = "scenes"
OWN = ("dataset", "validation", "evaluation", "truth", "rater", "scenes")
UNSAFE = re.compile(r"[^A-Za-z0-9.]+")


class DatasetsConfig(RunConfig):
    """Which corpora are compared; the other fields apply to each."""

    experiment: Literal["datasets"] = Field(NAME, description="The question: Table 3")
    corpora: Words = Field(
        (DRAWN, f"{DRAWN}:n_train=6000+n_validation=3000"), min_length=1,
        description="Corpora, separated by commas: DATASET/VALIDATION/EVALUATION by name ({seed} is replaced by the seed), or scenes for "
        "the synthetic corpus; scenes:FIELD=VALUE+FIELD=VALUE changes its fields",
    )  # fmt: skip

    @model_validator(mode="after")
    def _refuse_fields_of_a_corpus(self) -> "DatasetsConfig":
        if given := [name for name in OWN if getattr(self, name)]:
            message = f"{', '.join(given)} cannot be set beside --corpora: name the datasets of each corpus there"
            raise ValueError(message)
        return self

    def parts(self) -> dict[str, RunConfig]:
        """Return the experiment of each corpus, by the corpus.

        Raises:
            ConfigError: A word is not a corpus, or two words name the same corpus.
        """
        given = self.model_dump(exclude={"corpora", "name", *OWN})
        parts = {
            word: RunConfig.model_validate({**given, **parse_corpus(word), "name": part_name(self.title, word)})
            for word in self.corpora
        }
        if len({part.name for part in parts.values()}) < len(self.corpora):
            raise ConfigError(f"--corpora {','.join(self.corpora)} names one corpus twice: give each corpus once.")
        return parts

    @property
    def title(self) -> str:
        """The name of the result."""
        return self.name or NAME


def parse_corpus(word: str) -> dict[str, Any]:
    """Return the config fields that a word of --corpora sets.

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
        raise ConfigError(
            f"--corpora {word} is not a corpus: give DATASET/VALIDATION/EVALUATION, or {DRAWN}:FIELD=VALUE+FIELD=VALUE."
        )
    return dict(zip(("dataset", "validation", "evaluation"), names, strict=True))


def part_name(title: str, word: str) -> str:
    """Return the name of a corpus's own experiment.

    >>> part_name("table3", "scenes:n_train=600")
    'table3-scenes-n-train-600'
    """
    return f"{title}-{UNSAFE.sub('-', word).strip('-')}"[:80]


def make_datasets_sheet(parts: Mapping[str, dict[str, Any]]) -> Sheet:
    """Make one sheet of all corpora, the corpus in the first column; equal results give equal sheets.

    Args:
        parts: Each corpus's result, as its experiment stores it.
    """
    title, lines, figures = QUESTIONS[NAME].title, [], {}
    notes = [title]
    for corpus, result in parts.items():
        rows = compare_cells([Cell(**cell) for cell in result["cells"]])
        lines += [(corpus, *cells_of_row(row)) for row in rows]
        notes += [f"{corpus}: {note}" for note in describe_left_out(result)]
        for length, of_length in by_length(rows).items():
            for retention in dict.fromkeys(row.retention for row in of_length):
                here = [row for row in of_length if row.retention == retention]
                name = f"{corpus}, retention {retention:.0%}{length and f', {length}× the epochs'}"
                file = f"{UNSAFE.sub('-', corpus).strip('-')}-r{retention * 100:g}{length and f'-x{length}'}"
                figures[file] = name, draw_arms(here, name)
                notes.append(f"{name}: {_best(here)}")
    return Sheet(notes, ("corpus", *HEAD), lines, figures)


def _best(rows: list[ArmRow]) -> str:
    """Describe the arm of the subset's size with the largest gain; oracles, which no policy could select, are left out."""
    of_size = [row for row in rows if row.gain is not None and row.arm != FULL and not is_oracle(row.arm)]
    if not of_size:
        return f"no arm was compared with {RANDOM}."
    if all(row.gain == Estimate(0.0, 0.0, 0.0, row.gain.n) for row in of_size if row.gain):
        return f"every arm selected the same samples as {RANDOM}, so there is no gain to compare."
    best = max(of_size, key=lambda row: row.gain.mean if row.gain else 0.0)
    return f"{arm_title(best.arm)} has the largest gain over {RANDOM}, {show(best.gain)} nats per token."
