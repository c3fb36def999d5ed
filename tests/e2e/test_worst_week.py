"""The operator's worst week: seven nights of the real DAG, three clean datasets, and datasets with every kind of problem.

The nights of the clean datasets must equal those of an undisturbed twin. Every problem must be reported in one line with its next step;
the test follows that step, and the dataset's next night must succeed.
"""

import io
import json
import re
import time
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass, field
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from alchemist_core.__main__ import main
from alchemist_core.local import stack
from alchemist_core.local.airflow_client import POLL_S, AirflowClient, AirflowError
from alchemist_core.local.airflow_environment import airflow_home
from alchemist_core.local.scenes import draw_scenes
from alchemist_core.project import load_project
from alchemist_core.settings import load_settings
from alchemist_core.store.backups import table_checksums
from alchemist_core.store.engine import make_engine, open_store
from alchemist_core.store.postgres import start_postgres

from .troubles import DIRTY, JUDGED, TROUBLES, Mending, Place, Supply, Trouble, bring_harmless, refused, write_project

pytestmark = [pytest.mark.stack, pytest.mark.timeout(3600)]

CLEAN = ("a", "b", "c")
FIRST = date(2026, 1, 1)  # the day before the week, on which the rater is trained
DAYS = [(FIRST + timedelta(days=n)).isoformat() for n in range(8)]
FINE = r"\S+ \S+: (selectable|empty); .*|  next: show what is quarantined: .*"
FULL_OF = "SELECT dataset, status, n_scored, n_locations, n_quarantined FROM alchemist.nightly_overview WHERE dataset = ANY(:names)"
# All that a night leaves of a dataset, without ids and times.
DATA = {
    "samples": """
        SELECT datasets.name, shards.uri, shards.crawl_date, shards.state, encode(shards.sha256, 'hex'), spot.ordinal, spot.key,
            encode(samples.pair_hash, 'hex'), encode(samples.image_hash, 'hex'), encode(spot.content_hash, 'hex'), samples.caption,
            samples.width, samples.height, samples.perceptual_hash, samples.metadata::text, samples.licence, spot.repair
        FROM alchemist.sample_locations AS spot JOIN alchemist.samples USING (sample_id) JOIN alchemist.shards USING (shard_id)
            JOIN alchemist.datasets USING (dataset_id) WHERE datasets.name = ANY(:names)""",
    "scores": """
        SELECT DISTINCT datasets.name, encode(samples.pair_hash, 'hex'), encode(float4send(scores.score), 'hex'),
            encode(float4send(plain.clarity), 'hex'), encode(float4send(plain.frequency), 'hex')
        FROM alchemist.sample_locations JOIN alchemist.shards USING (shard_id) JOIN alchemist.datasets USING (dataset_id)
            JOIN alchemist.samples USING (sample_id) JOIN alchemist.scores USING (sample_id)
            LEFT JOIN alchemist.heuristic_scores AS plain USING (sample_id) WHERE datasets.name = ANY(:names)""",
    "nights": """
        SELECT datasets.name, nights.crawl_date, nights.revision, nights.state, nights.reason,
            (to_jsonb(shape) - 'night_id' - 'created_at')::text
        FROM alchemist.nights JOIN alchemist.datasets USING (dataset_id) LEFT JOIN alchemist.score_distributions AS shape USING (night_id)
        WHERE datasets.name = ANY(:names)""",
    "shards": """
        SELECT datasets.name, shards.uri, done.n_samples, done.n_scored, done.n_quarantined, done.device, done.dtype
        FROM alchemist.shard_scores AS done JOIN alchemist.shards USING (shard_id) JOIN alchemist.datasets USING (dataset_id)
        WHERE datasets.name = ANY(:names)""",
}


@dataclass
class Night:
    """One night of all datasets: its output, and the datasets whose tasks all succeeded."""

    said: list[str] = field(default_factory=list)
    green: dict[str, bool] = field(default_factory=dict)


RunNight = Callable[[str, Callable[[], None]], Night]


@dataclass
class Week:
    """The findings of the week."""

    untold: list[str] = field(default_factory=list)
    told: dict[str, str] = field(default_factory=dict)
    not_ended: list[str] = field(default_factory=list)
    disturbed: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)
    accepted: list[str] = field(default_factory=list)
    nights: list[Night] = field(default_factory=list)


class Terminal:
    """The operator's command line, in this process."""

    def __call__(self, *words: str) -> str:
        code, said = self.try_(*words)
        assert code == 0, f"alchemist {' '.join(words)} ended with {code}: {said}"
        return said

    def try_(self, *words: str) -> tuple[int, str]:
        said = io.StringIO()
        with redirect_stdout(said), redirect_stderr(said):
            code = main(list(words))
        return code, said.getvalue()


def trouble_of(dataset: str, night: int) -> list[Trouble]:
    return [trouble for trouble in TROUBLES if (trouble.dataset, trouble.night) == (dataset, night)]


def live(roots: Path, supply: Supply, alchemist: Terminal, run_night: RunNight) -> Week:
    """Seven nights: problems are added, the night runs, the operator reads the messages and follows them."""
    week = Week()
    for number in range(1, len(DAYS)):
        day = DAYS[number]
        places = {name: Place(roots / name, day, supply) for name in DIRTY}
        for place in places.values():
            bring_good(place)
        bring(places, number, "before")
        night = run_night(day, lambda: bring(places, number, "between"))  # noqa: B023  it is called in this turn
        week.nights.append(night)
        week.disturbed += disturbed(number)
        for name in DIRTY:
            had_trouble = bool(trouble_of(name, number - 1))
            if had_trouble and not trouble_of(name, number) and not night.green[name]:
                week.not_ended.append(f"{day}: {name} is not green after its troubles were ended")
        obey(week, night, number, places, alchemist)
        print(
            f"{day}: {len(week.told)} troubles told of; {[*week.untold, *week.not_ended, *week.disturbed]}", flush=True
        )
    week.accepted = try_refused(roots, alchemist)
    week.left = [line for line in alchemist("night", "list").splitlines() if not re.match(FINE, line)]
    return week


def try_refused(roots: Path, alchemist: Terminal) -> list[str]:
    """Return the commands that should be refused in one line but were not, or that changed something."""
    url = start_postgres(load_settings().home).url()
    before, found = table_checksums(url), []
    for words in refused(roots):
        code, said = alchemist.try_(*words)
        lines = [line for line in said.splitlines() if line.startswith("error: ")]
        if code not in (2, 6) or len(lines) != 1 or "Traceback" in said or "defect" in said:
            found.append(f"{words}: {code} {said[:300]}")
    return found + (["the refused commands changed the store"] if table_checksums(url) != before else [])


def bring_good(place: Place) -> None:
    """Add the shards that the crawl brings every night."""
    n_tars = 6 if place.root.name == JUDGED else 2
    for number in range(n_tars):
        place.write(f"{number}.tar", place.supply.tar())
    if place.day == DAYS[1] and place.root.name == "uploads":
        place.write("../uploads/undated.tar", place.supply.tar())
    bring_harmless(place)


def bring(places: dict[str, Place], number: int, when: str) -> None:
    for name, place in places.items():
        for trouble in trouble_of(name, number):
            if trouble.when == when:
                trouble.bring(place)


def obey(week: Week, night: Night, number: int, places: dict[str, Place], alchemist: Terminal) -> None:
    """Solve every problem of a night by its reported step; then run the next step that the list of nights gives for the whole night."""
    for name, place in places.items():
        for trouble in trouble_of(name, number):
            line = next((line for line in night.said if re.search(trouble.told, line)), None)
            if line is None:
                week.untold.append(f"{place.day} {name}: {trouble.name}: no line like {trouble.told}")
                continue
            week.told[trouble.name] = line
            try:
                trouble.mend(Mending(place, line, alchemist))
            except (AssertionError, OSError, StopIteration) as error:
                week.not_ended.append(f"{place.day} {name}: {trouble.name}: {error}")
        again = f"alchemist ingest --dataset {name} --crawl-date {place.day}"
        if any(again in line for line in night.said):
            code, said = alchemist.try_(*again.split()[1:])
            if code:
                week.not_ended.append(f"{place.day} {name}: {again}: {said}")


def disturbed(number: int) -> list[str]:
    """Name the nights of clean datasets that are not complete by now."""
    rows = query(start_postgres(load_settings().home).url(), FULL_OF, CLEAN)
    complete = {
        row.dataset
        for row in rows
        if (row.status, row.n_quarantined) == ("selectable", 0) and row.n_scored == row.n_locations > 0
    }
    n_nights = {name: sum(row.dataset == name for row in rows) for name in CLEAN}
    return [f"{DAYS[number]}: {row}" for row in rows if row.dataset not in complete or row.status != "selectable"] + [
        f"{DAYS[number]}: {name} has {n} nights" for name, n in n_nights.items() if n != number + 1
    ]


def query(url: str, statement: str, names: tuple[str, ...]) -> list[Any]:
    engine = make_engine(url)
    with engine.connect() as connection:
        rows = list(connection.execute(text(statement), {"names": list(names)}).all())
    engine.dispose()
    return rows


def prepare(folder: Path, alchemist: Terminal) -> Supply:
    """Datasets, a rater of a few steps in production, and the clean datasets' first night; the dirty ones are empty yet."""
    for number, name in enumerate(CLEAN):
        draw_scenes(
            folder / name, n_train=192, n_validation=96 if number == 0 else 1, n_test=1, n_nights=8, shard_size=12, side=32,
            seed=number,
        )  # fmt: skip
    draw_scenes(folder / "supply", n_train=2400, n_validation=1, n_test=1, n_nights=1, shard_size=12, side=32, seed=9)
    alchemist("ingest", "--dataset", "v", "--root", str(folder / "a" / "validation"), "--role", "validation")
    for name in CLEAN:
        alchemist("ingest", "--dataset", name, "--root", str(folder / name / "train"), "--crawl-date", DAYS[0])
    steps = ("--max-train-steps", "4", "--batch-size", "16")
    alchemist("train-rater", "--preset", "tiny", "--dataset", "a", "--validation", "v", *steps)
    alchemist("rater", "promote", "--without-acceptance", "a week of its own")
    run_calm_night(alchemist, DAYS[0])
    return Supply(folder / "supply" / "train")


def register_dirty(roots: Path, alchemist: Terminal) -> None:
    for name in DIRTY:
        (roots / name).mkdir(parents=True)
        alchemist("ingest", "--dataset", name, "--root", str(roots / name))


def run_calm_night(alchemist: Terminal, day: str) -> None:
    """The commands of the DAG, over all datasets at once."""
    for words in (("ingest",), ("duplicates", "find"), ("score", "--rater", "nightly")):
        alchemist(*words, *(() if words[0] == "duplicates" else ("--crawl-date", day)))
    alchemist("check", "--suite", "shards,samples,scores", "--crawl-date", day)
    alchemist("night", "check-drift", "--crawl-date", day)
    alchemist("night", "publish", "--crawl-date", day)


def listings(alchemist: Terminal, nights: list[dict[str, str]]) -> list[str]:
    """The output of the lists: nights, shards, and the shards that the nights' next steps name."""
    names = ",".join(f"{one['dataset']}:{one['crawl_date']}" for one in nights)
    said = f"{alchemist('night', 'list', '--nights', names)}\n{alchemist('shard', 'list')}"
    for shard_id in dict.fromkeys(re.findall(r"alchemist shard show (\d+)", said)):
        said += "\n" + alchemist("shard", "show", shard_id)
    return said.splitlines()


class Dag:
    """The nights of the real DAG, by a real scheduler."""

    def __init__(self, airflow: AirflowClient, home: Path, alchemist: Terminal) -> None:
        self._airflow, self._home, self._alchemist = airflow, home, alchemist

    def __call__(self, day: str, between: Callable[[], None]) -> Night:
        run_id = self._airflow.trigger("nightly_rescore", {}, partition_key=day)
        self._wait_for_ingests(run_id)
        between()
        with suppress(AirflowError):
            self._airflow.wait("nightly_rescore", run_id, timeout_s=900, on_progress=lambda _line: None)
        tasks = self._tasks(run_id)
        nights, work = (self._result_of(run_id, task_id) for task_id in ("plan_night", "plan"))
        red = {self._dataset_of(task, nights, work) for task in tasks if task["state"] not in ("success", "skipped")}
        said = [*self._logs(run_id), *listings(self._alchemist, nights)]
        return Night(said, {one["dataset"]: one["dataset"] not in red for one in nights})

    def _result_of(self, run_id: str, task_id: str) -> list[dict[str, str]]:
        path = f"/api/v2/dags/nightly_rescore/dagRuns/{run_id}/taskInstances/{task_id}/xcomEntries/return_value"
        value = self._airflow.call("GET", path)["value"]
        found: list[dict[str, str]] = json.loads(value) if isinstance(value, str) else value
        return found

    def _tasks(self, run_id: str) -> list[dict[str, Any]]:
        path = f"/api/v2/dags/nightly_rescore/dagRuns/{run_id}/taskInstances?limit=500"
        found: list[dict[str, Any]] = self._airflow.call("GET", path)["task_instances"]
        return found

    def _wait_for_ingests(self, run_id: str) -> None:
        ended = ("success", "failed", "upstream_failed")
        while True:
            ingests = [
                task["state"] for task in self._tasks(run_id) if task["task_id"] == "ingest" and task["map_index"] >= 0
            ]
            if ingests and all(state in ended for state in ingests):
                return
            if self._airflow.call("GET", f"/api/v2/dags/nightly_rescore/dagRuns/{run_id}")["state"] == "failed":
                return
            time.sleep(POLL_S)

    @staticmethod
    def _dataset_of(task: dict[str, Any], nights: list[dict[str, str]], work: list[dict[str, str]]) -> str:
        if task["map_index"] < 0:
            return str(task["task_id"])
        return str((work if task["task_id"] == "score" else nights)[task["map_index"]]["dataset"])

    def _logs(self, run_id: str) -> Iterator[str]:
        folder = airflow_home(self._home) / "logs" / "dag_id=nightly_rescore" / f"run_id={run_id}"
        for path in sorted(folder.rglob("*.log")):
            for line in path.read_text(errors="replace").splitlines():
                with suppress(ValueError, KeyError):
                    yield from str(json.loads(line)["event"]).splitlines()


@dataclass
class Outcome:
    """The week and the twin's, for the tests below."""

    week: Week
    found: dict[str, list[Any]]
    expected: dict[str, list[Any]]
    home: Path


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Outcome]:
    folder = tmp_path_factory.mktemp("week")
    folder.chmod(0o755)
    home, alchemist = folder / "home", Terminal()
    with pytest.MonkeyPatch.context() as patch:
        supply = begin(patch, folder, alchemist)
        try:
            stack.up(home)
            week = live(folder / "roots", supply, alchemist, Dag(stack.client(home), home, alchemist))
            yield compare(patch, week, home, alchemist)
        finally:
            stack.down(home)
    forget_settings()


def begin(patch: pytest.MonkeyPatch, folder: Path, alchemist: Terminal) -> Supply:
    """The home of the week, and the twin: a copy of its database before the first problem."""
    patch.setenv("ALCHEMIST_HOME", str(folder / "home"))
    patch.setenv("ALCHEMIST_PROJECT", str(write_project(folder / "project")))
    forget_settings()
    supply = prepare(folder, alchemist)
    open_store().dispose()  # a database that is copied must have no session
    start_postgres(folder / "home").run_sql("CREATE DATABASE calm TEMPLATE alchemist OWNER alchemist")
    register_dirty(folder / "roots", alchemist)
    return supply


def compare(patch: pytest.MonkeyPatch, week: Week, home: Path, alchemist: Terminal) -> Outcome:
    """Run the undisturbed week of the twin."""
    server = start_postgres(home)
    patch.setenv("ALCHEMIST_DATABASE_URL", server.url("calm"))
    forget_settings()
    for day in DAYS[1:]:
        run_calm_night(alchemist, day)
    of_both = [
        {name: sorted(map(repr, query(url, statement, CLEAN))) for name, statement in DATA.items()}
        for url in (server.url(), server.url("calm"))
    ]
    return Outcome(week, *of_both, home=home)


def forget_settings() -> None:
    load_settings.cache_clear()
    load_project.cache_clear()


def test_every_trouble_is_reported_with_its_next_step(outcome: Outcome) -> None:
    assert outcome.week.untold == []
    assert len(outcome.week.told) == len(TROUBLES)


def test_every_next_step_works_and_the_following_night_is_green(outcome: Outcome) -> None:
    assert outcome.week.not_ended == []


def test_commands_with_hostile_names_and_wrong_roots_are_refused_in_a_line_and_change_nothing(outcome: Outcome) -> None:
    assert outcome.week.accepted == []


def test_nothing_is_left_at_the_end_of_the_week(outcome: Outcome) -> None:
    assert outcome.week.left == []


def test_the_clean_datasets_nights_are_complete_every_morning(outcome: Outcome) -> None:
    assert outcome.week.disturbed == []


@pytest.mark.parametrize("table", DATA)
def test_the_clean_datasets_are_those_of_a_twin_without_disturbances(outcome: Outcome, table: str) -> None:
    assert len(outcome.expected[table]) >= len(CLEAN) * len(DAYS)
    assert outcome.found[table] == outcome.expected[table]


def test_nothing_ended_in_a_traceback(outcome: Outcome) -> None:
    assert not (outcome.home / "logs" / "errors.log").exists()


def test_no_name_of_a_file_was_executed_and_none_reaches_the_terminal_raw(outcome: Outcome) -> None:
    assert not list(outcome.home.parent.rglob("OWNED"))
    assert not [line for night in outcome.week.nights for line in night.said if "\x1b" in line or "\u202e" in line]
