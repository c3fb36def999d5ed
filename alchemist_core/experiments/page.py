"""An experiment's files: table as text, CSV and JSON, figures as SVG, and one HTML page that needs no network."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from alchemist_core.experiments import results
from alchemist_core.experiments.arms import Question
from alchemist_core.experiments.figures import draw_arms, draw_curve, draw_sweep, draw_times
from alchemist_core.experiments.results import FULL, RANDOM, ArmRow, compare_cells, describe_detectable, share_of_steps
from alchemist_core.experiments.trial import Cell
from alchemist_core.files import artifact_path, write_bytes_atomically
from alchemist_core.report import ExperimentContent
from alchemist_core.report.experiments import experiment_article
from alchemist_core.report.markup import element
from alchemist_core.report.page import render_page
from alchemist_core.selection.region import ValuePoint


class AnySheet(Protocol):
    """What every sheet has: notes, figures by name as title and SVG, and texts for a page that knows nothing of rows."""

    @property
    def notes(self) -> list[str]:
        """The title, then sentences."""
        ...

    @property
    def figures(self) -> dict[str, tuple[str, str]]:
        """Title and SVG by name."""
        ...

    def as_json(self) -> dict[str, Any]:
        """Notes, table and figures as texts."""
        ...


@dataclass(frozen=True, slots=True)
class Sheet:
    """What a reader gets: notes (title, what was expected beforehand, regions), the table, figures by name."""

    notes: list[str]
    rows: list[ArmRow]
    # Title and SVG.
    figures: dict[str, tuple[str, str]]

    def as_json(self) -> dict[str, Any]:
        """Return what a page needs that knows nothing of rows: texts and pictures."""
        return {
            "notes": self.notes,
            "table": [results.HEAD, *(results.cells(row) for row in self.rows)],
            "figures": list(self.figures.values()),
        }


def make_sheet(question: Question, result: dict[str, Any]) -> Sheet:
    """Lay a stored result out; equal results give equal sheets."""
    cells = [Cell(**cell) for cell in result["cells"]]
    rows = compare_cells(cells)
    figures = _figures(rows, question)
    notes = [question.title, describe_detectable(result["before"]), *_speeds(cells)]
    for found in result["regions"]:
        notes.append(f"{found['rater']}: {found['said']}")
        title = f"What ranks of rater {found['rater']} are worth"
        figures[f"ranks-{found['rater']}"] = (
            title,
            draw_curve([ValuePoint(**point) for point in found["fit"]["curve"]], title),
        )
    return Sheet(notes, rows, figures)


def write_sheet(name: str, sheet: AnySheet, result: dict[str, Any], more: dict[str, str]) -> Path:
    """Write a sheet, and further files by name, under artifacts/experiments/NAME and return the folder."""
    folder = artifact_path(f"experiments/{name}")
    texts = {
        "table.txt": say_sheet(sheet) + "\n",
        **({"table.csv": results.csv_table(sheet.rows)} if isinstance(sheet, Sheet) else {}),
        **more,
        "result.json": json.dumps(result, indent=2, ensure_ascii=False, sort_keys=True) + "\n",
        "index.html": render_experiment(name, sheet),
        **{f"{figure}.svg": f"{svg}\n" for figure, (_, svg) in sheet.figures.items()},
    }
    for file, text in texts.items():
        write_bytes_atomically(folder / file, text.encode())
    return folder


def say_sheet(sheet: AnySheet) -> str:
    """Return the notes and the table for a terminal."""
    return "\n".join([*sheet.notes, "", results.lay_out(sheet.as_json()["table"])])


def render_experiment(name: str, sheet: AnySheet) -> str:
    """Return the experiment's own page; the report shows the same article among others."""
    head, *rows = (tuple(line) for line in sheet.as_json()["table"])
    content = ExperimentContent(name, tuple(sheet.notes), head, tuple(rows), tuple(sheet.figures.values()))
    note = "± is the half-width of a 95 % Student-t interval over seeds; gains are paired by seed."
    return render_page(sheet.notes[0], element("main", experiment_article(content), element("p", note, class_="line")))


def _speeds(cells: Sequence[Cell]) -> list[str]:
    """Say how soon each arm is as good as random at its longest; nothing where all have one length."""
    if len({cell.length for cell in cells}) < 2:
        return []
    said = []
    for arm, retention in dict.fromkeys((cell.arm, cell.retention) for cell in cells if cell.arm not in (RANDOM, FULL)):
        share = share_of_steps(cells, arm, retention)
        reached = "does not reach" if share is None else "reaches"
        steps = "" if share is None else f" in {results.show(share, digits=0, scale=100, unit=' %')} of its steps"
        said.append(f"{arm} at {retention:.0%} {reached} the loss that random ends with{steps}.")
    return said


def _figures(rows: Sequence[ArmRow], question: Question) -> dict[str, tuple[str, str]]:
    if question.is_sweep:
        return {"retentions": (question.title, draw_sweep(rows, question.title))}
    figures = {}
    for retention in dict.fromkeys(row.retention for row in rows):
        title = f"{question.title} {retention:.0%} kept"
        if len({row.length for row in rows}) > 1:
            here = [row for row in rows if row.retention == retention]
            figures[f"times-r{retention * 100:g}"] = title, draw_times(here, title)
            continue
        figures[f"arms-r{retention * 100:g}"] = (
            title,
            draw_arms([row for row in rows if row.retention == retention], title),
        )
    return figures
