"""Say why a pair is in a subset version or not: its rank, its key against the threshold, a cap, a hold, a takedown, a duplicate."""

import numpy as np
from pydantic import Field
from sqlalchemy import Engine

from alchemist_core.config import BARE_WORD, Command, Config, Report
from alchemist_core.selection.differences import locate
from alchemist_core.selection.exclusions import EXCLUSIONS
from alchemist_core.store.engine import open_store
from alchemist_core.store.manifests import hash_rows
from alchemist_core.store.samples import find_sample, reason_of_takedown, why_not_eligible
from alchemist_core.store.subsets import VERSION_TEXT, SubsetRow, choose_version
from alchemist_core.store.tables import AnyRow
from alchemist_core.subsets.selected import Drawn, redraw

# By the reasons of the query why_not_eligible; `places` are nights, or datasets where it lies in no night.
OUTSIDE = {
    "taken down": "its picture was taken down ({detail}) before this version was drawn",
    "held": (
        "its night is held ({detail}): {places}. Look at it, then alchemist release night --dataset NAME --crawl-date DATE "
        "--reason WHY, and select again"
    ),
    "night not decided": (
        "its night has not passed its checks: {places}. alchemist check --suite scores, then alchemist publish night, and select again"
    ),
    "new pair": "its night was decided after this version was drawn: {places}. Select again to draw from it too",
    "held out": "it is of {places}: what is held out is never selected, so that what is measured on it means something",
    "other dataset": "it is of {places}, which this version was not drawn from. alchemist select --dataset draws from several",
    "quarantined": "the rater set it aside ({detail}). alchemist retry-quarantine tries it again",
    "not scored": "the rater has not scored it: {places}. alchemist score, check and publish its night, and select again",
    "eligible": "it may be drawn now, and could not when this version was drawn: a takedown, a shard or a score was changed by hand",
}
EXCLUDED = {
    "duplicate": "a pair that was seen before it has the same picture (--duplicates near: or one like it) and stands for both",
    "contaminated": "it looks like a picture of an evaluation dataset (--decontaminate)",
    "predicate": "the condition --where leaves it out",
    "cap": "others of its dataset or source have better keys, and together they have the share that --max-share allows",
}


class ExplainConfig(Config):
    """Which pair, in which version."""

    sample: str = Field(
        ...,
        min_length=1,
        description="The pair, as DATASET/SHARD/KEY, by 8 or more digits of its hash, or by its sample id",
        json_schema_extra=BARE_WORD,
    )
    subset: str = Field(..., description="Name of the subset")
    version: int | None = Field(None, ge=1, description=VERSION_TEXT)


class ExplainReport(Report):
    """Where the pair stands towards the version; rank and key are none where it could not be drawn."""

    pair: str
    sample_id: int
    caption: str
    subset: str
    is_member: bool
    reason: str
    because: str
    rank: float | None = None
    key: float | None = None
    threshold: float | None = None

    def summary(self) -> str:
        """Return two lines for a person."""
        verdict = "in" if self.is_member else "not in"
        return f"pair {self.pair[:16]} (sample {self.sample_id}), {self.caption[:80]!r}\n{verdict} {self.subset}: {self.because}."


def run(config: ExplainConfig) -> ExplainReport:
    """Draw the version again and say where the pair stands."""
    engine = open_store()
    subset = choose_version(engine, config.subset, version=config.version, may_be_withdrawn=True)
    pair = find_sample(engine, config.sample)
    drawn = redraw(engine, subset)
    place = int(locate(drawn.snapshot.pairs.pair_hash_N32, hash_rows([bytes(pair.pair_hash)]))[0])
    fields = _outside(engine, subset, pair) if place < 0 else _inside(drawn, place)
    if fields["is_member"] and (reason := reason_of_takedown(engine, pair.sample_id)) is not None:
        fields["because"] = f"{fields['because']}; its picture was taken down since ({reason}), and readers skip it"
    return ExplainReport(
        pair=bytes(pair.pair_hash).hex(), sample_id=pair.sample_id, caption=pair.caption, subset=subset.title, **fields
    )


def _outside(engine: Engine, subset: SubsetRow, pair: AnyRow) -> dict[str, object]:
    (row,) = why_not_eligible(engine, subset.snapshot_id, hash_rows([bytes(pair.pair_hash)]))
    because = OUTSIDE[row.reason].format(detail=row.detail or "no reason was given", places=", ".join(row.places))
    return {"is_member": False, "reason": row.reason, "because": because}


def _inside(drawn: Drawn, place: int) -> dict[str, object]:
    rank, key = float(drawn.snapshot.rank_N[place]), float(drawn.key_N[place])
    is_member, threshold = bool(drawn.is_member_N[place]), _threshold(drawn, place)
    fields = {"is_member": is_member, "rank": rank, "key": key if key > -np.inf else None, "threshold": threshold}
    if excluded := EXCLUSIONS.get(int(drawn.excluded_N[place])):
        return fields | {"reason": excluded, "because": f"rank {rank:.4f}; {EXCLUDED[excluded]}"}
    if key == -np.inf:
        because = f"rank {rank:.4f}, of which strategy {drawn.strategy.name} keeps no pair ({drawn.strategy})"
        return fields | {"reason": "rank", "because": because}
    among = f"{len(drawn.member_K):,} members" if drawn.group_N is None else "the members of its dataset or source"
    compared = f"key {key:.4f} {'reaches' if is_member else 'is below'} {threshold:.4f}, the smallest of {among}"
    return fields | {"reason": "key", "because": f"rank {rank:.4f}; {compared}"}


def _threshold(drawn: Drawn, place: int) -> float:
    """Return the smallest key of those with whom a pair competes; where none of them is a member, of all."""
    group = 0 if drawn.group_N is None else int(drawn.group_N[place])
    return drawn.thresholds.get(group, drawn.threshold)


COMMANDS = {"": Command(ExplainConfig, run)}
