"""The sheet of an experiment: notes, a table, and figures; as text for a terminal, as Markdown, and as a page.

Equal results give equal sheets.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from alchemist_core.experiments.arms import Question
from alchemist_core.experiments.results import (
    FULL,
    HEAD,
    RANDOM,
    ArmRow,
    cells_of_row,
    compare_cells,
    csv_table,
    describe_detectable,
    describe_measured,
    lay_out,
    share_of_steps,
    show,
)
from alchemist_core.experiments.trial import Cell
from alchemist_core.report.arm_names import arm_title
from alchemist_core.report.charts import RATIO_AXIS, Axis, Line, Point, interval_chart, line_chart
from alchemist_core.report.content import ExperimentContent
from alchemist_core.report.page import render_chart, render_experiment
from alchemist_core.selection.rank_window import ValuePoint
from alchemist_core.statistics import Estimate

LOSS_TITLE = "held-out loss, nats per token (left is better)"

Figures = dict[str, tuple[str, str]]  # Title and SVG, by the name of the file.


@dataclass(frozen=True, slots=True)
class Sheet:
    """The output of an experiment: notes (the title first), a table of texts, figures, and CSV where the rows are arms."""

    notes: list[str]
    head: tuple[str, ...]
    lines: list[tuple[str, ...]]
    figures: Figures
    csv: str | None = None

    def as_json(self) -> dict[str, Any]:
        """Return the stored form, which the report shows without interpreting its rows."""
        return {"notes": self.notes, "table": [self.head, *self.lines], "figures": list(self.figures.values())}

    def as_text(self) -> str:
        """Return the notes and the table for a terminal."""
        return "\n".join([*self.notes, "", lay_out([self.head, *self.lines])])

    def as_page(self, name: str) -> str:
        """Return the experiment's own HTML page."""
        figures = tuple(self.figures.values())
        return render_experiment(ExperimentContent(name, tuple(self.notes), self.head, tuple(self.lines), figures))

    def as_markdown(self, name: str, config: dict[str, Any]) -> str:
        """Return title, notes, table and config as Markdown, as evidence to commit."""
        title, *notes = self.notes
        given = {key: value for key, value in sorted(config.items()) if value not in (None, [], "")}
        table = [_markdown_row(self.head), _markdown_row(["---"] * len(self.head)), *map(_markdown_row, self.lines)]
        return "\n\n".join([
            f"# {name}: {title}", *notes, "\n".join(table), f"Config: `{json.dumps(given, ensure_ascii=False)}`",
        ]) + "\n"  # fmt: skip


def make_sheet(question: Question, result: dict[str, Any]) -> Sheet:
    """Make the sheet of arms that were compared at several retentions."""
    cells = [Cell(**cell) for cell in result["cells"]]
    rows = compare_cells(cells)
    figures = _figures(rows, question)
    measured = describe_measured(cells)
    before = result["before"]
    # A multiple of an unknown number is left out where the table's own numbers are known.
    beforehand = [] if measured and before["effect"] is None else [describe_detectable(before)]
    notes = [question.title, *beforehand, *measured, *_describe_speed(cells), *describe_left_out(result)]
    # Results of version 0.1 have the key `regions`.
    for found in result.get("rank_windows", result.get("regions", ())):
        notes.append(f"{found['rater']}: {found['said']}")
        title = f"Value of training on each rank of rater {found['rater']}"
        curve = [ValuePoint(**point) for point in found["fit"]["curve"]]
        figures[f"ranks-{found['rater']}"] = title, draw_value_curve(curve, title)
    return Sheet(notes, HEAD, [cells_of_row(row) for row in rows], figures, csv_table(rows))


def describe_left_out(result: dict[str, Any]) -> list[str]:
    """Return a note for each reason for which arms have no loss under a seed; results of version 0.1 do not name any."""
    arms: dict[tuple[int, str], dict[str, None]] = {}
    for left in result.get("left_out", ()):
        arms.setdefault((left["seed"], left["reason"]), {})[arm_title(left["arm"])] = None
    return [f"Seed {seed} is without {', '.join(words)}: {reason}" for (seed, reason), words in arms.items()]


def draw_arms(rows: Sequence[ArmRow], title: str) -> str:
    """Chart the arms of one retention below one another, each mean loss with its interval."""
    return render_chart(interval_chart([(arm_title(row.arm), row.loss) for row in rows], title, LOSS_TITLE))


def draw_sweep(rows: Sequence[ArmRow], title: str) -> str:
    """Chart each arm's loss over the retention; the full corpus is a dashed horizontal line."""
    lines = []
    for arm in dict.fromkeys(row.arm for row in rows):
        here = [row for row in rows if row.arm == arm]
        if arm == FULL:
            level = Estimate(here[0].loss.mean, None, None, here[0].loss.n)
            lines.append(Line(arm, [Point(0.0, level), Point(1.0, level)], "none", is_dashed=True))
        else:
            points = [
                Point(row.retention, row.loss, f"{arm_title(arm)}, {row.retention:.0%}: {row.loss.mean:.4f}")
                for row in sorted(here, key=lambda row: row.retention)
            ]
            lines.append(Line(arm_title(arm), points))
    return render_chart(line_chart(lines, title, RATIO_AXIS, x_title="retention"))


def draw_times(rows: Sequence[ArmRow], title: str) -> str:
    """Chart each arm's loss over the steps of its training, on a logarithmic axis; each length has its own schedule."""
    steps = [row.n_steps for row in rows]
    low, high = math.log10(min(steps)) - 0.05, math.log10(max(steps)) + 0.05
    marks = [math.log10(factor * 10**power) for power in range(8) for factor in (1, 2, 5)]
    axis = Axis(low, high, [(mark, f"{10**mark:,.0f}") for mark in marks if low <= mark <= high])
    lines = [
        Line(arm_title(arm), [
            Point(math.log10(row.n_steps), row.loss, f"{arm_title(arm)}, {row.n_steps:,} steps: {row.loss.mean:.4f}")
            for row in sorted(rows, key=lambda row: row.n_steps) if row.arm == arm
        ])
        for arm in dict.fromkeys(row.arm for row in rows)
    ]  # fmt: skip
    return render_chart(line_chart(lines, title, axis, x_title="steps"))


def draw_value_curve(curve: Sequence[ValuePoint], title: str) -> str:
    """Chart the value of training on each rank, with its interval over seeds as a band."""
    points = [Point(point.rank, Estimate(point.value, point.low, point.high, 0)) for point in curve]
    x_title = "rank, 0% = highest score; value as a log of the loss"
    return render_chart(line_chart([Line("value", points, "band")], title, RATIO_AXIS, x_title=x_title, spec=".3g"))


def _describe_speed(cells: Sequence[Cell]) -> list[str]:
    """Describe how soon each arm reaches the final loss of random; empty if all arms have one length."""
    if len({cell.length for cell in cells}) < 2:
        return []
    said = []
    for arm, retention in dict.fromkeys((cell.arm, cell.retention) for cell in cells if cell.arm not in (RANDOM, FULL)):
        share = share_of_steps(cells, arm, retention)
        reached = "does not reach" if share is None else "reaches"
        steps = "" if share is None else f" in {show(share, digits=0, scale=100, unit='%')} of its steps"
        said.append(f"{arm_title(arm)} at {retention:.0%} {reached} the final loss of random{steps}.")
    return said


def _figures(rows: Sequence[ArmRow], question: Question) -> Figures:
    figures: Figures = {}
    if question.is_sweep:
        for length, here in by_length(rows).items():
            title = f"{question.title}{length and f' {length}× the epochs'}"
            figures[f"retentions{length and f'-x{length}'}"] = title, draw_sweep(here, title)
        return figures
    for retention in dict.fromkeys(row.retention for row in rows):
        title = f"{question.title} Retention {retention:.0%}"
        here = [row for row in rows if row.retention == retention]
        if len({row.length for row in rows}) > 1:
            figures[f"times-r{retention * 100:g}"] = title, draw_times(here, title)
        else:
            figures[f"arms-r{retention * 100:g}"] = title, draw_arms(here, title)
    return figures


def by_length(rows: Sequence[ArmRow]) -> dict[str, list[ArmRow]]:
    """Return the rows of each length of training by its multiple of the epochs; by an empty text if there is only one."""
    lengths = dict.fromkeys(row.length for row in rows)
    name_of = {length: f"{length:g}" if len(lengths) > 1 else "" for length in lengths}
    return {name: [row for row in rows if row.length == length] for length, name in name_of.items()}


def _markdown_row(texts: Sequence[str]) -> str:
    cells = [text.replace("|", r"\|") for text in texts]
    return f"| {' | '.join(cells)} |"
