"""Typed tables of the store. A table is a contract: all stand from the first migration, each filled by the stage that owns it."""

from alchemist_core.store.tables.operations import AuditEvent, CheckResult, Lease, Run, fencing_tokens
from alchemist_core.store.tables.ratings import (
    Night,
    RankScale,
    RankSnapshot,
    Rater,
    RegionProbe,
    RetriedSample,
    Score,
    ScoreDistribution,
    ShardScore,
)
from alchemist_core.store.tables.schema import SCHEMA, AnyRow, Table, utc_now
from alchemist_core.store.tables.sources import (
    Dataset,
    HeuristicScore,
    QuarantinedSample,
    Sample,
    SampleLocation,
    Shard,
    Takedown,
)
from alchemist_core.store.tables.subsets import (
    Evaluation,
    EvaluationContract,
    Experiment,
    Model,
    Subset,
    SubsetSample,
)

__all__ = [
    "SCHEMA",
    "AnyRow",
    "AuditEvent",
    "CheckResult",
    "Dataset",
    "Evaluation",
    "EvaluationContract",
    "Experiment",
    "HeuristicScore",
    "Lease",
    "Model",
    "Night",
    "QuarantinedSample",
    "RankScale",
    "RankSnapshot",
    "Rater",
    "RegionProbe",
    "RetriedSample",
    "Run",
    "Sample",
    "SampleLocation",
    "Score",
    "ScoreDistribution",
    "Shard",
    "ShardScore",
    "Subset",
    "SubsetSample",
    "Table",
    "Takedown",
    "fencing_tokens",
    "utc_now",
]
