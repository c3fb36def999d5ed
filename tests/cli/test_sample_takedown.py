"""A takedown names the image in one of three ways, applies at once, and lists where the image is used."""

import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlalchemy import text

from alchemist_core.__main__ import main
from alchemist_core.cli.command_line import build_parser, read_config
from alchemist_core.cli.duplicates import FindConfig
from alchemist_core.cli.duplicates import find as find_duplicates
from alchemist_core.cli.sample import TakedownConfig, TakedownResult
from alchemist_core.cli.sample import takedown as run
from alchemist_core.cli.subset import (
    DiffSubsetConfig,
    GcSubsetConfig,
    PublishSubsetConfig,
    RollbackSubsetConfig,
    diff,
    gc,
    publish,
    rollback,
)
from alchemist_core.errors import ConfigError, DataError
from alchemist_core.files import FEATURE_CACHE, artifact_path
from alchemist_core.project import load_project
from alchemist_core.scorers.vlm import ANSWERS, Answer, AnswerFile
from alchemist_core.selection.config import policy_of
from alchemist_core.settings import load_settings
from alchemist_core.stages.materialize import MaterializeConfig
from alchemist_core.stages.materialize import run as materialize
from alchemist_core.stages.select import SelectConfig
from alchemist_core.store.engine import open_store
from alchemist_core.store.manifests import hash_rows, read_manifest
from alchemist_core.store.subsets import find_subset
from alchemist_core.training.feature_cache import FeatureCache
from tests.given import insert_rows
from tests.trained_store import TrainedStore, copy_store, select_subset, store_once, use_store, used

pytestmark = [pytest.mark.db, pytest.mark.e2e]

NAME = "best"


@pytest.fixture(scope="module")
def published_third_once(make_database: Callable[..., str], scored_once: TrainedStore) -> TrainedStore:
    """The scored store with a published subset of 30 %; made once, to be copied."""

    def make(home: Path) -> TrainedStore:
        with used(store := copy_store(scored_once, make_database, home)):
            select_subset(NAME, 0.3, strategy="gsample", std_rank=0.2, seed=7)
            publish(PublishSubsetConfig(name=NAME))
        return store

    return store_once("published-third", make)


@pytest.fixture(autouse=True)
def _published(
    published_third_once: TrainedStore,
    make_database: Callable[..., str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    use_store(monkeypatch, copy_store(published_third_once, make_database, tmp_path / "home-0"))


def takedown(**fields: object) -> TakedownResult:
    return run(TakedownConfig.model_validate({"reason": "asked for by its author", **fields}))


def rows(sql: str, **parameters: Any) -> Sequence[Any]:
    with open_store().connect() as connection:
        return connection.execute(text(sql), parameters).all()


def a_member() -> Any:
    return rows(
        "SELECT samples.*, uri, key FROM alchemist.subset_samples JOIN alchemist.samples USING (sample_id)"
        " JOIN alchemist.sample_locations USING (sample_id) JOIN alchemist.shards USING (shard_id) ORDER BY pair_hash LIMIT 1"
    )[0]


def members(version: int) -> set[bytes]:
    subset = find_subset(open_store(), NAME, version=version)
    return set(read_manifest(artifact_path(subset.manifest_uri), sha256=subset.manifest_sha256).pair_hashes())


def test_a_sample_is_named_by_its_place_and_a_successor_without_it_is_published() -> None:
    member = a_member()
    report = takedown(sample=f"scenes/{member.uri}/{member.key}")
    assert report.image_hashes == [bytes(member.image_hash).hex()]
    assert (report.is_new, report.published_subsets, report.successors, report.to_do) == (
        True,
        [NAME],
        [f"{NAME} v2"],
        [],
    )
    assert bytes(member.pair_hash) in members(1)
    assert bytes(member.pair_hash) not in members(2)
    old, new = find_subset(open_store(), NAME, version=1), find_subset(open_store(), NAME, version=2)
    assert (old.state, new.state) == ("superseded", "published")
    drawn_as = ("strategy", "retention", "seed", "std_rank", "mean_rank", "rater")
    assert {name: old.spec.get(name) for name in drawn_as} == {name: new.spec.get(name) for name in drawn_as}
    assert new.spec["std_rank"] == 0.2
    again = takedown(sample=f"scenes/{member.uri}/{member.key}")
    assert (again.is_new, again.published_subsets) == (False, [])
    changed = diff(DiffSubsetConfig(name=NAME))
    assert (changed.before, changed.after, changed.leavers["taken down"]) == (f"{NAME} v1", f"{NAME} v2", 1)
    with pytest.raises(DataError, match=rf"1 of 72 members of {NAME} v1 were taken down .* v2 stays published\."):
        rollback(RollbackSubsetConfig(name=NAME))


def test_an_old_version_is_not_copied_any_more_but_its_successor_is_offered() -> None:
    takedown(image_hash=bytes(a_member().image_hash).hex())
    with pytest.raises(
        DataError, match=rf"1 of 72 members of {NAME} v1 .* {NAME} v2, which is published .*: --version 2\."
    ):
        materialize(MaterializeConfig(subset=NAME, version=1))
    assert materialize(MaterializeConfig(subset=NAME, version=2)).n_samples == 72


def test_what_gc_removed_is_copied_again_with_the_same_bytes() -> None:
    first = materialize(MaterializeConfig(subset=NAME))
    before = {path.name: path.read_bytes() for path in Path(first.folder).iterdir()}
    for retention in (0.5, 0.6):  # The version that a rollback goes back to is kept.
        select_subset(NAME, retention, strategy="gsample", std_rank=0.2, seed=7)
        publish(PublishSubsetConfig(name=NAME))
    (removed,) = gc(GcSubsetConfig(min_age_days=0, dry_run=False)).removed
    assert first.folder in removed
    assert not Path(first.folder).exists()
    again = materialize(MaterializeConfig(subset=NAME, version=1))
    assert {path.name: path.read_bytes() for path in Path(again.folder).iterdir()} == before


def test_every_image_at_a_url_is_taken_down() -> None:
    chosen = "SELECT sample_id FROM alchemist.samples ORDER BY pair_hash LIMIT 3"
    with open_store().begin() as connection:
        connection.execute(
            text(f"UPDATE alchemist.samples SET source_url = 'https://e.org/x.png' WHERE sample_id IN ({chosen})")
        )
    report = takedown(url="https://e.org/x.png", successors=False)
    n_images = rows("SELECT count(DISTINCT image_hash) FROM alchemist.samples WHERE source_url IS NOT NULL")[0][0]
    assert len(report.image_hashes) == n_images
    assert rows("SELECT count(*) FROM alchemist.takedowns")[0][0] == n_images


def test_models_and_tars_that_contain_the_image_are_named() -> None:
    materialize(MaterializeConfig(subset=NAME))
    subset_id = find_subset(open_store(), NAME).subset_id
    with open_store().begin() as connection:
        insert_rows(connection, {
            "models": [{"model_id": 1, "arm": "subset", "subset_id": subset_id}, {"model_id": 2, "arm": "random", "subset_id": subset_id}],
        })  # fmt: skip
    report = takedown(image_hash=bytes(a_member().image_hash).hex())
    assert (report.models, report.models_that_may) == (["models/subset 0"], ["models/random 0"])
    assert [path.endswith(f"materialized/{NAME}/v1-1000") for path in report.materialized] == [True]


def test_controls_and_raters_that_may_have_read_the_image_are_named_although_no_subset_has_it() -> None:
    subset, rater = find_subset(open_store(), NAME), rows("SELECT name FROM alchemist.raters")[0][0]
    with open_store().begin() as connection:
        insert_rows(connection, {"models": [
            {"model_id": 1, "arm": "subset", "subset_id": subset.subset_id},
            {"model_id": 2, "arm": "random", "subset_id": subset.subset_id},
            {"model_id": 3, "arm": "full", "config": {"rater": rater}},
        ]})  # fmt: skip
    (other,) = rows(
        "SELECT image_hash FROM alchemist.samples JOIN alchemist.scores USING (sample_id) "
        "WHERE sample_id NOT IN (SELECT sample_id FROM alchemist.subset_samples) ORDER BY pair_hash LIMIT 1"
    )
    report = takedown(image_hash=bytes(other.image_hash).hex())
    assert (report.published_subsets, report.models) == ([], [])
    assert report.models_that_may == ["models/full 0", "models/random 0"]
    assert report.raters_that_may == [rater]


@pytest.mark.parametrize(
    "file",
    [
        '[selection]\nseed = 3\ndedup = "near"\nwhere = "width > 10"\nmax_share = 0.5\nstratify = true\ndrop_top_ratio = 0.1\n',
        "[selection]\nno_such_key = 1\n",
    ],
)
def test_the_project_file_changes_no_option_of_the_commands_that_are_offered(
    file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "alchemist.toml").write_text(file)
    monkeypatch.chdir(tmp_path)
    load_project.cache_clear()
    (command,) = takedown(image_hash=bytes(a_member().image_hash).hex(), successors=False).to_do
    words = shlex.split(command.partition(" && ")[0])[1:]
    if "no_such_key" in file:
        # It is mended before the command runs.
        (tmp_path / "alchemist.toml").write_text("[selection]\nseed = 3\nmin_score = 0.1\nfill = 'repeat'\n")
        load_project.cache_clear()
    config = read_config(SelectConfig, vars(build_parser(words).parse_args(words)))
    assert config.policy == policy_of(find_subset(open_store(), NAME, version=1).spec)


@pytest.mark.slow
def test_without_successors_the_exact_commands_are_offered() -> None:
    member = a_member()
    report = takedown(image_hash=bytes(member.image_hash).hex(), successors=False)
    assert report.successors == []
    (command,) = report.to_do
    chosen = command.partition(" && ")[0].split()
    assert chosen[:2] == ["alchemist", "select"]
    given = dict(zip(chosen[2::2], chosen[3::2], strict=True))
    assert {name: given[name] for name in ("--dataset", "--strategy", "--retention", "--std-rank", "--seed", "--name")} == {
        "--dataset": "scenes", "--strategy": "gsample", "--retention": "0.3", "--std-rank": "0.2", "--seed": "7", "--name": NAME,
    }  # fmt: skip
    assert command.endswith(f"&& alchemist subset publish {NAME}")
    assert [main(shlex.split(line)[1:]) for line in command.split(" && ")] == [0, 0]
    assert find_subset(open_store(), NAME).state == "published"
    assert bytes(member.pair_hash) not in members(2)


def test_what_looks_like_it_is_listed_for_a_decision_and_not_taken_down(capsys: pytest.CaptureFixture[str]) -> None:
    member = a_member()
    with open_store().begin() as connection:
        connection.execute(text("UPDATE alchemist.samples SET perceptual_hash = NULL"))
        connection.execute(
            text("UPDATE alchemist.samples SET perceptual_hash = 1 WHERE image_hash = :h"), {"h": member.image_hash}
        )
        others = connection.execute(
            text("SELECT image_hash FROM alchemist.samples WHERE image_hash <> :h ORDER BY pair_hash LIMIT 2"),
            {"h": member.image_hash},
        ).scalars().all()  # fmt: skip
        for value, other in zip((3, 255), others, strict=True):
            connection.execute(
                text("UPDATE alchemist.samples SET perceptual_hash = :v WHERE image_hash = :h"),
                {"v": value, "h": other},
            )
    find_duplicates(FindConfig())
    report = takedown(image_hash=bytes(member.image_hash).hex(), successors=False)
    (near,) = report.near_duplicates
    assert (near["image_hash"], near["distance"]) == (bytes(others[0]).hex(), 1)
    assert near["command"] == f"alchemist sample takedown --image-hash {bytes(others[0]).hex()} --reason WHY"
    assert "Near-duplicate (1 bits)" in capsys.readouterr().err
    assert rows("SELECT count(*) FROM alchemist.takedowns")[0][0] == 1


def test_an_image_that_no_crawl_has_brought_yet_can_be_taken_down_before_it_comes() -> None:
    report = takedown(image_hash="ab" * 32)
    assert (report.is_new, report.n_pairs, report.published_subsets) == (True, 0, [])


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "one of --image-hash, --url and --sample .given: 0"),
        ({"url": "https://e.org/none", "image_hash": "ab" * 32}, "given: 2"),
        ({"url": "https://e.org/none"}, "No sample has --url https://e.org/none"),
        ({"sample": "scenes/no.tar/1"}, "No sample has --sample"),
    ],
)
def test_what_names_no_image_is_refused_and_nothing_is_recorded(fields: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        takedown(**fields)
    assert rows("SELECT count(*) FROM alchemist.takedowns")[0][0] == 0


def test_what_any_encoder_made_of_the_image_goes_with_it() -> None:
    member = a_member()
    # The latents of FLUX's autoencoder, from which the image can be decoded again.
    latents = artifact_path(FEATURE_CACHE) / "latents" / "vae"
    own_key = hash_rows([bytes(member.image_hash)])
    FeatureCache(latents).add(own_key, {"latent": np.zeros((1, 4))})
    answers = AnswerFile(load_settings().home / ANSWERS / "judge.sqlite")
    answer_key = (bytes(member.image_hash), b"prompt")
    answers.keep(answer_key, Answer((7.0,)))
    kept = sorted((artifact_path(FEATURE_CACHE) / "images").rglob("*.npz"))
    assert kept  # The rater's training has cached the codes of all its images.
    assert FeatureCache(kept[0].parent).find(own_key).is_known_N.tolist() == [True]
    assert takedown(image_hash=bytes(member.image_hash).hex()).n_forgotten == 3
    assert answers.find([answer_key]) == {}
    for folder in (kept[0].parent, latents):
        assert FeatureCache(folder).find(own_key).is_known_N.tolist() == [False]


def test_a_damaged_cache_segment_does_not_stop_the_successors() -> None:
    folder = artifact_path(FEATURE_CACHE) / "encoder"
    FeatureCache(folder).add(hash_rows([bytes(32)]), {"pooled": np.zeros(1, np.float32)})
    (segment,) = folder.iterdir()
    segment.write_bytes(segment.read_bytes()[:40])
    report = takedown(image_hash=bytes(a_member().image_hash).hex())
    assert report.successors == [f"{NAME} v2"]
    assert not segment.exists(), "it may hold what was made of the image"


def test_a_damaged_file_of_answers_does_not_stop_the_successors_and_is_named() -> None:
    damaged = load_settings().home / ANSWERS / "a.sqlite"
    damaged.parent.mkdir(parents=True)
    damaged.write_bytes(b"no database" * 100)
    member = a_member()
    answers = AnswerFile(damaged.with_name("judge.sqlite"))
    answers.keep((bytes(member.image_hash), b"prompt"), Answer((7.0,)))
    report = takedown(image_hash=bytes(member.image_hash).hex())
    assert report.successors == [f"{NAME} v2"]
    assert answers.find([(bytes(member.image_hash), b"prompt")]) == {}
    answers.close()
    (line,) = report.to_do
    assert str(damaged) in line
    assert "delete the file" in line
