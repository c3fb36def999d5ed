"""Datasets are listed, renamed and removed without losing scores and subsets; evaluation has a default dataset."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from sqlalchemy import Engine, text

from alchemist_core.__main__ import main
from alchemist_core.cli import dataset as verbs
from alchemist_core.cli.approvals import PlanEvaluateConfig, plan_evaluate
from alchemist_core.cli.sample import ExplainConfig, explain
from alchemist_core.cli.subset import PublishSubsetConfig, WithdrawSubsetConfig, publish, withdraw
from alchemist_core.errors import ConfigError
from alchemist_core.stages.evaluate import evaluation_dataset
from alchemist_core.stages.ingest import IngestConfig
from alchemist_core.stages.ingest import run as ingest
from alchemist_core.stages.select import SelectConfig
from alchemist_core.stages.select import run as select
from alchemist_core.store.registry import find_dataset, list_datasets
from alchemist_core.store.runs import RunKey, claim_run, finish_run
from alchemist_core.store.subsets import find_subset
from alchemist_core.subsets.selected import reselect
from tests.given import insert_rows
from tests.selectable_store import change, fill
from tests.waiting import wait_until_blocked

pytestmark = pytest.mark.db


@pytest.fixture
def store(engine: Engine) -> Engine:
    """web and books for training, bench for evaluation."""
    fill(engine)
    return engine


def add_evaluation(engine: Engine, *names: str) -> None:
    rows = [{"dataset_id": 10 + number, "name": name, "role": "evaluation"} for number, name in enumerate(names)]
    with engine.begin() as connection:
        insert_rows(connection, {"datasets": rows})


def rows(engine: Engine, statement: str) -> list[tuple]:
    with engine.connect() as connection:
        return [tuple(row) for row in connection.execute(text(statement))]


def select_web(**options: object) -> object:
    return select_from("web", **options)


def select_from(dataset: str, **options: object) -> object:
    given = {"dataset": dataset, "name": "s", "policy": {"retention": 0.3, "decontaminate": "bench", **options}}
    return select(SelectConfig.model_validate(given))


def test_a_second_evaluation_dataset_changes_nothing_until_it_is_the_default(store: Engine) -> None:
    assert evaluation_dataset(store, None).name == "bench"
    add_evaluation(store, "another", "a-third")
    assert evaluation_dataset(store, None).name == "bench"
    assert plan_evaluate(PlanEvaluateConfig()).subsets == []
    assert verbs.set_default(verbs.DatasetNameConfig(name="another")).former == "bench"
    assert evaluation_dataset(store, None).name == "another"
    assert verbs.set_default(verbs.DatasetNameConfig(name="bench")).former == "another"
    assert evaluation_dataset(store, None).name == "bench"
    assert rows(store, "SELECT count(*) FROM alchemist.audit_events WHERE action = 'set default'") == [(2,)]


def test_only_an_evaluation_dataset_can_be_the_default(store: Engine) -> None:
    with pytest.raises(ConfigError, match="'web' has the role train"):
        verbs.set_default(verbs.DatasetNameConfig(name="web"))
    with pytest.raises(ConfigError, match="'nope' is not registered"):
        verbs.set_default(verbs.DatasetNameConfig(name="nope"))


def test_a_store_without_an_evaluation_dataset_names_the_command_that_registers_one(engine: Engine) -> None:
    with pytest.raises(ConfigError, match=r"There is no evaluation dataset.* --role evaluation"):
        evaluation_dataset(engine, None)


@pytest.mark.parametrize("role", ["train", "validation"])
def test_evaluation_on_training_data_is_refused(store: Engine, role: str) -> None:
    with store.begin() as connection:
        insert_rows(connection, {"datasets": [{"dataset_id": 20, "name": "mine", "role": role}]})
    with pytest.raises(ConfigError, match=rf"--evaluation mine: its role is {role}.*\(registered: bench\)"):
        evaluation_dataset(store, "mine")
    with pytest.raises(ConfigError, match=f"--evaluation mine: its role is {role}"):
        plan_evaluate(PlanEvaluateConfig(evaluation="mine"))


@pytest.mark.parametrize("words", [["experiment", "run", "--experiment", "rank_window"], ["tune-selection", "run"]])
def test_an_experiment_on_training_data_is_refused_before_anything_is_trained(
    store: Engine, capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    given = ["--dataset", "web", "--rater", "r", "--evaluation", "web", "--dry-run"]
    assert main([*words, *given]) == 2
    assert "--evaluation web: its role is train" in capsys.readouterr().err


def test_the_list_shows_size_waiting_nights_and_the_default(store: Engine, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["dataset", "list"]) == 0
    head, bench, books, web = capsys.readouterr().out.splitlines()
    assert head.split() == ["name", "role", "shards", "samples", "nights", "waiting", "root"]
    assert bench.split()[:5] == ["bench", "evaluation", "0", "0", "0"]
    assert bench.endswith("(default)")
    assert books.split()[:5] == ["books", "train", "1", "100", "0"]
    assert web.split()[:5] == ["web", "train", "2", "300", "0"]
    assert main(["dataset", "show", "web"]) == 0
    assert "300" in capsys.readouterr().out


def test_renaming_keeps_nights_subsets_checks_and_raters(store: Engine) -> None:
    made = select_web()
    change(store, """
        UPDATE alchemist.raters SET config = '{"dataset": "web", "validation": "goal", "training": {"rule": "alignment"}}';
        INSERT INTO alchemist.check_results (suite, expectation, severity, is_success, observed, dataset_name, crawl_date)
        VALUES ('shards', 'e', 'fail', TRUE, '{}', 'web', '2026-01-01')
    """)  # fmt: skip
    before = rows(store, "SELECT crawl_date, status FROM alchemist.nightly_overview WHERE dataset = 'web'")
    verbs.rename(verbs.DatasetRenameConfig(name="web", new_name="pictures"))
    verbs.rename(verbs.DatasetRenameConfig(name="bench", new_name="a-bench"))
    assert before == rows(store, "SELECT crawl_date, status FROM alchemist.nightly_overview WHERE dataset = 'pictures'")
    assert rows(store, "SELECT dataset_name FROM alchemist.check_results") == [("pictures",)]
    assert rows(store, "SELECT config ->> 'dataset', config ->> 'validation' FROM alchemist.raters") == [
        ("pictures", "goal")
    ]
    subset = find_subset(store, "s")
    assert len(reselect(store, subset).member_K) == subset.n_samples
    again = select(SelectConfig.model_validate(
        {"dataset": "pictures", "name": "s", "policy": {"retention": 0.3, "decontaminate": "a-bench"}}
    ))  # fmt: skip
    assert (again.is_new, again.version, again.manifest_sha256) == (False, made.version, made.manifest_sha256)
    publish(PublishSubsetConfig(name="s"))
    assert explain(ExplainConfig(sample="1", subset="s"))
    with pytest.raises(ConfigError, match="'web' is not registered"):
        find_dataset(store, "web")


def test_a_name_that_is_taken_or_not_allowed_is_refused(store: Engine, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ConfigError, match="'books' is taken"):
        verbs.rename(verbs.DatasetRenameConfig(name="web", new_name="books"))
    for bad in ("", "a,b", "a\nb", "-x", "x" * 101, "{{ 1 }}"):
        assert main(["dataset", "rename", "web", "--", bad]) == 2, bad
    assert {row.name for row in list_datasets(store)} == {"web", "books", "bench"}


@pytest.mark.parametrize(
    "config",
    [{"dataset": "web", "validation": "v"}, {"dataset": "b", "validation": "web"}, {"dataset": ["books", "web"]},
     {"dataset": ["books"], "policy": {"decontaminate": ["web"]}}],
    ids=["dataset", "validation", "datasets", "decontaminate"],
)  # fmt: skip
def test_a_dataset_is_not_renamed_while_a_run_was_given_its_name(store: Engine, config: dict[str, object]) -> None:
    other = claim_run(store, RunKey("train_rater", {"dataset": "books"}, "other"), ttl_s=60, code_version="1")
    live = claim_run(store, RunKey("train_rater", config, "hash"), ttl_s=60, code_version="1")
    assert other is not None
    assert live is not None
    with pytest.raises(
        ConfigError, match=rf"Run {live.run_id} \(train_rater, host .*\) uses dataset 'web' by its name"
    ):
        verbs.rename(verbs.DatasetRenameConfig(name="web", new_name="pictures"))
    assert find_dataset(store, "web")
    finish_run(store, live, state="failed")
    verbs.rename(verbs.DatasetRenameConfig(name="web", new_name="pictures"))
    assert find_dataset(store, "pictures")


def test_a_dataset_that_published_subsets_draw_from_is_not_removed(store: Engine) -> None:
    select_web()
    publish(PublishSubsetConfig(name="s"))
    with pytest.raises(
        ConfigError, match=r"selected from 'web': s v1\..*alchemist subset publish.*alchemist subset withdraw"
    ):
        verbs.remove(verbs.DatasetRemoveConfig(name="web", reason="licence"))
    assert "web" in {row.name for row in list_datasets(store)}


def test_a_removed_dataset_is_read_no_more_and_its_history_stays(store: Engine, tmp_path: Path) -> None:
    select_web()
    removed = verbs.remove(verbs.DatasetRemoveConfig(name="web", reason="the licence ended"))
    assert (removed.n_shards, removed.n_samples, removed.unusable_subsets) == (2, 300, ["s v1 (selected)"])
    assert {row.name for row in list_datasets(store)} == {"books", "bench"}
    assert rows(store, "SELECT DISTINCT dataset FROM alchemist.nightly_overview") == [("books",)]
    assert rows(store, "SELECT count(*) FROM alchemist.live_locations") == [(100,)]
    assert rows(store, "SELECT count(*) FROM alchemist.scores") == [(400,)]
    ((before, after),) = rows(
        store, "SELECT before ->> 'role', after ->> 'reason' FROM alchemist.audit_events WHERE action = 'remove'"
    )
    assert (before, after) == ("train", "the licence ended")
    with pytest.raises(ConfigError, match="'web' is not registered"):
        select_web()
    with pytest.raises(ConfigError, match="was selected from web, which was removed"):
        publish(PublishSubsetConfig(name="s"))
    with pytest.raises(
        ConfigError, match=r"'web' was removed on .* \(the licence ended\).*alchemist dataset rename web web-removed"
    ):
        ingest(IngestConfig(dataset="web", root=str(tmp_path)))
    listed = verbs.list_(verbs.DatasetListConfig(removed=True)).datasets
    assert [row.removed_reason for row in listed if row.name == "web"] == ["the licence ended"]
    verbs.rename(verbs.DatasetRenameConfig(name="web", new_name="web-removed"))
    change(store, "ALTER TABLE alchemist.datasets ALTER COLUMN dataset_id RESTART WITH 100")
    ingest(IngestConfig(dataset="web", root=str(tmp_path)))
    assert find_dataset(store, "web").root_uri == str(tmp_path)


def test_a_subset_is_not_published_past_the_removal_of_its_dataset(store: Engine) -> None:
    select_web()
    with ThreadPoolExecutor(1) as pool, store.connect() as other:
        with store.begin() as removing:
            removing.execute(text("LOCK TABLE alchemist.subsets IN SHARE ROW EXCLUSIVE MODE"))
            removing.execute(
                text("UPDATE alchemist.datasets SET removed_at = now(), removed_reason = 'why' WHERE name = 'web'")
            )
            publishing = pool.submit(publish, PublishSubsetConfig(name="s"))
            wait_until_blocked(other, publishing)
        with pytest.raises(ConfigError, match="was selected from web, which was removed"):
            publishing.result(timeout=60)
    assert find_subset(store, "s").state == "selected"


def test_a_version_is_withdrawn_although_the_one_before_draws_from_a_removed_dataset(store: Engine) -> None:
    for dataset in ("web", "books"):
        select_from(dataset)
        publish(PublishSubsetConfig(name="s"))
    verbs.remove(verbs.DatasetRemoveConfig(name="web", reason="the licence ended"))
    report = withdraw(WithdrawSubsetConfig(name="s", reason="a mistake"))
    assert (report.version, report.published) == (2, None)


def test_removing_the_default_makes_the_first_registered_the_default(store: Engine) -> None:
    add_evaluation(store, "another")
    verbs.set_default(verbs.DatasetNameConfig(name="another"))
    verbs.remove(verbs.DatasetRemoveConfig(name="another", reason="leaked"))
    assert evaluation_dataset(store, None).name == "bench"


def test_a_removal_needs_a_reason(store: Engine, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["dataset", "remove", "web", "--reason", "  "]) == 2
    assert "--reason is empty" in capsys.readouterr().err
