"""From cells to the rows of a table: mean losses, gains over random paired by seed, and the gap closed to the oracle.

Every interval is Student's at 95%; a row with one seed has none.
"""

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise, product
from statistics import fmean
from typing import Any

from alchemist_core.errors import ConfigError
from alchemist_core.experiments.arms import FILLED
from alchemist_core.experiments.trial import Cell
from alchemist_core.report.arm_names import ORACLE, arm_title
from alchemist_core.statistics import Estimate, detectable_effect, estimate, estimate_gain, gap_closed, pooled_spread

RANDOM, FULL = "random", "full"
# A policy is non-inferior if its gain's lower end lies above minus this share of random's loss.
MARGIN = 0.01

LossOfSeed = dict[int, float]


@dataclass(frozen=True, slots=True)
class ArmRow:
    """One arm at one retention over its seeds."""

    arm: str
    retention: float
    n_samples: int
    n_steps: int
    # Nats per token, lower is better.
    loss: Estimate
    # Loss of random minus loss of this arm, paired by seed; positive is better.
    gain: Estimate | None
    # (loss of random − loss of arm) / (loss of random − loss of the best oracle); None for the full corpus, which takes more steps.
    gap_closed: Estimate | None
    # Whether the gain's lower end lies above −1% of random's loss; None without an interval.
    is_noninferior: bool | None
    # Multiple of the experiment's epochs.
    length: float = 1.0
    # Whether it is the best of several oracles, to which the gap is measured.
    is_best_oracle: bool = False

    def as_json(self) -> dict[str, Any]:
        """Return the stored form."""
        return asdict(self)


def compare_cells(cells: Sequence[Cell]) -> list[ArmRow]:
    """Return a row for each retention, length and arm, in the order of the cells; the full corpus is repeated at every retention."""
    retentions = dict.fromkeys(cell.retention for cell in cells if cell.arm != FULL)
    lengths = sorted({cell.length for cell in cells})
    rows = []
    for retention, length in product(retentions, lengths):
        here = [cell for cell in cells if cell.length == length and (cell.retention == retention or cell.arm == FULL)]
        losses = losses_by_arm(here)
        rows += [_row(arm, retention, here, losses) for arm in losses]
    return rows


def share_of_steps(cells: Sequence[Cell], arm: str, retention: float) -> Estimate | None:
    """Return the share of random's steps after which an arm reaches random's final loss; None if it never does.

    Between two lengths the loss is interpolated over the logarithm of the steps. A loss reached at the shortest length counts with
    that length's steps, which overestimates the share.

    Args:
        cells: Several lengths of both arms.
        arm: The arm whose steps are counted.
        retention: Retention of both arms, 0-1.
    """
    of = {name: _by_seed(cells, name, retention) for name in (arm, RANDOM)}
    shares = []
    for seed in sorted(of[arm].keys() & of[RANDOM].keys()):
        last = max(of[RANDOM][seed], key=lambda cell: cell.n_steps)
        n_steps = _steps_to_reach(of[arm][seed], last.loss)
        if n_steps is None:
            return None
        shares.append(n_steps / last.n_steps)
    return estimate(shares) if shares else None


def best_oracle(losses: dict[str, LossOfSeed]) -> str | None:
    """Return the oracle arm with the lowest mean loss, because it is not known which kind of added samples is best.

    >>> best_oracle({"random": {3: 2.0}, "planted": {3: 1.5}, "planted+plain": {3: 1.4}})
    'planted+plain'
    """
    oracles = [arm for arm in losses if is_oracle(arm)]
    return min(oracles, key=lambda arm: fmean(losses[arm].values()), default=None)


def is_oracle(arm: str) -> bool:
    """Return whether an arm is an oracle, which is selected from samples that are known to be good."""
    return arm == ORACLE or arm.startswith(FILLED)


def _by_seed(cells: Sequence[Cell], arm: str, retention: float) -> dict[int, list[Cell]]:
    found: dict[int, list[Cell]] = {}
    for cell in cells:
        if cell.arm == arm and (cell.retention == retention or arm == FULL):
            found.setdefault(cell.seed, []).append(cell)
    return found


def _steps_to_reach(cells: Sequence[Cell], loss: float) -> float | None:
    ordered = sorted(cells, key=lambda cell: cell.n_steps)
    if ordered[0].loss <= loss:
        return ordered[0].n_steps
    for before, after in pairwise(ordered):
        if after.loss <= loss:
            way = (before.loss - loss) / (before.loss - after.loss)
            return float(before.n_steps * (after.n_steps / before.n_steps) ** way)
    return None


def losses_by_arm(cells: Sequence[Cell]) -> dict[str, LossOfSeed]:
    """Return the losses of cells of one retention."""
    losses: dict[str, LossOfSeed] = {}
    for cell in cells:
        losses.setdefault(cell.arm, {})[cell.seed] = cell.loss
    return losses


def paired_spread(losses: dict[str, LossOfSeed]) -> float | None:
    """Return the pooled standard deviation of the differences to random, paired by seed; None below two seeds."""
    compared = [loss for arm, loss in losses.items() if arm not in (RANDOM, FULL)]
    return pooled_spread(compared, losses.get(RANDOM, {}))


def state_detectable(spread: float | None, n_seeds: int, *, source: str) -> dict[str, Any]:
    """Return the smallest gain that the seeds can show: in the metric's unit if a spread is known, else in spreads.

    Args:
        spread: Standard deviation of paired differences, if it was measured before.
        n_seeds: Seeds that will be reported.
        source: Where the spread was measured, in words.
    """
    factor = detectable_effect(1.0, n_seeds)
    effect = None if spread is None or math.isinf(factor) else round(factor * spread, 5)
    return {
        "n_seeds": n_seeds,
        "spread": None if spread is None else round(spread, 6),
        "spread_from": source,
        "effect_in_spreads": None if math.isinf(factor) else round(factor, 4),
        "effect": effect,
    }


def describe_detectable(before: dict[str, Any]) -> str:
    """Describe the smallest gain that the seeds can show.

    >>> print(describe_detectable(state_detectable(0.0184, 5, source="seeds 0, 1, 2")).partition(" (")[0])
    Smallest gain over random that 5 seeds would show with 80% power: 0.0309 nats per token
    """
    if before["effect_in_spreads"] is None:
        return "One seed cannot show a gain: its table has no intervals."
    head = f"Smallest gain over random that {before['n_seeds']} seeds would show with 80% power: "
    deviation = "standard deviation of the differences to random at equal seeds"
    if before["effect"] is None:
        return f"{head}{before['effect_in_spreads']:.2f} × the {deviation}, which is measured when models are trained."
    known = f"{deviation}: {before['spread']:.4f}, of models trained on bands of ranks, {before['spread_from']}"
    return f"{head}{before['effect']:.4f} nats per token ({known}). Arms that differ less show smaller gains."


def describe_measured(cells: Sequence[Cell]) -> list[str]:
    """Describe, for each retention, the smallest gain that its arms can show, from their own differences to random.

    It differs by arm, so the smallest and the largest one are named. Oracles, the full corpus and arms that equal random are left out.
    """
    said = []
    for retention in dict.fromkeys(cell.retention for cell in cells if cell.arm != FULL):
        last = max(cell.length for cell in cells)
        losses = losses_by_arm([cell for cell in cells if (cell.retention, cell.length) == (retention, last)])
        found = {
            arm: spread * detectable_effect(1.0, len(of))
            for arm, of in losses.items()
            if arm not in (RANDOM, FULL)
            and not is_oracle(arm)
            and (spread := paired_spread({RANDOM: losses.get(RANDOM, {}), arm: of}))
        }
        if found:
            least, most = min(found, key=found.__getitem__), max(found, key=found.__getitem__)
            ends = [f"{found[arm]:.4f} ({arm_title(arm)})" for arm in dict.fromkeys((least, most))]
            said.append(
                f"By the differences measured at {retention:.0%}, the smallest gain that shows with 80% power is {' to '.join(ends)} nats "
                "per token."
            )
    return said


def _row(arm: str, retention: float, cells: Sequence[Cell], losses: dict[str, LossOfSeed]) -> ArmRow:
    first = next(cell for cell in cells if cell.arm == arm)
    best = best_oracle(losses)
    loss, random, oracle = losses[arm], losses.get(RANDOM, {}), losses[best] if best else {}
    gain = estimate_gain(loss, random) if arm != RANDOM else None
    gap = None if arm in (RANDOM, FULL) or is_oracle(arm) else gap_closed(loss, random, oracle)
    return ArmRow(
        arm, retention, first.n_samples, first.n_steps, estimate(list(loss.values())), gain, gap,
        _is_noninferior(gain, random), first.length, arm == best and sum(map(is_oracle, losses)) > 1,
    )  # fmt: skip


def _is_noninferior(gain: Estimate | None, random: LossOfSeed) -> bool | None:
    if gain is None or gain.low is None:
        return None
    return gain.low > -MARGIN * estimate(list(random.values())).mean


def compare_arms(cells: Sequence[Cell], control: str) -> list[tuple[str, ...]]:
    """Return a line of texts for each arm: its gain over another arm than random, paired by seed, in the order of `AGAINST`.

    Args:
        cells: The cells of an experiment.
        control: The stored name of the arm that the others are compared with.

    Raises:
        ConfigError: No cell has this arm; the message lists those that there are.
    """
    arms = dict.fromkeys(cell.arm for cell in cells)
    if control not in arms:
        raise ConfigError(
            f"--against {arm_title(control)} is not an arm of the experiment. Arms: {', '.join(map(arm_title, arms))}."
        )
    lines: list[tuple[str, ...]] = []
    retentions = dict.fromkeys(cell.retention for cell in cells if cell.arm != FULL)
    for retention, length in product(retentions, sorted({cell.length for cell in cells})):
        here = [cell for cell in cells if cell.length == length and (cell.retention == retention or cell.arm == FULL)]
        losses = losses_by_arm(here)
        for arm in losses:
            gain = None if arm == control else estimate_gain(losses[arm], losses.get(control, {}))
            if gain is not None:
                lines.append(
                    (arm_title(arm), f"{retention:.0%}", f"{length:g}×", str(gain.n), show(gain), _say_against(gain))
                )
    return lines


AGAINST = ("arm", "retention", "length", "seeds", "gain", "")
"""The columns of `compare_arms`."""


def _say_against(gain: Estimate) -> str:
    if gain.low is None or gain.high is None:
        return "one seed shows nothing"
    if gain.low == gain.high == 0.0:
        return "the same samples"
    return "better" if gain.low > 0 else "worse" if gain.high < 0 else "no difference shown"


HEAD = ("arm", "retention", "samples", "steps", "seeds", "held-out loss", "gain over random", "gap closed", "")
COLUMNS = (
    *("retention", "arm", "n_samples", "n_steps", "n_seeds", "loss", "loss_low", "loss_high"),
    *("gain", "gain_low", "gain_high", "gap_closed", "gap_closed_low", "gap_closed_high", "is_noninferior"),
)


def lay_out(lines: Sequence[tuple[str, ...]]) -> str:
    """Align rows of texts in columns, each as wide as its widest text.

    >>> lay_out([("a", "retention"), ("random", "20%")]).splitlines()
    ['a       retention', 'random  20%']
    """
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )


def csv_table(rows: Sequence[ArmRow]) -> str:
    """Write rows as CSV, an empty field where there is no value."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(COLUMNS)
    for row in rows:
        numbers = (row.retention, row.arm, row.n_samples, row.n_steps, row.loss.n)
        found = (row.loss, row.gain, row.gap_closed)
        writer.writerow([*numbers, *(end for one in found for end in _ends(one)), row.is_noninferior])
    return out.getvalue()


def cells_of_row(row: ArmRow) -> tuple[str, ...]:
    """Return a row as texts, in the order of `HEAD`."""
    return (
        arm_title(row.arm), f"{row.retention:.0%}", f"{row.n_samples:,}", f"{row.n_steps:,}", str(row.loss.n), show(row.loss),
        show(row.gain), show(row.gap_closed, digits=0, scale=100, unit="%"), verdict(row),
    )  # fmt: skip


def show(found: Estimate | None, *, digits: int = 4, scale: float = 1.0, unit: str = "") -> str:
    """Write a mean with the half-width of its interval; a dash for None.

    >>> show(Estimate(0.5, 0.4, 0.6, 3), digits=0, scale=100, unit="%")
    '50 ± 10%'
    """
    if found is None:
        return "–"
    error = "" if found.half_width is None else f" ± {found.half_width * scale:.{digits}f}"
    return f"{found.mean * scale:.{digits}f}{error}{unit}".replace("-", "−")


def verdict(row: ArmRow) -> str:
    """Describe what the interval of the gain shows, and mark the best of several oracles, to which the gap is measured."""
    shown = _say_gain(row)
    if not row.is_best_oracle:
        return shown
    return f"{shown}, the best oracle" if shown else "the best oracle"


def conclude(rows: Sequence[ArmRow]) -> str:
    """Return in one sentence whether an arm is better than random, and which one by how much.

    Controls that no policy could select, the oracles and the full corpus, are left out.
    """
    compared = _gains(rows)
    if not compared:
        return f"no arm was compared with {RANDOM}"
    shown = [(row, gain) for row, gain in compared if gain.is_positive]
    best, gain = max(shown or compared, key=lambda one: one[1].mean)
    length = f" and {best.length:g}× the steps" if len({row.length for row in rows}) > 1 else ""
    who, by = f"{arm_title(best.arm)} at {best.retention:.0%}{length}", f"{show(gain)} nats per token"
    # Each interval holds with 95%, the largest of many does not.
    among = f", the largest of {len(compared)} gains" if len(compared) > 1 else ""
    if shown:
        return f"{who} is better than {RANDOM} by {by}{among}"
    if gain.low is None:
        return f"one seed shows nothing; {who} has the largest gain over {RANDOM}, {by}"
    return f"no arm is shown to be better than {RANDOM}; {who} has the largest gain, {by}"


def has_better(rows: Sequence[ArmRow]) -> bool:
    """Return whether an arm is better than random with 95% confidence for all arms together; oracles and the full corpus are left out."""
    gains = _gains(rows)
    return any(gain.among(len(gains)).is_positive for _, gain in gains)


def _gains(rows: Sequence[ArmRow]) -> list[tuple[ArmRow, Estimate]]:
    return [(row, row.gain) for row in rows if row.gain is not None and row.arm != FULL and not is_oracle(row.arm)]


def _say_gain(row: ArmRow) -> str:
    if row.gain is None or row.gain.low is None:
        return ""
    if row.gain.low > 0:
        return "better than random"
    if row.arm != RANDOM and row.gain.low == row.gain.high == 0.0:
        return "selected at random: the same samples"
    worse = "worse than random" if (row.gain.high or 0.0) < 0 else "no difference shown"
    return f"{worse}, non-inferior (margin 1%)" if row.is_noninferior else worse


def _ends(found: Estimate | None) -> tuple[float | None, ...]:
    return (None, None, None) if found is None else (found.mean, found.low, found.high)
