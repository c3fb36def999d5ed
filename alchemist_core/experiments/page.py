"""An experiment's files: table as text, CSV and JSON, figures as SVG, and one HTML page that needs no network."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alchemist_core.data.artifacts import artifact_path, write_bytes_atomically
from alchemist_core.experiments import tables
from alchemist_core.experiments.cells import Cell
from alchemist_core.experiments.figures import draw_arms, draw_curve, draw_sweep
from alchemist_core.experiments.questions import Question
from alchemist_core.experiments.results import ArmRow, compare_cells, describe_detectable
from alchemist_core.selection.region import ValuePoint
from alchemist_core.stages.report_page.markup import Html, element

_POLICY = "default-src 'none'; style-src 'unsafe-inline'"
_STYLE = """
:root { color-scheme: light dark } body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem }
svg { width: 100%; max-width: 36rem; height: auto } .wide { overflow-x: auto } table { border-collapse: collapse; font-size: .9rem }
th, td { text-align: left; padding: .3rem .8rem .3rem 0; border-bottom: 1px solid #8886; white-space: nowrap }
"""


@dataclass(frozen=True, slots=True)
class Sheet:
    """What a reader gets: notes (title, what was expected beforehand, regions), the table, figures by name."""

    notes: list[str]
    rows: list[ArmRow]
    figures: dict[str, str]

    def as_json(self) -> dict[str, Any]:
        """Return what a page needs that knows nothing of rows: texts and pictures."""
        return {
            "notes": self.notes,
            "table": [tables.HEAD, *(tables.cells(row) for row in self.rows)],
            "figures": self.figures,
        }


def make_sheet(question: Question, result: dict[str, Any]) -> Sheet:
    """Lay a stored result out; equal results give equal sheets."""
    rows = compare_cells([Cell(**cell) for cell in result["cells"]])
    figures = _figures(rows, question)
    notes = [question.title, describe_detectable(result["before"])]
    for found in result["regions"]:
        notes.append(f"{found['rater']}: {found['said']}")
        title = f"What ranks of rater {found['rater']} are worth"
        figures[f"ranks-{found['rater']}"] = draw_curve([ValuePoint(**point) for point in found["fit"]["curve"]], title)
    return Sheet(notes, rows, figures)


def write_files(name: str, sheet: Sheet, result: dict[str, Any]) -> Path:
    """Write everything under artifacts/experiments/NAME and return the folder."""
    folder = artifact_path(f"experiments/{name}")
    texts = {
        "table.txt": "\n".join([*sheet.notes, "", tables.text_table(sheet.rows), ""]),
        "table.csv": tables.csv_table(sheet.rows),
        "result.json": json.dumps(result, indent=2, ensure_ascii=False) + "\n",
        "index.html": _page(sheet),
        **{f"{figure}.svg": f"{svg}\n" for figure, svg in sheet.figures.items()},
    }
    for file, text in texts.items():
        write_bytes_atomically(folder / file, text.encode())
    return folder


def _figures(rows: Sequence[ArmRow], question: Question) -> dict[str, str]:
    if question.is_sweep:
        return {"retentions": draw_sweep(rows, question.title)}
    return {
        f"arms-r{retention * 100:g}": draw_arms(
            [row for row in rows if row.retention == retention], f"{question.title} {retention:.0%} kept"
        )
        for retention in dict.fromkeys(row.retention for row in rows)
    }


def _page(sheet: Sheet) -> str:
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", http_equiv="Content-Security-Policy", content=_POLICY),
        element("title", sheet.notes[0]),
        element("style", Html(_STYLE)),
    )
    body = element(
        "body",
        element("h1", sheet.notes[0]),
        *(element("p", note) for note in sheet.notes[1:]),
        *(element("figure", Html(svg), element("figcaption", name)) for name, svg in sheet.figures.items()),
        element("div", _table(sheet.rows), class_="wide"),
        element("p", "± is the half-width of a 95 % Student-t interval over seeds; gains are paired by seed."),
    )
    return "<!doctype html>\n" + element("html", head, body, lang="en") + "\n"


def _table(rows: Sequence[ArmRow]) -> Html:
    head = element("tr", *(element("th", name, scope="col") for name in tables.HEAD))
    return element(
        "table", head, *(element("tr", *(element("td", cell) for cell in tables.cells(row))) for row in rows)
    )
