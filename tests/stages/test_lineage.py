"""A stage tells a catalogue what it read and made, when it is asked to; a catalogue that is away stops nothing."""

import itertools
import json
from pathlib import Path

import pytest

from alchemist_core.settings import load_settings
from alchemist_core.stages.lineage import edges, emit

pytest.importorskip("openlineage.client", reason="the client comes with the extra `lineage`")


@pytest.fixture
def events(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file in place of a catalogue."""
    path = tmp_path / "events.jsonl"
    monkeypatch.setenv("ALCHEMIST_OPENLINEAGE", "true")
    transport = {"TYPE": "file", "LOG_FILE_PATH": str(path), "APPEND": "true"}
    for name, value in transport.items():
        monkeypatch.setenv(f"OPENLINEAGE__TRANSPORT__{name}", value)
    load_settings.cache_clear()
    return path


def read(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_the_chain_from_crawl_to_metric_has_no_gap() -> None:
    select = {"dataset": ["web"], "rater": "r1", "name": "best"}
    steps = [
        edges("ingest", {"dataset": "web"}, {}),
        edges("train_rater", {"dataset": "web", "validation": "goal"}, {"rater": "r1"}),
        edges("score", {"dataset": "web", "rater": "production"}, {"rater": "r1"}),
        edges("select", select, {"name": "best", "version": 2}),
    ]
    for (_, made), (read_by_next, _) in itertools.pairwise(steps):
        assert set(made) & set(read_by_next)
    assert steps[-1][1] == ["subsets/best/v2"]


def test_a_run_becomes_one_event_with_its_inputs_and_outputs(events: Path) -> None:
    emit("score", 7, {"dataset": "web"}, {"rater": "r1"})
    (event,) = read(events)
    assert event["eventType"] == "COMPLETE"
    assert [one["name"] for one in event["inputs"]] == ["shards/web", "raters/r1"]
    assert [one["name"] for one in event["outputs"]] == ["scores/r1"]


def test_a_failed_run_says_why_and_made_nothing(events: Path) -> None:
    emit("score", 7, {"dataset": "web"}, None, error="DataError: no tar")
    (event,) = read(events)
    assert event["eventType"] == "FAIL"
    assert event["outputs"] == []
    assert event["run"]["facets"]["errorMessage"]["message"] == "DataError: no tar"


def test_nothing_is_sent_unless_it_is_asked_for(events: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ALCHEMIST_OPENLINEAGE")
    load_settings.cache_clear()
    emit("score", 7, {"dataset": "web"}, {"rater": "r1"})
    assert not events.exists()


def test_a_catalogue_that_is_away_stops_nothing(
    events: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("OPENLINEAGE__TRANSPORT__LOG_FILE_PATH", "/proc/no/such/place")
    emit("score", 7, {"dataset": "web"}, {"rater": "r1"})
    assert "lineage was not sent" in capsys.readouterr().err
