"""A user's own suites work like the built-in ones: a failure holds the night and lists rows; a suite that cannot run fails."""

import json
import math
import re
from collections.abc import Callable, Mapping
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlalchemy import Engine, text

from alchemist_core.cli.check import CheckConfig, describe
from alchemist_core.cli.check import run as check
from alchemist_core.cli.held_nights import ReleaseNightConfig, release
from alchemist_core.errors import CheckFailedError, ConfigError, DataError
from alchemist_core.files import artifact_path
from alchemist_core.project import load_project
from alchemist_core.quality.own_suites import SuiteMeta, _gate_of, _outcome, _reason, _shortened, is_own
from alchemist_core.quality.validation import CheckOutcome
from alchemist_core.settings import load_settings
from alchemist_core.stages.publishing import PublishNightConfig, publish_night
from alchemist_core.store.checks import failed_checks
from alchemist_core.store.manifests import Manifest, hash_rows, write_manifest
from tests.given import insert_rows, sha256
from tests.quality.test_gate import NIGHT, one_night

pytestmark = pytest.mark.db

HOSTILE = "we'b\"; DROP TABLE alchemist.scores; -- {{ 7*7 }} %s :x \\ $HOME"
NOT_NULL = {"type": "expect_column_values_to_not_be_null", "kwargs": {"column": "licence"}}
WIDE = {"type": "expect_column_values_to_be_between", "kwargs": {"column": "width", "min_value": 60}}
PYTHON = """
import great_expectations as gx
suite = gx.ExpectationSuite(name="wide", meta={"alchemist": {"gate": "samples"}})
suite.add_expectation(gx.expectations.ExpectColumnValuesToBeBetween(column="width", min_value=60))
print("a suite may print")
"""


@pytest.fixture
def suites(engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of suites beside the project file; a night of six samples, of which 2 and 3 are narrow."""
    given = one_night()
    for row in given["samples"]:
        row |= {"width": 64, "height": 64, "caption": f"good book {row['sample_id']}", "licence": "cc0"}
    for row in given["samples"][2:4]:
        row["width"] = 16 + row["sample_id"]
    with engine.begin() as connection:
        insert_rows(connection, given)
    (tmp_path / "alchemist.toml").touch()
    (tmp_path / "suites").mkdir()
    monkeypatch.setenv("ALCHEMIST_PROJECT", str(tmp_path / "alchemist.toml"))
    load_settings.cache_clear()
    load_project.cache_clear()
    return tmp_path / "suites"


def write(folder: Path, name: str, *expectations: Mapping[str, Any], **meta: Any) -> None:
    suite = {"name": name, "expectations": list(expectations), "meta": {"alchemist": meta}}
    (folder / name).write_text(json.dumps(suite))


def samples(**fields: Any) -> str:
    """Check the night's samples; returns the text of the failure, else nothing."""
    try:
        check(CheckConfig.model_validate({"suite": "samples", "dataset": "web", "crawl_date": NIGHT} | fields))
    except CheckFailedError as failed:
        return str(failed)
    return ""


def stored(engine: Engine, expectation: str) -> list[Any]:
    query = "SELECT is_success, severity, observed FROM alchemist.check_results WHERE expectation = :name ORDER BY check_result_id"
    with engine.connect() as connection:
        return [tuple(row) for row in connection.execute(text(query), {"name": expectation})]


def failed_of(engine: Engine) -> list[str]:
    return [row.expectation for row in failed_checks(engine, "web", NIGHT)]


def test_a_json_suite_that_holds_changes_nothing_and_leaves_its_outcomes(engine: Engine, suites: Path) -> None:
    write(suites, "samples_licences.json", NOT_NULL)
    assert samples() == ""
    assert stored(engine, "samples_licences.json/can_be_run")[0][:2] == (True, "fail")
    name = "samples_licences.json/expect_column_values_to_not_be_null(licence)"
    assert [row[:2] for row in stored(engine, name)] == [(True, "fail")]


@pytest.mark.parametrize("kind", ["json", pytest.param("py", marks=pytest.mark.slow)])
def test_a_failing_suite_holds_the_night_names_rows_and_is_released_with_a_reason(
    engine: Engine, suites: Path, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    if kind == "json":
        write(suites, "samples_wide.json", WIDE)
    else:
        (suites / "wide.py").write_text(PYTHON)
    name = f"{'samples_wide.json' if kind == 'json' else 'wide.py'}/expect_column_values_to_be_between(width)"
    (last,) = samples().splitlines()[1:]
    said = "expected column values to be between (width): at least 60; found 2 of 6 rows, such as "
    assert last.startswith(f"  web {NIGHT}: {name}: {said}")
    assert "sample_id = 2" in last
    assert "sample_id = 3" in last
    assert "width = 18" in last
    ((is_success, severity, observed),) = stored(engine, name)
    assert (is_success, severity, observed["unexpected_count"]) == (False, "fail", 2)
    assert [row["sample_id"] for row in observed["examples"]] == [2, 3]
    assert capsys.readouterr().out == ""
    for suite in ("shards", "scores"):
        check(CheckConfig(suite=suite, dataset="web", crawl_date=NIGHT))
    which = {"dataset": "web", "crawl_date": NIGHT}
    with pytest.raises(CheckFailedError, match="failed its checks"):
        publish_night(PublishNightConfig.model_validate(which))
    report = release(ReleaseNightConfig.model_validate(which | {"reason": "narrow ones are known"}))
    assert report.state_before == [f"stopped: samples.{name}"]
    with engine.connect() as connection:
        assert connection.execute(text("SELECT state FROM alchemist.nights")).scalar_one() == "selectable"
    assert samples() == "", "what a person has released is counted and stops nothing any more"


def test_a_suite_of_scores_looks_at_the_production_rater_s_scores(engine: Engine, suites: Path) -> None:
    write(
        suites,
        "scores_low.json",
        {"type": "expect_column_max_to_be_between", "kwargs": {"column": "score", "max_value": 0.5}},
    )
    assert samples() == ""
    assert (
        "scores_low.json/expect_column_max_to_be_between(score): expected column max to be between (score): at most 0.5; found 0.714"
        in (samples(suite="scores"))
    )


def test_a_suite_of_shards_and_one_over_a_view_of_its_choice(suites: Path) -> None:
    few = {"type": "expect_column_values_to_be_between", "kwargs": {"column": "n_samples", "min_value": 100}}
    write(suites, "shards_full.json", few)
    none_left = {"type": "expect_column_values_to_be_in_set", "kwargs": {"column": "status", "value_set": ["done"]}}
    write(suites, "shards_status.json", none_left, view="nightly_overview")
    lines = samples(suite="shards").splitlines()[1:]
    assert "shards_full.json/expect_column_values_to_be_between(n_samples)" in lines[0]
    assert "uri = 000001.tar" in lines[0]
    assert "shards_status.json/expect_column_values_to_be_in_set(status)" in lines[1]


def test_an_expectation_of_rows_by_sql_names_its_rows_and_one_marked_as_a_warning_only_warns(
    engine: Engine, suites: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sql = {"unexpected_rows_query": "SELECT sample_id, width FROM {batch} WHERE width < 60"}
    write(
        suites, "samples_sql.json", {"type": "unexpected_rows_expectation", "kwargs": sql, "severity": "warning"},
        WIDE | {"severity": "warning"},
    )  # fmt: skip
    assert samples() == ""
    printed = capsys.readouterr().err
    assert "samples_sql.json/unexpected_rows_expectation" in printed
    assert "sample_id = 2, width = 18" in printed
    assert failed_of(engine) == []


def test_a_suite_is_run_for_the_datasets_that_it_names_alone(suites: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(suites, "samples_other.json", WIDE, datasets=["books"])
    assert samples() == ""
    assert (
        "samples_other.json/its_datasets_exist: expected only registered datasets; found books"
        in capsys.readouterr().err
    )
    write(suites, "samples_web.json", WIDE, datasets=["books", "web"])
    assert "samples_web.json" in samples()


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("samples_x.json", "{", "JSONDecodeError"),
        ("samples_x.json", "[]", 'a suite must be an object with a list "expectations"'),
        ("samples_x.json", '{"expectations": []}', "The suite contains no expectations."),
        ("samples_x.json", '{"expectations": [{"type": "expect_wonders", "kwargs": {}}]}', "expect_wonders"),
        (
            "samples_x.json",
            '{"expectations": [{"expectation_type": "expect_wonders", "kwargs": {}}]}',
            "expectation_type",
        ),
        ("samples_x.json", b"\xff", "UnicodeDecodeError"),
        ("samples_x.py", "import nowhere", "ModuleNotFoundError: No module named 'nowhere'"),
        ("samples_x.py", "raise SystemExit(0)", "SystemExit"),
        ("samples_x.py", "suite = 3", "the file must define `suite`, an ExpectationSuite"),
        ("x.py", "suite = 3", "the file must define `suite`, an ExpectationSuite"),
    ],
)
def test_a_suite_that_cannot_be_read_fails_the_check_with_a_line(
    suites: Path, name: str, content: str | bytes, said: str
) -> None:
    (suites / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    (last,) = samples().splitlines()[1:]
    assert f"web {NIGHT}: {name}/can_be_run: " in last
    assert said in last


@pytest.mark.parametrize(
    ("meta", "said"),
    [
        ({"view": "zzz"}, "There is no view 'zzz' in the store. Views: "),
        ({"view": "crawled_sample"}, "Did you mean crawled_samples?"),
        ({"view": "datasets"}, "has no column dataset and no column crawl_date"),
        ({"view": "samples; DROP TABLE alchemist.scores"}, "There is no view"),
        (
            {"gate": "scores"},
            "The file name gives the gate samples, but meta.alchemist.gate is scores. Change one of them.",
        ),
        ({"gates": "samples"}, "meta.alchemist.gates is not allowed"),
        ({"datasets": "web"}, "meta.alchemist.datasets is not allowed"),
    ],
)
def test_a_suite_with_impossible_metadata_fails_the_check(suites: Path, meta: dict[str, Any], said: str) -> None:
    write(suites, "samples_x.json", WIDE, **meta)
    (last,) = samples().splitlines()[1:]
    assert f"web {NIGHT}: samples_x.json/can_be_run: " in last
    assert said in last


def test_a_suite_without_a_gate_fails_the_check(suites: Path) -> None:
    write(suites, "mine.json", WIDE)
    assert "mine.json/can_be_run: The gate is not given" in samples()


def test_an_unknown_column_fails_its_expectation_whatever_its_severity_and_leaves_the_others(suites: Path) -> None:
    missing = {"type": "expect_column_values_to_not_be_null", "kwargs": {"column": "wdith"}, "severity": "warning"}
    write(suites, "samples_x.json", missing, NOT_NULL)
    (last,) = samples().splitlines()[1:]
    assert 'samples_x.json/expect_column_values_to_not_be_null(wdith): Error: The column "wdith"' in last


def test_a_mended_suite_and_a_removed_one_hold_the_night_no_longer(engine: Engine, suites: Path) -> None:
    write(suites, "samples_x.json", WIDE)
    (suites / "samples_y.json").write_text("{")
    assert len(samples().splitlines()) == 3
    assert len(failed_of(engine)) == 2
    write(suites, "samples_x.json", NOT_NULL)
    (suites / "samples_y.json").unlink()
    assert samples() == ""
    assert failed_of(engine) == []


@pytest.mark.slow
def test_several_suites_run_in_one_process_and_all_failures_are_reported(suites: Path) -> None:
    write(suites, "shards_many.json", {"type": "expect_table_row_count_to_be_between", "kwargs": {"min_value": 2}})
    write(suites, "samples_x.json", WIDE)
    lines = samples(suite="shards,samples,scores").splitlines()
    assert [line.partition(" failed")[0] for line in lines[::2]] == [
        "1 of 5 checks of suite shards", "1 of 10 checks of suite samples"
    ]  # fmt: skip


def test_a_section_of_a_misspelt_dataset_is_named(suites: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (suites.parent / "alchemist.toml").write_text(
        "[datasets.wbe.checks]\nmax_quarantined_ratio = 0.5\n[datasets.web]\n"
    )
    assert samples(suite="shards") == ""
    printed = capsys.readouterr().err
    assert "has a section for the dataset 'wbe', which is not registered. Did you mean 'web'?" in printed
    assert printed.count("has a section") == 1


def test_a_night_without_samples_passes(suites: Path) -> None:
    write(suites, "samples_x.json", {"type": "expect_table_row_count_to_be_between", "kwargs": {"min_value": 1}})
    assert samples(crawl_date=date(2026, 5, 5)) == ""


def test_hostile_names_and_values_are_values(engine: Engine, suites: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with engine.begin() as connection:
        connection.execute(text("UPDATE alchemist.datasets SET name = :name"), {"name": HOSTILE})
        connection.execute(text("UPDATE alchemist.samples SET caption = E'\\x1b[31m=1+1{{ 7*7 }}' WHERE sample_id = 2"))
    hostile = {"type": "expect_column_values_to_not_be_in_set", "kwargs": {"column": "caption", "value_set": [HOSTILE]}}
    clean = {"type": "expect_column_values_to_match_regex", "kwargs": {"column": "caption", "regex": "^good"}}
    write(suites, "samples_\x1b[31m'$(id).json", hostile, clean, datasets=[HOSTILE])
    rows = {
        "type": "unexpected_rows_expectation",
        "kwargs": {"unexpected_rows_query": "SELECT 1; DELETE FROM alchemist.scores"},
    }
    write(suites, "samples_writes.json", rows)
    said = samples(dataset=HOSTILE)
    assert said.count("\n") == 2
    assert "\x1b" not in said
    assert "expected column values to match regex (caption): regex ^good; found 1 of 6 rows, such as " in said
    assert "samples_writes.json/unexpected_rows_expectation: " in said
    with engine.connect() as connection:
        assert connection.execute(text("SELECT count(*) FROM alchemist.scores")).scalar_one() == 6


@pytest.mark.slow
def test_a_query_that_takes_too_long_is_given_up(suites: Path) -> None:
    (suites.parent / "alchemist.toml").write_text("[checks]\nsuite_timeout_s = 1\n")
    slow = {"unexpected_rows_query": "SELECT * FROM {batch} WHERE pg_sleep(10) IS NULL"}
    write(suites, "samples_slow.json", {"type": "unexpected_rows_expectation", "kwargs": slow})
    assert "canceling statement due to statement timeout" in samples()


@pytest.mark.parametrize("role", ["owner", "alchemist_writer"])
def test_a_suite_of_subsets_looks_at_the_version_s_members_alone(
    engine: Engine,
    database_url: str,
    suites: Path,
    log_in_at: Callable[[str, str], str],
    monkeypatch: pytest.MonkeyPatch,
    role: str,
) -> None:
    members = [sha256(i) for i in (1, 2)]
    manifest = Manifest(hash_rows(members), np.array([0.1, 0.2]), np.array([1.0, 2.0]))
    write_manifest(artifact_path("m.parquet"), manifest)
    with engine.begin() as connection:
        insert_rows(connection, {
            "rank_scales": [{"rank_scale_id": 1, "rater_id": 1, "knot_scores": [1], "knot_ranks": [0]}],
            "rank_snapshots": [{"snapshot_id": 1, "rank_scale_id": 1, "dataset_names": ["web"]}],
            "subsets": [{"subset_id": 1, "name": "s", "snapshot_id": 1, "n_samples": 2, "manifest_sha256": manifest.sha256()}],
        })  # fmt: skip
        connection.execute(
            text("UPDATE alchemist.samples SET pair_hash = :hash WHERE sample_id = 1"), {"hash": sha256(1)}
        )
        connection.execute(
            text("UPDATE alchemist.samples SET pair_hash = :hash WHERE sample_id = 2"), {"hash": sha256(2)}
        )
    write(suites, "subset_wide.json", WIDE, datasets=["web"])
    write(suites, "samples_wide.json", WIDE)
    if role != "owner":
        # As a task of Airflow does.
        monkeypatch.setenv("ALCHEMIST_DATABASE_URL", log_in_at(database_url, role))
        load_settings.cache_clear()
    assert "samples_wide.json" in samples()
    with pytest.raises(CheckFailedError) as failed:
        check(CheckConfig(suite="subset", subset="s"))
    said = "expected column values to be between (width): at least 60; found 1 of 2 rows, such as sample_id = 2, width = 18"
    assert f"subset_wide.json/expect_column_values_to_be_between(width): {said}" in str(failed.value)


def test_a_named_folder_that_is_not_there_is_refused_and_the_default_one_may_be_absent(suites: Path) -> None:
    suites.rmdir()
    assert samples() == ""
    (suites.parent / "alchemist.toml").write_text("[datasets.web.checks]\nsuites = 'mine'\n")
    load_project.cache_clear()
    with pytest.raises(ConfigError, match=r"\[datasets.web.checks\] suites = 'mine': .*mine is not a folder"):
        samples()


@pytest.mark.slow
def test_what_the_runbook_shows_is_read_and_run(engine: Engine, suites: Path) -> None:
    runbook = (Path(__file__).parents[2] / "infra" / "RUNBOOK.md").read_text(encoding="utf-8")
    (project,), (suite,) = (re.findall(rf"```{kind}\n(.*?)```", runbook, re.DOTALL) for kind in ("toml", "json"))
    (suites.parent / "alchemist.toml").write_text(project)
    (suites / "samples_captions.json").write_text(suite)
    assert samples() == ""
    assert stored(engine, "samples_captions.json/expect_column_mean_to_be_between(width)")[0][:2] == (False, "warn")
    assert stored(engine, "samples_captions.json/unexpected_rows_expectation")[0][:2] == (True, "fail")


def test_a_result_without_a_dataset_is_described_without_one() -> None:
    outcome = CheckOutcome("a", "fail", is_success=False, observed={"observed_value": 3, "expected": {"max_value": 2}})
    assert describe(outcome) == "a: expected at most 2; found 3"


def test_of_texts_and_values_only_what_the_store_can_hold_is_kept() -> None:
    assert _shortened("x" * 200) == "x" * 200
    assert _shortened("x" * 201) == "x" * 200 + "…"
    given = {"nan": math.nan, "inf": math.inf, "n": 1, "r": 0.5, "no": None, "is": True, 7: ("a\0b", [math.nan])}
    assert _shortened(given) == {
        "nan": "nan", "inf": "inf", "n": 1, "r": 0.5, "no": None, "is": True, "7": ["a\\x00b", ["nan"]],
    }  # fmt: skip


def test_a_name_with_a_folder_of_a_suite_is_ones_own() -> None:
    assert [is_own(name) for name in ("a.json/x", "a.py/x(y)", "a.json", "a.txt/x", "x")] == [
        True,
        True,
        False,
        False,
        False,
    ]


@pytest.mark.parametrize(
    ("by_name", "by_meta", "gate"),
    [("samples", None, "samples"), (None, "scores", "scores"), ("subset", "subset", "subset")],
)
def test_a_suite_gates_what_its_name_or_its_meta_says(by_name: Any, by_meta: Any, gate: str) -> None:
    assert _gate_of(by_name, SuiteMeta(gate=by_meta)) == gate


def test_a_suite_with_contradicting_gates_or_none_gates_nothing() -> None:
    with pytest.raises(DataError, match=r"gate samples, but meta\.alchemist\.gate is scores"):
        _gate_of("samples", SuiteMeta(gate="scores"))
    with pytest.raises(DataError, match="Start the file name with one of shards, samples, scores, subset"):
        _gate_of(None, SuiteMeta())


@pytest.mark.parametrize(
    ("info", "reason"),
    [
        ({"exception_message": "first\nsecond"}, "first"), ({"exception_message": None}, None), ({}, None),
        ({"a": {"exception_message": " x "}, "b": {"exception_message": "x"}, "c": {"exception_message": "y\n"}}, "x; y"),
        ({"a": {"exception_message": None}, "raised": False}, None), ({"exception_message": "a\x1bb"}, "a\\x1bb"),
    ],
)  # fmt: skip
def test_each_reason_why_an_expectation_was_not_tested_is_reported_once(
    info: dict[str, Any], reason: str | None
) -> None:
    assert _reason(info) == reason


@pytest.mark.parametrize(
    ("severity", "message", "expected"),
    [("critical", None, "fail"), ("warning", None, "warn"), ("warning", "x", "fail"), (None, None, "fail")],
)
def test_what_could_not_be_tested_fails_whatever_it_weighs(
    severity: str | None, message: str | None, expected: str
) -> None:
    config = {"type": "expect_a", "kwargs": {"column": "a", "batch_id": "b"}} | (
        {"severity": severity} if severity else {}
    )
    result = {
        "success": False, "expectation_config": config, "exception_info": {"exception_message": message},
        "result": {"element_count": 9, "other": 1, "partial_unexpected_list": [1, 2, 3]},
    }  # fmt: skip
    outcome = _outcome("t", result, 2)
    assert (outcome.severity, outcome.is_success) == (expected, False)
    assert outcome.observed.pop("exception", None) == message
    said = "expected a (a); found 1, 2" if message is None else f"could not be tested: {message}"
    assert outcome.observed.pop("in_words") == said
    assert outcome.observed == {"element_count": 9, "expected": {"column": "a"}, "examples": [1, 2]}
