"""The command that is printed as the next one fits the project file and the result, and counts are in words that fit them."""

import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from alchemist_core.cli.command_line import load_commands
from alchemist_core.cli.drift import DriftResult
from alchemist_core.cli.duplicates import ListResult
from alchemist_core.cli.subset import DiffSubsetResult
from alchemist_core.project import load_project
from alchemist_core.stages.ingest import IngestResult
from alchemist_core.stages.select import SelectResult
from alchemist_core.stages.train_rater import TrainRaterResult

PROJECT = """
[datasets.web]
role = "train"
[datasets.good]
role = "validation"
[selection]
dataset = "web"
[downstream]
preset = "tiny"
"""
ONE_NIGHT = " --dataset web --crawl-date 2026-01-01"
Next = Callable[..., str | None]


@pytest.fixture
def next_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Next:
    """Return the next step of a command; the fields of its config and its result are given."""
    monkeypatch.chdir(tmp_path)

    def find(command: str, config: dict[str, Any], result: dict[str, Any], *, project: str = "") -> str | None:
        if project:
            (tmp_path / "alchemist.toml").write_text(project)
        load_project.cache_clear()
        verb, _, sub_verb = command.partition(" ")
        found = load_commands(verb)[sub_verb]
        given = type(
            "Given",
            (),
            {"dataset": None, "crawl_date": None, "rater": "production", "scorer": None, "version": None, **config},
        )
        return found.next_step(given, type("Result", (), result))

    return find


@pytest.mark.parametrize(
    ("project", "said"),
    [
        ("", "alchemist init --data /a/tars, or alchemist ingest --dataset NAME --root /a/tars"),
        (PROJECT, "alchemist ingest --dataset NAME --root /a/tars"),
    ],
)
def test_an_import_leads_to_init_unless_there_is_a_project_file(next_of: Next, project: str, said: str) -> None:
    assert next_of("corpus import", {}, {"folder": "/a/tars"}, project=project) == said


@pytest.mark.parametrize("folder", ["/a/tars/2026-01-31", "/a/tars", "s3://crawl/web/2026-01-31/"])
def test_an_import_of_one_date_leads_to_the_dataset_of_the_folder_above(next_of: Next, folder: str) -> None:
    root = "s3://crawl/web" if folder.startswith("s3:") else "/a/tars"
    said = next_of("corpus import", {}, {"folder": folder})
    assert said == f"alchemist init --data {root}, or alchemist ingest --dataset NAME --root {root}"
    declared = f'[datasets.other]\nroot = "/b"\n[datasets.crawl]\nroot = "{root}"\n'
    assert next_of("corpus import", {}, {"folder": folder}, project=declared) == "alchemist ingest --dataset crawl"


def test_a_backup_in_a_folder_with_a_space_leads_to_a_command_that_a_shell_accepts(next_of: Next) -> None:
    said = next_of("db backup", {}, {"folder": "/mnt/my backups/monday"})
    assert said == "alchemist db restore '/mnt/my backups/monday', under a new ALCHEMIST_HOME"


def test_a_corpus_in_a_folder_with_a_space_leads_to_a_command_that_a_shell_and_the_parser_accept(
    next_of: Next, tmp_path: Path
) -> None:
    (tmp_path / "my scenes" / "train").mkdir(parents=True)
    said = next_of("corpus scenes", {}, {"folder": str(tmp_path / "my scenes")})
    assert said is not None
    root = str(tmp_path / "my scenes" / "train")
    assert shlex.split(said.splitlines()[0]) == ["alchemist", "ingest", "--dataset", "my-scenes", "--root", root]


@pytest.mark.parametrize(("project", "which"), [("", ""), (PROJECT, " --dataset web")])
def test_scores_are_checked_with_their_samples_and_shards_before_they_are_published(
    next_of: Next, project: str, which: str
) -> None:
    assert next_of("score", {}, {"rater": "r", "n_shards": 1}, project=project) == (
        f"alchemist check --suite shards,samples,scores{which}, then alchemist night check-drift{which} and "
        f"alchemist night publish{which}"
    )


@pytest.mark.parametrize("raters", ["sharp_clarity", "sharp_clarity, sharp_frequency"])
def test_a_night_of_a_scorer_is_published_and_selected_from_under_its_name(next_of: Next, raters: str) -> None:
    steps = next_of("score", {"scorer": "sharp"}, {"rater": raters, "n_shards": 1})
    assert steps is not None
    # With a rater in production, whose nights are published, nothing more is needed.
    assert steps.startswith("alchemist select --rank-by rater+sharp_clarity, with a rater in production; to publish")
    assert steps.endswith(
        "alchemist night check-drift --rater sharp_clarity and alchemist night publish --rater sharp_clarity"
    )
    named = {"rater": "sharp_clarity", "dataset": "web"}
    assert next_of("night check-drift", named, {"n_held": 0, "n_nights": 1}) == (
        "alchemist night publish --dataset web --rater sharp_clarity"
    )
    assert next_of("night publish", named, {"n_nights": 1}) == (
        "alchemist select --dataset web --retention 0.2 --dry-run --rater sharp_clarity"
    )


@pytest.mark.parametrize(
    ("suite", "n_checks", "said"),
    [
        (("shards", "samples", "scores"), 16, f"alchemist night check-drift{ONE_NIGHT}"),
        (("shards", "samples"), 11, f"alchemist score{ONE_NIGHT}"),
        (("scores",), 0, None),
        (("subset",), 3, None),
    ],
)
def test_the_suites_of_a_night_lead_to_its_scores_or_to_its_drift(
    next_of: Next, suite: tuple[str, ...], n_checks: int, said: str | None
) -> None:
    night = {"dataset": "web", "crawl_date": "2026-01-01", "suite": suite}
    assert next_of("check", night, {"n_checks": n_checks}) == said


@pytest.mark.parametrize(
    ("project", "dataset", "said"),
    [
        ("", "web", "alchemist select --dataset web --retention 0.2 --dry-run"),
        (PROJECT, "web", "alchemist select"),
        (PROJECT, None, "alchemist select"),
        (PROJECT, "books", "alchemist select --dataset books --retention 0.2 --dry-run"),
        ('[selection]\ndataset = ["books", "web"]\n', "web", "alchemist select"),
    ],
)
def test_after_a_night_select_has_only_the_options_that_the_file_does_not_give(
    next_of: Next, project: str, dataset: str | None, said: str
) -> None:
    assert next_of("night publish", {"dataset": dataset}, {"n_nights": 1}, project=project) == said


def test_a_published_subset_is_trained_on_in_a_project_and_its_tars_are_an_alternative(next_of: Next) -> None:
    published = {"subset": "s", "version": 2}
    assert next_of("subset publish", {}, published) == (
        "alchemist materialize s --version 2, or alchemist train-downstream s --version 2 --preset PRESET"
    )
    assert next_of("subset publish", {}, published, project=PROJECT) == (
        "alchemist train-downstream s --version 2; for tars to train with elsewhere: alchemist materialize s --version 2"
    )


@pytest.mark.parametrize(
    ("project", "options"), [("", " --preset PRESET --seeds 0,1,2"), (PROJECT + "seeds = [0, 1]\n", "")]
)
def test_a_new_version_is_measured_before_it_is_published(next_of: Next, project: str, options: str) -> None:
    ranked = {"name": "s", "version": 2, "rater": "r"}
    assert next_of("select", {}, {**ranked, "models": None}, project=project) == (
        f"alchemist train-downstream s --version 2{options}, then alchemist evaluate s --version 2; "
        "if it is better than random: alchemist subset publish s --version 2"
    )
    assert next_of("select", {}, {**ranked, "models": "FLUX-mini only"}, project=project) == (
        "alchemist subset publish s --version 2; to compare it with a random subset, select under a trained rater: "
        "alchemist select --rater RATER --rank-by r"
    )


@pytest.mark.parametrize(("version", "named"), [(None, "s"), (2, "s --version 2")])
def test_a_command_for_a_version_leads_to_commands_for_that_version(next_of: Next, version: int, named: str) -> None:
    given = {"subset": "s", "version": version}
    assert next_of("train-downstream", given, {}) == f"alchemist evaluate {named}"
    assert next_of("evaluate", given, {}) == f"alchemist subset compare {named}"
    assert str(next_of("subset compare", given, {"rows": [{"n_seeds": 1, "gain_low": None}]})).startswith(
        f"alchemist train-downstream {named} --preset PRESET --seeds 0,1,2"
    )


@pytest.mark.parametrize(
    ("n_seeds", "gain_low", "said"),
    [
        (3, 0.01, "alchemist report"),
        (3, None, "--seeds 0,1,2; one common seed gives no interval"),
        (1, None, "--seeds 0,1,2; one common seed gives no interval"),
    ],
)
def test_a_comparison_leads_to_the_report_once_a_gain_has_an_interval(
    next_of: Next, n_seeds: int, gain_low: float | None, said: str
) -> None:
    rows = [{"n_seeds": 3, "gain_low": None}, {"n_seeds": n_seeds, "gain_low": gain_low}]
    assert said in str(next_of("subset compare", {"subset": "s"}, {"rows": rows}))


def test_one_night_is_not_called_nights() -> None:
    assert DriftResult(n_nights=1).summary() == "1 night measured, 0 warned, 0 held"
    assert DriftResult(n_nights=2).summary() == "2 nights measured, 0 warned, 0 held"


@pytest.mark.parametrize(
    ("n_samples", "n_same_image", "max_distance", "said"),
    [
        (11, 11, None, "10 samples are near-duplicates of sample 7 (with the same bytes): a cat"),
        (5, 1, 0, "4 samples are near-duplicates of sample 7 (with the same perceptual hash): a cat"),
        (5, 2, 2, "4 samples are near-duplicates of sample 7 (1 with the same bytes, others within 2 bits): a cat"),
        (2, 1, 1, "1 sample is a near-duplicate of sample 7 (within 1 bit): a cat"),
    ],
)
def test_a_group_of_duplicates_is_described_without_its_first_sample(
    n_samples: int, n_same_image: int, max_distance: int | None, said: str
) -> None:
    group = {"n_samples": n_samples, "n_same_image": n_same_image, "max_distance": max_distance, "caption": "a cat"}
    assert ListResult(groups=[{"first_sample_id": 7, **group}]).summary() == said


@pytest.mark.parametrize(("n_new", "is_explained"), [(129, True), (130, False)])
def test_an_ingest_explains_which_pairs_are_not_new(n_new: int, is_explained: bool) -> None:
    counts = {"n_shards": 1, "n_known": 0, "n_rejected": 0, "n_locations": 132, "n_new_pairs": n_new}
    said = IngestResult.model_validate({**counts, "n_quarantined": 2, "quarantined": {"bad_image": 2}}).summary()
    assert ("1 (their image and caption are already stored)" in said) == is_explained


def test_contaminated_samples_are_defined_where_they_are_counted() -> None:
    given = {"n_removed": {"contaminated": 84, "duplicate": 1}, "datasets": {}, "crawl_dates": {}, "warnings": []}
    said = SelectResult.model_construct(**given).summary()
    assert "contaminated 84 (same image as an evaluation or validation sample, or a near-duplicate" in said


def test_a_difference_says_its_reasons_in_words_and_the_condition_that_is_one() -> None:
    counts = {"n_before": 20, "n_after": 18, "n_both": 10}
    said = DiffSubsetResult(
        before="s v1", after="s v2", **counts, leavers={"predicate": 10}, joiners={"better key": 8},
        where_before="width > 9", where_after="not flagged_bad",
    ).summary()  # fmt: skip
    lines = [" ".join(line.split()) for line in said.splitlines()]
    assert lines[1:] == [
        "left: 10", "10 excluded by the condition of s v2 (--where)", "joined: 8", "8 other samples came first in s v1",
        "Condition of s v2: not flagged_bad",
    ]  # fmt: skip


def test_a_training_explains_its_counts_and_metrics_and_stores_their_names() -> None:
    metrics = {"n_steps": 900.0, "stopped_early": 1.0, "spearman_score_minus_loss": 0.4157, "other": 1.0}
    result = TrainRaterResult(
        rater="r",
        is_new=True,
        rule="alignment",
        n_train=412,
        n_validation=130,
        n_in_both=8,
        n_near_duplicates=0,
        metrics=metrics,
    )
    said = [" ".join(line.split()) for line in result.summary().splitlines()]
    assert "in both: 8 training images are also in the validation dataset: excluded from training" in said
    assert "near duplicates: 0" in said
    assert "stopped early yes" in said
    assert "rank correlation of score and low loss (1: the rater only ranks by loss) 0.4157" in said
    assert result.model_dump()["metrics"] == metrics


def test_a_copy_in_a_folder_with_a_space_leads_to_a_command_that_a_shell_accepts(next_of: Next) -> None:
    folder = "/data/my copies/s/v1-1000"
    said = next_of("materialize", {}, {"folder": folder})
    assert said is not None
    assert shlex.split(said) == ["cd", folder, "&&", "sha256sum", "--check", "SHA256SUMS"]
    assert next_of("materialize", {}, {"folder": "s3://copies/s/v1-1000"}) is None
