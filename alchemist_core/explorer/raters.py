"""Raters: the list, and one of them: did it pass, with what was it trained, and whom does it move against the production rater."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from sqlalchemy import Engine
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from alchemist_core.errors import ConfigError
from alchemist_core.explorer.curves import training_curves
from alchemist_core.explorer.markup import Tab, render
from alchemist_core.rating.acceptance import override_warning, warnings_of
from alchemist_core.store import browsing
from alchemist_core.store.browsing import Conditions, Ranking, Shown
from alchemist_core.store.engine import open_reader
from alchemist_core.store.raters import RaterRow, find_rater, list_all_raters, promotion_reason

TAB = Tab("Raters", "/raters")
N_SHOWN = 200
"""Raters, scorers and imports in the list."""
MIN_MOVE = 0.2
"""Smallest change of rank that a comparison shows."""
N_MOVED = 12
CHECKS = {
    "batch_invariance": "Scores do not depend on the batch",
    "corruption_isolation": "Scores do not depend on damaged neighbours",
    "flipped_codes": "Image codes that depend on the batch",
    "spearman_score_minus_loss": "Rank correlation with the loss",
    "effective_sample_size": "Samples that weigh in a training step",
    "entropy": "Evenness of the weights in training",
    "score_spread": "Spread of the scores",
    "rank_stability": "Same ranks by a rater of another seed",
    "resolution_ratio": "Size of the images against the rater's resolution",
    "recall_of_plain": "Ranks plain images lower",
    "recall_of_chaotic": "Ranks chaotic images lower",
    "caption_sensitivity": "Tells an image's own caption from another's",
    "auc_of_damage": "Tells clean samples from damaged ones",
    "auc_of_flags": "Tells samples flagged good from those flagged bad",
}
"""The checks of the acceptance report in words; others are shown by their names."""
_NOT_FIGURES = {"checks", "is_certified", "score_quantiles", "n_scores", "history"}


def show_list(request: Request) -> Response:
    """Return the raters and scorers: the production rater first, then the newest."""
    raters = list_all_raters(open_reader())
    return render(
        request,
        "raters.html",
        title="Who scores the samples?",
        raters=raters[:N_SHOWN],
        n_more=max(0, len(raters) - N_SHOWN),
    )


def show_rater(request: Request) -> Response:
    """Return the page of one rater."""
    engine = open_reader()
    try:
        rater = find_rater(engine, request.path_params["name"])
    except ConfigError as error:
        raise HTTPException(404, str(error)) from None
    production = find_rater(engine, "production")
    if rater is None:
        raise HTTPException(404, "There is no such rater.")
    report = rater.acceptance_report
    figures = {
        name: value for name, value in report.items() if name not in _NOT_FIGURES and isinstance(value, (int, float))
    }
    return render(
        request, "rater.html", title=f"Did {rater.name} pass?", rater=rater, checks=report.get("checks", []), figures=figures,
        is_certified=report.get("is_certified"), warnings=_warnings(engine, rater), config=_flat(rater.config),
        moves=_moves(engine, rater, production, request.query_params.get("after")), production=production,
        curves=training_curves(report.get("history") or []), titles=CHECKS,
    )  # fmt: skip


def _warnings(engine: Engine, rater: RaterRow) -> list[str]:
    found = warnings_of(rater.acceptance_report)
    if rater.state == "production" and rater.kind == "trained":
        override = override_warning(rater.acceptance_report, promotion_reason(engine, rater))
        found = [override, *found] if override else found
    return found


class Moves(NamedTuple):
    """Samples whose rank differs most between two raters, among those that were read; others begin after `last`, if there are any."""

    up: list[Shown]
    down: list[Shown]
    last: int | None
    n_read: int


def _moves(engine: Engine, rater: RaterRow, production: RaterRow | None, after: str | None) -> Moves | None:
    """Return whom a rater moves against the production rater; None if one of them has no ranks."""
    if production is None or production.rater_id == rater.rater_id:
        return None
    scale_id, production_scale_id = (browsing.newest_scale(engine, one) for one in (rater, production))
    if scale_id is None or production_scale_id is None:
        return None
    start = browsing.read_place(after)[0] if after else 0
    found = browsing.compare_ranks(
        engine, Ranking(production.rater_id, production_scale_id), Ranking(rater.rater_id, scale_id), min_move=MIN_MOVE,
        after_sample_id=start,
    )  # fmt: skip
    ranked = Conditions(rater_id=rater.rater_id, rank_scale_id=scale_id)
    ends = [[one.sample_id for one in found.moved if one.is_up is is_up][:N_MOVED] for is_up in (True, False)]
    up, down = (browsing.show(engine, ids, ranked) for ids in ends)
    return Moves(up, down, found.last_sample_id, browsing.MOST_READ)


def _flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested options by dotted names.

    >>> _flat({"a": {"b": 1}, "c": [2]})
    {'a.b': 1, 'c': [2]}
    """
    found: dict[str, Any] = {}
    for name, value in config.items():
        found |= _flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": value}
    return found


ROUTES: Sequence[Any] = [Route("/raters", show_list), Route("/raters/{name}", show_rater)]
