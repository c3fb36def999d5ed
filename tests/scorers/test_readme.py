"""The README of scorers: its example is a scorer, its section of the project file is valid, and its tables are complete."""

import re
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import alchemist_core.scorers
from alchemist_core.config import Config
from alchemist_core.project import ScorerSection
from alchemist_core.scorers.catalogue import BUILT_IN, find_scorer
from alchemist_core.scorers.running import ScorerRunner
from alchemist_core.scorers.scorer import NOT_IDENTITY, Batch

FOLDER = Path(alchemist_core.scorers.__file__).parent
README = (FOLDER / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def test_the_example_is_a_scorer() -> None:
    (code,) = blocks("python")
    names: dict[str, Any] = {}
    exec(code, names)
    image_BHWC = np.stack([np.full((64, 64, 3), level, np.uint8) for level in (0, 255)])
    rated = ScorerRunner(names["Brightness"](Config()), "brightness").rate(Batch(image_BHWC, ["", ""]))
    assert rated.score_PM.tolist() == [[0.0], [1.0]]
    assert 'brightness = "my_scorers:Brightness"' in blocks("toml")[0]


def test_the_example_of_the_project_file_is_valid() -> None:
    sections = tomllib.loads(blocks("toml")[1])["scorers"]
    assert sections
    for section in sections.values():
        declared = ScorerSection.model_validate(section)
        find_scorer(declared.use).Options.model_validate(declared.options)


def test_the_table_of_files_is_complete() -> None:
    listed = set(re.findall(r"^\| `(\w+\.py)` \|", README, re.MULTILINE))
    assert listed == {path.name for path in FOLDER.glob("*.py")} - {"__init__.py"}


def options_in_readme() -> dict[str, set[tuple[str, bool]]]:
    """The options of each scorer, and whether they are part of its identity."""
    table = README.partition("| scorer | option |")[2].partition("\n\n")[0]
    found: dict[str, set[tuple[str, bool]]] = {}
    scorers: list[str] = []
    for line in table.splitlines()[2:]:
        scorer, option, *_ = [cell.strip() for cell in line.strip("|").split("|")]
        scorers = re.findall(r"`(\w+)`", scorer) or scorers
        for name in scorers:
            found.setdefault(name, set())
            found[name] |= {(option, not star) for star, option in re.findall(r"(\*?)`(\w+)`", option)}
    return found


@pytest.mark.parametrize("name", sorted(BUILT_IN))
def test_the_table_of_options_names_each_option_and_whether_it_may_change(name: str) -> None:
    fields = find_scorer(name).Options.model_fields
    assert options_in_readme()[name] == {
        (option, field.json_schema_extra != NOT_IDENTITY) for option, field in fields.items()
    }
    assert all(field.description for field in fields.values())
