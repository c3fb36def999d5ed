"""`alchemist subset publish` and `subset rollback`: which version of a name its readers see."""

from pydantic import Field
from sqlalchemy import Engine

from alchemist_core.config import BARE_WORD, Config, Report
from alchemist_core.errors import ConfigError
from alchemist_core.stages.version_manifest import load_manifest
from alchemist_core.store.audit import current_actor
from alchemist_core.store.engine import open_store
from alchemist_core.store.subsets import SubsetRow, find_by_id, find_subset, publish_subset, published_version


class PublishSubsetConfig(Config):
    """Which subset version."""

    name: str = Field(..., description="Name of the subset", json_schema_extra=BARE_WORD)
    version: int | None = Field(None, ge=1, description="Version number; none: the newest")


class RollbackSubsetConfig(Config):
    """Which subset, and how far back."""

    name: str = Field(..., description="Name of the subset", json_schema_extra=BARE_WORD)
    version: int | None = Field(
        None, ge=1, description="Version number; none: the one that was published before the present one"
    )


class PublishSubsetReport(Report):
    """The version that is published now."""

    subset: str
    version: int
    n_samples: int
    is_new: bool


def publish(config: PublishSubsetConfig) -> PublishSubsetReport:
    """Publish a subset version; the one published before is superseded."""
    engine = open_store()
    return _publish(engine, find_subset(engine, config.name, version=config.version), action="publish")


def rollback(config: RollbackSubsetConfig) -> PublishSubsetReport:
    """Go back to the version that was published before."""
    engine = open_store()
    published = published_version(engine, config.name)
    if published is None:
        find_subset(engine, config.name)
        raise ConfigError(f"No version of {config.name} is published: there is nothing to go back from.")
    if config.version is not None:
        target = find_subset(engine, config.name, version=config.version)
    elif published.predecessor_id is not None:
        target = find_by_id(engine, published.predecessor_id)
    else:
        raise ConfigError(
            f"{published.title} was the first to be published: no version stood before it. Name one: --version N; "
            "alchemist subset list shows them."
        )
    if target.state == "selected":
        raise ConfigError(
            f"{target.title} was never published: alchemist subset publish {target.name} --version {target.version} does that."
        )
    return _publish(engine, target, action="rollback")


def _publish(engine: Engine, subset: SubsetRow, *, action: str) -> PublishSubsetReport:
    is_new = publish_subset(engine, subset, load_manifest(engine, subset), actor=current_actor(), action=action)
    return PublishSubsetReport(subset=subset.name, version=subset.version, n_samples=subset.n_samples, is_new=is_new)
