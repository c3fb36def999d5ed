"""Compare a subset's arms: mean over seeds, and the gains over random and over the full corpus, from the view `subset_comparisons`."""

from typing import Any

from pydantic import Field

from alchemist_core.config import BARE_WORD, Command, Config, Report
from alchemist_core.errors import ConfigError
from alchemist_core.store.engine import open_store
from alchemist_core.store.overviews import read_comparisons
from alchemist_core.store.subsets import VERSION_TEXT, choose_version


class CompareConfig(Config):
    """Which subset version."""

    subset: str = Field(..., description="Name of the subset", json_schema_extra=BARE_WORD)
    version: int | None = Field(None, ge=1, description=VERSION_TEXT)


class CompareReport(Report):
    """A row for each metric and arm."""

    subset: str
    rows: list[dict[str, Any]]

    def summary(self) -> str:
        """Return one line an arm, and what a gain means."""
        metric, arm = (max(len(name), *(len(row[name]) for row in self.rows)) for name in ("metric", "arm"))
        gains = [_gain(row, "gain") for row in self.rows]
        width = max(len("gain over random"), *map(len, gains))
        lines = [
            f"{'metric':<{metric}}  {'arm':<{arm}}  seeds        mean  {'gain over random':<{width}}  gain over full"
        ]
        lines += [
            f"{row['metric']:<{metric}}  {row['arm']:<{arm}}  {row['n_seeds']:>5}  {row['mean']:>10.4f}  {gain:<{width}}  "
            f"{_gain(row, 'gain_over_full')}"
            for row, gain in zip(self.rows, gains, strict=True)
        ]
        return "\n".join([self.subset, *lines, "A positive gain is better, for losses and for scores."])


def run(config: CompareConfig) -> CompareReport:
    """Read the comparison.

    Raises:
        ConfigError: No model of the version has been evaluated.
    """
    engine = open_store()
    subset = choose_version(engine, config.subset, version=config.version)
    rows = [dict(row._mapping) for row in read_comparisons(engine, subset.subset_id)]  # noqa: SLF001  SQLAlchemy's public name
    if not rows:
        raise ConfigError(
            f"No model of {subset.title} has a value yet: run alchemist train-downstream --subset {subset.name}, then evaluate."
        )
    return CompareReport(subset=subset.title, rows=rows)


def _gain(row: dict[str, Any], name: str) -> str:
    gain, low, high = (row[f"{name}{end}"] for end in ("", "_low", "_high"))
    if gain is None:
        return "–"
    return f"{gain:+.4f}" if low is None else f"{gain:+.4f} [{low:+.4f}, {high:+.4f}]"


def _next(config: CompareConfig, report: CompareReport) -> str | None:
    if any(row["n_seeds"] > 1 for row in report.rows):
        return None
    return f"alchemist train-downstream --subset {config.subset} --seeds 0,1,2; one seed has no interval"


COMMANDS = {"": Command(CompareConfig, run, _next)}
