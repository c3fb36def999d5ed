"""From a stored experiment to its sheet, whatever it asked; and the sheet as Markdown, to be committed beside what it proves."""

import json
from typing import Any

from alchemist_core.experiments import dynamics
from alchemist_core.experiments.arms import QUESTIONS
from alchemist_core.experiments.datasets import make_datasets_sheet
from alchemist_core.experiments.dynamics_page import make_dynamics_sheet
from alchemist_core.experiments.page import AnySheet, make_sheet


def title_of(config: dict[str, Any]) -> str:
    """Return the question of a stored config."""
    name: str = config["experiment"]
    return dynamics.TITLE if name == dynamics.NAME else QUESTIONS[name].title


def sheet_of(config: dict[str, Any], result: dict[str, Any]) -> AnySheet:
    """Lay out what the store holds of an experiment.

    Args:
        config: What was asked.
        result: What was found.
    """
    if "courses" in result:
        return make_dynamics_sheet(result)
    if "parts" in result:
        # The store keeps no order of keys: the parts stand as they were asked for.
        return make_datasets_sheet({corpus: result["parts"][corpus] for corpus in config["corpora"]})
    return make_sheet(QUESTIONS[config["experiment"]], result)


def markdown_of(name: str, config: dict[str, Any], result: dict[str, Any]) -> str:
    """Write an experiment as a page of Markdown: title, notes, table, and what was asked; equal results give equal pages."""
    sheet = sheet_of(config, result)
    title, *notes = sheet.notes
    head, *lines = sheet.as_json()["table"]
    asked = {key: value for key, value in sorted(config.items()) if value not in (None, [], "")}
    table = [_line(head), _line(["---"] * len(head)), *map(_line, lines)]
    return "\n\n".join([
        f"# {name}: {title}", *notes, "\n".join(table), f"Asked: `{json.dumps(asked, ensure_ascii=False)}`",
    ]) + "\n"  # fmt: skip


def _line(texts: Any) -> str:
    cells = [text.replace("|", r"\|") for text in texts]
    return f"| {' | '.join(cells)} |"
