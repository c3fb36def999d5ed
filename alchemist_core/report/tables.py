"""The page's tables: what subsets were worth, the nights, and what was set aside. On a phone each row becomes a card."""

from collections.abc import Sequence

from alchemist_core.report.comparison import ArmSummary, Comparison
from alchemist_core.report.content import CostRow, DriftRow, NightRow, QuarantineRow, VersionChange, WithdrawnRow
from alchemist_core.report.markup import Html, element
from alchemist_core.statistics import Estimate

_ARM_NOTES = {
    "subset": "what the rater's ranks selected",
    "random": "same size, drawn blindly",
    "planted": "same size, drawn from pairs known to be good",
    "full": "every eligible pair, more steps",
}


def comparison_table(comparison: Comparison) -> Html:
    """Show a subset and its controls: size, seeds, held-out loss, gain over random, share of the gap closed."""
    ends = [end for arm in comparison.arms for end in _ends(arm)]
    low, high = min(ends), max(ends)
    margin = (high - low) * 0.06 or 1.0
    rows = [_arm_row(arm, (low - margin, high + margin)) for arm in comparison.arms]
    head = (
        "Trained on",
        "Samples",
        "Steps",
        "Seeds",
        "Held-out loss",
        "Each seed (left is better)",
        "Gain",
        "Gap closed",
    )
    return table(head, rows, class_="comparison")


def nights_table(nights: Sequence[NightRow]) -> Html:
    """Show each night's accounts: locations in = scored + quarantined."""
    head = ("Night", "Dataset", "Status", "Shards", "Locations", "Scored", "Quarantined", "Accounts")
    return table(head, [(_night_cells(night), "") for night in nights], class_="nights")


def change_table(change: VersionChange) -> Html:
    """Show why pairs left and joined since the version before; each column adds up."""
    reasons = sorted(
        change.leavers.keys() | change.joiners.keys(),
        key=lambda reason: (-change.leavers.get(reason, 0) - change.joiners.get(reason, 0), reason),
    )
    rows = [(reason, change.leavers.get(reason, 0), change.joiners.get(reason, 0)) for reason in reasons]
    rows.append(("all of them", sum(change.leavers.values()), sum(change.joiners.values())))
    cells = [((name, *(_figure(f"{n:,}") for n in counts)), "") for name, *counts in rows]
    return table(("Why", "Pairs that left", "Pairs that joined"), cells, class_="change")


def withdrawn_table(rows: Sequence[WithdrawnRow]) -> Html:
    """Show which versions were withdrawn, by whom, when and why."""
    cells = [
        ((row.subset, row.withdrawn_on.isoformat(), row.withdrawn_by, element("bdi", row.reason)), "") for row in rows
    ]
    return table(("Version", "Withdrawn on", "By", "Reason"), cells, class_="withdrawn")


def quarantine_table(rows: Sequence[QuarantineRow]) -> Html:
    """Show why locations were set aside, the most frequent reason first."""
    ordered = sorted(rows, key=lambda row: (-row.n_locations, row.reason))
    cells = [
        ((element("code", row.reason), row.stage, _figure(f"{row.n_locations:,}"), element("bdi", row.example)), "")
        for row in ordered
    ]
    return table(("Reason", "Found by", "Locations", "Example"), cells, class_="quarantine")


def drift_table(rows: Sequence[DriftRow]) -> Html:
    """Show how far each night's scores lie from the accepted ones."""
    cells = [
        (
            (
                *(row.crawl_date.isoformat(), row.dataset, row.verdict, _figure(f"{row.n_tested:,}")),
                *(_figure("–" if value is None else f"{value:.3f}") for value in (row.psi, row.ks_distance)),
            ),
            "",
        )
        for row in rows
    ]
    return table(("Night", "Dataset", "Verdict", "Pairs tested", "PSI", "KS distance"), cells, class_="drift")


def cost_table(rows: Sequence[CostRow]) -> Html:
    """Show what nights and subsets cost."""
    cells = [((row.name, row.kind, row.device, _figure(show_duration(row.seconds))), "") for row in rows]
    return table(("What", "Kind", "Device", "Time"), cells, class_="costs")


def show_duration(seconds: float) -> str:
    """Write a time in the unit that people would say it in.

    >>> show_duration(42.4), show_duration(600), show_duration(9000)
    ('42 s', '10 min', '2.5 h')
    """
    return (
        f"{seconds:.0f} s"
        if seconds < 120
        else f"{seconds / 60:.0f} min"
        if seconds < 7200
        else f"{seconds / 3600:.1f} h"
    )


def show_estimate(estimate: Estimate | None, digits: int, scale: float = 1.0, unit: str = "") -> Html:
    """Write a mean with its half-width, or a dash where there is none."""
    if estimate is None:
        return element("span", "–", class_="none")
    mean = f"{estimate.mean * scale:.{digits}f}".replace("-", "−")
    if estimate.half_width is None:
        return element("span", mean, unit)
    return element("span", mean, element("span", f" ± {estimate.half_width * scale:.{digits}f}", class_="error"), unit)


def show_percent(ratio: float) -> str:
    """Write a ratio as a percentage of three digits.

    >>> show_percent(0.2), show_percent(0.98765)
    ('20 %', '98.8 %')
    """
    return f"{ratio * 100:.3g} %"


def _arm_row(summary: ArmSummary, bounds: tuple[float, float]) -> tuple[tuple[object, ...], str]:
    is_subset = summary.arm == "subset"
    name = element("strong", "subset") if is_subset else summary.arm
    note = _ARM_NOTES.get(summary.arm)
    return (
        element("span", name, element("small", note) if note else None, class_="arm"),
        _figure(f"{summary.n_samples:,}"),
        _figure(f"{summary.n_steps:,}"),
        _figure(str(len(summary.loss_of_seed))),
        _figure(show_estimate(summary.loss, 3)),
        _spread(summary, bounds),
        _figure(show_estimate(summary.gain, 3)),
        _figure(show_estimate(summary.gap_closed, 0, 100, " %")),
    ), "subset" if is_subset else ""


def _spread(summary: ArmSummary, bounds: tuple[float, float]) -> Html:
    def at(loss: float) -> float:
        return 100 * (loss - bounds[0]) / (bounds[1] - bounds[0])

    mean, half_width = summary.loss.mean, summary.loss.half_width or 0.0
    left, right = at(mean - half_width), at(mean + half_width)
    dots = [
        element("i", class_="seed", style=f"left:{at(loss):.2f}%", title=f"seed {seed}: {loss:.4f}")
        for seed, loss in sorted(summary.loss_of_seed.items())
    ]
    whisker = element("i", class_="whisker", style=f"left:{left:.2f}%;width:{right - left:.2f}%")
    return element("span", whisker, *dots, element("i", class_="mean", style=f"left:{at(mean):.2f}%"), class_="track")


def _ends(arm: ArmSummary) -> tuple[float, ...]:
    """Return what the track of an arm must hold: every seed, and both ends of the interval."""
    half_width = arm.loss.half_width or 0.0
    return *arm.loss_of_seed.values(), arm.loss.mean - half_width, arm.loss.mean + half_width


def _night_cells(night: NightRow) -> tuple[object, ...]:
    counts = (night.n_shards, night.n_locations, night.n_scored, night.n_quarantined)
    date = element("span", night.crawl_date.isoformat(), class_="figure")
    return date, night.dataset, night.status, *(_figure(f"{n:,}") for n in counts), _accounts(night)


def _accounts(night: NightRow) -> Html:
    if night.n_missing == 0:
        return element("span", "✓ balanced", class_="good")
    if night.is_open and night.n_missing > 0:
        return element("span", f"{night.n_missing:,} to be scored", class_="none")
    return element(
        "span", f"✗ {abs(night.n_missing):,} {'missing' if night.n_missing > 0 else 'too many'}", class_="bad"
    )


def _figure(content: object) -> Html:
    return element("span", content, class_="figure")


def table(head: Sequence[str], rows: Sequence[tuple[tuple[object, ...], str]], class_: str) -> Html:
    """Lay rows of cells, each with its class, out under a head; on a phone each row becomes a card.

    Roles are written out because cards on a phone (display: grid) would take them away.
    """
    body = [
        element(
            "tr",
            *(
                element("td", element("span", label, class_="label", aria_hidden="true"), cell, role="cell")
                for label, cell in zip(head, cells, strict=True)
            ),
            class_=row_class or None,
            role="row",
        )
        for cells, row_class in rows
    ]
    heads = element("tr", *(element("th", label, scope="col", role="columnheader") for label in head), role="row")
    return element(
        "table",
        element("thead", heads, role="rowgroup"),
        element("tbody", *body, role="rowgroup"),
        class_=class_,
        role="table",
    )
