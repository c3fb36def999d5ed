"""`alchemist subset publish`, `rollback` and `withdraw`: which version of a name its readers see."""

from pydantic import Field
from sqlalchemy import Engine

from alchemist_core.config import BARE_WORD, Config, Report
from alchemist_core.errors import ConfigError, DataError
from alchemist_core.store.audit import APPROVED_BY, COMMENT, approval, current_actor
from alchemist_core.store.engine import open_store
from alchemist_core.store.subsets import (
    SubsetRow,
    choose_version,
    describe_withdrawal,
    find_predecessor,
    find_subset,
    last_withdrawn,
    publish_subset,
    published_version,
    store_members,
    withdraw_subset,
)
from alchemist_core.subsets.selected import load_manifest
from alchemist_core.telemetry import say


class PublishSubsetConfig(Config):
    """Which subset version."""

    name: str = Field(..., description="Name of the subset", json_schema_extra=BARE_WORD)
    version: int | None = Field(None, ge=1, description="Version number; none: the newest, whichever is published")
    reinstate: bool = Field(False, description="Publish a version although it was withdrawn; it is withdrawn no longer")
    approved_by: str | None = Field(None, max_length=200, description=APPROVED_BY)
    comment: str | None = Field(None, max_length=2000, description=COMMENT)


class RollbackSubsetConfig(Config):
    """Which subset, and how far back."""

    name: str = Field(..., description="Name of the subset", json_schema_extra=BARE_WORD)
    version: int | None = Field(
        None, ge=1, description="Version number; none: the one that was published before the present one"
    )


class WithdrawSubsetConfig(Config):
    """Which subset version nobody should use any more, and why."""

    name: str = Field(..., description="Name of the subset", json_schema_extra=BARE_WORD)
    version: int | None = Field(None, ge=1, description="Version number; none: the published version")
    reason: str = Field(
        ...,
        min_length=3,
        max_length=500,
        description="Why; readers who name the version are shown it, 3-500 characters",
    )


class PublishSubsetReport(Report):
    """The version that is published now."""

    subset: str
    version: int
    n_samples: int
    is_new: bool


class WithdrawSubsetReport(Report):
    """The version that was withdrawn, and the one that is published now; none where the name has none any more."""

    subset: str
    version: int
    reason: str
    is_new: bool
    published: str | None


def publish(config: PublishSubsetConfig) -> PublishSubsetReport:
    """Publish a subset version; the one published before is superseded.

    Raises:
        ConfigError: There is no such version, or it was withdrawn and --reinstate was not given.
    """
    engine = open_store()
    subset = choose_version(
        engine, config.name, version=config.version, is_newest=True, may_be_withdrawn=config.version is not None
    )
    said = approval(config.approved_by, config.comment)
    if subset.state != "withdrawn":
        return _publish(engine, subset, action="publish", said=said)
    if not config.reinstate:
        raise ConfigError(_withdrawn(subset))
    return _publish(engine, subset, action="reinstate", said=said)


def rollback(config: RollbackSubsetConfig) -> PublishSubsetReport:
    """Go back to the version that was published before; versions that were withdrawn since are passed over.

    Raises:
        ConfigError: There is no such version, or it was never published, or it was withdrawn.
    """
    engine = open_store()
    published = published_version(engine, config.name)
    if published is None:
        find_subset(engine, config.name)
        raise ConfigError(f"No version of {config.name} is published: there is nothing to go back from.")
    if config.version is not None:
        target = find_subset(engine, config.name, version=config.version)
    elif (before := find_predecessor(engine, published)) is not None:
        target = before
    else:
        raise ConfigError(
            f"{published.title} has no earlier version to go back to. Name one: --version N; alchemist subset list shows them."
        )
    if target.state == "selected":
        raise ConfigError(
            f"{target.title} was never published: alchemist subset publish {target.name} --version {target.version} does that."
        )
    if target.state == "withdrawn":
        raise ConfigError(_withdrawn(target))
    return _publish(engine, target, action="rollback")


def withdraw(config: WithdrawSubsetConfig) -> WithdrawSubsetReport:
    """Withdraw a subset version: nobody reads or evaluates it any more, and the version that it replaced is published again.

    History keeps it: `subset list`, `subset show`, the report and the audit events say who withdrew it, when and why.

    Raises:
        ConfigError: There is no such version, or none is named and none is published.
    """
    engine = open_store()
    subset = _to_withdraw(engine, config)
    if is_new := subset.state != "withdrawn":
        _withdraw(engine, subset, config.reason)
        subset = find_subset(engine, subset.name, version=subset.version)
    say(describe_withdrawal(subset))
    published = published_version(engine, subset.name)
    return WithdrawSubsetReport(
        subset=subset.name, version=subset.version, reason=subset.withdrawn_reason or "", is_new=is_new,
        published=published.title if published else None,
    )  # fmt: skip


def _to_withdraw(engine: Engine, config: WithdrawSubsetConfig) -> SubsetRow:
    if config.version is not None:
        return find_subset(engine, config.name, version=config.version)
    published, withdrawn = published_version(engine, config.name), last_withdrawn(engine, config.name)
    if withdrawn is not None and withdrawn.withdrawn_reason == config.reason:
        before = find_predecessor(engine, withdrawn)
        # The same command once more, for example by a scheduler's second try: the version that came back stays.
        if published is None or (before is not None and before.subset_id == published.subset_id):
            return withdrawn
    if published is None:
        find_subset(engine, config.name)
        raise ConfigError(
            f"No version of {config.name} is published. Name the one to withdraw: --version N; alchemist subset list shows them."
        )
    return published


def _withdraw(engine: Engine, subset: SubsetRow, reason: str) -> None:
    actor = current_actor()
    fallback = find_predecessor(engine, subset) if subset.state == "published" else None
    if fallback is not None:
        try:
            store_members(engine, fallback.subset_id, load_manifest(engine, fallback))
            withdraw_subset(engine, subset, reason=reason, actor=actor, fallback=fallback)
        except (ConfigError, DataError) as error:
            say(f"{fallback.title} cannot be published in its place: {error}")
        else:
            return
    withdraw_subset(engine, subset, reason=reason, actor=actor, fallback=None)


def _withdrawn(subset: SubsetRow) -> str:
    return (
        f"{describe_withdrawal(subset)} To publish it all the same: "
        f"alchemist subset publish {subset.name} --version {subset.version} --reinstate."
    )


def _publish(
    engine: Engine, subset: SubsetRow, *, action: str, said: dict[str, str] | None = None
) -> PublishSubsetReport:
    manifest = load_manifest(engine, subset)
    is_new = publish_subset(engine, subset, manifest, actor=current_actor(), action=action, said=said)
    return PublishSubsetReport(subset=subset.name, version=subset.version, n_samples=subset.n_samples, is_new=is_new)
