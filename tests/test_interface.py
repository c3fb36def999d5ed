"""The Python interface on a real store: tables equal the store's rows, reading cannot write, and errors are the platform's own."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest
from sqlalchemy import Engine, text

from alchemist_core import Store
from alchemist_core.cli.doctor import DoctorResult
from alchemist_core.errors import CheckFailedError, ConfigError
from alchemist_core.settings import load_settings
from alchemist_core.store.backups import checksum
from alchemist_core.store.engine import make_engine
from tests.given import insert_rows
from tests.selectable_store import N_BOOKS, N_WEB, fill


def fill_store(engine: Engine, url: str) -> Store:
    fill(engine)
    with engine.begin() as connection:
        connection.execute(text("UPDATE alchemist.raters SET state = 'production'"))
    return Store(url)


@pytest.fixture(scope="module")
def url(make_database: Callable[..., str]) -> str:
    """The URL of a filled store, which these tests only read."""
    engine = make_engine(url := make_database())
    fill_store(engine, url)
    engine.dispose()
    return url


@pytest.fixture
def store(url: str) -> Store:
    return Store(url)


@pytest.fixture
def own_store(engine: Engine, database_url: str) -> Store:
    """A filled store that a test may change."""
    return fill_store(engine, database_url)


def test_scores_ranks_and_samples_are_tables_of_the_store_s_rows(store: Store) -> None:
    scores, samples = store.scores(), store.samples()
    assert scores.num_rows == samples.num_rows == N_WEB + N_BOOKS
    assert scores.schema.field("score").type == pa.float64()
    assert scores.schema.field("pair_hash").type == pa.binary()
    assert store.ranks().column_names == ["sample_id", "pair_hash", "score", "rank"]
    assert store.scores("dataset = 'books'").num_rows == N_BOOKS


@pytest.mark.slow
def test_ranks_are_those_of_the_newest_rank_scale(own_store: Store) -> None:
    own_store.run("select", dataset="web", retention=0.5, strategy="top_k")
    best = own_store.ranks("rank < 0.1 and dataset = 'web'")
    assert 20 < best.num_rows < 40
    assert max(best["rank"].to_pylist()) < 0.1


def test_a_table_becomes_a_data_frame_by_one_call(store: Store) -> None:
    frame = store.nights("web").to_pandas()
    assert frame["dataset"].unique().tolist() == ["web"]
    assert len(frame) == 2


def test_a_query_binds_its_values_and_cannot_write(store: Store, url: str) -> None:
    found = store.query("SELECT name, dataset_id FROM alchemist.datasets WHERE name = :name", name="web' OR true --")
    assert found.num_rows == 0
    assert found.column_names == ["name", "dataset_id"]
    before = checksum(url)
    with pytest.raises(ConfigError, match="would write"):
        store.query("DELETE FROM alchemist.datasets")
    # A query ends the transaction that cannot write; the next one cannot write either.
    with pytest.raises(ConfigError, match="would write"):
        store.query("COMMIT; UPDATE alchemist.datasets SET name = 'another' WHERE name = 'web'; COMMIT")
    assert checksum(url) == before


def test_json_of_any_form_is_text(store: Store) -> None:
    given = ['{"a": [1]}', '{"a": "é"}', "{}", '{"a": null}', f'{{"a": {2**70}}}', '"a"']
    for kind in ("json", "jsonb"):
        found = store.query(
            f"SELECT CAST(one AS {kind}) AS one FROM unnest(:given) AS given (one)", given=[*given, None]
        )
        assert found["one"].to_pylist() == [*given, None]
        gathered = store.query(
            f"SELECT array_agg(CAST(one AS {kind})) AS many FROM unnest(:given) AS given (one)", given=[*given, None]
        )
        assert gathered["many"].to_pylist() == [[*given, None]]


def test_the_options_of_runs_of_several_commands_can_be_read(own_store: Store, engine: Engine) -> None:
    own_store.run("select", dataset="web", retention=0.5, strategy="top_k")
    with engine.begin() as connection:
        insert_rows(connection, {"runs": [{"run_id": 900, "stage": "score", "config": {"dataset": "web"}}]})
    rows = own_store.query("SELECT actor, config, started_at FROM alchemist.runs ORDER BY run_id")["config"].to_pylist()
    assert [json.loads(row)["dataset"] for row in rows] == [["web"], "web"]


@pytest.mark.parametrize("query", ["SELEC 1", "SELECT 1 FROM alchemist.nothing", "SELECT :value"])
def test_a_query_that_is_not_valid_is_the_platform_s_error(store: Store, query: str) -> None:
    with pytest.raises(ConfigError):
        store.query(query)


def test_a_condition_that_is_not_valid_is_the_platform_s_error(store: Store) -> None:
    with pytest.raises(ConfigError, match="scoer"):
        store.scores("scoer > 1")


@pytest.mark.slow
def test_a_preview_reports_and_writes_nothing(store: Store, url: str) -> None:
    before = checksum(url)
    report = store.preview(dataset="web", retention=0.2, strategy="top_k")
    assert report.n_samples == 60
    assert report.version is None
    assert checksum(url) == before


def test_a_stage_runs_and_its_report_comes_back(own_store: Store) -> None:
    report = own_store.run("select", dataset="web", retention=0.5, strategy="top_k", name="half")
    assert (report.name, report.version, report.n_samples) == ("half", 1, 150)
    assert own_store.subsets("half")["n_samples"].to_pylist() == [150]
    assert own_store.run("subset list").model_dump()


def test_presets_recipes_and_slots_are_given_as_other_fields(store: Store) -> None:
    report = store.run("select", dataset="web", retention=0.2, recipe="paper", slot=1, dry_run=True)
    assert report is not None
    assert report.strategy == "shift_gsample"
    with pytest.raises(ConfigError, match="'nowhere' is not registered"):
        store.run("train-rater", dataset="nowhere", validation="bench", preset="tiny")


def test_a_command_without_a_result_returns_none(store: Store) -> None:
    assert store.run("db migrate") is None


def test_a_result_that_is_bad_news_comes_back_too(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALCHEMIST_PROJECT", "/no/such/alchemist.toml")
    report = store.run("doctor", parts="project")
    assert isinstance(report, DoctorResult)
    assert report.exit_code == CheckFailedError.exit_code
    assert ["/no/such/alchemist.toml" in one.what for one in report.findings] == [True]


def test_bare_words_have_the_order_of_the_command_and_each_item_is_one_word(own_store: Store) -> None:
    own_store.run("dataset rename", new_name="crawl", name="web")
    assert set(own_store.nights()["dataset"].to_pylist()) == {"crawl", "books"}
    sample_ids = own_store.samples()["sample_id"].to_pylist()[:2]
    own_store.run("sample flag", sample=sample_ids, as_="bad")
    flagged = own_store.query("SELECT sample_id FROM alchemist.sample_flags ORDER BY 1")
    assert flagged["sample_id"].to_pylist() == sorted(sample_ids)


@pytest.mark.parametrize(
    ("command", "fields", "message"),
    [
        ("selct", {}, "Did you mean 'select'"),
        ("subset", {}, "subset has: "),
        ("select", {"retentoin": 0.2}, "Did you mean 'retention'"),
        ("select", {"preset": "tiny"}, "select has no field 'preset'"),
        ("train-rater", {"prest": "tiny"}, "Did you mean 'preset'"),
        ("select", {"dataset": "web", "retention": 2.0}, "retention"),
        pytest.param("select", {"dataset": "nowhere", "retention": 0.2}, "nowhere", marks=pytest.mark.slow),
    ],
)
def test_what_a_command_refuses_is_raised_as_the_platform_s_error(
    store: Store, command: str, fields: dict[str, object], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        store.run(command, **fields)


def test_a_store_is_one_of_several_and_leaves_the_process_alone(store: Store) -> None:
    assert "ALCHEMIST_DATABASE_URL" not in os.environ
    assert store.samples().num_rows == N_WEB + N_BOOKS
    assert store.preview(dataset="web", retention=0.2, strategy="top_k").n_eligible == N_WEB


@pytest.mark.parametrize("variable", ["ALCHEMIST_DATABASE_URL", "ALCHEMIST_DATABASE_URL_FILE"])
def test_a_store_without_arguments_is_that_of_the_environment(
    url: str, variable: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "url").write_text(url)
    monkeypatch.setenv(variable, f"{tmp_path}/url" if variable.endswith("_FILE") else url)
    monkeypatch.setenv("ALCHEMIST_HOME", f"{tmp_path}/home")
    load_settings.cache_clear()
    with Store() as store:
        assert store.samples().num_rows == N_WEB + N_BOOKS
        report = store.run("select", dataset="web", retention=0.5, strategy="top_k", dry_run=True)
        assert report.n_samples == N_WEB // 2


@pytest.mark.usefixtures("own_store")
def test_commands_of_a_store_use_the_home_of_the_environment_unless_another_one_is_given(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ALCHEMIST_HOME", f"{tmp_path}/exported")
    load_settings.cache_clear()
    for name, store in {"exported": Store(database_url), "given": Store(home=tmp_path / "given")}.items():
        store.run("select", dataset="web", retention=0.5, strategy="top_k", name=name)
        assert any((tmp_path / name).rglob("*.parquet"))


@pytest.mark.slow
def test_progress_is_reported_while_a_command_works(store: Store, tmp_path: Path) -> None:
    seen: list[tuple[int, int, str]] = []
    store.run("export samples", out=f"{tmp_path}/samples.parquet", on_progress=lambda *step: seen.append(step))
    assert seen[-1][0] == N_WEB + N_BOOKS


@pytest.mark.slow
def test_a_command_s_lines_are_followed_whatever_form_this_process_logs_in(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ALCHEMIST_LOG_FORMAT", "json")
    with pytest.raises(ConfigError, match="nowhere"):
        store.run("select", dataset="nowhere", retention=0.2)


def test_comparisons_are_a_table_even_where_nothing_was_compared(store: Store) -> None:
    assert {"name", "version"} <= set(store.comparisons("none").column_names)


def test_the_subset_dataset_is_at_the_front() -> None:
    from alchemist_core import SubsetDataset
    from alchemist_core.subsets import dataset

    assert SubsetDataset is dataset.SubsetDataset
