"""Scorers of the project file: registered as their sections say, and changed when a section changes."""

from collections.abc import Sequence

from sqlalchemy import Engine

from alchemist_core.project import ScorerSection, load_project
from alchemist_core.scorers.registration import register
from alchemist_core.store.audit import current_actor
from alchemist_core.store.embeddings import set_keeping
from alchemist_core.store.raters import RaterRow, find_outputs, mark_shadow, note_section


def follows(rows: Sequence[RaterRow], section: ScorerSection) -> bool:
    """Return whether a registered scorer is as its section says, without opening it. A retired one follows no section."""
    return rows[0].state == "retired" or rows[0].config.get("section") == section.fingerprint()


def find_declared(engine: Engine, name: str, *, run_id: int | None) -> list[RaterRow]:
    """Return the outputs of a scorer, which is registered or changed first if it does not follow its section of the project file.

    Raises:
        ConfigError: As `register_declared`.
    """
    found, section = find_outputs(engine, name), load_project().scorers.get(name)
    if section is None or (found and follows(found, section)):
        return found
    register_declared(engine, name, run_id=run_id)
    return find_outputs(engine, name)


def renew(engine: Engine, rater: RaterRow, *, run_id: int | None) -> RaterRow:
    """Return a rater as it is; an output of a scorer after the scorer follows its section of the project file.

    Raises:
        ConfigError: As `register_declared`.
    """
    if rater.kind != "scorer":
        return rater
    outputs = find_declared(engine, rater.config["name"], run_id=run_id)
    return next(row for row in outputs if row.rater_id == rater.rater_id)


def register_declared(engine: Engine, name: str, *, run_id: int | None) -> list[RaterRow]:
    """Register a scorer as its section says, or change what may change of a registered one; return its outputs.

    Raises:
        ConfigError: It cannot be opened, or it is registered with another identity.
    """
    section = load_project().scorers[name]
    options = load_project().scorer_options(name)
    rows, _ = register(engine, name, section.use, options, run_id=run_id, is_shadow=section.nightly)
    adjust(engine, rows, is_nightly=section.nightly, keeps_embeddings=section.keep_embeddings, section=section)
    return rows


def adjust(
    engine: Engine,
    rows: Sequence[RaterRow],
    *,
    is_nightly: bool | None,
    keeps_embeddings: bool | None,
    section: ScorerSection | None,
) -> None:
    """Store what may change after the registration of a scorer.

    Args:
        engine: The store.
        rows: Its outputs.
        is_nightly: Whether it scores every night; None: as before.
        keeps_embeddings: Whether its embeddings are kept from now on; None: as before.
        section: The section of the project file that it follows from now on, until the section changes.
    """
    for row in rows:
        if row.state == "candidate" and is_nightly not in (None, row.is_shadow):
            mark_shadow(engine, row, is_shadow=bool(is_nightly), actor=current_actor())
    rater_ids = [row.rater_id for row in rows]
    if keeps_embeddings is not None:
        set_keeping(engine, rater_ids, is_kept=keeps_embeddings)
    if section is not None:
        note_section(engine, rater_ids, section.fingerprint())
