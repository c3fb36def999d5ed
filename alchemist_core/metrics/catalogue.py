"""The classes that measure metrics: the built-in ones, and those that installed packages add.

A package adds a metric by an entry point in the group `alchemist.metrics`: its name is the metric's, its value the class.
"""

from importlib.metadata import entry_points
from typing import NoReturn

from alchemist_core.errors import ConfigError
from alchemist_core.metrics.average import AverageScore
from alchemist_core.metrics.heldout import HeldoutFlowLoss, HeldoutLoss
from alchemist_core.metrics.image_metrics import ClipScore, Fid, Kid
from alchemist_core.metrics.metric import Bench, MetricMaker
from alchemist_core.protocols.protocol import ProtocolFile

ENTRY_POINTS = "alchemist.metrics"


def _refuse_geneval(_bench: Bench, file: ProtocolFile) -> NoReturn:
    raise ConfigError(
        f"Evaluation protocol {file.name} measures images in GenEval's own folders: run alchemist geneval draw, then "
        f"alchemist geneval judge --protocol {file.name}."
    )


METRICS: dict[str, MetricMaker] = {
    "heldout_loss": HeldoutLoss,
    "heldout_flow_loss": HeldoutFlowLoss,
    "fid": Fid,
    "kid": Kid,
    "clip_score": ClipScore,
    # The same mean cosine, on the features of a trained head.
    "image_text_similarity": ClipScore,
    "average_score": AverageScore,
    "geneval": _refuse_geneval,
}


def find_metric(file: ProtocolFile) -> MetricMaker:
    """Return the class of the metric that a protocol names.

    Raises:
        ConfigError: No class measures it.
    """
    if file.metric in METRICS:
        return METRICS[file.metric]
    added = {point.name: point for point in entry_points(group=ENTRY_POINTS)}
    if file.metric not in added:
        known = ", ".join(sorted({*METRICS, *added}))
        raise ConfigError(f"Evaluation protocol {file.name} names metric {file.metric!r}. Allowed: {known}.")
    maker: MetricMaker = added[file.metric].load()
    return maker
