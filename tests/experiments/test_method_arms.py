"""The field's methods run as arms of an experiment, alone and fused with a rater; a search finds a recipe on a budget."""

import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from sqlalchemy import Engine, text

from alchemist_core.cli.experiment import run
from alchemist_core.cli.tune_selection import SearchConfig, search
from alchemist_core.errors import ConfigError
from alchemist_core.experiments.arms import RHO_BATCHES
from alchemist_core.experiments.method_scores import MethodConfig, score_by_method
from alchemist_core.experiments.methods import METHODS
from alchemist_core.experiments.recipes import RecipeSearch
from alchemist_core.experiments.running import RunConfig
from alchemist_core.experiments.trial import Trial
from alchemist_core.stages import train_rater
from alchemist_core.store.engine import open_store
from alchemist_core.store.export import score_name
from alchemist_core.store.raters import find_rater
from tests.given import insert_rows
from tests.selectable_store import member_ids

pytestmark = [pytest.mark.db, pytest.mark.e2e]

GIVEN = {
    "dataset": "scenes", "validation": "v", "evaluation": "t", "rater": "production", "num_train_epochs": 1, "method_resolution": 32,
    "model": "batch_size=32,width=16,depth=1",
}  # fmt: skip


def ask(query: str, **parameters: Any) -> Any:
    with open_store().connect() as connection:
        return connection.execute(text(query), parameters).scalar()


def method(name: str, **fields: Any) -> str:
    rater = find_rater(open_store(), "production")
    assert rater is not None
    given = {"method": name, "dataset": "scenes", "validation": "v", "rater": rater.name, "resolution": 32}
    return score_by_method(MethodConfig.model_validate(given | fields))


@pytest.mark.usefixtures("scored_store")
def test_a_method_without_a_network_scores_a_corpus_once() -> None:
    names = [method("dsir"), method("rho_batches")]
    count = "SELECT count(*) FROM alchemist.scores JOIN alchemist.raters USING (rater_id) WHERE name = :name"
    assert [ask(count, name=name) for name in names] == [240, 240]
    n_runs = ask("SELECT count(*) FROM alchemist.runs")
    assert method("dsir") == names[0]
    assert ask("SELECT count(*) FROM alchemist.runs") == n_runs
    assert method("dsir", seed=1) != names[0]
    with pytest.raises(ConfigError, match=r"no method 'magic'.*semdedup"):
        method("magic")


@pytest.mark.parametrize(("given", "validation"), [({}, "v"), ({"validation": "other-{seed}"}, "other-4")])
def test_methods_learn_from_the_validation_dataset_of_a_named_rater_unless_another_is_given(
    engine: Engine, given: dict[str, str], validation: str
) -> None:
    with engine.begin() as connection:
        rater = {"rater_id": 1, "name": "r", "state": "production", "config": {"validation": "v"}}
        insert_rows(connection, {"raters": [rater]})
    named = {"experiment": "methods", "dataset": "web", "evaluation": "web-test", "rater": "production", **given}
    trial = Trial(RunConfig.model_validate({**named, "arms": "random,image_density/top_k"}), 4)
    found = find_rater(engine, "r")
    assert found is not None
    assert trial.method_config("image_density", found).validation == validation


@pytest.mark.usefixtures("scored_store")
def test_a_scored_sample_whose_shard_is_gone_has_no_place_among_the_scores_of_rho_batches() -> None:
    with open_store().begin() as connection:
        gone = connection.execute(text("SELECT max(shard_id) FROM alchemist.shard_scores")).scalar_one()
        statement = text(
            "UPDATE alchemist.shards SET state = 'missing', state_reason = 'unmounted' WHERE shard_id = :gone"
        )
        connection.execute(statement, {"gone": gone})
    left = """
        SELECT array_agg(sample_id ORDER BY sample_id) FROM alchemist.scores JOIN alchemist.raters USING (rater_id)
        WHERE name = :name
    """
    wanted = """
        SELECT array_agg(sample_id ORDER BY sample_id) FROM alchemist.sample_locations JOIN alchemist.shard_scores USING (shard_id)
        WHERE shard_id <> :gone
    """
    scored = ask(left, name=method("rho_batches"))
    assert scored == ask(wanted, gone=gone)
    assert len(scored) == 200


@pytest.mark.slow
@pytest.mark.usefixtures("scored_store")
def test_every_method_is_an_arm_alone_and_fused_and_each_arm_is_trained_as_often_as_asked(corpus: Path) -> None:
    arms = [
        "random",
        # The rater in production has another rule than the one that this method reads.
        *(f"{name}/top_k" for name in METHODS if name != RHO_BATCHES),
        "alignment+dsir/head_gsample",
        "alignment/auto;std_rank=0.3",
    ]
    fields = {
        "experiment": "methods",
        "tuning_seeds": "",
        "seeds": "2",
        "retentions": "0.3",
        "trainings": 2,
        "arms": ",".join(arms),
    }
    found = run(RunConfig.model_validate(GIVEN | fields))
    assert {row["arm"]: row["n_samples"] for row in found.rows} == dict.fromkeys(arms, 72)
    result = json.loads((Path(str(found.folder)) / "result.json").read_text())
    for cell in result["cells"]:
        assert len(cell["losses"]) == 2
        assert cell["loss"] == pytest.approx(sum(cell["losses"]) / 2)
        assert cell["losses"][0] != cell["losses"][1]
    assert run(RunConfig.model_validate(GIVEN | fields)).table == found.table


@pytest.mark.slow
@pytest.mark.usefixtures("scored_store")
def test_rho_batches_reads_a_rater_of_rule_learnability_also_where_no_other_arm_has_one() -> None:
    training = "batch_size=32,proxy_warmup_steps=4,max_train_steps=4"
    fields = {"experiment": "methods", "tuning_seeds": "", "seeds": "2", "retentions": "0.3", "rater": None}
    given = GIVEN | fields | {"training": training, "arms": "random,alignment/top_k,rho_batches/top_k"}
    config = RunConfig.model_validate(given)
    assert run(config.model_copy(update={"dry_run": True})).cost["n_raters"] == 2  # type: ignore[index]
    run(config)
    read = "SELECT config ->> 'rater' FROM alchemist.runs WHERE stage = 'score_method'"
    assert ask("SELECT rule FROM alchemist.raters WHERE name = :name", name=ask(read)) == "learnability"
    # All three are found again by the names of their subsets.
    assert run(config.model_copy(update={"dry_run": True})).cost["n_existing_models"] == 3  # type: ignore[index]
    words = ["alignment/top_k", "rho_batches/top_k"]
    searching = RecipeSearch(config, words, 0.3, config.model_of(num_train_epochs=1))
    assert all(math.isfinite(searching.measure(word, 3)) for word in words)
    last = f"{read} ORDER BY run_id DESC LIMIT 1"
    assert ask("SELECT rule FROM alchemist.raters WHERE name = :name", name=ask(last)) == "learnability"


@pytest.mark.slow
@pytest.mark.usefixtures("scored_store")
def test_raters_of_several_lengths_share_the_tokenizer_of_the_longest() -> None:
    # Training reads 160 of the 240 samples, the two steps of the other kind read 96.
    fields = {
        "experiment": "methods", "tuning_seeds": "", "seeds": "2", "retentions": "0.3", "rater": None,
        "training": "batch_size=32,proxy_warmup_steps=1,max_train_steps=4",
    }  # fmt: skip
    both = RunConfig.model_validate(GIVEN | fields | {"arms": "random,alignment/top_k,two_steps/top_k", "name": "both"})
    assert len(run(both).rows) == 3
    least = "SELECT array_agg(config ->> 'least_samples' ORDER BY rater_id) FROM alchemist.raters"
    assert ask(f"{least} WHERE kind = 'trained' AND state <> 'production'") == [None, "160"]
    # Alone it keeps its own samples, and its name.
    run(RunConfig.model_validate(GIVEN | fields | {"arms": "random,two_steps/top_k", "name": "alone"}))
    assert ask(f"{least} WHERE kind = 'trained' AND state <> 'production'") == [None, "160", None]


@pytest.mark.parametrize(("weights", "least"), [(None, 160), ("star.safetensors", None)])
def test_raters_whose_tokenizer_is_given_keep_their_samples_and_their_names(
    weights: str | None, least: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    training_of = RunConfig.training_of
    # The real config requires the options that fit the weights.
    monkeypatch.setattr(train_rater, "TrainRaterConfig", SimpleNamespace)
    monkeypatch.setattr(
        RunConfig,
        "training_of",
        lambda config, kind, seed: training_of(config, kind, seed).model_copy(update={"tokenizer_weights": weights}),
    )
    given = {"experiment": "methods", "rater": None, "training": "batch_size=32,proxy_warmup_steps=1,max_train_steps=4"}
    trial = Trial(RunConfig.model_validate(GIVEN | given), 2, kinds=["alignment", "two_steps"])
    assert trial._rater_config("two_steps").least_samples == least


@pytest.mark.slow
@pytest.mark.usefixtures("scored_store")
def test_a_search_leaves_out_a_recipe_whose_rater_has_another_tokenizer(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["alignment/top_k", "loss/top_k"]
    given = {"rater": None, "training": "batch_size=32,proxy_warmup_steps=4,max_train_steps=8"}
    config = SearchConfig.model_validate(GIVEN | given | {"recipes": ",".join(words), "retention": 0.3})
    searching = RecipeSearch(config, words, 0.3, config.model_of(num_train_epochs=1))
    assert math.isfinite(searching.measure(words[0], 0))
    # The corpus changes between two trainings of one seed.
    last_shard = "(SELECT max(shard_id) FROM alchemist.shard_scores)"
    with open_store().begin() as connection:
        connection.execute(text(f"UPDATE alchemist.shards SET state = 'retired' WHERE shard_id = {last_shard}"))
    n_scored = "SELECT count(*) FROM alchemist.shard_scores"
    before = ask(n_scored)
    assert searching.measure(words[1], 0) == math.inf
    assert ask(n_scored) == before, "refused before it scores the corpus"
    left_out = [line for line in capsys.readouterr().err.splitlines() if "is left out" in line]
    assert len(left_out) == 1
    assert "different tokenizers" in left_out[0]


@pytest.mark.slow
@pytest.mark.usefixtures("scored_store")
def test_raters_are_fused_and_an_arm_that_varies_gets_its_clusters() -> None:
    fields = {
        "experiment": "methods", "tuning_seeds": "", "seeds": "2", "retentions": "0.3", "rater": None,
        "training": "batch_size=32,proxy_warmup_steps=4,max_train_steps=4",
        "arms": "random,learnability+pmi/top_k,pmi/auto,random;variety=1,pmi/top_k;accept=auto;fill=repeat",
    }  # fmt: skip
    found = run(RunConfig.model_validate(GIVEN | fields))
    assert len(found.rows) == 5
    rules = "SELECT array_agg(rule ORDER BY rule) FROM alchemist.raters WHERE kind = 'trained' AND rule IN ('pmi', 'learnability')"
    assert ask(rules) == ["learnability", "pmi"]
    pmi = score_name(ask("SELECT name FROM alchemist.raters WHERE rule = 'pmi'"))
    assert ask("SELECT count(*) FROM alchemist.subsets WHERE spec ->> 'rank_by' = :by", by=f"rater+{pmi}") == 1
    scorer = ask("SELECT spec ->> 'semantic_scorer' FROM alchemist.subsets WHERE spec ->> 'variety' = '1.0'")
    chosen = member_ids(open_store(), ask("SELECT name FROM alchemist.subsets WHERE spec ->> 'variety' = '1.0'"))
    per_cluster = """
        SELECT array_agg(ARRAY[n_members, n_samples]) FROM (
            SELECT count(*) AS n_samples, count(*) FILTER (WHERE sample_id = ANY(:chosen)) AS n_members
            FROM alchemist.clusters INNER JOIN alchemist.raters USING (rater_id) WHERE raters.name = :scorer GROUP BY cluster
        ) AS counted
    """
    counted = ask(per_cluster, scorer=scorer, chosen=sorted(chosen))
    assert sum(n_members for n_members, _ in counted) == 72
    most = max(n_members for n_members, _ in counted)
    assert all(n_members >= min(n_samples, most - 1) for n_members, n_samples in counted)
    n_models = ask("SELECT count(*) FROM alchemist.models")
    assert run(RunConfig.model_validate(GIVEN | fields)).table == found.table
    assert ask("SELECT count(*) FROM alchemist.models") == n_models


@pytest.mark.slow
@pytest.mark.usefixtures("scored_store")
def test_a_search_trains_what_it_planned_and_prints_how_to_select() -> None:
    fields = {
        "recipes": "alignment/auto,dsir/top_k,alignment+dsir/top_k", "seeds": "0,1", "confirmation_seeds": "2,3", "retention": 0.3,
    }  # fmt: skip
    planned = search(SearchConfig.model_validate(GIVEN | fields | {"dry_run": True}))
    assert "3 recipes on 1 seed, 2 recipes on 2 seeds" in planned.summary()
    assert ask("SELECT count(*) FROM alchemist.models") == 0
    found = search(SearchConfig.model_validate(GIVEN | fields))
    assert 0 < ask("SELECT count(*) FROM alchemist.models") <= planned.n_trainings == 11
    assert found.recipe is not None
    stored = json.loads(Path(str(found.file)).read_text())
    assert stored["promised"]["n"] == 2
    assert found.select is not None
    assert found.select.startswith("alchemist select --retention 0.3 --strategy ")


@pytest.mark.slow
@pytest.mark.usefixtures("scored_store")
def test_a_named_rater_ranks_recipes_by_other_scores_too_and_only_other_rules_are_left_out(
    capsys: pytest.CaptureFixture[str],
) -> None:
    recipes = ["learnability/top_k", "dsir/top_k", "alignment+dsir/head_gsample"]
    config = SearchConfig.model_validate(GIVEN | {"recipes": ",".join(recipes), "seeds": "0,1", "retention": 0.3})
    searching = RecipeSearch(config, recipes, 0.3, config.model_of(num_train_epochs=1))
    losses = {word: searching.measure(word, 0) for word in recipes}
    assert [math.isfinite(losses[word]) for word in recipes] == [False, True, True]
    left_out = [line for line in capsys.readouterr().err.splitlines() if "is left out" in line]
    assert len(left_out) == 1
    assert "it cannot rank arms of 'learnability'" in left_out[0]
