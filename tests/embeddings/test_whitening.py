"""Whitening: equal to the slow oracle; fitted once by the first run that finds semantic duplicates, and used unchanged by later ones."""

import numpy as np
import pytest
from sqlalchemy import Engine

from alchemist_core.cli.duplicates import FindSemanticConfig, FindSemanticResult, find_semantic
from alchemist_core.embeddings import clusters, whitening
from alchemist_core.embeddings.reading import Embeddings, load_clusters, unit_vectors
from alchemist_core.embeddings.unusual import find_unusual
from alchemist_core.errors import ConfigError
from alchemist_core.files import artifact_path
from alchemist_core.store.embeddings import CentroidsRow, find_centroids
from alchemist_core.store.engine import open_store
from tests.embeddings.stored import RATER, add_embeddings
from tests.embeddings.test_semantic_duplicates import DIM, lookalikes, stored
from tests.oracles.oracle_semantic import oracle_semantic
from tests.oracles.oracle_whitening import oracle_whitened


@pytest.fixture(autouse=True)
def few_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """30 embeddings of 16 numbers are enough for a fit."""
    for module in (clusters, whitening):
        monkeypatch.setattr(module, "MIN_ROWS", 30)
        monkeypatch.setattr(module, "MIN_DIM", DIM)


def uneven(n: int, *, seed: int = 0) -> np.ndarray:
    """Embeddings near one direction, whose components have very different variances."""
    draw = np.random.default_rng(seed)
    turn, _ = np.linalg.qr(draw.normal(size=(DIM, DIM)))
    vector_ND = 6 * turn[0] + draw.normal(size=(n, DIM)) * np.geomspace(2, 0.05, DIM) @ turn
    return vector_ND.astype(np.float16)


def fit(vector_ND: np.ndarray) -> whitening.Whitening:
    found = whitening.fit_whitening(unit_vectors(vector_ND))
    assert found is not None
    return found


@pytest.mark.parametrize("ridge", [0.0, 1e-4, whitening.RIDGE])
def test_whitened_embeddings_are_those_of_the_oracle(ridge: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(whitening, "RIDGE", ridge)
    monkeypatch.setattr(whitening, "COPY", 2)
    vector_ND, other_BD = uneven(60), uneven(7, seed=1)
    white_BD = fit(vector_ND).apply(unit_vectors(other_BD))
    wanted_BD = oracle_whitened(vector_ND, other_BD, ridge)
    # The sign of a principal component is arbitrary, and no cosine depends on it; eigh gives the smallest first.
    assert np.abs(white_BD[:, ::-1]) == pytest.approx(np.abs(wanted_BD), abs=2e-3)
    assert white_BD @ white_BD.T == pytest.approx(wanted_BD @ wanted_BD.T, abs=2e-3)


def test_cosines_of_different_embeddings_are_near_1_before_it_and_near_0_after_it() -> None:
    vector_ND = uneven(400)
    unit_ND = unit_vectors(vector_ND)
    white_ND = fit(vector_ND).apply(unit_ND)
    pairs = np.triu_indices(400, 1)
    assert np.median((unit_ND @ unit_ND.T)[pairs]) > 0.7
    cosine = (white_ND @ white_ND.T)[pairs]
    assert np.abs(cosine.mean()) < 0.01
    assert cosine.std() == pytest.approx(DIM**-0.5, rel=0.2), "as of random directions"


def test_copies_do_not_count_and_zeros_stay_zero() -> None:
    vector_ND = uneven(100)
    flooded_ND = np.concatenate([vector_ND, np.repeat(vector_ND[:1], 80, axis=0)])
    alone, flooded = fit(vector_ND), fit(flooded_ND)
    assert (flooded.mean_D == alone.mean_D).all()
    assert (flooded.map_DD == alone.map_DD).all()
    zero_BD = np.zeros((2, DIM), np.float32)
    assert not alone.apply(zero_BD).any()


def test_there_is_none_of_few_or_of_equal_embeddings() -> None:
    assert whitening.fit_whitening(unit_vectors(uneven(29))) is None
    noise = np.random.default_rng(0).normal(size=(100, DIM)) * 1e-4
    assert whitening.fit_whitening(unit_vectors((uneven(1) + noise).astype(np.float16))) is None


def find(**fields: object) -> FindSemanticResult:
    return find_semantic(FindSemanticConfig.model_validate(fields))


def made() -> CentroidsRow:
    row = find_centroids(open_store(), RATER)
    assert row is not None
    return row


@pytest.mark.db
def test_nights_are_compared_by_the_whitening_of_the_first_run_and_give_the_groups_of_the_oracle(
    engine: Engine,
) -> None:
    vector_ND = lookalikes(160, seed=1) + uneven(1)[0]
    add_embeddings(engine, vector_ND[:100])
    first = find(clusters=1, memory_gib=37 * 8 * DIM / 2**30)
    assert (first.whitened, first.threshold) == ("yes", clusters.WHITENED_THRESHOLD)
    row = made()
    assert (row.is_whitened, row.threshold) == (True, clusters.WHITENED_THRESHOLD)
    add_embeddings(engine, vector_ND[100:], first_id=101)
    assert find(memory_gib=25 * 8 * DIM / 2**30).n_compared == 60
    after = made()
    assert (after.sha256, after.uri, after.is_whitened) == (row.sha256, row.uri, True)
    loaded = load_clusters(after)
    white_ND = loaded.compared(vector_ND)
    used = fit(vector_ND[:100])
    assert (used.apply(unit_vectors(vector_ND)) == white_ND).all(), "fitted on the embeddings of the first run"
    wanted = {later + 1: one + 1 for later, one in oracle_semantic(white_ND, row.threshold).items()}
    raw = {later + 1: one + 1 for later, one in oracle_semantic(vector_ND, row.threshold).items()}
    assert 30 < len(wanted) < 150
    assert stored(engine) == wanted != raw
    unusual = find_unusual(engine, after, np.arange(1, 161), limit=3).similarity_of
    similarity_N = white_ND @ loaded.centroid_KD[0]
    assert list(unusual) == (np.argsort(similarity_N)[:3] + 1).tolist()


@pytest.mark.db
def test_clusters_that_are_not_whitened_stay_so_until_a_restart(engine: Engine) -> None:
    vector_ND = lookalikes(160)
    add_embeddings(engine, vector_ND)
    assert find(clusters=2, whiten=False).whitened == "no"
    row = made()
    assert (row.is_whitened, row.threshold) == (False, clusters.THRESHOLD)
    assert np.load(artifact_path(row.uri)).shape == (2, DIM)
    before = stored(engine)
    add_embeddings(engine, vector_ND[:10], first_id=161)
    again = find()
    assert (again.n_compared, again.threshold) == (10, 0.95)
    assert again.whitened == "no, as in earlier runs. To whiten, and compare all samples again: --restart"
    assert stored(engine).items() > before.items()
    with pytest.raises(ConfigError, match="--whiten: the embeddings of scorer clip were compared as they are"):
        find(whiten=True)
    assert find(restart=True).whitened == "yes"
    with pytest.raises(ConfigError, match="--no-whiten: the embeddings of scorer clip were compared whitened"):
        find(whiten=False)
    assert len(Embeddings(engine, RATER)) == 170


@pytest.mark.db
def test_a_threshold_of_a_small_first_run_is_told_when_a_higher_one_is_usual(
    engine: Engine, capsys: pytest.CaptureFixture[str]
) -> None:
    add_embeddings(engine, lookalikes(160))
    find(clusters=2, threshold=0.25)
    assert "is usual" not in capsys.readouterr().err
    assert find(threshold=0.25).threshold == 0.25
    assert "is usual" not in capsys.readouterr().err
    assert find().threshold == 0.25
    assert "threshold 0.25, as in the first run; for 160 samples 0.4 is usual" in capsys.readouterr().err


@pytest.mark.db
def test_few_or_short_embeddings_are_not_whitened_and_demanding_it_of_few_is_refused(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_embeddings(engine, lookalikes(20))
    with pytest.raises(ConfigError, match="--whiten needs 30 embeddings that differ"):
        find(whiten=True)
    assert find().whitened == "no: that takes 1,000 different embeddings of at least 128 numbers"
    assert made().threshold == clusters.THRESHOLD
    add_embeddings(engine, lookalikes(160), first_id=21)
    monkeypatch.setattr(clusters, "MIN_DIM", DIM + 1)
    assert find(restart=True).whitened.startswith("no: ")
    assert find(restart=True, whiten=True).whitened == "yes"


def test_the_help_names_the_thresholds_and_the_least_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    described = {name: str(field.description) for name, field in FindSemanticConfig.model_fields.items()}
    wanted = (
        f"else {clusters.THRESHOLD:g}, or if they are whitened {clusters.WHITENED_THRESHOLD:g} up to 10,000 embeddings"
    )
    assert wanted in described["threshold"]
    assert f"{whitening.MIN_ROWS:,} different embeddings of at least {whitening.MIN_DIM} numbers" in described["whiten"]
