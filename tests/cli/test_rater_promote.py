"""Promotion switches all readers at once; a shadow rater scores beside the production rater, and its cost is planned."""

import threading
from dataclasses import replace

import pytest
from sqlalchemy import Engine, text

from alchemist_core.cli import note
from alchemist_core.cli.approvals import PlanPromoteConfig, plan_promote
from alchemist_core.cli.note import AnswerConfig, QuestionConfig
from alchemist_core.cli.plan import PlanScoreConfig, plan_score
from alchemist_core.cli.rater import PromoteConfig, PromoteResult, _remedy
from alchemist_core.cli.rater import promote as run
from alchemist_core.errors import CheckFailedError, ConfigError
from alchemist_core.settings import load_settings
from alchemist_core.store.engine import make_engine
from alchemist_core.store.raters import find_rater, find_raters
from alchemist_core.training.config import RaterTrainingConfig
from tests.given import insert_rows
from tests.scored_nights import add_dataset, add_night, add_rater

pytestmark = pytest.mark.db

N_PAIRS = 500


def promote(**fields: object) -> PromoteResult:
    return run(PromoteConfig.model_validate({"without_acceptance": "a test", **fields}))


@pytest.fixture
def two_raters(engine: Engine) -> Engine:
    """An old rater in production and a new candidate, both of which have scored the same night."""
    with engine.begin() as connection:
        add_dataset(connection)
        add_rater(connection, name="old")
        add_rater(connection, rater_id=2, name="new", state="candidate")
    add_night(engine, "2026-01-01", {"a.tar": [1.0] * N_PAIRS})
    with engine.begin() as connection:
        connection.execute(text("INSERT INTO alchemist.scores SELECT 2, 2.0, sample_id FROM alchemist.scores"))
    return engine


def test_only_a_trained_rater_is_planned_for_production(two_raters: Engine) -> None:
    with two_raters.begin() as connection:
        insert_rows(connection, {"raters": [{"rater_id": 3, "name": "clip", "kind": "scorer"}]})
    with pytest.raises(ConfigError, match=r"clip is no trained rater but a scorer.*--rank-by clip"):
        plan_promote(PlanPromoteConfig(rater="clip"))


def test_the_newest_rater_is_that_of_the_training_that_ended_last_and_in_an_airflow_run_its_own(
    two_raters: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def add_training(run_id: int, rater: str, finished_at: str, actor: str | None) -> None:
        run = {
            "run_id": run_id, "stage": "train_rater", "state": "succeeded", "result": {"rater": rater},
            "finished_at": finished_at, "actor": actor,
        }  # fmt: skip
        with two_raters.begin() as connection:
            insert_rows(connection, {"runs": [run]})

    def newest() -> str:
        return plan_promote(PlanPromoteConfig()).rater

    with two_raters.begin() as connection:
        connection.execute(text("""UPDATE alchemist.raters SET config = '{"dataset": "web"}'"""))
    add_training(1, "new", "2026-01-01 11:00", None)
    assert newest() == "new"
    add_training(10, "old", "2026-01-01 14:00", "airflow:train_rater:weekly")
    add_training(11, "new", "2026-01-01 11:30", "ann")
    assert newest() == "old", "the training that began later ended earlier"
    add_training(12, "new", "2026-01-01 15:00", "airflow:other:weekly")
    assert newest() == "new"
    monkeypatch.setenv("AIRFLOW_CTX_DAG_ID", "train_rater")
    monkeypatch.setenv("AIRFLOW_CTX_DAG_RUN_ID", "weekly")
    assert newest() == "old", "find_rater of this run was cleared after another training had ended"
    monkeypatch.setenv("AIRFLOW_CTX_DAG_RUN_ID", "next week")
    assert newest() == "new", "this run has trained nothing"


def test_the_question_of_a_promotion_links_the_page_of_its_rater(
    two_raters: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    with two_raters.begin() as connection:
        connection.execute(text("""UPDATE alchemist.raters SET config = '{"dataset": "web"}'"""))
    assert "Look at it" not in plan_promote(PlanPromoteConfig(rater="new")).question
    monkeypatch.setenv("ALCHEMIST_AIRFLOW_URL", "https://flow.example/")
    load_settings.cache_clear()
    address = "https://flow.example/alchemist/raters/new"
    assert f"- Look at it: [{address}](<{address}>)" in plan_promote(PlanPromoteConfig(rater="new")).question


def test_a_reader_during_promotion_sees_one_rater_or_the_other_and_never_a_mix(
    two_raters: Engine, database_url: str
) -> None:
    seen: list[tuple[int, int, int]] = []
    is_over = threading.Event()

    def poll() -> None:
        reader = make_engine(database_url)
        query = text("SELECT count(*), count(DISTINCT rater_id), min(rater_id) FROM alchemist.current_scores")
        while not is_over.is_set():
            with reader.connect() as connection:
                seen.append(tuple(connection.execute(query).one()))  # type: ignore[arg-type]
        reader.dispose()

    reader = threading.Thread(target=poll)
    reader.start()
    for _ in range(20):
        for name in ("new", "old"):
            promote(rater=name)
    is_over.set()
    reader.join()
    assert {rater_id for _, _, rater_id in seen} == {1, 2}
    assert all((n, n_raters) == (N_PAIRS, 1) for n, n_raters, _ in seen)


def test_a_shadow_is_scored_with_every_night_and_stays_out_of_production(two_raters: Engine) -> None:
    assert [rater.name for rater in find_raters(two_raters, "nightly")] == ["old"]
    report = promote(rater="new", shadow=True)
    assert (report.rater, report.was, report.is_shadow) == ("new", "old", True)
    assert [rater.name for rater in find_raters(two_raters, "nightly")] == ["old", "new"]
    assert [rater.name for rater in find_raters(two_raters, "production")] == ["old"]
    promote(rater="new", shadow=False)
    assert [rater.name for rater in find_raters(two_raters, "nightly")] == ["old"]
    with two_raters.connect() as connection:
        assert (
            connection.execute(text("SELECT count(*) FROM alchemist.audit_events WHERE action = 'shadow'")).scalar()
            == 2
        )


def test_a_shadow_needs_no_acceptance_report_and_a_production_rater_does(two_raters: Engine) -> None:
    run(PromoteConfig(rater="new", shadow=True))
    with pytest.raises(CheckFailedError, match="has not passed its acceptance checks"):
        run(PromoteConfig(rater="new"))


def test_an_approval_that_this_airflow_run_did_not_store_promotes_nothing(two_raters: Engine) -> None:
    with pytest.raises(ConfigError, match=r"No approval of train_rater\.approve is stored for this run"):
        promote(rater="new", approval="train_rater.approve", approved_by="ann")
    production = find_rater(two_raters, "production")
    assert production is not None
    assert production.name == "old"


def test_an_approval_of_another_rater_promotes_nothing(two_raters: Engine) -> None:
    question = {"subject": "train_rater.approve", "run": "r", "reason": "Promote?"}
    for at, name in enumerate(("older", "new")):
        note.approval(QuestionConfig.model_validate({**question, "try_number": at, "of": name}))
        note.answer(
            AnswerConfig.model_validate({**question, "try_number": at, "answer": "Approve", "approved_by": "ann"})
        )
        if name == "older":
            with pytest.raises(ConfigError, match="ann approved older in this run, not new"):
                promote(rater="new", approval="train_rater.approve")
    assert promote(rater="new", approval="train_rater.approve").was == "old"


def test_the_first_rater_and_the_one_in_production_need_no_answer(engine: Engine) -> None:
    with engine.begin() as connection:
        add_dataset(connection)
        add_rater(connection, name="first", state="candidate")
    for was in (None, "first"):
        assert promote(rater="first", approval="train_rater.approve").was == was


def test_a_promoted_shadow_is_no_shadow_any_more(two_raters: Engine) -> None:
    promote(rater="new", shadow=True)
    promote(rater="new")
    assert [(rater.name, rater.is_shadow) for rater in find_raters(two_raters, "nightly")] == [("new", False)]


def test_only_a_candidate_can_be_a_shadow(two_raters: Engine) -> None:
    with pytest.raises(ConfigError, match="old is in state production"):
        promote(rater="old", shadow=True)


def test_the_plan_prints_shards_samples_time_and_cost_of_every_rater(
    two_raters: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    promote(rater="new", shadow=True)
    with two_raters.begin() as connection:
        insert_rows(connection, {"runs": [{"run_id": 1, "stage": "score"}]})
        connection.execute(text("UPDATE alchemist.runs SET started_at = '2026-01-01T00:00:00Z'"))
        connection.execute(
            text("UPDATE alchemist.shard_scores SET scored_at = '2026-01-01T00:00:05Z', device = 'cuda'")
        )
        shard = {"dataset_id": 1, "crawl_date": "2026-01-02", "n_samples": 7200}
        insert_rows(connection, {"shards": [{"shard_id": 9, **shard}]})
    old, new = plan_score(PlanScoreConfig(rater="nightly")).raters
    assert (old.n_shards, old.n_samples, old.pairs_per_s, old.seconds, old.cost) == (1, 7200, 100.0, 72.0, None)
    # The new rater must score the old night too, and has no run yet.
    assert (new.is_shadow, new.n_shards, new.n_samples, new.seconds) == (True, 2, 7700, 77.0)
    assert "runs of another rater" in str(new.note)
    assert "new (shadow rater): 2 shards" in new.summary()
    assert "cost unknown" in old.summary()
    monkeypatch.setenv("ALCHEMIST_PRICE_PER_GPU_HOUR", "3.0")
    load_settings.cache_clear()
    old, _ = plan_score(PlanScoreConfig(rater="nightly")).raters
    assert old.cost == pytest.approx(72 / 3600 * 3, abs=1e-4)


def test_the_time_of_a_scorer_that_has_not_scored_is_not_told_by_another_ones_speed(two_raters: Engine) -> None:
    with two_raters.begin() as connection:
        scorer = {"rater_id": 3, "name": "critic", "state": "candidate", "kind": "scorer", "is_shadow": True}
        insert_rows(connection, {"raters": [scorer]})
        insert_rows(connection, {"runs": [{"run_id": 1, "stage": "score"}]})
        connection.execute(text("UPDATE alchemist.runs SET started_at = '2026-01-01T00:00:00Z'"))
        connection.execute(text("UPDATE alchemist.shard_scores SET scored_at = '2026-01-01T00:00:05Z'"))
    old, critic = plan_score(PlanScoreConfig(rater="nightly")).raters
    assert (old.pairs_per_s, critic.pairs_per_s, critic.seconds) == (100.0, None, None)
    assert "time unknown (this scorer has not scored yet)" in critic.summary()


def test_before_anything_was_scored_the_plan_reports_an_unknown_time(engine: Engine) -> None:
    with engine.begin() as connection:
        add_dataset(connection)
        add_rater(connection)
        insert_rows(
            connection, {"shards": [{"shard_id": 9, "dataset_id": 1, "crawl_date": "2026-01-02", "n_samples": 70}]}
        )
    report = plan_score(PlanScoreConfig())
    assert (report.n_shards, report.n_samples, report.raters[0].seconds) == (1, 70, None)
    assert (
        "time unknown (nothing was scored yet; estimate it with --gpu, of a machine without one by --gpu cpu)"
        in report.summary()
    )


def test_a_rater_whose_training_stopped_by_itself_is_not_told_to_train_longer(two_raters: Engine) -> None:
    rater = find_rater(two_raters, "new")
    assert rater is not None
    stopped = replace(rater, acceptance_report={"stopped_early": True, "n_steps": 900, "best_step": 500})
    told = _remedy(stopped, RaterTrainingConfig(proxy_warmup_steps=400, max_train_steps=1200), 129)
    assert "stopped after 900 of 1,600 steps" in told
    assert "had not fallen since step 500: a larger --max-train-steps changes nothing" in told
    assert "more validation samples (it had 129)" in told
    assert "Train longer" not in told


@pytest.mark.parametrize(
    ("losses", "patience", "is_advised"),
    [
        ([3.0, 3.1, 3.2, 3.3, 3.4], 4, False),  # it rose to the end
        ([3.0, 3.4, 3.3, 3.2, 3.1], 4, True),
        ([3.0, 3.4, 3.3, 3.2, 3.1], 8, False),  # more patience has been tried
        ([3.0, 3.1], 1, False),
    ],
)
def test_more_patience_is_advised_once_and_only_to_a_training_whose_loss_was_falling_again(
    two_raters: Engine, losses: list[float], patience: int, is_advised: bool
) -> None:
    rater = find_rater(two_raters, "new")
    assert rater is not None
    history = [{"step": 500 + 100 * at, "held_out_loss": loss} for at, loss in enumerate(losses)]
    report = {
        "stopped_early": True,
        "n_steps": 900,
        "best_step": 500,
        "history": [{"step": 600, "loss": 1.0}, *history],
    }
    told = _remedy(
        replace(rater, acceptance_report=report), RaterTrainingConfig(early_stopping_patience=patience), None
    )
    assert (f"--early-stopping-patience {2 * patience}" in told) == is_advised
