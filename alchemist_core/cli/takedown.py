"""Take an image down: every caption, location and later re-crawl of it stops being selectable at once."""

import shlex
from typing import Any

from pydantic import Field

from alchemist_core.cli.subset_publish import PublishSubsetConfig, publish
from alchemist_core.config import Command, Config, Report, lay_out
from alchemist_core.errors import AlchemistError, ConfigError
from alchemist_core.files import FEATURE_CACHE, artifact_path
from alchemist_core.selection.config import policy_of
from alchemist_core.stages.select import SelectConfig
from alchemist_core.stages.select import run as select
from alchemist_core.store.audit import current_actor
from alchemist_core.store.engine import open_store
from alchemist_core.store.samples import find_images, find_near_duplicates, find_reach, take_down
from alchemist_core.store.subsets import published_version, rater_of_subset
from alchemist_core.subsets.materialized import place_of
from alchemist_core.telemetry import say
from alchemist_core.training.feature_cache import forget


class TakedownConfig(Config):
    """Which image, named in one of three ways, and why."""

    image_hash: str | None = Field(
        None, pattern=r"^[0-9a-f]{64}$", description="sha256 of the image's bytes, 64 hex digits"
    )
    url: str | None = Field(None, min_length=1, description="Address at which a crawl found it")
    sample: str | None = Field(None, pattern=r"^[^/]+/.+/.+$", description="A sample that has it, as DATASET/SHARD/KEY")
    reason: str = Field(..., min_length=3, max_length=500, description="Why it must go; kept for the record")
    successors: bool = Field(
        True, description="Select and publish a successor, without it, of every published subset that contains it"
    )


class TakedownReport(Report):
    """What it touches, and what is left for a person to decide."""

    image_hashes: list[str]
    is_new: bool
    n_pairs: int
    n_forgotten: int
    published_subsets: list[str]
    successors: list[str] = Field(default_factory=list)
    models: list[str] = Field(default_factory=list)
    models_that_may: list[str] = Field(default_factory=list)
    materialized: list[str] = Field(default_factory=list)
    lookalikes: list[dict[str, Any]] = Field(default_factory=list)
    to_do: list[str] = Field(default_factory=list)

    def summary(self) -> str:
        """Return what a person must know; lookalikes were told one by one when they were found."""
        return lay_out({
            "taken down" if self.is_new else "was taken down before": self.image_hashes,
            "pairs with it": self.n_pairs,
            "cached features deleted": self.n_forgotten,
            "published subsets with it": self.published_subsets,
            "successors published": self.successors,
            "models trained on it": self.models,
            "models that may have been": self.models_that_may,
            "copies that still hold it": self.materialized,
            "to do": self.to_do,
        })  # fmt: skip


def run(config: TakedownConfig) -> TakedownReport:
    """Record the takedown, name subsets, models and tars that contain the image, and list what looks like it."""
    engine = open_store()
    images = _images(config)
    n_new, n_pairs = take_down(engine, images, config.reason, actor=current_actor())
    n_forgotten = forget(artifact_path(FEATURE_CACHE), images)
    reached = find_reach(engine, images)
    published = sorted({row.name for row in reached if row.state == "published"})
    successors, to_do = _succeed(published) if config.successors else ([], [_commands(name) for name in published])
    lookalikes = _lookalikes(images)
    for other in lookalikes:
        say(
            f"looks like it ({other['distance']} bits): {other['n_pairs']} pairs, {other['caption']!r}. Decide: {other['command']}"
        )
    return TakedownReport(
        image_hashes=[image.hex() for image in images], is_new=n_new > 0, n_pairs=n_pairs, n_forgotten=n_forgotten,
        published_subsets=published,
        successors=successors, models=sorted({model for row in reached for model in row.models}),
        models_that_may=sorted({model for row in reached for model in row.other_models}),
        materialized=[place_of(uri) for row in reached for uri in row.all_materialized_uris],
        lookalikes=lookalikes, to_do=to_do,
    )  # fmt: skip


def _images(config: TakedownConfig) -> list[bytes]:
    given = [name for name in ("image_hash", "url", "sample") if getattr(config, name) is not None]
    if len(given) != 1:
        raise ConfigError(f"Name the image by one of --image-hash, --url and --sample (given: {len(given)}).")
    if config.image_hash is not None:
        # Also one that no crawl has brought yet: it is refused when it comes.
        return [bytes.fromhex(config.image_hash)]
    images = find_images(open_store(), url=config.url, sample=config.sample)
    if not images:
        raise ConfigError(
            f"No pair in the store has --{given[0]} {getattr(config, given[0])}. Nothing was taken down; name its bytes by --image-hash."
        )
    return images


def _lookalikes(images: list[bytes]) -> list[dict[str, Any]]:
    found = {bytes(row.image_hash): row for image in images for row in find_near_duplicates(open_store(), image)}
    return [
        {
            "image_hash": image_hash.hex(), "distance": row.distance, "n_pairs": row.n_pairs, "caption": row.caption[:80],
            "source_url": row.source_url, "command": f"alchemist takedown --image-hash {image_hash.hex()} --reason WHY",
        }
        for image_hash, row in found.items() if image_hash not in images
    ]  # fmt: skip


def _succeed(published: list[str]) -> tuple[list[str], list[str]]:
    """Select and publish each subset again; what could not be made is returned as the commands to run."""
    made, left = [], []
    for name in published:
        try:
            report = select(_select_config(name))
            publish(PublishSubsetConfig(name=name, version=report.version))
            made.append(f"{name} v{report.version}")
        except AlchemistError as error:
            left.append(f"{_commands(name)}  # not made: {error}")
    return made, left


def _select_config(name: str) -> SelectConfig:
    """Return the config that selects a published subset again, with the strategy and the rater that it was selected with."""
    subset = published_version(open_store(), name)
    assert subset is not None
    rater = rater_of_subset(open_store(), subset)
    policy = policy_of(subset.spec)
    return SelectConfig(dataset=tuple(rater.dataset_names), name=subset.name, rater=rater.name, policy=policy)


def _commands(name: str) -> str:
    config = _select_config(name)
    policy = {"retention": config.policy.retention, **config.policy.model_dump(mode="json", exclude_defaults=True)}
    words = ["alchemist", "select", "--dataset", ",".join(config.dataset)]
    for flag, value in {**policy, "rater": config.rater, "name": name}.items():
        words.append(f"--{flag.replace('_', '-')}")
        if value is not True:
            words.append(",".join(value) if isinstance(value, list) else str(value))
    return f"{shlex.join(words)} && alchemist subset publish {name}"


COMMANDS = {"": Command(TakedownConfig, run)}
