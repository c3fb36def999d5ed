"""A stored experiment: its title, its sheet, and the files of its folder."""

import json
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from alchemist_core.errors import ConfigError
from alchemist_core.experiments import datasets, dynamics, results
from alchemist_core.experiments.arms import QUESTIONS, Question
from alchemist_core.experiments.config import TrialsConfig
from alchemist_core.experiments.datasets import DatasetsConfig
from alchemist_core.experiments.dynamics import DynamicsConfig
from alchemist_core.experiments.running import RunConfig
from alchemist_core.experiments.sheets import Sheet, make_sheet
from alchemist_core.experiments.trial import Cell
from alchemist_core.files import artifact_path, write_bytes_atomically
from alchemist_core.report.arm_names import arm_title, stored_arm

OF_QUESTION = {"arms": "arms", "retentions": "retentions", "budget_multiples": "lengths"}
"""Options whose default is the question's, and the question's name for them."""
OWN_COMMANDS: dict[str, type[TrialsConfig]] = {dynamics.NAME: DynamicsConfig, datasets.NAME: DatasetsConfig}
"""Experiments with a command of their own, beside `experiment run`."""


def title_of(config: dict[str, Any]) -> str:
    """Return the question of a stored config."""
    return dynamics.TITLE if config["experiment"] == dynamics.NAME else _question_of(config).title


def command_of(name: str, config: dict[str, Any]) -> str:
    """Return the command that runs or resumes a stored experiment, with every option that differs from its default.

    >>> command_of("table-1", {"experiment": "methods", "seeds": [4, 5, 6], "dataset": "my web"})
    "alchemist experiment run --experiment methods --name table-1 --dataset 'my web' --seeds 4,5,6"
    >>> command_of("fig3", {"experiment": "dynamics", "n_marks": 12})
    'alchemist experiment dynamics --name fig3'
    """
    question = RunConfig.present(config)["experiment"]
    model = OWN_COMMANDS.get(question, RunConfig)
    verb = question if question in OWN_COMMANDS else f"run --experiment {question}"
    return " ".join([f"alchemist experiment {verb} --name {name}", *_given(model, model.present(config))])


def _given(model: type[TrialsConfig], stored: dict[str, Any]) -> Iterator[str]:
    """Yield the options of a stored identity whose values are neither the default nor the question's own."""
    question = QUESTIONS.get(stored["experiment"])
    for name, field in model.model_fields.items():
        value, default = stored.get(name), field.get_default()
        usual = default, getattr(question, OF_QUESTION.get(name, ""), default)
        if name != "experiment" and value is not None and value not in map(_as_json, usual):
            text = ",".join(map(str, value)) if isinstance(value, list) else str(value)
            yield f"--{name.replace('_', '-')} {shlex.quote(text)}"


def _as_json(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _question_of(config: dict[str, Any]) -> Question:
    return QUESTIONS[RunConfig.present(config)["experiment"]]


def sheet_of(config: dict[str, Any], result: dict[str, Any]) -> Sheet:
    """Make the sheet of any stored experiment from its config and its result."""
    if "courses" in result:
        return dynamics.make_dynamics_sheet(result)
    if "parts" in result:
        # JSON in the store has no order of keys, so the corpora follow the order of the config.
        return datasets.make_datasets_sheet({corpus: result["parts"][corpus] for corpus in config["corpora"]})
    return make_sheet(_question_of(config), result)


def conclude(config: dict[str, Any], result: dict[str, Any]) -> str:
    """Return in one sentence what a stored experiment showed, or what its result lacks."""
    if "courses" in result:
        return dynamics.conclude(result["courses"])
    if "parts" in result:
        found = {corpus: _compare(result["parts"][corpus]) for corpus in config["corpora"]}
        shown = [corpus for corpus, rows in found.items() if results.has_better(rows)]
        return f"an arm is better than random on {len(shown)} of {len(found)} corpora"
    return results.conclude(_compare(result)) if "cells" in result else "its result has no losses of arms"


def compare_with(config: dict[str, Any], result: dict[str, Any], arm: str) -> str:
    """Return a table of the gains over another arm than random, paired by seed, as text.

    Args:
        config: The stored config.
        result: The stored result.
        arm: The arm that the others are compared with, as a user writes it.

    Raises:
        ConfigError: The experiment has no such arm, or no arms at all.
    """
    corpora = _cells_of_corpora(config, result)
    if not any(corpora.values()):
        raise ConfigError("--against needs an experiment that compares arms. Omit it for this one.")
    texts = []
    for corpus, cells in corpora.items():
        head = f"Gain over {arm_title(stored_arm(arm))}, paired by seed, in nats per token{f', on {corpus}' if corpus else ''}:"
        texts.append(f"{head}\n\n{results.lay_out([results.AGAINST, *results.compare_arms(cells, stored_arm(arm))])}")
    return "\n\n".join(texts)


def _cells_of_corpora(config: dict[str, Any], result: dict[str, Any]) -> dict[str, list[Cell]]:
    corpora = {corpus: result["parts"][corpus] for corpus in config["corpora"]} if "parts" in result else {"": result}
    return {corpus: [Cell(**cell) for cell in of.get("cells", ())] for corpus, of in corpora.items()}


def _compare(result: dict[str, Any]) -> list[results.ArmRow]:
    return results.compare_cells([Cell(**cell) for cell in result["cells"]])


def markdown_of(name: str, config: dict[str, Any], result: dict[str, Any]) -> str:
    """Return a stored experiment as a page of Markdown, with the loss of each seed."""
    return sheet_of(config, result).as_markdown(name, config) + _losses_of_seeds(config, result)


def _losses_of_seeds(config: dict[str, Any], result: dict[str, Any]) -> str:
    """Return a table of every arm's loss with every seed, so that a reader can compare any two arms; empty without arms."""
    cells = _cells_of_corpora(config, result)
    seeds = sorted({cell.seed for found in cells.values() for cell in found})
    if not seeds:
        return ""
    lines = [("arm", *(f"seed {seed}" for seed in seeds)), ("---",) * (1 + len(seeds))]
    for corpus, found in cells.items():
        losses: dict[tuple[str, float, float], dict[int, float]] = {}
        for cell in found:
            losses.setdefault((cell.arm, cell.retention, cell.length), {})[cell.seed] = cell.loss
        for (arm, retention, length), of in losses.items():
            named = [corpus, arm_title(arm), f"{retention:.0%}" if arm != results.FULL else "", f"{length:g}×"]
            title = ", ".join(word for word in named if word not in ("", "1×"))
            lines.append((title, *(f"{of[seed]:.4f}" if seed in of else "–" for seed in seeds)))
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return f"\nHeld-out loss of each seed, in nats per token; a number with × is a multiple of the training length:\n\n{table}\n"


def write_files(name: str, config: dict[str, Any], result: dict[str, Any]) -> Path:
    """Write table, figures, result and page under artifacts/experiments/NAME and return the folder."""
    sheet, folder = sheet_of(config, result), artifact_path(f"experiments/{name}")
    texts = {
        "table.txt": f"{sheet.as_text()}\n",
        "table.md": markdown_of(name, config, result),
        "result.json": json.dumps(result, indent=2, ensure_ascii=False, sort_keys=True) + "\n",
        "index.html": sheet.as_page(name),
        **({"table.csv": sheet.csv} if sheet.csv is not None else {}),
        **{f"{figure}.svg": svg for figure, (_, svg) in sheet.figures.items()},
    }
    for file, text in texts.items():
        write_bytes_atomically(folder / file, text.encode())
    return folder
