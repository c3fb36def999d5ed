"""Decisions: release or reject a night, publish or withdraw a subset version, take an image down, promote a rater.

Each has a page that shows the facts and what will happen; its form calls the function of the command with the name of the person. What
takes minutes or needs a GPU is not done in this process: it would end with the server, hold a thread of it, and lack torch in Airflow's
image. For that the page shows the command, and the DAG where there is Airflow.
"""

import json
import re
import shlex
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import date
from typing import Any, Literal, NamedTuple, TypeVar
from urllib.parse import quote, urlencode

from pydantic import ValidationError
from sqlalchemy import Engine
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from alchemist_core.config import Config, counted, current_names
from alchemist_core.errors import ConfigError
from alchemist_core.explorer import nights, subsets
from alchemist_core.explorer.actions import Change, Form, action
from alchemist_core.explorer.markup import render
from alchemist_core.explorer.people import Person
from alchemist_core.explorer.subsets import MOST_MEMBERS
from alchemist_core.rating.acceptance import warnings_of
from alchemist_core.report.comparison import only_losses
from alchemist_core.report.page import show_percent
from alchemist_core.selection.config import NO_VALUE, SelectionPolicy, asked_options
from alchemist_core.store import browsing
from alchemist_core.store.audit import AuditRow, acting_as, events_since, newest_event_id
from alchemist_core.store.checks import failed_checks
from alchemist_core.store.engine import open_reader
from alchemist_core.store.flags import LABELS, PREFIX, WORST, count_flags_of_members, known_flags
from alchemist_core.store.nights import NightRow, held_nights, read_revisions
from alchemist_core.store.overviews import read_comparisons
from alchemist_core.store.raters import RaterRow, find_rater
from alchemist_core.store.registry import find_dataset
from alchemist_core.store.samples import find_near_duplicates, find_reach
from alchemist_core.store.snapshots import read_dataset_names
from alchemist_core.store.subsets import (
    SubsetRow,
    find_predecessor,
    find_subset,
    has_stored_members,
    published_version,
    rater_of_subset,
)

Given = Mapping[str, str]
C = TypeVar("C", bound=Config)
FIELDS = ("dataset", "night", "subset", "version", "sample", "rater", "reason")
REASON = (3, 500)
"""Characters of a reason."""


class Start(NamedTuple):
    """How to start what is not done here, and why it is not: a command, and the DAG that does the same with its configuration."""

    why: str
    command: str
    dag_id: str | None = None
    conf: str = "{}"


class Choice(NamedTuple):
    """A flag whose samples a selection leaves out or not: its label, and the label with what is known about it."""

    label: str
    text: str
    is_chosen: bool


class Seen(NamedTuple):
    """What a decision depends on: the state that its page shows, and the subjects of the audit log that change it."""

    state: Mapping[str, Any]
    subjects: Sequence[str]


class Decision(NamedTuple):
    """What a page of a decision shows."""

    question: str
    button: str
    facts: Sequence[tuple[str, str]]
    effect: str
    back: str
    """The path of the page about it."""
    start: Start | None = None
    """What to run where nothing is decided here, because it takes too long. None: the form decides."""
    warnings: Sequence[str] = ()
    sample_id: int | None = None
    """The sample whose image it is about."""
    caption: str = ""
    choices: Sequence[Choice] = ()
    """Flags whose samples can be left out."""
    seen: Seen | None = None
    """None: its form does the same in every state of the store, or refuses."""


def _required(given: Given, name: str) -> str:
    if not (value := given.get(name, "").strip()):
        raise ConfigError(f"The address has no field {name}. Open the decision from the page of what it is about.")
    return value


def _reason(form: Form) -> str:
    reason = form.get("reason", "").strip()
    if not REASON[0] <= len(reason) <= REASON[1]:
        raise ConfigError(f"Give a reason of {REASON[0]} to {REASON[1]} characters. Nothing was done.")
    return reason


def _config(model: type[C], **values: Any) -> C:
    try:
        return model.model_validate(values)
    except ValidationError as error:
        faults = "; ".join(f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in error.errors())
        raise ConfigError(f"{faults}. Nothing was done.") from None


def _as_field(engine: Engine, seen: Seen) -> str:
    """Return what the form of a decision sends back: the state that its page shows, and the newest event of the audit log."""
    return json.dumps({"event": newest_event_id(engine), "state": seen.state}, sort_keys=True)


def _require_as_seen(engine: Engine, form: Form, seen: Seen) -> None:
    """Require that a decision is still about the state that its page showed.

    Raises:
        ConfigError: Another person was faster, or the form does not say what was seen.
    """
    try:
        shown = json.loads(form.get("seen", ""))
        state, event = shown["state"], int(shown["event"])
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
        raise ConfigError("The page was too old, so nothing was done. Go back, reload it, and try again.") from None
    if state == json.loads(json.dumps(seen.state)):
        return
    events = events_since(engine, event, seen.subjects)
    changed = "; ".join(map(_in_words, events)) or "What it shows has changed"
    raise ConfigError(f"{changed} since this page was opened, so nothing was done. Reload the page to decide anew.")


_DONE = {
    "publish": "published", "rollback": "rolled back", "reinstate": "reinstated", "withdraw": "withdrawn", "release": "released",
    "reject": "rejected", "promote": "promoted", "certify": "checked",
}  # fmt: skip


def _in_words(event: AuditRow) -> str:
    """Return in words what a person did.

    >>> _in_words(AuditRow("bob", "withdraw", "subset best", {"version": 3, "state": "published"}, {"reason": "leaked"}))
    'bob has withdrawn subset best v3 (leaked)'
    """
    before, after = event.before or {}, event.after or {}
    version = before.get("version") if event.action == "withdraw" else after.get("version")
    of = f" v{version}" if version else ""
    why = f" ({reason})" if (reason := after.get("reason")) else ""
    return f"{event.actor} has {_DONE.get(event.action, event.action)} {event.subject}{of}{why}"


# --- A night ---------------------------------------------------------------------------------------------------------------------


def _night_of(given: Given) -> tuple[str, date]:
    try:
        return _required(given, "dataset"), date.fromisoformat(_required(given, "night"))
    except ValueError:
        raise ConfigError(f"{given.get('night')!r} is not a crawl date. Write YYYY-MM-DD.") from None


def _nights(engine: Engine, dataset: str, crawl_date: date, state: Literal["held", "rejected"]) -> list[NightRow]:
    """Return the revisions of a night under the production rater that are held, or that were rejected."""
    rater = find_rater(engine, "production")
    if rater is None:
        return []
    dataset_id = find_dataset(engine, dataset).dataset_id
    return held_nights(engine, dataset_ids=[dataset_id], crawl_date=crawl_date, rater_id=rater.rater_id, state=state)


def _seen_night(engine: Engine, dataset: str, crawl_date: date) -> Seen:
    checks = sorted((one.suite, one.expectation, one.is_rejected) for one in failed_checks(engine, dataset, crawl_date))
    state = {
        "checks": checks,
        "held": [row.night_id for row in _nights(engine, dataset, crawl_date, "held")],
        "rejected": [row.night_id for row in _nights(engine, dataset, crawl_date, "rejected")],
    }
    subjects, rater = [f"checks of {dataset} {crawl_date}"], find_rater(engine, "production")
    if rater is not None:
        dataset_id = find_dataset(engine, dataset).dataset_id
        revisions = read_revisions(engine, dataset_id, crawl_date, rater.rater_id)
        subjects += [f"night {dataset} {crawl_date} r{one.revision}" for one in revisions]
    return Seen(state, subjects)


def decide_release(engine: Engine, given: Given) -> Decision:
    """Return what a release of a night would do."""
    dataset, crawl_date = _night_of(given)
    seen = _seen_night(engine, dataset, crawl_date)
    checks = failed_checks(engine, dataset, crawl_date)
    held = _nights(engine, dataset, crawl_date, "held")
    rejected = _nights(engine, dataset, crawl_date, "rejected")
    if not (held or rejected or checks):
        raise ConfigError(
            f"{dataset}, {crawl_date} is not held, and no check has stopped it. There is nothing to release."
        )
    words = ["alchemist", "night", "release", "--dataset", dataset, "--crawl-date", str(crawl_date), "--reason", "WHY"]
    why = "A release after a failed check also scores the night: this takes minutes, and may need a GPU."
    start = Start(why, shlex.join(words)) if checks else None
    facts = [("Held because of", row.reason or "drift") for row in held]
    facts += [("Rejected because of", row.reason or "") for row in rejected]
    facts += [("Failed check", f"{one.suite}.{one.expectation}: {one.in_words[:300]}") for one in checks]
    effect = (
        "Its samples can be selected from then on, and drift of later nights is measured against it too."
        if not checks
        else "After a failed check, the release also scores, checks and publishes the night."
    )
    return Decision(
        f"Release {dataset}, {crawl_date}?",
        "Release",
        facts,
        effect,
        nights.path_of(dataset, crawl_date),
        start,
        seen=seen,
    )


def release(person: Person, form: Form) -> str:
    """Release a held or rejected night."""
    from alchemist_core.cli.held_nights import ReleaseNightConfig  # noqa: PLC0415  slow to import, and only needed now
    from alchemist_core.cli.held_nights import release as release_night  # noqa: PLC0415

    dataset, crawl_date = _night_of(form)
    config = _config(ReleaseNightConfig, dataset=dataset, crawl_date=crawl_date, reason=_reason(form))
    if failed_checks(open_reader(), dataset, crawl_date):
        raise ConfigError(f"A check stopped {dataset}, {crawl_date}: release it by the command, which also scores it.")
    _require_as_seen(open_reader(), form, _seen_night(open_reader(), dataset, crawl_date))
    # A night with nothing to release would be scored if an earlier release of it was interrupted.
    decide_release(open_reader(), form)
    with acting_as(person.name):
        release_night(config)
    return nights.path_of(dataset, crawl_date)


def decide_rejection(engine: Engine, given: Given) -> Decision:
    """Return what the rejection of a night would do."""
    dataset, crawl_date = _night_of(given)
    seen = _seen_night(engine, dataset, crawl_date)
    held = _nights(engine, dataset, crawl_date, "held")
    checks = [one for one in failed_checks(engine, dataset, crawl_date) if not one.is_rejected]
    if not (held or checks):
        raise ConfigError(
            f"{dataset}, {crawl_date} is not held, and no check has stopped it. There is nothing to reject."
        )
    facts = [("Held because of", row.reason or "drift") for row in held]
    facts += [("Failed check", f"{one.suite}.{one.expectation}: {one.in_words[:300]}") for one in checks]
    anew = (
        "It is checked anew when each of its shards was replaced or retired."
        if checks
        else "Shards that arrive later are checked anew."
    )
    effect = (
        f"None of its samples is ever selected, and it no longer waits for a decision. {anew} "
        "If this was wrong, the night can still be released."
    )
    return Decision(
        f"Reject {dataset}, {crawl_date}?", "Reject", facts, effect, nights.path_of(dataset, crawl_date), seen=seen
    )


def reject(person: Person, form: Form) -> str:
    """Reject a held or stopped night."""
    from alchemist_core.cli.held_nights import RejectNightConfig  # noqa: PLC0415  as above
    from alchemist_core.cli.held_nights import reject as reject_night  # noqa: PLC0415

    dataset, crawl_date = _night_of(form)
    config = _config(RejectNightConfig, dataset=dataset, crawl_date=crawl_date, reason=_reason(form))
    _require_as_seen(open_reader(), form, _seen_night(open_reader(), dataset, crawl_date))
    with acting_as(person.name):
        reject_night(config)
    return nights.path_of(dataset, crawl_date)


# --- A subset --------------------------------------------------------------------------------------------------------------------


def _version_of(engine: Engine, given: Given) -> SubsetRow:
    name, version = _required(given, "subset"), _required(given, "version")
    if not version.isdecimal() or len(version) > 9:
        raise ConfigError(f"{version!r} is not a version. Give its number.")
    return find_subset(engine, name, version=int(version))


def _about(row: SubsetRow) -> list[tuple[str, str]]:
    return [("State", row.state), ("Samples", f"{row.n_samples:,}"), ("Retention", show_percent(row.retention))]


def _seen_version(engine: Engine, row: SubsetRow) -> Seen:
    now = published_version(engine, row.name)
    before = find_predecessor(engine, row) if row.state == "published" else None
    state = {
        "state": row.state, "withdrawn": row.withdrawn_reason, "published": now and now.version, "before": before and before.version,
    }  # fmt: skip
    return Seen(state, [f"subset {row.name}"])


def decide_publish(engine: Engine, given: Given) -> Decision:
    """Return what the publication of a version would do."""
    row = _version_of(engine, given)
    seen = _seen_version(engine, row)
    if row.state == "published":
        raise ConfigError(f"{row.title} is published already.")
    now = published_version(engine, row.name)
    has_proof = only_losses(read_comparisons(engine, row.subset_id))
    warnings = [] if has_proof else ["Nobody has measured whether it is better than a random subset."]
    if row.state == "withdrawn":
        warnings.insert(0, f"It was withdrawn by {row.withdrawn_by}: {row.withdrawn_reason}")
    effect = f"Programs that read {row.name} get it from then on" + (f", instead of {now.title}." if now else ".")
    reinstate = ["--reinstate"] if row.state == "withdrawn" else []
    words = ["alchemist", "subset", "publish", row.name, "--version", str(row.version), *reinstate]
    is_long = row.n_samples > MOST_MEMBERS and not has_stored_members(engine, row.subset_id)
    why = f"Copying more than {MOST_MEMBERS:,} members into the store takes minutes."
    start = Start(why, shlex.join(words)) if is_long else None
    return Decision(
        f"Publish {row.title}?", "Publish", _about(row), effect, subsets.path_of(row.name, row.version), start, warnings, seen=seen
    )  # fmt: skip


def publish(person: Person, form: Form) -> str:
    """Publish a version; a withdrawn one is reinstated."""
    from alchemist_core.cli.subset import PublishSubsetConfig  # noqa: PLC0415  as above
    from alchemist_core.cli.subset import publish as publish_subset  # noqa: PLC0415

    engine = open_reader()
    row, reason = _version_of(engine, form), _reason(form)
    _require_as_seen(engine, form, _seen_version(engine, row))
    if row.n_samples > MOST_MEMBERS and not has_stored_members(engine, row.subset_id):
        raise ConfigError(f"{row.title} has too many members to publish it here. Use the command.")
    config = _config(
        PublishSubsetConfig, name=row.name, version=row.version, reinstate=row.state == "withdrawn", approved_by=person.name,
        comment=reason,
    )  # fmt: skip
    with acting_as(person.name):
        publish_subset(config)
    return subsets.path_of(row.name, row.version)


def decide_withdraw(engine: Engine, given: Given) -> Decision:
    """Return what the withdrawal of a version would do."""
    row = _version_of(engine, given)
    seen = _seen_version(engine, row)
    if row.state == "withdrawn":
        raise ConfigError(f"{row.title} is withdrawn already: {row.withdrawn_reason}")
    before = find_predecessor(engine, row) if row.state == "published" else None
    effect = "Nobody can read it from then on; every command that would read it prints the reason."
    if row.state == "published":
        effect += (
            f" {before.title} is published in its place."
            if before
            else f" No version of {row.name} is published then, so programs that read it get an error."
        )
    return Decision(
        f"Withdraw {row.title}?", "Withdraw", _about(row), effect, subsets.path_of(row.name, row.version), seen=seen
    )


def withdraw(person: Person, form: Form) -> str:
    """Withdraw a version."""
    from alchemist_core.cli.subset import WithdrawSubsetConfig  # noqa: PLC0415  as above
    from alchemist_core.cli.subset import withdraw as withdraw_subset  # noqa: PLC0415

    row = _version_of(open_reader(), form)
    config = _config(WithdrawSubsetConfig, name=row.name, version=row.version, reason=_reason(form))
    _require_as_seen(open_reader(), form, _seen_version(open_reader(), row))
    with acting_as(person.name):
        withdraw_subset(config)
    return subsets.path_of(row.name, row.version)


# --- An image --------------------------------------------------------------------------------------------------------------------


def _sample_of(engine: Engine, given: Given) -> browsing.SampleDetail:
    named = _required(given, "sample")
    sample = browsing.read_sample(engine, int(named)) if named.isdecimal() and len(named) < 19 else None
    if sample is None:
        raise ConfigError(f"There is no sample {named} in the store.")
    return sample


def decide_takedown(engine: Engine, given: Given) -> Decision:
    """Return what the takedown of a sample's image would do."""
    sample = _sample_of(engine, given)
    if sample.takedown_reason is not None:
        raise ConfigError(f"The image of sample {sample.sample_id} is taken down already: {sample.takedown_reason}")
    reached = find_reach(engine, [sample.image_hash])
    alike = [
        one for one in find_near_duplicates(engine, sample.image_hash) if bytes(one.image_hash) != sample.image_hash
    ]
    published = sorted({row.name for row in reached if row.state == "published"})
    facts = [
        ("Image", sample.image_hash.hex()), ("Caption", sample.caption[:200]),
        ("Published subsets with it", ", ".join(published) or "none"),
        ("Models trained on it", ", ".join(sorted({model for row in reached for model in row.models})) or "none"),
        ("Near-duplicates, which stay", counted(len(alike), "image")),
    ]  # fmt: skip
    effect = (
        "It is not shown and never selected again, from any crawl, and readers of published subsets skip it at once. This cannot be "
        "undone. New versions of the subsets without it are not selected here, because that takes minutes; the page of the sample "
        "then shows the commands."
    )
    return Decision(
        f"Take the image of sample {sample.sample_id} down?", "Take down", facts, effect, f"/samples/{sample.sample_id}",
        sample_id=sample.sample_id, caption=sample.caption,
    )  # fmt: skip


def take_down(person: Person, form: Form) -> str:
    """Take the image of a sample down."""
    from alchemist_core.cli.sample import TakedownConfig, takedown  # noqa: PLC0415  as above

    sample = _sample_of(open_reader(), form)
    config = _config(TakedownConfig, image_hash=sample.image_hash.hex(), reason=_reason(form), successors=False)
    with acting_as(person.name):
        takedown(config)
    return f"/samples/{sample.sample_id}"


# --- A rater ---------------------------------------------------------------------------------------------------------------------


def _path_of_rater(name: str) -> str:
    return f"/raters/{quote(name, safe='')}"


def _rater_of(engine: Engine, given: Given) -> RaterRow:
    rater = find_rater(engine, _required(given, "rater"))
    if rater is None or rater.kind != "trained":
        raise ConfigError("Only a trained rater can be in production.")
    return rater


def _seen_rater(rater: RaterRow, now: RaterRow | None) -> Seen:
    report = rater.acceptance_report
    state = {
        "state": rater.state, "is_certified": report.get("is_certified"), "warnings": list(warnings_of(report)),
        "production": now and now.name,
    }  # fmt: skip
    return Seen(state, [f"rater {one.name}" for one in (rater, now) if one])


def decide_promotion(engine: Engine, given: Given) -> Decision:
    """Return what the promotion of a rater would do."""
    rater, now = _rater_of(engine, given), find_rater(engine, "production")
    if rater.state == "production":
        raise ConfigError(f"{rater.name} is in production already.")
    report = rater.acceptance_report
    is_certified = report.get("is_certified")
    warnings = list(warnings_of(report))
    if not is_certified:
        warnings.insert(0, "It has not passed its acceptance checks. Your reason is stored with the promotion.")
    facts = [
        ("State", rater.state), ("Acceptance", {True: "passed", False: "failed", None: "not checked"}[is_certified]),
        ("In production now", now.name if now else "none"),
    ]  # fmt: skip
    effect = "It scores every night from then on" + (f", and {now.name} is retired." if now else ".")
    return Decision(
        f"Promote {rater.name}?", "Promote", facts, effect, _path_of_rater(rater.name), warnings=warnings,
        seen=_seen_rater(rater, now),
    )  # fmt: skip


def promote(person: Person, form: Form) -> str:
    """Promote a rater to production."""
    from alchemist_core.cli.rater import PromoteConfig  # noqa: PLC0415  as above
    from alchemist_core.cli.rater import promote as promote_rater  # noqa: PLC0415

    rater, reason = _rater_of(open_reader(), form), _reason(form)
    _require_as_seen(open_reader(), form, _seen_rater(rater, find_rater(open_reader(), "production")))
    override = None if rater.acceptance_report.get("is_certified") else reason
    config = _config(
        PromoteConfig, rater=rater.name, without_acceptance=override, approved_by=person.name, comment=reason
    )
    with acting_as(person.name):
        promote_rater(config)
    return _path_of_rater(rater.name)


# --- What takes long -------------------------------------------------------------------------------------------------------------


def decide_retry(engine: Engine, given: Given) -> Decision:
    """Return how to retry quarantined samples: the rater has to score them, which needs torch and takes minutes."""
    reason, dataset = given.get("reason", "transient"), given.get("dataset")
    words = [
        "alchemist",
        "sample",
        "retry-quarantine",
        "--reason",
        reason,
        *(["--dataset", dataset] if dataset else []),
    ]
    rater = find_rater(engine, "production")
    facts = [("Reason", reason), ("Dataset", dataset or "every one"), ("Rater", rater.name if rater else "none")]
    back = f"/samples?{urlencode({'quarantine': reason})}"
    why = "The rater scores the samples: this takes minutes, and may need a GPU."
    return Decision(
        f"Retry what is quarantined as {reason}?", "Retry", facts, "The rater reads and scores these samples again.", back,
        Start(why, shlex.join(words)),
    )  # fmt: skip


def decide_selection(engine: Engine, given: Given) -> Decision:
    """Return how to select a subset again, with its own options and rater, and without the samples that have the chosen flags."""
    row = _version_of(engine, given)
    condition = Condition.of(current_names(SelectionPolicy, row.spec).get("where"))
    chosen = condition.without | WORST if "without" not in given else set(filter(None, given["without"].split(",")))
    choices, warnings = _flags_to_leave_out(engine, row, chosen)
    options = _options_again(engine, row, condition.without_flags([one.label for one in choices if one.is_chosen]))
    words = ["alchemist", "select"]
    for name, value in options.items():
        flag = name.replace("_", "-")
        words += [f"--{flag}" if value else f"--no-{flag}"] if isinstance(value, bool) else [f"--{flag}", str(value)]
    effect = (
        f"It becomes a new version, which is not published by itself. All options but the flags are those of v{row.version}, and it is "
        "selected from all samples that are eligible now."
    )
    return Decision(
        f"Select {row.name} again without flagged samples?", "Select", _about(row), effect, subsets.path_of(row.name, row.version),
        Start("A selection from a large corpus takes minutes.", shlex.join(words), *_run_of(options)), warnings, choices=choices,
    )  # fmt: skip


class Condition(NamedTuple):
    """A condition of a selection in two parts: what it says of anything else, and the flags whose samples it leaves out."""

    rest: str | None
    without: frozenset[str]

    @classmethod
    def of(cls, condition: str | None) -> "Condition":
        """Take a condition apart; one of another form than `without_flags` writes is all rest.

        >>> Condition.of("(width > 10) and (not flagged_bad and not flagged_unsafe)").rest
        '(width > 10)'
        >>> Condition.of("width > 10 or not flagged_bad").rest
        '(width > 10 or not flagged_bad)'
        """
        if not condition:
            return cls(None, frozenset())
        if _NO_FLAGS.fullmatch(condition):
            return cls(None, frozenset(_FLAG.findall(condition)))
        found = _AND_NO_FLAGS.fullmatch(condition)
        if found is None or not _is_one_group(found["rest"]):
            return cls(f"({condition})", frozenset())
        return cls(found["rest"], frozenset(_FLAG.findall(found["flags"])))

    def without_flags(self, labels: Sequence[str]) -> str | None:
        """Return the condition that leaves out samples with any of these flags, and no flagged ones else; None: no condition."""
        flags = " and ".join(f"not {PREFIX}{label}" for label in labels)
        if self.rest is None:
            return flags or None
        return f"{self.rest} and ({flags})" if flags else self.rest


_FLAG = re.compile(rf"not {PREFIX}(\w+)")
_NO_FLAGS = re.compile(rf"not {PREFIX}\w+(?: and not {PREFIX}\w+)*")
_AND_NO_FLAGS = re.compile(rf"(?P<rest>\(.*\)) and \((?P<flags>{_NO_FLAGS.pattern})\)", re.DOTALL)


def _is_one_group(text: str) -> bool:
    """Return whether the first parenthesis of a text is closed by its last one; quoted text does not count."""
    depths, depth = list[int](), 0
    for sign in re.findall(r"[()]", re.sub(r"'[^']*'|\"[^\"]*\"", "", text)):
        depth += 1 if sign == "(" else -1
        depths.append(depth)
    return 0 not in depths[:-1] and depths[-1] == 0


def _flags_to_leave_out(engine: Engine, row: SubsetRow, chosen: Collection[str]) -> tuple[list[Choice], list[str]]:
    """Return every flag but good as a choice, and a warning for each that members have and that is not chosen.

    Raises:
        ConfigError: A chosen label does not exist.
    """
    with engine.connect() as connection:
        labels = [label for label in known_flags(connection).labels.values() if label != LABELS[0]]
    if unknown := sorted(set(chosen) - set(labels)):
        raise ConfigError(f"No sample was ever flagged {unknown[0]!r}. Flags: {', '.join(labels)}.")
    n_of = count_flags_of_members(engine, row.subset_id)
    choices, warnings = [], []
    for label in labels:
        words, n = label.replace("_", " "), n_of.get(label, 0)
        if n and label not in chosen:
            warnings.append(f"{counted(n, 'sample')} of v{row.version} flagged {words} can be selected again.")
        choices.append(Choice(label, f"{words}: {counted(n, 'sample')} of v{row.version}", label in chosen))
    if not has_stored_members(engine, row.subset_id):
        return [Choice(one.label, one.label.replace("_", " "), one.is_chosen) for one in choices], []
    return choices, warnings


def _options_again(engine: Engine, row: SubsetRow, condition: str | None) -> dict[str, Any]:
    """Return the options of `select` that select a version again, so that the two differ by the condition alone."""
    from alchemist_core.cli.effective import declared_names  # noqa: PLC0415  as above

    own = asked_options(row.spec)
    own.pop("where", None)
    own |= {"strategy": row.strategy, "retention": own.get("retention", row.retention)}
    # An option that the command leaves out would take the value of the project file.
    declared = declared_names("select")
    full = SelectionPolicy.model_validate(own | {"seed": row.seed}).written_out(declared)
    rater = rater_of_subset(engine, row).name
    production = find_rater(engine, "production")
    is_default = production is not None and production.name == rater and "rater" not in declared
    options = {
        "dataset": list(read_dataset_names(engine, row.snapshot_id)), "name": row.name,
        "rater": None if is_default else rater,
        **full, **own, "seed": row.seed or full.get("seed"), "where": condition or full.get("where"),
    }  # fmt: skip
    # Words as the command line takes them.
    given = {
        name: ",".join(map(str, value)) if isinstance(value, (list, tuple)) else value
        for name, value in options.items()
    }
    return {name: value for name, value in given.items() if value not in (None, "")}


def _run_of(options: Mapping[str, Any]) -> tuple[str, str] | tuple[()]:
    """Return the DAG that selects and its configuration; nothing if its form lacks one of the options."""
    from alchemist_core.cli.forms import LAYOUT  # noqa: PLC0415  as above

    if options.keys() - {name for part in LAYOUT["build_subset"] for name in part.names}:
        return ()
    # A field of a number takes no word.
    numbers = {name for name, field in SelectionPolicy.model_fields.items() if field.default is None} - {"where"}
    if any(options.get(name) == NO_VALUE for name in numbers):
        return ()
    fields = {name: ("yes" if value else "no") if isinstance(value, bool) else value for name, value in options.items()}
    return "build_subset", json.dumps(fields)


# --- Their pages -----------------------------------------------------------------------------------------------------------------


def _page(path: str, decide: Callable[[Engine, Given], Decision]) -> Callable[[Request], Response]:
    def show(request: Request) -> Response:
        person: Person = request.state.person
        if not person.may_act:
            raise HTTPException(403, f"{person.name} may look, but not do this. Ask for a role that may.")
        given = {name: value for name in FIELDS if (value := request.query_params.get(name))}
        # A form sends nothing for boxes that are not ticked.
        if "chosen" in request.query_params:
            given["without"] = ",".join(request.query_params.getlist("without"))
        decision = decide(open_reader(), given)
        seen = _as_field(open_reader(), decision.seen) if decision.seen else None
        return render(
            request, "decision.html", title=decision.question, decision=decision, given=given, seen=seen, path=path, reason=REASON,
            dags=request.app.state.dags, here=decision.back,
            # Airflow shows the explorer in a frame from which no link can open a new tab, nor replace Airflow's own page.
            is_framed=request.headers.get("sec-fetch-dest") != "document",
        )  # fmt: skip

    show.__doc__ = decide.__doc__
    return show


_DECISIONS: Mapping[str, tuple[Callable[[Engine, Given], Decision], Change | None]] = {
    "/decide/release": (decide_release, release),
    "/decide/reject": (decide_rejection, reject),
    "/decide/publish": (decide_publish, publish),
    "/decide/withdraw": (decide_withdraw, withdraw),
    "/decide/takedown": (decide_takedown, take_down),
    "/decide/promote": (decide_promotion, promote),
    "/decide/retry": (decide_retry, None),
    "/decide/select": (decide_selection, None),
}
ROUTES: Sequence[Any] = [
    *(Route(path, _page(path, decide)) for path, (decide, _) in _DECISIONS.items()),
    *(Route(path, action("act")(change), methods=["POST"]) for path, (_, change) in _DECISIONS.items() if change),
]
