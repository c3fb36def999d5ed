"""Scorers on the ledger of raters: a class of one's own in a package beside, several in one pass, each score exactly once."""

import shutil
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from pathlib import Path

import pytest
from sqlalchemy import text

from alchemist_core.cli.approvals import PlanEvaluateConfig, plan_evaluate
from alchemist_core.cli.plan import PlanNightConfig, PlanScoreConfig, plan_night, plan_score
from alchemist_core.cli.rater import PromoteConfig, promote
from alchemist_core.cli.sample import RetryQuarantineConfig, retry_quarantine
from alchemist_core.cli.scorer import (
    CheckConfig,
    ListConfig,
    RegisterConfig,
    RetireConfig,
    check,
    list_all,
    register_scorer,
    retire,
)
from alchemist_core.cli.subset import PublishSubsetConfig, SubsetShowConfig, publish, show
from alchemist_core.errors import CheckFailedError, ConfigError, DataError
from alchemist_core.project import load_project
from alchemist_core.scorers.catalogue import find_scorer
from alchemist_core.scorers.registration import load_runner
from alchemist_core.settings import load_settings
from alchemist_core.stages.evaluate import EvaluateConfig
from alchemist_core.stages.evaluate import run as evaluate
from alchemist_core.stages.ingest import IngestConfig
from alchemist_core.stages.ingest import run as ingest
from alchemist_core.stages.publishing import PublishNightConfig, publish_night
from alchemist_core.stages.score import ScoreConfig, ScoreResult, run
from alchemist_core.stages.select import SelectConfig
from alchemist_core.stages.select import run as select
from alchemist_core.stages.train_downstream import TrainDownstreamConfig
from alchemist_core.stages.train_downstream import run as train_downstream
from alchemist_core.store.backups import table_checksums
from alchemist_core.store.engine import open_store
from alchemist_core.store.raters import find_outputs
from alchemist_core.store.samples import take_down
from tests.trained_store import TrainedStore, use_store

pytestmark = [pytest.mark.db, pytest.mark.e2e]

# The ten lines of a scorer of one's own.
REDNESS = '''
import numpy as np
from alchemist_core.scorers import Batch, Scorer

class Redness(Scorer):
    """How red an image is: the mean of red less that of green and blue, from -255 to 255."""
    image_side = 16

    def score(self, batch: Batch):
        mean = batch.image_BHWC.mean((1, 2), dtype=np.float32)
        return mean[:, 0] - mean[:, 1:].mean(1)
'''
OTHERS = '''
import os
import threading
from typing import Annotated

import numpy as np
from alchemist_core.config import Config, Located
from alchemist_core.scorers import Batch, Scorer
from alchemist_core.scorers.scorer import NOT_IDENTITY
from pydantic import Field

class Words(Scorer):
    """Numbers of letters and words of a caption."""
    outputs = ("letters", "words")
    is_padded = False

    class Options(Config):
        factor: float = 1.0

    def score(self, batch):
        return self.options.factor * np.array([[len(text), len(text.split())] for text in batch.captions], np.float32)

class Width(Scorer):
    """Reads metadata."""
    image_side, reads_metadata, is_padded = 16, True, False

    def score(self, batch):
        return np.array([said["width"] for said in batch.metadata], np.float32)

class Neighbourly(Scorer):
    """Its scores depend on the batch."""
    image_side = 16

    def score(self, batch):
        return batch.image_BHWC.mean((1, 2, 3)) - batch.image_BHWC.mean()

class Placed(Words):
    """Scores only the first half of its batch."""
    def score(self, batch):
        found = super().score(batch)
        found[len(batch) // 2:] = np.nan
        return found

class Fragile(Words):
    """Cannot be opened while its weights are missing."""
    def __init__(self, options, device="cpu"):
        if os.environ.get("NO_WEIGHTS"):
            raise OSError("no weights")
        super().__init__(options, device)

class Meeting(Words):
    """Two that are opened at a time."""
    barrier = threading.Barrier(2)

    def __init__(self, options, device="cpu"):
        super().__init__(options, device)
        self.barrier.wait(60)

class Patient(Words):
    """Has an option that changes no score."""
    class Options(Config):
        factor: float = 1.0
        timeout_s: float = Field(1.0, json_schema_extra=NOT_IDENTITY)

class Lexicon(Words):
    """Reads a file."""
    class Options(Config):
        path: Annotated[str, Located()]
        factor: float = 1.0

class Gone(Scorer):
    """Fails on every sample."""
    image_side = 16

    def score(self, batch):
        raise OSError("the disk is gone")
'''


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An installed package with an entry point, and a module beside it."""
    (tmp_path / "redness_scorer.py").write_text(REDNESS)
    (tmp_path / "other_scorers.py").write_text(OTHERS)
    (tmp_path / "broken_scorers.py").write_text('raise OSError("libcudart.so is missing")\n')
    info = tmp_path / "redness_scorer-1.2.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: redness-scorer\nVersion: 1.2\n")
    (info / "top_level.txt").write_text("redness_scorer\n")
    (info / "entry_points.txt").write_text("[alchemist.scorers]\nredness = redness_scorer:Redness\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def declare(package: Path, monkeypatch: pytest.MonkeyPatch, toml: str) -> None:
    (package / "alchemist.toml").write_text(toml)
    monkeypatch.setenv("ALCHEMIST_PROJECT", str(package / "alchemist.toml"))
    load_settings.cache_clear()
    load_project.cache_clear()


def score(**fields: object) -> ScoreResult:
    return run(ScoreConfig.model_validate(fields))


def register(name: str, use: str | None = None, **fields: object) -> list[str]:
    return register_scorer(RegisterConfig.model_validate({"name": name, "use": use, **fields})).scores


def ask(query: str) -> object:
    with open_store().connect() as connection:
        return connection.execute(text(query)).scalar()


def test_a_scorer_of_an_installed_package_scores_every_location_once_and_says_where_it_came_from(
    trained_store: TrainedStore, package: Path
) -> None:
    # It is the scorer of that name.
    assert register("redness") == ["redness"]
    first = score(scorer="redness")
    assert (first.rater, first.n_scored, first.n_quarantined) == ("redness", 240, 0)
    before = table_checksums(trained_store.url)
    assert score(scorer="redness").note == "Everything in scope was scored before."
    assert table_checksums(trained_store.url) == before
    row = ask("SELECT config FROM alchemist.raters WHERE name = 'redness'")
    assert (row["use"], row["package"]) == ("redness_scorer:Redness", "redness-scorer 1.2")
    assert (
        ask("SELECT count(*) FROM alchemist.shard_scores JOIN alchemist.raters USING (rater_id) WHERE kind = 'scorer'")
        == 6
    )


def test_a_version_that_a_scorer_ranked_is_refused_where_models_share_the_tokenizer_of_a_rater(
    ingest_corpus: Callable[[], object], capsys: pytest.CaptureFixture[str]
) -> None:
    ingest_corpus()
    register("pixels")
    score(scorer="pixels")
    publish_night(PublishNightConfig(dataset="scenes", rater="pixels_clarity"))
    given = {"dataset": "scenes", "name": "s", "rater": "pixels_clarity", "policy": {"retention": 0.5}}
    selected = select(SelectConfig.model_validate(given))
    assert selected.models == "FLUX-mini only: pixels_clarity has no tokenizer for others"
    told = "Scorer pixels_clarity ranked this version.*alchemist select --rater RATER --rank-by pixels_clarity"
    for arms in ("subset,random", "minus_loss"):
        with pytest.raises(ConfigError, match=told):
            train_downstream(TrainDownstreamConfig.model_validate({"subset": "s", "arms": arms}))
    with pytest.raises(ConfigError, match=told):
        evaluate(EvaluateConfig(subset="s"))
    assert show(SubsetShowConfig(name="s")).next == (
        "alchemist subset publish s --version 1; to compare it with a random subset, select under a trained rater: "
        "alchemist select --rater RATER --rank-by pixels_clarity"
    )
    publish(PublishSubsetConfig(name="s"))
    assert plan_evaluate(PlanEvaluateConfig()).subsets == [], "it would fail every later run of the DAG"
    assert "s v1 is left out: scorer pixels_clarity ranked it" in "".join(capsys.readouterr())


@pytest.mark.slow
def test_scorers_and_the_rater_in_one_night_store_the_bits_that_each_stores_alone(
    trained_store: TrainedStore,
    copy_trained: Callable[[], TrainedStore],
    package: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    names = "SELECT string_agg(name, ' ' ORDER BY rater_id) FROM alchemist.raters"
    query = "SELECT md5(string_agg(sample_id || ' ' || score, ',' ORDER BY sample_id)) FROM alchemist.scores WHERE rater_id = "
    register("redness", "redness", nightly=True)
    register("words", "other_scorers:Words", nightly=True)
    register("breadth", "other_scorers:Width", nightly=True)
    score(rater="nightly")
    assert str(ask(names)).split()[1:] == ["redness", "words_letters", "words_words", "breadth"]
    together = [ask(f"{query}{number}") for number in range(1, 6)]
    assert None not in together
    other = copy_trained()
    use_store(monkeypatch, other)
    score()
    for name, use in (("redness", "redness"), ("words", "other_scorers:Words"), ("breadth", "other_scorers:Width")):
        register(name, use)
        score(scorer=name)
    assert [ask(f"{query}{number}") for number in range(1, 6)] == together


@pytest.mark.slow
def test_a_scorer_that_fails_leaves_the_night_to_the_others_and_alone_it_is_an_error(
    trained_store: TrainedStore, package: Path
) -> None:
    register("redness", "redness", nightly=True)
    register("gone", "other_scorers:Gone", nightly=True)
    result = score(rater="nightly")
    assert result.n_scored == 480
    assert "gone scored nothing more" in str(result.note)
    assert ask("SELECT count(*) FROM alchemist.leases WHERE resource LIKE 'shard:%'") == 0
    with pytest.raises(DataError, match="OSError: the disk is gone"):
        score(scorer="gone")


def test_a_nightly_scorer_gets_a_night_that_it_failed_on_when_it_works_again_and_never_the_nights_before_it(
    database_url: str, corpus: Path, package: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    days = [date(2026, 1, number) for number in range(1, 6)]

    def crawl(day: date) -> None:
        folder = package / "crawl" / day.isoformat()
        folder.mkdir(parents=True)
        shutil.copy(sorted((corpus / "train").rglob("*.tar"))[day.day], folder / "a.tar")
        ingest(IngestConfig(dataset="web", root=str(package / "crawl"), crawl_date=day))

    def night(day: date) -> list[date]:
        """Run a night as its DAG does, and return the earlier nights that it takes."""
        crawl(day)
        nights = plan_night(PlanNightConfig(crawl_date=day)).nights
        for one in nights:
            score(rater="nightly", dataset=one.dataset, crawl_date=one.crawl_date)
        return [one.crawl_date for one in nights[1:]]

    crawl(days[0])
    register("fragile", "other_scorers:Fragile", nightly=True)
    assert night(days[1]) == []
    monkeypatch.setenv("NO_WEIGHTS", "1")
    assert night(days[2]) == []
    monkeypatch.delenv("NO_WEIGHTS")
    assert night(days[3]) == []
    assert night(days[4]) == [days[2]]
    assert ask("SELECT count(*) FROM alchemist.shard_scores") == 4 * 2, "both outputs, of all nights but the first"
    assert plan_night(PlanNightConfig(crawl_date=date(2026, 1, 6))).nights[1:] == []


@pytest.mark.slow
def test_the_project_file_declares_a_scorer_which_the_next_night_registers_and_runs(
    trained_store: TrainedStore, package: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    declare(package, monkeypatch, '[scorers.words]\nuse = "other_scorers:Words"\noptions = { factor = 2.0 }\n')
    assert score(rater="nightly").n_scored == 3 * 240
    assert (
        ask("SELECT min(score) FROM alchemist.scores JOIN alchemist.raters USING (rater_id) WHERE name = 'words_words'")
        % 2
        == 0
    )
    assert [one.name for one in list_all(ListConfig()).scores] == ["words_letters", "words_words"]
    plans = plan_score(PlanScoreConfig(rater="nightly")).raters
    assert [plan.summary().partition(":")[0] for plan in plans][1:] == [
        "words_letters (nightly scorer)",
        "words_words (nightly scorer)",
    ]
    # The section is changed: other scores need another name, and the night says so.
    declare(package, monkeypatch, '[scorers.words]\nuse = "other_scorers:Words"\noptions = { factor = 3.0 }\n')
    assert "Scorer words does not follow the project file" in str(score(rater="nightly").note)
    with pytest.raises(ConfigError, match=r"belongs to another scorer \(other options\)"):
        register_scorer(RegisterConfig(name="words"))


@pytest.mark.slow
def test_a_night_follows_the_section_of_a_registered_scorer_when_it_changes(
    database_url: str, ingest_corpus: Callable[[], Path], package: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ingest_corpus()
    section = '[scorers.words]\nuse = "other_scorers:Words"\n'
    declare(package, monkeypatch, section)
    assert score(rater="nightly", crawl_date="2026-01-01").n_scored == 2 * 120
    declare(package, monkeypatch, f"{section}nightly = false\nkeep_embeddings = false\n")
    assert score(rater="nightly").n_scored == 0
    kept = "SELECT bool_or(is_shadow OR (config ->> 'keep_embeddings')::bool) FROM alchemist.raters"
    assert ask(kept) is False
    register_scorer(RegisterConfig(name="words", nightly=True))
    assert ask("SELECT bool_and(is_shadow) FROM alchemist.raters")
    # The section was not changed since, so the command holds.
    assert score(rater="nightly").n_scored == 2 * 120


def test_a_scorer_that_is_asked_for_by_name_follows_its_section_when_it_changes(
    ingest_corpus: Callable[[], object], package: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ingest_corpus()

    def declare_with(options: str) -> None:
        section = '[scorers.words]\nuse = "other_scorers:Patient"\nnightly = false\n'
        declare(package, monkeypatch, f"{section}options = {{ {options} }}\n")

    def timeouts() -> object:
        return ask("SELECT array_agg(DISTINCT (config #>> '{settings,timeout_s}')::float) FROM alchemist.raters")

    declare_with("factor = 2.0, timeout_s = 1.0")
    assert score(scorer="words", crawl_date="2026-01-01").n_scored == 2 * 120
    declare_with("factor = 2.0, timeout_s = 7.0")
    assert score(rater="words_words").n_scored == 120
    assert timeouts() == [7]
    declare_with("factor = 2.0, timeout_s = 9.0")
    assert score(scorer="words").n_scored == 120
    assert timeouts() == [9]
    declare_with("factor = 2.0, timeout_s = 11.0")
    retry_quarantine(RetryQuarantineConfig(rater="words_words"))
    assert timeouts() == [11]
    declare_with("factor = 3.0, timeout_s = 11.0")
    for asked in ({"scorer": "words"}, {"rater": "words_words"}):
        with pytest.raises(ConfigError, match=r"belongs to another scorer \(other options\)"):
            score(**asked)


@pytest.mark.slow
@pytest.mark.parametrize("code", [None, 'raise OSError("libcudart.so is missing")', "def class"])
def test_a_scorer_that_cannot_be_opened_leaves_the_night_to_the_others(
    database_url: str,
    ingest_corpus: Callable[[], Path],
    package: Path,
    monkeypatch: pytest.MonkeyPatch,
    code: str | None,
) -> None:
    ingest_corpus()
    (package / "uninstalled.py").write_text(OTHERS)
    register("removed", "uninstalled:Words", nightly=True)
    register("fragile", "other_scorers:Fragile", nightly=True)
    register("redness", "redness", nightly=True)
    (package / "uninstalled.py").unlink()
    if code is not None:
        (package / "uninstalled.py").write_text(code)
    monkeypatch.delitem(sys.modules, "uninstalled")
    monkeypatch.setenv("NO_WEIGHTS", "1")
    # The only declared one cannot be registered.
    declare(package, monkeypatch, '[scorers.new]\nuse = "other_scorers:Fragile"\noptions = { factor = 2.0 }\n')
    result = score(rater="nightly")
    assert result.n_scored == 240
    for note in (
        "new was not registered: no weights",
        "removed_letters, removed_words scored nothing",
        "fragile_words",
    ):
        assert note in str(result.note)
    for name in ("new", "fragile"):
        with pytest.raises(OSError, match="no weights"):
            score(scorer=name)


@pytest.mark.slow
def test_a_night_with_no_rater_is_scored_by_its_scorers(
    database_url: str, ingest_corpus: Callable[[], Path], package: Path
) -> None:
    ingest_corpus()
    register("redness", "redness", nightly=True)
    # A taken-down image is not given to a scorer, which may send it to a server.
    image_hash = ask("""
        SELECT image_hash FROM alchemist.samples JOIN alchemist.sample_locations USING (sample_id) JOIN alchemist.shards USING (shard_id)
        JOIN alchemist.datasets USING (dataset_id) WHERE datasets.name = 'scenes' LIMIT 1
    """)
    take_down(open_store(), [bytes(image_hash)], "asked", actor="ann")
    assert score(rater="nightly").n_scored == 239
    assert ask("SELECT string_agg(reason, '') FROM alchemist.quarantined_samples") == "taken_down"


@pytest.mark.slow
def test_the_progress_of_a_run_counts_all_its_passes(
    database_url: str, ingest_corpus: Callable[[], Path], package: Path
) -> None:
    """The second pass began at 0, but its speed was divided by the time of both."""
    ingest_corpus()
    register("redness", "redness", nightly=True)
    register("words", "other_scorers:Words", nightly=True)
    n_samples = score(rater="nightly").n_samples
    found = ask(
        "SELECT concat(progress ->> 'done', ' of ', progress ->> 'total', ', before ', progress ->> 'before') "
        "FROM alchemist.runs WHERE stage = 'score'"
    )
    # The second pass has two scores of each image.
    assert found == f"{n_samples} of {n_samples}, before {n_samples // 3}"


@pytest.mark.slow
def test_a_retired_scorer_scores_nothing_more_and_its_scores_stay(trained_store: TrainedStore, package: Path) -> None:
    register("redness", "redness", nightly=True)
    score(scorer="redness", crawl_date="2026-01-01")
    retire(RetireConfig(name="redness", reason="a better one came"))
    assert score(rater="nightly").n_scored == 240
    for fields in ({"scorer": "redness"}, {"rater": "redness"}):
        with pytest.raises(ConfigError, match="Scorer redness is retired"):
            score(**fields)
    assert (
        ask("SELECT count(*) FROM alchemist.scores JOIN alchemist.raters USING (rater_id) WHERE name = 'redness'")
        == 120
    )


def test_a_retired_scorer_scores_again_after_the_command_that_the_errors_name(
    ingest_corpus: Callable[[], object], package: Path
) -> None:
    ingest_corpus()
    register("words", "other_scorers:Words", option=("factor=2",), nightly=True)
    score(scorer="words", crawl_date="2026-01-01")
    retire(RetireConfig(name="words"))
    with pytest.raises(ConfigError, match=r"as words\. .* use that name"):
        register("words_2", "other_scorers:Words", option=("factor=2",))
    with pytest.raises(ConfigError, match=r"Scorer words_letters is retired.*: alchemist scorer register words\n"):
        score(scorer="words")
    again = register_scorer(RegisterConfig(name="words"))
    assert (again.is_new, again.is_nightly) == (False, False)
    assert score(scorer="words").n_scored == 2 * 120
    assert score(rater="nightly").n_scored == 0
    events = "SELECT string_agg(action, ' ' ORDER BY audit_event_id) FROM alchemist.audit_events WHERE subject = 'rater words_words'"
    assert ask(events) == "retire reinstate"
    retire(RetireConfig(name="words"))
    assert register_scorer(RegisterConfig(name="words", nightly=True)).is_nightly


def test_a_registered_scorer_becomes_nightly_by_its_name_alone(database_url: str, package: Path) -> None:
    register("words", "other_scorers:Words", option=("factor=2",))
    again = register_scorer(RegisterConfig(name="words", nightly=True))
    assert (again.is_new, again.is_nightly) == (False, True)
    assert ask("SELECT bool_and((config #>> '{options,factor}')::float = 2 AND is_shadow) FROM alchemist.raters")
    # An option replaces the registered one alone, which is another scorer here.
    with pytest.raises(ConfigError, match=r"belongs to another scorer \(other options\)"):
        register("words", option=("factor=3",))


def test_one_of_the_scores_of_a_scorer_is_not_retired_alone(database_url: str, package: Path) -> None:
    register("words", "other_scorers:Words")
    with pytest.raises(ConfigError, match=r"one of the scores of scorer words\. .*: alchemist scorer retire words$"):
        retire(RetireConfig(name="words_letters"))
    assert {one.state for one in list_all(ListConfig()).scores} == {"candidate"}
    assert retire(RetireConfig(name="words")).scores == ["words_letters", "words_words"]


@pytest.mark.slow
def test_quarantined_samples_of_a_scorer_are_retried_by_it(trained_store: TrainedStore, package: Path) -> None:
    (package / "picky.py").write_text(OTHERS + """
class Picky(Words):
    def score(self, batch):
        found = super().score(batch)
        if not os.environ.get("IS_WELL"):
            for at, text in enumerate(batch.captions):
                if len(text) % 2:
                    found[at], batch.faults[at] = np.nan, "odd"
        return found
""")  # fmt: skip
    register("picky", "picky:Picky")
    first = score(scorer="picky")
    assert first.n_quarantined > 0
    assert (
        ask("SELECT DISTINCT reason || ': ' || detail FROM alchemist.quarantined_samples")
        == "refused_by_scorer: scorer picky_letters: odd"
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("IS_WELL", "1")
        for name in ("picky_letters", "picky_words"):
            result = retry_quarantine(RetryQuarantineConfig(rater=name, reason="refused_by_scorer"))
            assert result.n_still_quarantined == 0
    assert ask("SELECT count(*) FROM alchemist.quarantined_samples") == 0
    assert ask("SELECT bool_and(n_scored = n_samples) FROM alchemist.shard_scores")


def test_a_broken_package_hides_no_other_scorer_that_can_be_registered(package: Path) -> None:
    info = package / "broken_scorers-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: broken-scorers\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[alchemist.scorers]\nbroken = broken_scorers:Redness\n")
    report = list_all(ListConfig(available=True))
    assert {"pixels", "vlm", "redness"} <= report.available.keys()
    assert "libcudart.so is missing. Repair or remove its package" in report.available["broken"]


def test_check_refuses_a_scorer_whose_scores_depend_on_the_batch(trained_store: TrainedStore, package: Path) -> None:
    good = check(CheckConfig(name="redness", use="redness", dataset="scenes", n_samples=100))
    assert (good.difference, good.n_without_score, good.n_samples) == (0.0, 0, 100)
    # Also if one batch holds all samples.
    for n_samples in (100, 30):
        with pytest.raises(CheckFailedError, match="other scores in other batches"):
            check(CheckConfig(name="n", use="other_scorers:Neighbourly", dataset="scenes", n_samples=n_samples))
    with pytest.raises(CheckFailedError, match=r"a score in one batch only: [1-9]"):
        check(CheckConfig(name="p", use="other_scorers:Placed", dataset="scenes", n_samples=30))


@pytest.mark.parametrize(
    ("name", "use", "message"),
    [
        ("Redness", "redness", "not a name for a scorer"),
        ("red-ness", "redness", "not a name for a scorer"),
        ("redness", "nothing", "There is no scorer 'nothing'"),
        ("redness", "no_module:Redness", "cannot be imported"),
        ("redness", "broken_scorers:Redness", r"cannot be imported: libcudart\.so is missing"),
        ("redness", "other_scorers:np", "is not a scorer"),
        ("reddish", None, "Which scorer is 'reddish'"),
    ],
)
def test_what_is_no_scorer_is_refused(
    database_url: str, package: Path, name: str, use: str | None, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        register_scorer(RegisterConfig(name=name, use=use))


@pytest.mark.slow
def test_options_are_checked_and_registering_again_changes_nothing(database_url: str, package: Path) -> None:
    with pytest.raises(ConfigError, match=r"factr: Extra inputs.*Options: factor"):
        register("words", "other_scorers:Words", option=("factr=2",))
    first = register_scorer(RegisterConfig(name="words", use="other_scorers:Words", option=("factor=2",)))
    again = register_scorer(RegisterConfig(name="words", use="other_scorers:Words", option=("factor=2.0",)))
    assert (first.is_new, again.is_new) == (True, False)


@pytest.mark.slow
def test_two_slots_register_a_scorer_once_and_it_gets_no_second_name(database_url: str, package: Path) -> None:
    def register_words(_slot: int) -> bool:
        return register_scorer(RegisterConfig(name="words", use="other_scorers:Meeting")).is_new

    with ThreadPoolExecutor(2) as slots:
        assert sorted(slots.map(register_words, range(2))) == [False, True]
    register("redness", "redness")
    with pytest.raises(ConfigError, match="registered already, as redness"):
        register("red", "redness")
    # Its scores would have other names, and still be those of another scorer.
    with pytest.raises(ConfigError, match=r"other use.*outputs"):
        register("words", "redness")


@pytest.mark.slow
def test_a_registered_scorer_that_reads_another_side_is_not_the_registered_one(
    database_url: str, package: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    register("redness", "redness")
    monkeypatch.setattr(find_scorer("redness"), "image_side", 32)
    with pytest.raises(ConfigError, match="image side 16 and"):
        load_runner(find_outputs(open_store(), "redness"), "cpu")
    with pytest.raises(ConfigError, match="other image_side"):
        register("redness", "redness")


@pytest.mark.slow
def test_a_relative_path_of_a_section_starts_at_the_project_file(
    database_url: str, package: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    declare(package, monkeypatch, '[scorers.lexicon]\nuse = "other_scorers:Lexicon"\noptions.path = "words/good.txt"\n')
    register_scorer(RegisterConfig(name="lexicon"))
    assert ask("SELECT config -> 'options' ->> 'path' FROM alchemist.raters LIMIT 1") == str(package / "words/good.txt")


@pytest.mark.slow
def test_a_scorer_is_not_promoted_and_scores_every_night_as_a_shadow(
    trained_store: TrainedStore, package: Path
) -> None:
    register("redness", "redness")
    with pytest.raises(ConfigError, match=r"redness is no trained rater but a scorer.*--rank-by redness"):
        promote(PromoteConfig(rater="redness"))
    promote(PromoteConfig(rater="redness", shadow=True))
    assert ask("SELECT is_shadow FROM alchemist.raters WHERE name = 'redness'")
