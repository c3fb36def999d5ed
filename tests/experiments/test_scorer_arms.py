"""Scores as arms: each scorer whose weights can be had here, imported scores and other raters rank the samples of an experiment."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import save_file
from sqlalchemy import text

from alchemist_core.cli.experiment import RunResult, run
from alchemist_core.cli.imports import ImportScoresConfig
from alchemist_core.cli.imports import scores as import_scores
from alchemist_core.errors import ConfigError
from alchemist_core.experiments.running import Experiment, RunConfig
from alchemist_core.experiments.scores import find_sources, score_dataset
from alchemist_core.project import load_project
from alchemist_core.settings import load_settings
from alchemist_core.stages.select import SelectConfig
from alchemist_core.stages.select import run as select
from alchemist_core.store.engine import open_store
from alchemist_core.store.export import score_name
from alchemist_core.store.raters import find_rater

pytestmark = [pytest.mark.db, pytest.mark.e2e]

REDNESS = '''
import numpy as np
from alchemist_core.scorers import Batch, Scorer

class Redness(Scorer):
    """How red an image is."""
    image_side, is_padded = 16, False

    def score(self, batch: Batch):
        mean = batch.image_BHWC.mean((1, 2), dtype=np.float32)
        return mean[:, 0] - mean[:, 1:].mean(1)
'''
SMALL_MODEL = {"num_train_epochs": 1, "tuning_seeds": "", "seeds": "2", "model": "batch_size=32,width=16,depth=1"}


@pytest.fixture
def declared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project file that declares the scorer of a module, and can declare more."""
    (tmp_path / "redness_of_arms.py").write_text(REDNESS)
    monkeypatch.syspath_prepend(str(tmp_path))
    project = tmp_path / "alchemist.toml"
    project.write_text('[scorers.redness]\nuse = "redness_of_arms:Redness"\n')
    monkeypatch.setenv("ALCHEMIST_PROJECT", str(project))
    load_settings.cache_clear()
    load_project.cache_clear()
    return project


def config(arms: str, **fields: Any) -> RunConfig:
    named = {
        "dataset": "scenes",
        "evaluation": "t",
        "rater": "production",
        "retentions": "0.3",
        "experiment": "methods",
    }
    return RunConfig.model_validate(named | SMALL_MODEL | {"arms": arms} | fields)


def ask(query: str, **parameters: Any) -> Any:
    with open_store().connect() as connection:
        return connection.execute(text(query), parameters).scalar()


def import_lengths(path: Path, name: str, condition: str = "true") -> None:
    """Import the length of each caption as a score."""
    with open_store().connect() as connection:
        rows = connection.execute(
            text(f"SELECT sample_id, length(caption)::real AS score FROM alchemist.samples WHERE {condition}")
        ).all()
    table = pa.table(
        {"sample_id": [row.sample_id for row in rows], "score": pa.array([row.score for row in rows], pa.float32())}
    )
    pq.write_table(table, path)
    import_scores(ImportScoresConfig.model_validate({"from_": str(path), "name": name, "key": "sample_id"}))


def give_number(key: str, *, dataset: str) -> None:
    """Give one sample of a dataset a number of its crawl."""
    statement = text("""
        INSERT INTO alchemist.heuristic_scores (sample_id, imported)
        SELECT min(sample_id), jsonb_build_object(CAST(:key AS text), 0.3) FROM alchemist.sample_locations
        JOIN alchemist.shards USING (shard_id) JOIN alchemist.datasets USING (dataset_id) WHERE datasets.name = :dataset
        ON CONFLICT (sample_id) DO UPDATE SET imported = excluded.imported
    """)
    with open_store().begin() as connection:
        connection.execute(statement, {"key": key, "dataset": dataset})


def n_scores(name: str) -> int:
    query = "SELECT count(*) FROM alchemist.scores JOIN alchemist.raters USING (rater_id) WHERE name = :name"
    return int(ask(query, name=name))


def sizes(found: RunResult) -> dict[str, int]:
    return {row["arm"]: row["n_samples"] for row in found.rows}


@pytest.mark.slow
@pytest.mark.usefixtures("scored_store")
def test_arms_rank_by_a_declared_scorer_and_by_imported_scores_and_the_scorer_is_run_first(
    declared: Path, tmp_path: Path
) -> None:
    import_lengths(tmp_path / "lengths.parquet", "judge")
    assert n_scores("redness") == 0
    found = run(config("redness/top_k,judge/gsample"))
    assert n_scores("redness") == 240
    assert sizes(found) == {"redness/top_k": 72, "judge/gsample": 72}
    # Those of the arm are the reddest samples.
    query = """
        SELECT count(*) FILTER (WHERE place <= 72) FROM (
            SELECT sample_id, row_number() OVER (ORDER BY score DESC, sample_id) AS place FROM alchemist.scores
            JOIN alchemist.raters USING (rater_id) WHERE name = 'redness'
        ) AS ranked JOIN alchemist.subset_samples USING (sample_id) JOIN alchemist.subsets USING (subset_id)
        WHERE spec ->> 'rank_by' = 'redness' OR spec ->> 'score' = 'redness'
    """
    assert ask(query) >= 71
    # Again, nothing is scored and nothing trained.
    n_runs = ask("SELECT count(*) FROM alchemist.models")
    assert run(config("redness/top_k,judge/gsample")).table == found.table
    assert ask("SELECT count(*) FROM alchemist.models") == n_runs


@pytest.mark.usefixtures("scored_store")
def test_a_number_of_the_crawl_ranks_an_arm_and_no_scorer_is_asked_for_it() -> None:
    give_number("similarity", dataset="scenes")
    assert find_sources(["imported.similarity"], "scenes") == {"imported.similarity": None}
    score_dataset("scenes", ["imported.similarity"])
    assert run(config("random,imported.similarity/top_k", dry_run=True)).cost is not None


@pytest.mark.usefixtures("scored_store")
def test_an_arm_of_a_number_that_no_sample_of_the_dataset_has_is_refused_before_anything_is_trained() -> None:
    give_number("similarty", dataset="t")
    with pytest.raises(
        ConfigError,
        match=r"ranks by 'imported\.similarty', but no sample of scenes has a number 'similarty' of its crawl",
    ):
        run(config("random,imported.similarty/top_k"))
    with pytest.raises(ConfigError, match=r"'wbe' is not registered"):
        run(config("random,imported.similarty/top_k", dataset="wbe"))
    assert ask("SELECT count(*) FROM alchemist.models") == 0


@pytest.mark.usefixtures("scored_store")
def test_an_arm_of_an_unknown_score_is_refused_with_the_known_ones_before_anything_is_trained(declared: Path) -> None:
    message = r"ranks by 'clip_score'.*Scores: .*scenes_alignment_.*can be registered: .*captions.*redness"
    with pytest.raises(ConfigError, match=message):
        run(config("random,clip_score/top_k"))
    with pytest.raises(ConfigError, match="ranks by 'captions_beauty'"):
        run(config("random,captions_beauty/top_k"))
    # CLIP needs a model, so its name alone does not say what it computes.
    with pytest.raises(ConfigError, match="ranks by 'clip'"):
        run(config("random,clip/top_k"))
    assert ask("SELECT count(*) FROM alchemist.models") == 0


@pytest.mark.slow
@pytest.mark.usefixtures("scored_store")
def test_a_dry_run_knows_the_scorers_and_registers_none(declared: Path) -> None:
    found = run(config("random,redness/top_k,captions_words/top_k", dry_run=True))
    assert found.cost is not None
    assert found.cost["n_models"] == 3
    assert ask("SELECT count(*) FROM alchemist.raters WHERE kind = 'scorer'") == 0


@pytest.mark.usefixtures("scored_store")
def test_arms_without_ranks_share_the_named_raters_tokenizer_whatever_its_rule(declared: Path) -> None:
    with open_store().begin() as connection:
        connection.execute(text("UPDATE alchemist.raters SET rule = 'loss'"))
    experiment = Experiment(config("random,redness/top_k"))
    assert {arm.rater for arm, _ in experiment.arms} == {"loss"}


@pytest.mark.usefixtures("scored_store")
def test_conditions_and_rank_by_name_scorers_raters_and_heuristics_alike(tmp_path: Path) -> None:
    import_lengths(tmp_path / "lengths.parquet", "judge", condition="sample_id % 2 = 0")
    rater = find_rater(open_store(), "production")
    assert rater is not None
    name = score_name(rater.name)
    given = {"retention": 0.5, "strategy": "top_k", "where": f"{name} > -1e9 and clarity >= 0 and judge > 0"}
    found = [
        select(
            SelectConfig.model_validate(
                {"dataset": "scenes", "name": "s", "dry_run": True, "policy": given | {"rank_by": rank_by}}
            )
        )
        for rank_by in ("rater", name, "clarity", "judge")
    ]
    assert {one.n_eligible for one in found} == {120}
    # The rater's own name is the rater's score.
    assert found[0].manifest_sha256 == found[1].manifest_sha256
    assert len({one.manifest_sha256 for one in found}) == 3


@pytest.mark.slow
@pytest.mark.usefixtures("scored_store")
def test_every_shipped_scorer_with_weights_here_runs_as_an_arm(
    declared: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    from tests.scorers.given_networks import DIM, LABELS, write_classifier, write_clip, write_siglip

    clip, siglip, classifier = (
        write_clip(tmp_path / "clip"),
        write_siglip(tmp_path / "siglip"),
        write_classifier(tmp_path / "vit"),
    )
    save_file({"weight": torch.linspace(-1, 1, DIM)[None], "bias": torch.zeros(1)}, tmp_path / "head.safetensors")
    sections = {
        "clip_score": ("clip", f'model = "{clip}"'), "fits": ("siglip", f'model = "{siglip}"'),
        "laion": ("aesthetic", f'model = "{clip}", head = "{tmp_path / "head.safetensors"}"'),
        "nsfw": ("classifier", f'model = "{classifier}", class_names = ["{LABELS[1]}", "{LABELS[2]}"]'),
    }  # fmt: skip
    with declared.open("a") as file:
        for name, (use, options) in sections.items():
            file.write(f'[scorers.{name}]\nuse = "{use}"\noptions = {{ {options} }}\n')
    load_project.cache_clear()
    import_lengths(tmp_path / "lengths.parquet", "judge", condition="sample_id % 2 = 0")
    arms = ["clip_score/top_k", "fits/gsample", "laion/top_k", "nsfw_not_safe/block@0.4", "captions_words/top_k",
            "pixels_clarity/paper", "redness/random", "clarity/top_k", "judge/top_k"]  # fmt: skip
    found = sizes(run(config(",".join(["random", *arms]), name="worth")))
    assert set(found) == {"random", *arms}
    assert all(70 <= found[arm] <= 72 for arm in found if arm != "judge/top_k")
    # Half of the samples have no such score, and the experiment says so.
    assert found["judge/top_k"] == 36
    assert any("120 samples have no score judge" in line for line in caplog.messages)
    for name in ("clip_score", "fits", "laion", "nsfw_not_safe", "captions_words", "pixels_clarity"):
        assert n_scores(name) == 240


@pytest.mark.slow
@pytest.mark.usefixtures("database_url")
def test_each_seed_of_a_synthetic_corpus_is_scored_by_the_scorers_of_its_arms(declared: Path) -> None:
    fields = {
        "dataset": None, "evaluation": None, "rater": None, "seeds": "2,3",
        "scenes": "n_train=120,n_validation=96,n_test=32,side=32,shard_size=60",
        "training": "batch_size=32,proxy_warmup_steps=5,max_train_steps=5",
    }  # fmt: skip
    found = run(config("random,redness/top_k,captions_words/gsample", **fields))
    assert sizes(found) == dict.fromkeys(("random", "redness/top_k", "captions_words/gsample"), 36)
    assert n_scores("redness") == n_scores("captions_words") == 240
