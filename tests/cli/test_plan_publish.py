"""The question before a subset is published contains every figure, and no value that a page would interpret."""

import json

import pytest
from sqlalchemy import Engine, text

from alchemist_core.__main__ import main
from alchemist_core.cli.approvals import PlanPublishConfig, PlanPublishResult, plan_publish
from alchemist_core.files import artifact_path
from alchemist_core.notifications import code_span
from alchemist_core.settings import load_settings
from tests.drawn_versions import N_PAIRS, NAME, grow, members, run_publish, select
from tests.given import insert_rows

pytestmark = pytest.mark.db

# What Markdown, HTML, a chat program, a template or a terminal would take for more than a value.
HOSTILE = [
    "[click](http://evil)", "<img src=x onerror=alert(1)>", "`` ` ```", "http://evil www.evil.com a@b.c", "{{ 7 * 7 }}", "a\n# b\n- c",
    "\x1b]0;x\x07", "![x](http://evil)", "a|b", "&lt;b&gt;",
]  # fmt: skip


def ask(version: int | None = None) -> PlanPublishResult:
    return plan_publish(PlanPublishConfig(name=NAME, version=version))


def test_the_first_version_is_asked_with_size_strategy_and_window(pool: Engine) -> None:
    report = select()
    asked = ask()
    assert (asked.subset, asked.version, asked.n_samples) == (NAME, 1, N_PAIRS // 5)
    assert (asked.published_version, asked.n_in, asked.training_seconds) == (None, None, None)
    assert asked.n_bytes == report.n_bytes > 0
    assert asked.window == {"drop_top_ratio": 0.25, "mean_rank": 0.625, "std_rank": 0.125}
    assert "- Compared with the published version: no version is published" in asked.question
    assert "strategy: `shift_gsample`, retention `0.2`, drop top ratio `0.25`" in asked.question.lower()


def test_a_later_version_is_asked_with_what_joins_leaves_and_stays(pool: Engine) -> None:
    select()
    run_publish()
    grow(pool, "2026-01-02", N_PAIRS // 10)
    select()
    before, after = members(pool, 1), members(pool, 2)
    asked = ask()
    assert asked.published_version == 1
    assert (asked.n_in, asked.n_out, asked.n_stay) == (len(after - before), len(before - after), len(before & after))
    assert f"version `1`: `{asked.n_in:,}` join, `{asked.n_out:,}` leave, `{asked.n_stay:,}` stay" in asked.question


def test_training_time_is_estimated_from_the_last_training_and_a_report_is_linked(
    pool: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = {
        "run_id": 900,
        "stage": "train_downstream",
        "state": "succeeded",
        "work_seconds": 4000,
        "finished_at": "2026-01-02T00:00:00Z",
    }
    with pool.begin() as connection:
        insert_rows(
            connection, {"runs": [run], "models": [{"model_id": 1, "arm": "random", "run_id": 900, "n_samples": 200}]}
        )
    select()
    assert ask().training_seconds == 20.0 * N_PAIRS / 5
    assert "- Training on it: `about 2.2 hours`" in ask().question
    assert "- Report: none; write it" in ask().question
    page = artifact_path("reports/web.html")
    page.parent.mkdir(parents=True)
    page.write_text("x")
    assert f"- Report: `{page}`" in ask().question
    monkeypatch.setenv("ALCHEMIST_REPORTS_URL", "https://pages.example/reports/")
    load_settings.cache_clear()
    assert (
        "- Report: [https://pages.example/reports/web.html](<https://pages.example/reports/web.html>)" in ask().question
    )
    assert "Look at it" not in ask().question
    monkeypatch.setenv("ALCHEMIST_AIRFLOW_URL", "https://flow.example/")
    load_settings.cache_clear()
    address = f"https://flow.example/alchemist/subsets/{NAME}/1"
    assert f"- Look at it: [{address}](<{address}>)" in ask().question


@pytest.mark.parametrize("value", HOSTILE)
def test_a_value_is_one_code_span_whatever_it_holds(value: str) -> None:
    markdown = pytest.importorskip("markdown_it")
    (paragraph,) = [
        token for token in markdown.MarkdownIt("commonmark").parse(f"- Name: {code_span(value)}") if token.children
    ]
    assert [token.type for token in paragraph.children] == ["text", "code_inline"]
    assert not set(paragraph.children[1].content) & set("\x1b\x07\n<>")


def test_names_of_the_store_are_asked_as_code(pool: Engine) -> None:
    select()
    with pool.begin() as connection:
        connection.execute(text("UPDATE alchemist.raters SET name = :name"), {"name": "<b>[r](http://evil)"})
        connection.execute(text("UPDATE alchemist.rank_snapshots SET dataset_names = :names"), {"names": ["a`b"]})
    assert "- Rater: `‹b›[r](http://evil)`; datasets: `` a`b ``" in ask().question


def test_approver_and_comment_are_in_the_audit_events(pool: Engine, capfd: pytest.CaptureFixture[str]) -> None:
    select()
    assert main(["plan", "publish", NAME, "--json"]) == 0
    assert json.loads(capfd.readouterr().out)["question"].startswith(f"Publish `{NAME}` version `1`?")
    assert main(["subset", "publish", "--approved-by=ann", "--comment=looks; $(good)", "--", NAME]) == 0
    with pool.connect() as connection:
        after = connection.execute(
            text("SELECT after FROM alchemist.audit_events WHERE action = 'publish'")
        ).scalar_one()
    assert after == {"version": 1, "approved_by": "ann", "comment": "looks; $(good)"}


def approve_in(run: str, *words: str) -> int:
    """Answer the question of a run of `build_subset`; its events are stored as that run stores them."""
    where = ["--subject=build_subset.approve", f"--run={run}", "--reason=Publish?"]
    return main(["note", *words[:1], *where, *words[1:]])


def test_an_approval_is_that_of_the_answer_which_this_airflow_run_stored(
    pool: Engine, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A user of Airflow may edit the result of the task that asks; a forged one gives no approver."""
    select()
    monkeypatch.setenv("AIRFLOW_CTX_DAG_ID", "build_subset")
    publish = ["subset", "publish", "--approval=build_subset.approve", "--", NAME]

    def in_run(run: str, *answers: str) -> int:
        monkeypatch.setenv("AIRFLOW_CTX_DAG_RUN_ID", run)
        for at, given in enumerate(answers):
            who = [f"--approved-by={run}", f"--comment={given} it", f"--answer={given}"]
            assert approve_in(run, "approval", f"--try-number={at}", f"--of={NAME} v1") == 0
            assert approve_in(run, "answer", f"--try-number={at}", *who) == 0
        return main(publish)

    assert in_run("rejected", "Approve", "Reject") == 2
    assert in_run("forged") == 2
    assert "No approval of build_subset.approve is stored for this run" in capfd.readouterr().err
    assert in_run("ann", "Reject", "Approve") == 0
    with pool.connect() as connection:
        after = connection.execute(
            text("SELECT after FROM alchemist.audit_events WHERE action = 'publish'")
        ).scalar_one()
    assert after == {"version": 1, "approved_by": "ann", "comment": "Approve it"}


def test_an_approval_holds_for_the_version_that_was_asked_about_and_for_no_other(
    pool: Engine, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A user of Airflow may edit the result of the task that selects, and clear only the task that publishes."""
    select()
    grow(pool, "2026-01-02", N_PAIRS // 10)
    select()
    monkeypatch.setenv("AIRFLOW_CTX_DAG_ID", "build_subset")
    monkeypatch.setenv("AIRFLOW_CTX_DAG_RUN_ID", "r")
    ann = ["--answer=Approve", "--approved-by=ann"]

    def publish(version: int) -> tuple[int, str]:
        code = main(["subset", "publish", f"--version={version}", "--approval=build_subset.approve", "--", NAME])
        return code, capfd.readouterr().err

    assert approve_in("r", "approval", "--try-number=1", f"--of={NAME} v1") == 0
    assert approve_in("r", "answer", "--try-number=1", *ann) == 0
    code, said = publish(2)
    assert code == 2
    assert "ann approved best v1 in this run, not best v2" in said
    assert (
        "clear the task before build_subset.approve with all tasks after it, and answer the question about best v2"
        in said
    )
    # The question about version 2 was asked, and its note was lost or its task was marked as successful.
    assert approve_in("r", "answer", "--try-number=2", *ann) == 0
    code, said = publish(2)
    assert code == 2
    assert "The answer that ann gave to build_subset.approve does not name what was approved" in said
    assert approve_in("r", "approval", "--try-number=3", f"--of={NAME} v2") == 0
    assert approve_in("r", "answer", "--try-number=3", *ann) == 0
    assert publish(1)[0] == 2
    assert publish(2)[0] == 0
    with pool.connect() as connection:
        (after,) = connection.execute(
            text("SELECT after FROM alchemist.audit_events WHERE action = 'publish'")
        ).scalars()
    assert after == {"version": 2, "approved_by": "ann"}
