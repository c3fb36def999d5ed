"""Registers scorers: each output is a row of `raters`, with the folder that describes the scorer as its checkpoint."""

import json
import re
from collections.abc import Mapping, Sequence
from importlib.metadata import packages_distributions, version
from typing import Any

from pydantic import Field, ValidationError
from sqlalchemy import Engine

from alchemist_core.config import Config, fingerprint, former_names
from alchemist_core.errors import ConfigError
from alchemist_core.files import artifact_path, atomic_folder, folder_sha256, require_artifact
from alchemist_core.scorers.catalogue import find_scorer
from alchemist_core.scorers.running import ScorerRunner
from alchemist_core.scorers.scorer import NOT_IDENTITY, ONE_OUTPUT, Scorer
from alchemist_core.store.audit import current_actor
from alchemist_core.store.embeddings import keeps_embeddings
from alchemist_core.store.export import require_score_name
from alchemist_core.store.leases import take_lock
from alchemist_core.store.raters import (
    RaterRow,
    find_identities,
    find_named,
    find_outputs,
    register_raters,
    reinstate_scorer,
    update_scorer,
)

NAME = r"^[a-z][a-z0-9_]{0,47}$"
FILE = "scorer.json"


class ScorerSpec(Config):
    """What a scorer is, as `scorer.json` and the config of its rows store it."""

    use: str
    """Module and class."""
    version: str
    options: dict[str, Any]
    """Options that are part of its identity."""
    settings: dict[str, Any] = Field(default_factory=dict)
    """Options that change no score (`NOT_IDENTITY`)."""
    identity: dict[str, Any]
    outputs: tuple[str, ...]
    image_side: int | None
    package: str | None = None
    """The package that it came from, with its version; not part of its identity."""

    def identity_hash(self, output: str) -> str:
        """Return what identifies the scores of an output: the same one is never registered twice."""
        return fingerprint(
            self.model_dump(mode="json", exclude={"package", "image_side", "settings"}) | {"output": output}
        )

    @property
    def all_options(self) -> dict[str, Any]:
        """All options, as `open_scorer` takes them."""
        return self.options | self.settings


def open_scorer(use: str, options: Mapping[str, Any], device: str = "cpu") -> Scorer:
    """Return a scorer, with its network loaded.

    Args:
        use: Name of a built-in or installed scorer, or `module:Class`.
        options: Values of its options.
        device: Device type for its network.

    Raises:
        ConfigError: There is no such scorer, or an option is not valid.
    """
    kind = find_scorer(use)
    try:
        given = kind.Options.model_validate(dict(options))
    except ValidationError as error:
        faults = "; ".join(f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in error.errors())
        known = ", ".join(kind.Options.model_fields) or "none"
        raise ConfigError(f"Options of scorer {use}: {faults}. Options: {known}.") from None
    return kind(given, device)


def describe(scorer: Scorer) -> ScorerSpec:
    """Return what identifies a scorer."""
    kind = type(scorer)
    free = {name for name, field in kind.Options.model_fields.items() if field.json_schema_extra == NOT_IDENTITY}
    given = scorer.options.as_json()
    options = former_names(kind.Options, {name: value for name, value in given.items() if name not in free})
    # Not kept between calls: a package may be installed or removed while a process of Airflow runs.
    package = next(iter(packages_distributions().get(kind.__module__.partition(".")[0], ())), None)
    return ScorerSpec(
        use=f"{kind.__module__}:{kind.__qualname__}", version=scorer.version, options=options,
        settings={name: value for name, value in given.items() if name in free}, identity=scorer.identity(),
        outputs=scorer.outputs, image_side=scorer.image_side, package=package and f"{package} {version(package)}",
    )  # fmt: skip


def needs_no_options(use: str) -> bool:
    """Return whether a scorer has only options with defaults, so that its name alone says what it computes."""
    return not any(field.is_required() for field in find_scorer(use).Options.model_fields.values())


def output_names(name: str, outputs: Sequence[str]) -> list[str]:
    """Return the name of each output's scores.

    >>> output_names("clip", ["score"]), output_names("vlm", ["quality", "text"])
    (['clip'], ['vlm_quality', 'vlm_text'])
    """
    return [name] if tuple(outputs) == ONE_OUTPUT else [f"{name}_{output}" for output in outputs]


def register(
    engine: Engine, name: str, use: str, options: Mapping[str, Any], *, run_id: int | None, is_shadow: bool | None
) -> tuple[list[RaterRow], bool]:
    """Register a scorer under a name, unless it is registered; return its rows, and whether they are new.

    If it is registered, options that change no score (`NOT_IDENTITY`) are replaced by the given ones. A retired one is a candidate again.

    Raises:
        ConfigError: The name is not allowed or belongs to another scorer, the scorer has another name already, or it cannot be opened.
    """
    _require_name(name)
    scorer = open_scorer(use, options)
    spec = describe(scorer)
    scorer.close()
    for each in output_names(name, spec.outputs):
        require_score_name(each)
    with engine.begin() as connection:
        # Until the end of the registration: another slot of the night may register the same scorer at this moment.
        take_lock(connection, "scorer registration")
        return _register(engine, name, spec, run_id=run_id, is_shadow=bool(is_shadow))


def require_free_name(engine: Engine, name: str, use: str) -> None:
    """Refuse a name that a scorer of a class with one output cannot get, before the work of training it.

    Raises:
        ConfigError: The name is not allowed, or belongs to something else; a scorer of this class may turn out to be the same one.
    """
    _require_name(name)
    require_score_name(name)
    kind = find_scorer(use)
    for row in find_outputs(engine, name) or find_named(engine, [name]):
        if row.config.get("use") != f"{kind.__module__}:{kind.__qualname__}":
            what = {"scorer": "another scorer", "imported": "imported scores"}.get(row.kind, "a trained rater")
            raise ConfigError(f"The name {name} belongs to {what}. Give another one, such as {name}_2.")


def _require_name(name: str) -> None:
    if re.fullmatch(NAME, name) is None:
        raise ConfigError(
            f"{name!r} is not a name for a scorer. Allowed: small letters, digits and _, at most 48, a letter first."
        )


def _register(
    engine: Engine, name: str, spec: ScorerSpec, *, run_id: int | None, is_shadow: bool
) -> tuple[list[RaterRow], bool]:
    names = output_names(name, spec.outputs)
    configs = {
        row_name: {"name": name, "output": output} | spec.as_json()
        for row_name, output in zip(names, spec.outputs, strict=True)
    }
    if found := find_outputs(engine, name) or find_named(engine, names):
        _require_same(name, spec, found)
        if found[0].config.get("settings", {}) != spec.settings:
            kept = {key: value for key, value in found[0].config.items() if key in ("keep_embeddings", "section")}
            changed = {row_name: config | kept for row_name, config in configs.items()}
            update_scorer(engine, changed, *_write_spec(name, spec))
        reinstate_scorer(engine, found, actor=current_actor())
        return find_named(engine, names), False
    hashes = [spec.identity_hash(output) for output in spec.outputs]
    if others := find_identities(engine, hashes):
        raise ConfigError(
            f"Scorer {name} is registered already, as {', '.join(others)}. The same scores are never stored twice: use that name."
        )
    uri, sha256 = _write_spec(name, spec)
    register_raters(engine, [
        {
            "name": row_name, "kind": "scorer", "rule": "scorer", "config": configs[row_name],
            "identity_hash": identity_hash, "checkpoint_uri": uri, "checkpoint_sha256": sha256, "run_id": run_id, "is_shadow": is_shadow,
        }
        for row_name, identity_hash in zip(names, hashes, strict=True)
    ])  # fmt: skip
    return find_named(engine, names), True


def _write_spec(name: str, spec: ScorerSpec) -> tuple[str, bytes]:
    """Write the folder that describes a scorer, unless it exists; return its address, which names its content, and its hash."""
    uri = f"scorers/{name}-{spec.fingerprint()}"
    if not artifact_path(uri).is_dir():
        with atomic_folder(artifact_path(uri)) as folder:
            (folder / FILE).write_text(json.dumps(spec.as_json(), indent=1, sort_keys=True) + "\n", encoding="utf-8")
    return uri, folder_sha256(artifact_path(uri))


def _require_same(name: str, spec: ScorerSpec, found: Sequence[RaterRow]) -> None:
    for row in found:
        keys = ("use", "version", "options", "identity", "outputs", "image_side")
        stored = {key: row.config.get(key) for key in keys}
        wanted = json.loads(json.dumps({key: spec.as_json()[key] for key in stored}))
        if differs := [key for key in stored if stored[key] != wanted[key]]:
            raise ConfigError(
                f"The name {row.name} belongs to another scorer (other {', '.join(differs)}). Scores of two versions are never mixed: "
                f"register this one under another name, such as {name}_2."
            )


def load_runner(rows: Sequence[RaterRow], device: str) -> ScorerRunner:
    """Open a registered scorer.

    Args:
        rows: Its outputs, all of them, in their order.
        device: Device type for its network.

    Raises:
        ConfigError: It cannot be opened here, or it is not the one that was registered.
        DataError: Its description was changed.
    """
    first = rows[0]
    folder = require_artifact(first.checkpoint_uri, first.checkpoint_sha256)
    spec = ScorerSpec.model_validate_json((folder / FILE).read_text(encoding="utf-8"))
    scorer = open_scorer(spec.use, spec.all_options, device)
    now = describe(scorer)
    hashes = [[each.identity_hash(output) for output in each.outputs] for each in (now, spec)]
    # The side is no part of the hash, because it follows from code and options; another one means other pixels all the same.
    if hashes[0] != hashes[1] or now.image_side != spec.image_side:
        scorer.close()
        raise ConfigError(
            f"Scorer {first.config['name']} is not the one that was registered: version {spec.version}, image side {spec.image_side} "
            f"and {spec.identity} then, version {now.version}, image side {now.image_side} and {now.identity} here. Install that version, "
            "or register this one under another name."
        )
    return ScorerRunner(scorer, first.config["name"], keeps_embeddings=keeps_embeddings(first.config))
