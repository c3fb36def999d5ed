"""Every command of the DAGs works as the writer, which cannot create, alter or drop."""

from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import text

from alchemist_core.__main__ import main
from alchemist_core.settings import load_settings
from alchemist_core.store.engine import make_engine, open_store
from tests.trained_store import TrainedStore

pytestmark = [pytest.mark.db, pytest.mark.e2e]

FEW_STEPS = ("--max-train-steps", "2", "--proxy-warmup-steps", "2", "--batch-size", "32")
FEW_DOWNSTREAM_STEPS = ("--max-train-steps", "2", "--lr-warmup-steps", "2", "--batch-size", "32")
NIGHT = ("--dataset", "more", "--crawl-date", "2026-01-01")
NAME = "scenes-auto-r50"
EXIT_NOT_CERTIFIED = 5  # two steps do not make a good rater, but its acceptance report is stored
# The commands of nightly_rescore, train_rater, build_subset, evaluate_subset and maintenance, of notes and of people.
COMMANDS: tuple[tuple[str, ...], ...] = (
    ("ingest", "--dataset", "more", "--root", "CORPUS", "--role", "train"),
    ("duplicates", "find"),
    ("plan", "score", "--rater", "nightly", "--json"),
    ("score", "--rater", "nightly", "--dataset", "scenes"),
    ("score", "--rater", "nightly", "--dataset", "more"),
    *(("check", "--suite", suite, "--dataset", "scenes") for suite in ("shards", "samples", "scores")),
    ("night", "check-drift", "--dataset", "scenes"),
    ("night", "publish", "--dataset", "scenes"),
    ("night", "announce", "--json"),
    ("check", "--suite", "scores", "--dataset", "more"),
    ("night", "check-drift", "--dataset", "more"),
    ("night", "release", *NIGHT, "--reason", "looked at"),
    ("sample", "retry-quarantine", "--reason", "transient"),
    ("train-rater", "--preset", "tiny", "--dataset", "scenes", "--validation", "v", *FEW_STEPS),
    ("plan", "promote", "newest", "--json"),
    ("rater", "certify", "newest", "--max-samples", "64"),
    ("rater", "promote", "newest", "--without-acceptance", "two steps"),
    ("score", "--dataset", "scenes"),
    ("check", "--suite", "scores", "--dataset", "scenes"),
    ("night", "publish", "--dataset", "scenes"),
    ("select", "--dataset", "scenes", "--retention", "0.5", "--dry-run"),
    ("select", "--dataset", "scenes", "--retention", "0.5"),
    ("check", "--suite", "subset", "--subset", NAME),
    ("materialize", NAME, "--newest"),
    ("subset", "publish", NAME),
    ("select", "--dataset", "scenes", "--retention", "0.5", "--seed", "3"),
    ("subset", "publish", NAME),
    ("subset", "rollback", NAME),
    ("plan", "evaluate", "--json"),
    ("train-downstream", NAME, "--preset", "tiny", *FEW_DOWNSTREAM_STEPS),
    ("ingest", "--dataset", "t2", "--root", "TEST", "--role", "evaluation"),
    ("evaluate", NAME),
    ("dataset", "set-default", "t2"),
    ("evaluate", NAME),
    ("dataset", "rename", "t2", "second"),
    ("dataset", "remove", "second", "--reason", "tried"),
    ("check", "--suite", "evaluation", "--subset", NAME),
    ("subset", "compare", NAME),
    ("report", "--dataset", "scenes"),
    ("sample", "flag", "SAMPLE", "--as", "bad"),
    ("sample", "flags"),
    ("sample", "takedown", "--sample", "SAMPLE", "--reason", "asked for"),
    ("subset", "gc", "--no-dry-run", "--min-age-days", "0"),
    *(("maintain", what) for what in ("takedowns", "leases", "retention", "statistics")),
    ("note", "failure", "--subject", "dag.task", "--reason", "tried"),
    ("note", "approval", "--subject", "dag.task", "--reason", "asked"),
)


@pytest.fixture
def writer(trained_store: TrainedStore, log_in_at: Callable[[str, str], str], monkeypatch: pytest.MonkeyPatch) -> str:
    """The trained store's URL for the writer, which this process's settings name."""
    url = log_in_at(trained_store.url, "alchemist_writer")
    monkeypatch.setenv("ALCHEMIST_DATABASE_URL", url)
    load_settings.cache_clear()
    return url


FIRST_SAMPLE = """
    SELECT concat_ws('/', datasets.name, shards.uri, sample_locations.key) FROM alchemist.sample_locations
    INNER JOIN alchemist.shards USING (shard_id) INNER JOIN alchemist.datasets USING (dataset_id)
    WHERE datasets.name = 'scenes' ORDER BY shards.uri, sample_locations.key LIMIT 1
"""
HOLD = (
    "UPDATE alchemist.nights SET state = 'held', reason = 'drift', decided_at = now() WHERE crawl_date = '2026-01-01'"
)


@pytest.mark.slow
def test_every_command_of_the_dags_works_as_the_writer(
    writer: str, corpus: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    engine = make_engine(writer)
    with engine.connect() as connection:
        assert connection.execute(text("SELECT current_user")).scalar_one() == "alchemist_writer"
        given = {
            "CORPUS": str(corpus / "train"),
            "TEST": str(corpus / "test"),
            "SAMPLE": connection.execute(text(FIRST_SAMPLE)).scalar_one(),
        }
    expected = {("rater", "certify"): EXIT_NOT_CERTIFIED}
    for words in COMMANDS:
        if words[:2] == ("night", "release"):
            with engine.begin() as connection:
                connection.execute(text(HOLD))
        code = main([given.get(word, word) for word in words])
        said = capsys.readouterr()
        assert code == expected.get(words[:2], 0), (" ".join(words), said.err[-2000:])
    engine.dispose()
    open_store().dispose()
