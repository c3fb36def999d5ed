"""Look at subset versions, say what changed between two, and decide which one is published."""

from typing import Any

from pydantic import Field

from alchemist_core.cli.subset_diff import DiffSubsetConfig, diff
from alchemist_core.cli.subset_gc import GcSubsetConfig, gc
from alchemist_core.cli.subset_publish import (
    PublishSubsetConfig,
    PublishSubsetReport,
    RollbackSubsetConfig,
    WithdrawSubsetConfig,
    publish,
    rollback,
    withdraw,
)
from alchemist_core.config import BARE_WORD, Command, Config, Report
from alchemist_core.files import artifact_path
from alchemist_core.store.engine import open_store
from alchemist_core.store.subsets import (
    VERSION_TEXT,
    SubsetRow,
    choose_version,
    describe_withdrawal,
    list_subsets,
    rater_of_subset,
)
from alchemist_core.subsets.materialized import is_finished, place_of

N_BARS, BAR_WIDTH = 20, 40
NEXT = {
    "selected": "alchemist subset publish {name} --version {version}",
    "published": "alchemist materialize --subset {name} --version {version}, or alchemist train-downstream --subset {name}",
    "superseded": "alchemist subset rollback {name} --version {version} brings it back; alchemist subset gc collects it",
    "withdrawn": "alchemist subset list shows what to use instead; alchemist subset publish {name} --version {version} --reinstate "
    "publishes it again",
}


class SubsetListConfig(Config):
    """Nothing to choose."""


class SubsetListReport(Report):
    """All subset versions."""

    subsets: list[dict[str, Any]]

    def summary(self) -> str:
        """Return one line a version."""
        titles = [f"{s['name']} v{s['version']}" for s in self.subsets]
        width = max(map(len, titles), default=0)
        rows = (
            f"{title:<{width}}  {s['state']:<10}  {s['n_samples']:>11,} pairs  {s['strategy']} {s['retention']:g}"
            + (f"  {s['withdrawal']}" if s["withdrawal"] else "")
            for title, s in zip(titles, self.subsets, strict=True)
        )
        return "\n".join(rows) or "No subset yet. Make one: alchemist select --dataset NAME --retention 0.2"


class SubsetShowConfig(Config):
    """Which subset."""

    name: str = Field(..., description="Name of the subset", json_schema_extra=BARE_WORD)
    version: int | None = Field(None, ge=1, description=VERSION_TEXT)


class SubsetShowReport(Report):
    """One subset version."""

    subset: str
    state: str
    # Who withdrew it, when and why; none where nobody did.
    withdrawal: str | None
    n_samples: int
    spec: dict[str, Any]
    rater: str
    datasets: list[str]
    manifest_sha256: str
    manifest: str
    copies: list[str]
    curves: dict[str, Any] | None
    next: str

    def summary(self) -> str:
        """Return the fields, the ranks as bars, and what to do next."""
        fields = self.model_copy(update={"curves": None, "next": None})
        bars = draw_bars(self.curves) if self.curves else []
        return "\n".join([Report.summary(fields), *bars, f"next: {self.next}"])


def draw_bars(curves: dict[str, Any]) -> list[str]:
    r"""Draw a version's ranks as lines of text: a full bar is a band of which every pair was kept, `|` what was asked for.

    >>> print("\n".join(draw_bars({"n_pool": [10, 10], "n_kept": [0, 5], "target": [0.0, 0.25]})))
    ranks of the pairs kept, 0 % = highest score; # kept, | asked for, a full line is every pair of the band
        0-50  % |                                        0 of 10
       50-100 % ##########|#########                     5 of 10
    """
    lines = ["ranks of the pairs kept, 0 % = highest score; # kept, | asked for, a full line is every pair of the band"]
    merge = max(len(curves["n_pool"]) // N_BARS, 1)
    for start in range(0, len(curves["n_pool"]), merge):
        band = slice(start, start + merge)
        n_pool, n_kept = sum(curves["n_pool"][band]), sum(curves["n_kept"][band])
        wanted = sum(share * n for share, n in zip(curves["target"][band], curves["n_pool"][band], strict=True))
        bar = ("#" * round(BAR_WIDTH * n_kept / max(n_pool, 1))).ljust(BAR_WIDTH)
        at = min(round(BAR_WIDTH * wanted / max(n_pool, 1)), BAR_WIDTH - 1)
        low, high = (round(100 * edge / len(curves["n_pool"])) for edge in (start, start + merge))
        lines.append(f"{low:5}-{high:<3} % {bar[:at]}|{bar[at + 1 :]} {n_kept:,} of {n_pool:,}")
    return lines


def list_(_config: SubsetListConfig) -> SubsetListReport:
    """List all subset versions, oldest first."""
    fields = ("name", "version", "state", "n_samples", "strategy", "retention")
    return SubsetListReport(
        subsets=[
            {**{name: getattr(row, name) for name in fields}, "withdrawal": _withdrawal(row)}
            for row in list_subsets(open_store())
        ]
    )


def _withdrawal(row: SubsetRow) -> str | None:
    return describe_withdrawal(row) if row.state == "withdrawn" else None


def show(config: SubsetShowConfig) -> SubsetShowReport:
    """Show what a subset version is made of, which ranks it kept, and where it lies."""
    engine = open_store()
    subset = choose_version(engine, config.name, version=config.version, may_be_withdrawn=True)
    rater = rater_of_subset(engine, subset)
    return SubsetShowReport(
        subset=subset.title,
        state=subset.state,
        withdrawal=_withdrawal(subset),
        n_samples=subset.n_samples,
        spec=subset.spec,
        rater=rater.name,
        datasets=rater.dataset_names,
        manifest_sha256=subset.manifest_sha256,
        manifest=str(artifact_path(subset.manifest_uri)),
        copies=[
            place_of(uri) if is_finished(uri) else f"{place_of(uri)} (not finished)"
            for uri in subset.all_materialized_uris
        ],
        curves=subset.curves,
        next=NEXT[subset.state].format(name=subset.name, version=subset.version),
    )


def _next(_config: PublishSubsetConfig, report: PublishSubsetReport) -> str:
    return NEXT["published"].format(name=report.subset, version=report.version)


COMMANDS = {
    "list": Command(SubsetListConfig, list_),
    "show": Command(SubsetShowConfig, show),
    "diff": Command(DiffSubsetConfig, diff),
    "publish": Command(PublishSubsetConfig, publish, _next),
    "rollback": Command(RollbackSubsetConfig, rollback),
    "withdraw": Command(WithdrawSubsetConfig, withdraw),
    "gc": Command(GcSubsetConfig, gc),
}
