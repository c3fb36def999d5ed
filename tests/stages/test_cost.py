"""A run stores its cost, at the prices of its day."""

from contextlib import nullcontext
from pathlib import Path

import pytest
from sqlalchemy import Engine, text

from alchemist_core.errors import AlchemistError
from alchemist_core.settings import load_settings
from alchemist_core.stages import execution
from alchemist_core.stages.ingest import IngestConfig
from alchemist_core.stages.ingest import run as ingest

NEWEST = "SELECT device, work_seconds, cost FROM alchemist.runs ORDER BY run_id DESC LIMIT 1"


@pytest.fixture
def price(monkeypatch: pytest.MonkeyPatch) -> float:
    """An hour of one core, in some currency."""
    monkeypatch.setenv("ALCHEMIST_PRICE_PER_CORE_HOUR", "3.6")
    monkeypatch.setenv("ALCHEMIST_PRICE_PER_GPU_HOUR", "36")
    load_settings.cache_clear()
    return 3.6


def test_a_run_on_the_cpu_pays_for_every_core_it_may_use(price: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 1, 2})
    assert execution.cost_of(10, "cpu") == pytest.approx(10 / 3600 * price * 3)


def test_a_run_on_gpus_pays_for_one_a_process(price: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert execution.cost_of(10, "H100") == pytest.approx(10 / 3600 * 36 * 4)


def test_a_price_comes_from_the_project_file_unless_the_deployment_sets_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "alchemist.toml").write_text("[prices]\ncore_hour = 3.6\ngpu_hour = 7.2\n")
    monkeypatch.setenv("ALCHEMIST_PROJECT", str(tmp_path / "alchemist.toml"))
    monkeypatch.setenv("ALCHEMIST_PRICE_PER_GPU_HOUR", "36")
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 1})
    load_settings.cache_clear()
    assert execution.cost_of(1000, "cpu") == pytest.approx(1000 / 3600 * 3.6 * 2)
    assert execution.cost_of(1000, "H100") == pytest.approx(1000 / 3600 * 36)


def test_without_a_price_the_cost_is_unknown_and_not_zero() -> None:
    assert execution.spent(10) == {"work_seconds": 10, "device": "cpu", "cost": None}


@pytest.mark.db
@pytest.mark.usefixtures("price")
@pytest.mark.parametrize("is_well", [True, False], ids=["succeeds", "fails"])
def test_a_run_that_succeeds_or_fails_notes_its_cost(engine: Engine, corpus: Path, is_well: bool) -> None:
    root = corpus / ("train" if is_well else "nowhere")
    with nullcontext() if is_well else pytest.raises(AlchemistError, match="nowhere"):
        ingest(IngestConfig.model_validate({"dataset": "web", "root": str(root), "role": "train"}))
    with engine.connect() as connection:
        run = connection.execute(text(NEWEST)).one()
    assert run.work_seconds > 0
    assert run.cost == pytest.approx(execution.cost_of(run.work_seconds, run.device))
