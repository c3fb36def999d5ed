"""From tuning to selection: models are trained on bands, the rank window is stored with the rater, and `select --strategy auto` uses it."""

from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from alchemist_core.cli.tune_selection import ListConfig, RunConfig, RunResult, list_, run
from alchemist_core.errors import ConfigError
from alchemist_core.project import load_project
from alchemist_core.selection.rank_window import FittedWindow, RankWindow
from alchemist_core.settings import load_settings
from alchemist_core.stages.select import SelectConfig, SelectResult
from alchemist_core.stages.select import run as select
from alchemist_core.store.engine import open_store
from alchemist_core.store.rank_windows import list_windows, store_window
from alchemist_core.store.raters import find_rater
from alchemist_core.store.subsets import find_subset

pytestmark = [pytest.mark.db, pytest.mark.e2e, pytest.mark.usefixtures("scored_store")]


def probe(**fields: Any) -> RunResult:
    given = {
        "dataset": "scenes", "evaluation": "t", "rater": "production", "retentions": "0.3", "seeds": "0,1",
        "num_train_epochs": 1, "n_bands": 3, "model": "batch_size=32,width=16,depth=1", "training": "batch_size=32",
    }  # fmt: skip
    return run(RunConfig.model_validate(given | fields))


def draw(**policy: Any) -> SelectResult:
    return select(SelectConfig.model_validate({"dataset": "scenes", "policy": {"retention": 0.3, **policy}}))


def store_fitted(*, low: float) -> None:
    rater = find_rater(open_store(), "production")
    assert rater is not None
    fitted = FittedWindow(RankWindow(0.25, 0.6, 0.1), 0.3, 0.2, low, 0.4)
    store_window(open_store(), rater.rater_id, fitted, {"retention": 0.3})


def n_models() -> int:
    with open_store().connect() as connection:
        return int(connection.execute(text("SELECT count(*) FROM alchemist.models")).scalar_one())


def selected_windows() -> list[dict[str, float]]:
    """The rank window of every subset that was selected by one, in the order of seeds."""
    with open_store().connect() as connection:
        specs = connection.execute(
            text("SELECT spec FROM alchemist.subsets WHERE strategy LIKE '%gsample' AND retention = 0.3 ORDER BY seed")
        ).scalars()
        return [
            {"drop_top_ratio": 0.0} | {name: spec[name] for name in RankWindow.__slots__ if name in spec}
            for spec in specs
        ]


def test_a_tuning_on_one_evaluation_dataset_says_what_its_interval_does_not_contain(
    capsys: pytest.CaptureFixture[str],
) -> None:
    probe(dry_run=True)
    assert "All seeds are measured on t: the samples that choose also report" in "".join(capsys.readouterr())


def test_sections_of_the_project_file_that_a_tuning_does_not_read_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    project = tmp_path / "alchemist.toml"
    project.write_text('[rater]\npreset = "gpu80"\n[downstream]\npreset = "gpu80"\n')
    monkeypatch.setenv("ALCHEMIST_PROJECT", str(project))
    load_settings.cache_clear()
    load_project.cache_clear()
    # The rater is named, so no section about its training matters.
    probe(dry_run=True, model="")
    assert f"[downstream] of {project} is not read here" in "".join(capsys.readouterr())
    probe(dry_run=True)
    assert "not read here" not in "".join(capsys.readouterr())


@pytest.mark.slow
def test_a_probe_is_stored_with_its_rater_and_repeats_nothing() -> None:
    found = probe()
    # For each of 2 seeds random and 3 bands; random and a window at 30 %.
    assert (found.cost["n_models"], n_models()) == (12, 12)
    ((name, row),) = list_windows(open_store())
    assert name == getattr(find_rater(open_store(), "production"), "name", None)
    assert row.measurements["seeds"] == [0, 1]
    assert {cell["seed"] for cell in row.measurements["cells"] if cell["arm"] == "window"} == {0, 1}
    assert len(row.measurements["fit"]["curve"]) == 120
    # Each seed drew by the window that the other one chose.
    assert selected_windows() == row.measurements["fit"]["held_out"]
    # The measured gain decides, not the predicted one.
    measured = found.rank_windows[0]["measured"]
    assert (row.gain, row.gain_low) == (measured["mean"], measured["low"])
    assert found.said == [row.fitted.describe()] == [line["said"] for line in list_(ListConfig()).rank_windows]
    assert draw().rank_window == found.said[0]
    assert probe().said == found.said
    assert n_models() == 12
    assert len(list_windows(open_store())) == 1


@pytest.mark.slow
def test_one_seed_probes_without_an_interval_and_auto_is_random() -> None:
    said = probe(seeds="0").said
    assert "no interval" in said[0]
    assert draw().strategy == "random"


def test_an_unknown_rater_is_refused_before_anything_is_timed() -> None:
    with pytest.raises(ConfigError, match="nobody"):
        probe(rater="nobody")


def test_auto_draws_by_the_rank_window_and_is_the_same_version_when_asked_again() -> None:
    store_fitted(low=0.1)
    drawn = draw()
    assert drawn.strategy == "shift_gsample"
    assert drawn.rank_window is not None
    assert drawn.rank_window.startswith(
        "Strategy auto takes the tuned rank window: drop-top ratio 0.25, mean 0.6, spread 0.1"
    )
    subset = find_subset(open_store(), drawn.name)
    assert {name: subset.spec[name] for name in ("strategy", "drop_top_ratio", "mean_rank", "std_rank")} == {
        "strategy": "shift_gsample",
        "drop_top_ratio": 0.25,
        "mean_rank": 0.6,
        "std_rank": 0.1,
    }
    assert sum(drawn.rank_histogram[:5]) == 0, "the head is cut"
    again = draw()
    assert (again.version, again.is_new, again.manifest_sha256) == (drawn.version, False, drawn.manifest_sha256)


def test_without_a_significant_gain_auto_is_random_and_the_report_shows_it() -> None:
    store_fitted(low=-0.1)
    drawn = draw()
    assert drawn.strategy == "random"
    assert drawn.manifest_sha256 == draw(strategy="random").manifest_sha256
    assert drawn.rank_window is not None
    assert "strategy auto selects at random" in drawn.rank_window


def test_a_strategy_that_is_named_does_not_ask_the_probe() -> None:
    store_fitted(low=0.1)
    assert (draw(strategy="top_k").strategy, draw(strategy="top_k").rank_window) == ("top_k", None)
