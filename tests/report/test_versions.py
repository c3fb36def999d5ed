"""Two versions of a subset are compared by the same model, protocol and seeds; the verdict follows from the interval."""

import pytest
from sqlalchemy import Engine

from alchemist_core.errors import ConfigError
from alchemist_core.report.versions import compare_versions, read_version_comparison
from alchemist_core.statistics import detectable_effect, estimate, pooled_spread
from alchemist_core.store.models import VersionLoss
from alchemist_core.store.subsets import choose_version
from tests.given import THREE_VERSIONS, insert_rows


def losses(
    version: int, values: dict[int, float], *, protocol: int = 1, training: str = "", n_steps: int = 100, metric: str = "heldout_loss"
) -> list[VersionLoss]:  # fmt: skip
    return [
        VersionLoss(version, metric, protocol, training, seed, value, 50, n_steps) for seed, value in values.items()
    ]


OLD = {0: 1.0, 1: 2.0, 2: 3.0}


@pytest.mark.parametrize(
    ("shift", "verdict", "title"),
    [
        ((-0.1, -0.11, -0.12), "better", "v2: better than v1"),
        ((0.1, 0.11, 0.12), "worse", "v2: worse than v1"),
        ((0.1, -0.11, 0.05), "not shown", "v2: no difference shown to v1"),
    ],
)
def test_the_verdict_follows_from_the_interval_of_the_difference(
    shift: tuple[float, ...], verdict: str, title: str
) -> None:
    new = {seed: loss + by for (seed, loss), by in zip(OLD.items(), shift, strict=True)}
    found = compare_versions([*losses(1, OLD), *losses(2, new)], "s", 2, 1)
    assert (found.verdict, found.title) == (verdict, title)
    expected = estimate(list(shift))
    assert (
        found.difference.mean
        == pytest.approx(expected.mean)
        == pytest.approx(found.own.loss.mean - found.other.loss.mean)
    )
    assert [found.difference.low, found.difference.high] == pytest.approx([expected.low, expected.high])
    assert "3 common seeds" in found.text


def test_seeds_that_only_one_has_do_not_count() -> None:
    found = compare_versions([*losses(1, OLD), *losses(2, {1: 1.9, 2: 2.9, 7: 90.0})], "s", 2, 1)
    assert (found.own.loss.mean, found.other.loss.mean, found.difference.n) == (pytest.approx(2.4), 2.5, 2)


def test_one_common_seed_shows_nothing_and_names_what_is_missing() -> None:
    found = compare_versions([*losses(1, OLD), *losses(2, {0: 0.5})], "s", 2, 1)
    assert (found.verdict, found.difference.low) == ("not shown", None)
    assert found.title == "v2: not known yet against v1"
    assert "at least 2 more seeds are needed" in found.text
    assert (
        "with the preset and the options of the former training: alchemist train-downstream s --version 2 --preset PRESET --arms subset "
        "--seeds 0,1,2, then alchemist evaluate s --version 2." in found.text
    )
    assert "--version 1" not in found.text, "v1 has these seeds"


def test_a_difference_that_is_not_shown_says_how_many_seeds_would_show_it() -> None:
    new = {0: 1.02, 1: 1.95, 2: 2.93}
    found = compare_versions([*losses(1, OLD), *losses(2, new)], "s", 2, 1)
    spread = pooled_spread([new], OLD)
    assert spread is not None
    n = next(n for n in range(2, 100) if detectable_effect(spread, n) <= abs(found.difference.mean))
    assert f"about {n - 3} more seeds are needed" in found.text
    tiny = compare_versions([*losses(1, OLD), *losses(2, {0: 1.1, 1: 1.9, 2: 3.0001})], "s", 2, 1)
    assert "more than 100 seeds are needed" in tiny.text


def test_other_options_or_another_protocol_are_not_compared() -> None:
    rows = [
        *losses(1, OLD),
        *losses(1, OLD, protocol=2),
        *losses(1, OLD, training="large"),
        *losses(2, {0: 0.5, 1: 1.5}, protocol=2),
    ]
    assert compare_versions(rows, "s", 2, 1).protocol_id == 2
    assert compare_versions([*rows, *losses(3, OLD, protocol=2, training="large")], "s", 2, 1).others == (1,)


def test_other_steps_are_named() -> None:
    rows = [*losses(1, OLD), *losses(2, {0: 0.9, 1: 1.89, 2: 2.88}, n_steps=80)]
    assert "v2 was trained for 80 steps and v1 for 100" in compare_versions(rows, "s", 2, 1).text


def test_the_loss_of_star_counts_before_that_of_flux() -> None:
    """Also if both have a later protocol of the flow loss."""
    rows = [*losses(1, OLD), *losses(2, {0: 0.5, 1: 1.5, 2: 2.5})]
    flow = [
        *losses(1, OLD, protocol=2, metric="heldout_flow_loss"),
        *losses(2, OLD, protocol=2, metric="heldout_flow_loss"),
    ]
    found = compare_versions([*flow, *rows], "s", 2, 1)
    assert (found.protocol_id, found.difference.mean) == (1, -0.5)
    assert found.text.startswith("held-out loss ")
    assert compare_versions([*flow, *losses(2, OLD)], "s", 2, 1).text.startswith("held-out flow loss ")


@pytest.mark.db
def test_versions_that_only_flux_models_were_trained_on_are_compared_by_their_flow_loss(engine: Engine) -> None:
    trained = [(version, seed) for version in (1, 2) for seed in (0, 1, 2)]
    with engine.begin() as connection:
        insert_rows(connection, {
            **THREE_VERSIONS,
            "models": [
                {"model_id": n, "arm": "subset", "subset_id": version, "seed": seed, "identity_hash": str(n),
                 "config": {"model": {"flux": {}, "seed": seed}}}
                for n, (version, seed) in enumerate(trained, 1)
            ],
            "evaluation_protocols": [{"protocol_id": 1}],
            "evaluations": [
                {"model_id": n, "protocol_id": 1, "metric": "heldout_flow_loss", "value": 3 - version + seed + 0.01 * version * seed}
                for n, (version, seed) in enumerate(trained, 1)
            ],
        })  # fmt: skip
    second = choose_version(engine, "s", version=2)
    for against in (1, None):
        found = read_version_comparison(engine, second, against)
        assert found is not None
        assert (found.title, found.difference.n) == ("v2: better than v1", 3)
        assert found.text.startswith("held-out flow loss ")
    with pytest.raises(
        ConfigError, match=r"alchemist evaluate s --version 3 --protocol heldout_flow_loss\."
    ) as refused:
        read_version_comparison(engine, second, 3)
    assert "can be compared: 1)" in str(refused.value)
