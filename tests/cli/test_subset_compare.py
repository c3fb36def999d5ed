"""A gain has the same sign wherever it is printed, and the full corpus is one of the arms."""

import re
from pathlib import Path

import pytest
import yaml
from sqlalchemy import Connection, Engine, text

from alchemist_core.cli.subset import CompareConfig, compare
from alchemist_core.errors import ConfigError
from alchemist_core.metrics.catalogue import METRICS as BUILT_IN
from alchemist_core.report.comparison import compare_arms, summarize_metrics
from alchemist_core.report.content import ArmRun, MetricRun
from alchemist_core.statistics import LOWER_IS_BETTER, gain_over
from alchemist_core.store.engine import SQL
from alchemist_core.store.models import read_evaluations
from tests.given import insert_rows

pytestmark = pytest.mark.db

# Subset, random and full, for two seeds each. Random is worse than the subset in both metrics; the subset beats the full corpus.
VALUES = {
    "heldout_loss": {"subset": (2.0, 2.2), "random": (3.0, 3.4), "full": (2.1, 2.4)},
    "clip_score": {"subset": (0.30, 0.31), "random": (0.28, 0.28), "full": (0.29, 0.29)},
}
METRICS = [*BUILT_IN, "fid_people", "kid_efficientnet_lite0", "fid_of_average"]


@pytest.fixture
def measured(engine: Engine) -> Engine:
    models = [
        {"model_id": 1 + 2 * i + seed, "arm": arm, "seed": seed, "subset_id": None if arm == "full" else 1}
        | {"config": {"rater": "r"}}
        for i, arm in enumerate(("subset", "random", "full"))
        for seed in (0, 1)
    ]
    evaluations = [
        {"model_id": model["model_id"], "protocol_id": 1, "metric": metric, "value": arms[model["arm"]][model["seed"]]}
        for metric, arms in VALUES.items()
        for model in models
    ]
    with engine.begin() as connection:
        insert_rows(connection, {
            "raters": [{"rater_id": 1, "name": "r", "state": "production"}],
            "rank_scales": [{"rank_scale_id": 1, "rater_id": 1, "knot_scores": [1], "knot_ranks": [0]}],
            "rank_snapshots": [{"snapshot_id": 1, "rank_scale_id": 1, "dataset_names": ["web"]}],
            "subsets": [{"subset_id": 1, "name": "s", "snapshot_id": 1, "state": "published"}],
            "models": models,
            "evaluation_protocols": [{"protocol_id": 1}],
            "evaluations": evaluations,
        })  # fmt: skip
    return engine


@pytest.mark.usefixtures("measured")
@pytest.mark.parametrize(("metric", "gain"), [("heldout_loss", 1.1), ("clip_score", 0.025)])
def test_compare_report_and_sql_print_the_same_gain_for_a_loss_and_for_a_score(
    engine: Engine, metric: str, gain: float
) -> None:
    with engine.connect() as connection:
        statement = "SELECT gain FROM alchemist.subset_comparisons WHERE arm = 'subset' AND metric = :metric"
        in_sql = connection.execute(text(statement), {"metric": metric}).scalar_one()
    (row,) = [
        row for row in compare(CompareConfig(subset="s")).rows if (row["metric"], row["arm"]) == (metric, "subset")
    ]
    runs = [
        MetricRun("s v1", "c", metric, arm, seed, value)
        for arm, values in VALUES[metric].items()
        for seed, value in enumerate(values)
    ]
    (summary,) = summarize_metrics(runs)
    assert summary.gain is not None
    assert [in_sql, row["gain"], summary.gain.mean] == pytest.approx([gain] * 3)
    assert [row["gain_low"], row["gain_high"]] == pytest.approx([summary.gain.low, summary.gain.high], rel=1e-4)
    printed = compare(CompareConfig(subset="s")).summary()
    assert re.search(rf"{metric} +subset .* \+{gain:.4f} \[", printed)


@pytest.mark.usefixtures("measured")
def test_the_page_about_comparisons_explains_each_column() -> None:
    printed = re.split(r" {2,}", compare(CompareConfig(subset="s")).summary().splitlines()[1])
    page = Path(__file__).parents[2] / "docs/how-to/read-a-comparison.md"
    _, *explained = re.findall(r"^\| ([a-z ,]+?) \|", page.read_text(encoding="utf-8"), re.MULTILINE)
    assert sorted(", ".join(explained).split(", ")) == sorted(printed)


def test_of_an_arm_that_was_trained_again_report_and_compare_take_the_newest_model(measured: Engine) -> None:
    again = [{"model_id": 9 - n, "arm": "subset", "subset_id": 1, "identity_hash": f"again {n}"} for n in (0, 1)]
    found = [{"model_id": 9 - n, "protocol_id": 1, "value": 1.0 + n} for n in (0, 1)]
    with measured.begin() as connection:
        insert_rows(connection, {"models": again, "evaluations": found})
    rows = read_evaluations(measured, range(1, 10), 1)
    runs = [ArmRun("s v1", 0.2, row.arm, row.seed, 1, 1, row.value) for row in rows if row.metric == "heldout_loss"]
    (summary,) = [arm for arm in compare_arms(runs)[0].arms if arm.arm == "subset"]
    (row,) = [
        row
        for row in compare(CompareConfig(subset="s")).rows
        if (row["metric"], row["arm"]) == ("heldout_loss", "subset")
    ]
    assert summary.loss_of_seed[0] == 1.0
    assert [summary.loss.mean, row["mean"]] == pytest.approx([1.6, 1.6])


@pytest.mark.usefixtures("measured")
def test_every_arm_is_compared_and_the_subset_beats_the_whole() -> None:
    found = compare(CompareConfig(subset="s"))
    rows = {row["arm"]: row for row in found.rows if row["metric"] == "heldout_loss"}
    assert set(rows) == {"subset", "random", "full"}
    assert rows["subset"]["gain_over_full"] == pytest.approx(0.15)
    assert (rows["full"]["gain"], rows["full"]["gain_over_full"]) == (pytest.approx(0.95), None)
    assert rows["random"]["gain_over_full"] == pytest.approx(-0.95)


@pytest.mark.parametrize("metric", METRICS)
def test_python_sql_and_the_alert_agree_which_way_is_better(connection: Connection, metric: str) -> None:
    in_sql = connection.execute(text("SELECT alchemist.gain_over(:metric, 1, 3)"), {"metric": metric}).scalar_one()
    assert in_sql == gain_over(metric, 1.0, 3.0)
    rules = yaml.safe_load((SQL.parent / "infra" / "prometheus" / "alerts.yml").read_text())
    (expression,) = [
        rule["expr"]
        for group in rules["groups"]
        for rule in group["rules"]
        if "alchemist_evaluation_value" in rule["expr"]
    ]
    (pattern,) = re.findall(r'metric=~"([^"]+)"', expression)
    assert bool(re.fullmatch(pattern, metric)) == bool(re.search(LOWER_IS_BETTER, metric))


def test_a_loss_of_less_and_a_score_of_more_are_gains() -> None:
    assert {metric: gain_over(metric, 1.0, 3.0) > 0 for metric in METRICS} == {
        metric: metric.startswith(("fid", "kid", "heldout")) for metric in METRICS
    }


@pytest.fixture
def two_versions(measured: Engine) -> Engine:
    """Version 2 has lower losses than version 1, though its gain over a random subset of its own is smaller."""
    models = [
        {"model_id": 20 + 2 * i + seed, "arm": arm, "seed": seed, "subset_id": 2, "config": {"rater": "r"}}
        | {"identity_hash": f"{arm} of v2, {seed}"}
        for i, arm in enumerate(("subset", "random"))
        for seed in (0, 1)
    ]
    values = (1.9, 2.08, 2.0, 2.2)
    evaluations = [
        {"model_id": m["model_id"], "protocol_id": 1, "value": v} for m, v in zip(models, values, strict=True)
    ]
    with measured.begin() as connection:
        insert_rows(connection, {
            "subsets": [{"subset_id": n, "name": "s", "version": n, "snapshot_id": 1} for n in (2, 3)],
            "models": models, "evaluations": evaluations,
        })  # fmt: skip
    return measured


@pytest.mark.usefixtures("two_versions")
def test_two_versions_are_compared_by_their_losses_not_by_their_gains() -> None:
    found = compare(CompareConfig(subset="s", version=2)).versions
    assert found is not None
    assert (found["verdict"], found["version"], found["against"], found["n_seeds"]) == ("not shown", 2, 1, 2)
    assert [found["loss"], found["loss_of_other"], found["difference"]] == pytest.approx([1.99, 2.1, -0.11])
    printed = compare(CompareConfig(subset="s", version=2, against=1)).summary()
    assert "v2: no difference shown to v1: held-out loss 1.9900, that of v1 2.1000, lower by 0.1100" in printed
    assert "Do not compare the gains over random of two versions" in printed
    assert compare(CompareConfig(subset="s", version=1)).versions is None, "no version before it"
    later = compare(CompareConfig(subset="s", version=1, against=2)).versions
    assert later is not None
    assert later["difference"] == pytest.approx(0.11)


@pytest.mark.usefixtures("two_versions")
@pytest.mark.parametrize(
    ("against", "words"), [(3, "evaluate s --version 3"), (2, "with itself"), (9, "can be compared: 1")]
)
def test_versions_without_common_measurements_are_refused(against: int, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        compare(CompareConfig(subset="s", version=2, against=against))
