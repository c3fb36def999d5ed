"""Scorers: register one, train a critic, list them, test one on samples, serve its text tower, and retire one.

A scorer gives each sample a score, or several with names. The project file declares scorers under `[scorers.NAME]`.
"""

import time
from datetime import datetime
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from sqlalchemy import Engine

from alchemist_core.cli.scorer_training import TrainScorerConfig, train_scorer
from alchemist_core.cli.search import embed_by
from alchemist_core.config import BARE_WORD, Command, Config, Result, Words, counted
from alchemist_core.errors import CheckFailedError, ConfigError
from alchemist_core.project import ScorerSection, load_project
from alchemist_core.scorers.catalogue import find_scorer, scorer_names
from alchemist_core.scorers.registration import load_runner, open_scorer, register
from alchemist_core.scorers.running import ScorerRunner
from alchemist_core.scorers.scorer import Batch, Scorer
from alchemist_core.stages.declared_scorers import adjust
from alchemist_core.store.audit import current_actor
from alchemist_core.store.engine import open_store
from alchemist_core.store.raters import find_outputs, list_scorers, retire_scorers
from alchemist_core.store.registry import find_dataset
from alchemist_core.store.samples import read_metadata, read_training_samples
from alchemist_core.telemetry import ProgressLine, say

NAME_HELP = "Name of the scorer; the condition of a selection names its scores so: small letters, digits and _"
USE_HELP = "Built-in scorer, scorer of a package, or module:Class; default: as in the project file, else as registered, else NAME"
OPTION_HELP = (
    "Options as name=value, separated by commas; default: those of the project file, else, without --use, as registered"
)


class RegisterConfig(Config):
    """What to register."""

    name: str = Field(description=NAME_HELP, json_schema_extra=BARE_WORD)
    use: str | None = Field(None, description=USE_HELP)
    option: Words = Field((), description=OPTION_HELP)
    nightly: bool | None = Field(
        None,
        description="Score every night beside the production rater; default: as in the project file, else as before, else no",
    )
    keep_embeddings: bool | None = Field(
        None,
        description="Keep the embeddings of its samples, if it has any; default: as in the project file, else as before, else yes",
    )


class RegisterResult(Result):
    """The scorer, and the names of its scores."""

    name: str
    is_new: bool
    scores: list[str]
    is_nightly: bool
    image_side: int | None
    use: str
    version: str


class ListConfig(Config):
    """What to list."""

    available: bool = Field(False, description="List the scorers that can be registered, with their options, instead")


class ListedScores(Result):
    """Scores by one name: a scorer's output, or imported scores."""

    name: str
    kind: str
    state: str
    is_nightly: bool
    use: str | None
    version: str | None
    registered_at: datetime


class ListResult(Result):
    """All scorers and imported scores, or the scorers that can be registered."""

    scores: list[ListedScores] = Field(default_factory=list)
    available: dict[str, str] = Field(default_factory=dict)

    def summary(self) -> str:
        """Return a table with a line for each."""
        if self.available:
            return "\n".join(f"{name}\n{text}" for name, text in self.available.items())
        if not self.scores:
            return "No scorers. See which there are: alchemist scorer list --available"
        rows = [("name", "kind", "state", "version", "scorer")]
        rows += [
            (one.name, one.kind, "nightly" if one.is_nightly else one.state, one.version or "", one.use or "")
            for one in self.scores
        ]
        widths = [max(len(row[column]) for row in rows) for column in range(4)]
        return "\n".join("  ".join(map(str.ljust, row, [*widths, 0])).rstrip() for row in rows)


class CheckConfig(Config):
    """Which scorer to test, and on which samples."""

    name: str = Field(description="Name of the scorer, declared or registered", json_schema_extra=BARE_WORD)
    dataset: str = Field(description="Dataset whose first samples are scored")
    n_samples: int = Field(200, ge=2, le=10_000, description="Number of samples")
    use: str | None = Field(None, description=USE_HELP)
    option: Words = Field((), description=OPTION_HELP)


class CheckResult(Result):
    """What the test found; `difference` is the largest between two scores of one sample."""

    name: str
    outputs: dict[str, str]
    n_samples: int
    n_without_score: int
    samples_per_s: float
    difference: float
    faults: list[str] = Field(default_factory=list)


class RetireConfig(Config):
    """Which scorer to retire."""

    name: str = Field(description="Name of the scorer", json_schema_extra=BARE_WORD)
    reason: str | None = Field(None, min_length=1, description="Why; the audit log keeps it")


class RetireResult(Result):
    """The scores that get no further rows."""

    name: str
    scores: list[str]


def register_scorer(config: RegisterConfig) -> RegisterResult:
    """Register a scorer: each of its outputs gets a name, a ledger and a partition of scores.

    If it is registered, only what changes no score is stored: paths and the like, whether it is nightly, whether embeddings are kept. A
    retired one scores again.
    """
    use, options, section = _resolve(engine := open_store(), config)
    is_nightly = section.nightly if section is not None and config.nightly is None else config.nightly
    rows, is_new = register(engine, config.name, use, options, run_id=None, is_shadow=is_nightly)
    is_kept = (
        section.keep_embeddings if section is not None and config.keep_embeddings is None else config.keep_embeddings
    )
    adjust(engine, rows, is_nightly=is_nightly, keeps_embeddings=is_kept, section=section)
    rows = find_outputs(engine, config.name)
    spec = rows[0].config
    return RegisterResult(
        name=config.name, is_new=is_new, scores=[row.name for row in rows], is_nightly=rows[0].is_shadow,
        image_side=spec["image_side"], use=spec["use"], version=spec["version"],
    )  # fmt: skip


_Declared = tuple[str, dict[str, Any], ScorerSection | None]


def _resolve(engine: Engine, config: RegisterConfig | CheckConfig) -> _Declared:
    """Return the class and the options, as given or in the project file, else as they are registered; and its section of the file."""
    registered = find_outputs(engine, config.name)
    if config.use is not None or config.name in load_project().scorers or not registered:
        return _declared(config.name, config.use, config.option)
    spec = registered[0].config
    return spec["use"], spec["options"] | spec.get("settings", {}) | _given_options(config.option), None


def _declared(name: str, use: str | None, option: tuple[str, ...]) -> _Declared:
    """Return the class and the options, as given, else as the project file says; and its section there, if it is of that class.

    Raises:
        ConfigError: It is not said which scorer it is, or an option is not name=value.
    """
    section = load_project().scorers.get(name)
    if use is None and section is None:
        if name not in scorer_names():
            raise ConfigError(
                f"Which scorer is {name!r}? Give --use (available: {', '.join(scorer_names()) or 'none'}; or module:Class), or declare "
                f"it in the project file under [scorers.{name}]."
            )
        use = name
    if section is not None and use not in (None, section.use):
        section = None
    options = dict[str, Any]() if section is None else load_project().scorer_options(name)
    return str(use or (section and section.use)), options | _given_options(option), section


def _given_options(words: tuple[str, ...]) -> dict[str, str]:
    found = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals:
            raise ConfigError(f"--option {word!r}: write name=value.")
        found[key.strip()] = value.strip()
    return found


def list_all(config: ListConfig) -> ListResult:
    """List the registered scorers and imported scores, or the scorers that can be registered."""
    if config.available:
        return ListResult(available={name: _describe_kind(name) for name in scorer_names()})
    rows = list_scorers(open_store())
    return ListResult(scores=[
        ListedScores(
            name=row.name, kind=row.kind, state=row.state, is_nightly=row.is_shadow, use=row.config.get("use"),
            version=row.config.get("version"), registered_at=row.created_at,
        )
        for row in rows
    ])  # fmt: skip


def _describe_kind(name: str) -> str:
    """Return what a scorer does, from its docstring, and its options; of one whose package is broken, the error."""
    try:
        kind = find_scorer(name)
    except ConfigError as error:
        return f"  {error}"
    first = (kind.__doc__ or "").strip().partition("\n\n")[0].replace("\n", " ")
    options = [
        f"    {name} = {'(required)' if field.is_required() else repr(field.default)}: {field.description or ''}".rstrip(
            ": "
        )
        for name, field in kind.Options.model_fields.items()
    ]
    return "\n".join([f"  {' '.join(first.split())}", *options])


def check(config: CheckConfig) -> CheckResult:
    """Score samples with a scorer and store nothing: are the scores finite, and does each depend on its own sample alone?

    Raises:
        CheckFailedError: A score depends on the other samples of its batch.
    """
    use, options, _ = _resolve(engine := open_store(), config)
    scorer = open_scorer(use, options)
    try:
        batch = _read(scorer, find_dataset(engine, config.dataset).dataset_id, config.n_samples)
        return _examine(config.name, scorer, batch)
    finally:
        scorer.close()


def _read(scorer: Scorer, dataset_id: int, n_samples: int) -> Batch:
    from alchemist_core.training.sample_reading import read_images  # noqa: PLC0415  imports torch

    with ProgressLine("scorer check") as line:
        rows = read_training_samples(open_store(), dataset_id, max_samples=n_samples)
        read = read_images(rows, scorer.image_side or 1, line.show)
    if not len(read.captions):
        raise ConfigError("The dataset has no readable samples. Ingest it first.")
    metadata: list[dict[str, Any]] = []
    if scorer.reads_metadata:
        id_of = {bytes(row.pair_hash): row.sample_id for row in rows}
        said = read_metadata(open_store(), list(id_of.values()))
        metadata = [said[id_of[pair_hash]] for pair_hash in read.pair_hashes]
    return Batch(read.images, read.captions, read.image_hashes, metadata)


def _examine(name: str, scorer: Scorer, batch: Batch) -> CheckResult:
    """Score the samples, then a third of them alone in another order, so that each has other neighbours and another place."""
    runner, n_samples = ScorerRunner(scorer, name), len(batch)
    began = time.monotonic()
    first = runner.rate(batch)
    seconds = time.monotonic() - began
    again_P = np.random.default_rng(0).permutation(n_samples)[: max(1, n_samples // 3)]
    before_PM, after_PM = first.score_PM[again_P], runner.rate(_take(batch, again_P)).score_PM
    is_scored_N = np.isfinite(first.score_PM).all(1)
    both = np.isfinite(before_PM) & np.isfinite(after_PM)
    difference = float(np.abs(before_PM - after_PM)[both].max(initial=0.0))
    n_changed = int((np.isfinite(before_PM) != np.isfinite(after_PM)).any(1).sum())
    result = CheckResult(
        name=name, n_samples=n_samples, n_without_score=int((~is_scored_N).sum()), difference=difference,
        samples_per_s=round(n_samples / max(seconds, 1e-9), 1),
        outputs={output: _describe_scores(column) for output, column in zip(scorer.outputs, first.score_PM.T, strict=True)},
        faults=[f"sample {at}: {why}" for at, why in list(first.faults.items())[:10]],
    )  # fmt: skip
    if difference or n_changed:
        say(result.summary())
        raise CheckFailedError(
            f"Scorer {name} gave the same samples other scores in other batches (largest difference {difference:.3g}; samples that had a "
            f"score in one batch only: {n_changed:,}). A score must depend on its own sample alone: make every batch the same shape "
            "(is_padded), and use nothing of its neighbours."
        )
    return result


def _take(batch: Batch, at_P: NDArray[np.int64]) -> Batch:
    picked = at_P.tolist()
    captions, hashes = [batch.captions[at] for at in picked], [batch.image_hashes[at] for at in picked]
    metadata = [batch.metadata[at] for at in picked] if batch.metadata else []
    return Batch(batch.image_BHWC[at_P], captions, hashes, metadata)


def _describe_scores(score_N: NDArray[np.float32]) -> str:
    finite = score_N[np.isfinite(score_N)]
    if not len(finite):
        return "no scores"
    low, middle, high = np.quantile(finite, (0.05, 0.5, 0.95)).tolist()
    return f"median {middle:.4g}, 5% {low:.4g}, 95% {high:.4g}, {counted(len(np.unique(finite)), 'value')}"


def retire(config: RetireConfig) -> RetireResult:
    """Retire a scorer: it scores nothing more until it is registered again. Its scores stay, and conditions can still name them.

    Raises:
        ConfigError: There is no such scorer, or it is the name of one of a scorer's scores.
    """
    engine = open_store()
    found = [row.name for row in find_outputs(engine, config.name)]
    if not found:
        named = next((row for row in list_scorers(engine) if row.name == config.name), None)
        if named is None:
            raise ConfigError(f"There is no scorer {config.name!r}. See: alchemist scorer list")
        if named.kind == "scorer":
            scorer = named.config["name"]
            raise ConfigError(
                f"{config.name} is one of the scores of scorer {scorer}. Retire all of them: alchemist scorer retire {scorer}"
            )
        found = [named.name]
    retire_scorers(engine, found, actor=current_actor(), reason=config.reason)
    if config.name in load_project().scorers:
        say(f"The project file still declares [scorers.{config.name}]. Remove the section.")
    return RetireResult(name=config.name, scores=found)


class ServeConfig(Config):
    """Which scorer to serve, and where."""

    name: str | None = Field(
        None,
        description="Scorer with a text tower; none: your only one that has embeddings",
        json_schema_extra=BARE_WORD,
    )
    port: int = Field(9481, ge=1024, le=65535, description="TCP port")
    address: str = Field(
        "127.0.0.1",
        description="IP address to listen on. Requests need no password: only servers that may ask it should reach it",
    )


def serve(config: ServeConfig) -> None:
    """Embed texts for searches in the explorer until stopped: the explorer asks it at ALCHEMIST_SEARCH_URL.

    Raises:
        ConfigError: The scorer has no embeddings or no text tower.
    """
    from alchemist_core.embeddings.reading import find_embedding_scorer  # noqa: PLC0415  imports pyarrow
    from alchemist_core.embeddings.text_service import open_server  # noqa: PLC0415  imports a web server

    name, _ = find_embedding_scorer(engine := open_store(), config.name)
    scorer = load_runner(find_outputs(engine, name), "cpu").scorer
    try:
        # The first text loads what a tower loads late, and shows whether there is one.
        embed_by(scorer, name, "a photograph")
        embed = partial(embed_by, scorer, name)
        with open_server(name, embed, address=config.address, port=config.port) as server:
            say(f"Text search by {name}: ALCHEMIST_SEARCH_URL=http://{config.address}:{config.port} (stop: Ctrl-C)")
            server.serve_forever()
    finally:
        scorer.close()


COMMANDS = {
    "register": Command(RegisterConfig, register_scorer, lambda config, _: f"alchemist score --scorer {config.name}"),
    "train": Command(TrainScorerConfig, train_scorer, lambda config, _: f"alchemist score --scorer {config.name}"),
    "list": Command(ListConfig, list_all),
    "check": Command(CheckConfig, check, lambda config, _: f"alchemist scorer register {config.name}"),
    "retire": Command(RetireConfig, retire),
    "serve": Command(ServeConfig, serve),
}
