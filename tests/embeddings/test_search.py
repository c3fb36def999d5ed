"""Search finds what a slow sort finds, within conditions, by text and by example, in all embeddings or in the nearest clusters."""

from pathlib import Path

import numpy as np
import pytest
from sqlalchemy import Engine, text

from alchemist_core.cli.duplicates import FindSemanticConfig, find_semantic
from alchemist_core.cli.scorer import RegisterConfig, register_scorer
from alchemist_core.cli.search import SearchConfig, search_samples
from alchemist_core.embeddings import search as searching
from alchemist_core.embeddings import whitening
from alchemist_core.errors import ConfigError, DataError
from alchemist_core.store.samples import take_down
from tests.embeddings.stored import add_embeddings
from tests.embeddings.test_semantic_duplicates import DIM, lookalikes
from tests.given import sha256

pytestmark = pytest.mark.db


def search(**fields: object) -> list[int]:
    return [one.sample_id for one in search_samples(SearchConfig.model_validate(fields)).samples]


def sorted_by_product(vector_ND: np.ndarray, query_D: np.ndarray) -> list[int]:
    product_N = vector_ND.astype(np.float32) @ query_D.astype(np.float32)
    return (np.lexsort((np.arange(len(product_N)), -product_N)) + 1).tolist()


def test_the_nearest_samples_are_those_of_a_sort_with_their_captions_and_addresses(engine: Engine) -> None:
    vector_ND = lookalikes(200)
    add_embeddings(engine, vector_ND)
    result = search_samples(SearchConfig(like="7", limit=10))
    assert [one.sample_id for one in result.samples] == sorted_by_product(vector_ND, vector_ND[6])[:10]
    assert (result.scorer, result.n_compared) == ("clip", 200)
    first = result.samples[0]
    product = float(vector_ND[first.sample_id - 1].astype(np.float32) @ vector_ND[6].astype(np.float32))
    assert first.similarity == pytest.approx(product, rel=1e-5)
    assert first.caption == f"pair {first.sample_id}"
    assert str(first.address).startswith("web/00000")
    assert f"{first.address}  'pair {first.sample_id}'" in result.summary()


def test_a_condition_keeps_other_samples_out_and_a_takedown_does_too(engine: Engine) -> None:
    vector_ND = lookalikes(120, seed=2)
    add_embeddings(engine, vector_ND)
    with engine.begin() as connection:
        connection.execute(text("UPDATE alchemist.samples SET width = 10 WHERE sample_id % 3 = 0"))
    take_down(engine, [sha256("image 6")], "asked", actor="ann")
    ranked = sorted_by_product(vector_ND, vector_ND[0])
    assert search(like="1", where="width < 20", limit=12) == [one for one in ranked if one % 3 == 0 and one != 6][:12]
    assert search(like="1", where="width < 5") == []
    with pytest.raises(ConfigError, match="widht"):
        search(like="1", where="widht < 5")
    with pytest.raises(DataError, match="Sample 6 has no embedding"):
        search(like="6")


@pytest.mark.parametrize("is_whitened", [False, True])
def test_in_the_nearest_clusters_new_samples_are_found_before_they_have_a_cluster(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, is_whitened: bool
) -> None:
    monkeypatch.setattr(whitening, "MIN_ROWS", 30)
    vector_ND = lookalikes(400, seed=3)
    add_embeddings(engine, vector_ND[:300])
    find_semantic(FindSemanticConfig(clusters=40, whiten=is_whitened))
    add_embeddings(engine, vector_ND[300:], first_id=301)
    monkeypatch.setattr(searching, "EXACT_UP_TO", 10)
    monkeypatch.setattr(searching, "N_PROBES", 4 if is_whitened else 8)
    wanted = sorted_by_product(vector_ND, vector_ND[350])[:10]
    result = search_samples(SearchConfig(like="351", limit=10))
    assert 100 < result.n_compared < 350
    found = [one.sample_id for one in result.samples]
    assert found[0] == wanted[0]
    assert len(set(found) & set(wanted)) >= 8
    assert search(like="351", limit=10, exact=True) == wanted
    # A condition is evaluated for the samples of these clusters alone.
    asked: list[int] = []
    real = searching.read_matching

    def read_matching(engine: Engine, where: str, sample_id_B: np.ndarray) -> np.ndarray:
        asked.extend(sample_id_B.tolist())
        return real(engine, where, sample_id_B)

    monkeypatch.setattr(searching, "read_matching", read_matching)
    assert set(search(like="351", limit=400, where="width > 0")) == set(asked)
    assert len(asked) == result.n_compared
    monkeypatch.setattr(searching, "N_PROBES", 40)
    assert search(like="351", limit=10) == wanted, "all clusters"


TOWER = f"""
import numpy as np
from alchemist_core.scorers import Scorer

class Tower(Scorer):
    def score(self, batch):
        return np.zeros(len(batch), np.float32)

    def embed_text(self, captions):
        return np.array([[len(text), *[0] * {DIM - 1}] for text in captions], np.float32)

class Deaf(Scorer):
    def score(self, batch):
        return np.zeros(len(batch), np.float32)

class Short(Deaf):
    def embed_text(self, captions):
        return np.zeros((len(captions), 3), np.float32)
"""


def register(folder: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    (folder / "text_tower.py").write_text(TOWER)
    monkeypatch.syspath_prepend(str(folder))
    register_scorer(RegisterConfig(name="tower", use=f"text_tower:{kind}"))


@pytest.mark.slow
def test_a_text_is_embedded_by_the_scorers_own_tower(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    register(tmp_path, monkeypatch, "Tower")
    vector_ND = lookalikes(50)
    add_embeddings(engine, vector_ND)
    query_D = np.zeros(DIM)
    query_D[0] = len("a red bicycle")
    assert search(text="a red bicycle", limit=50) == sorted_by_product(vector_ND, query_D)


@pytest.mark.parametrize(
    ("kind", "fields", "message"),
    [
        ("Deaf", {"text": "a bicycle"}, "cannot embed texts"),
        ("Short", {"text": "a bicycle"}, f"embeds texts as 3 numbers, and images as {DIM}"),
        ("Tower", {}, "Give a text or a sample"),
        ("Tower", {"text": "a bicycle", "like": "1"}, "Give a text or a sample"),
        (
            "Tower",
            {"text": "a bicycle", "scorer": "clip"},
            r"Scorer 'clip' has no embeddings \(with embeddings: tower\)",
        ),
    ],
)
def test_what_cannot_be_searched_is_refused(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, fields: dict[str, str], message: str
) -> None:
    register(tmp_path, monkeypatch, kind)
    add_embeddings(engine, lookalikes(10))
    with pytest.raises((ConfigError, DataError), match=message):
        search(**fields)
