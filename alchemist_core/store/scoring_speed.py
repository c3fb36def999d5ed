"""How fast raters scored lately, by the ledger and the runs."""

from dataclasses import dataclass

from sqlalchemy import Engine

from alchemist_core.store.queries import load_query

RECENT_RUNS = 50


@dataclass(frozen=True, slots=True)
class ScoringSpeed:
    """Pairs that one worker slot computes in a second, on which device, and by whose runs that was measured."""

    pairs_per_s: float
    device: str
    rater_id: int


def scoring_speed(engine: Engine, rater_id: int) -> ScoringSpeed | None:
    """Return a rater's recent speed; else that of the rater that scored last; none before anything was scored."""
    with engine.connect() as connection:
        rows = connection.execute(load_query("measure_scoring_speed"), {"n_runs": RECENT_RUNS}).all()
    row = next((row for row in rows if row.rater_id == rater_id), rows[0] if rows else None)
    return None if row is None else ScoringSpeed(row.n_computed / row.seconds, row.device, row.rater_id)
