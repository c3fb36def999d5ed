"""Scores that arms rank by beside those of the experiment's raters: outputs of scorers, and imported scores."""

from collections.abc import Mapping, Sequence

from alchemist_core.errors import ConfigError
from alchemist_core.project import load_project
from alchemist_core.scorers.catalogue import scorer_names
from alchemist_core.scorers.registration import needs_no_options, open_scorer, output_names
from alchemist_core.stages import score
from alchemist_core.store.engine import open_store
from alchemist_core.store.export import has_number, scores_by_name
from alchemist_core.store.raters import list_scorers

IMPORTED = "imported."


def find_sources(names: Sequence[str], dataset: str | None) -> dict[str, str | None]:
    """Return the scorer that gives each score; None for scores that nothing computes any more, and for numbers of the crawl.

    A scorer is registered, or declared in the project file, or built in or installed and without required options.

    Args:
        names: The scores.
        dataset: The samples that are to have them; None: they will be drawn, and have no numbers of a crawl.

    Raises:
        ConfigError: There is no score of a name; the message lists the scores. Or no sample of the dataset has a number of that name.
    """
    engine = open_store()
    with engine.connect() as connection:
        found: dict[str, str | None] = dict.fromkeys(scores_by_name(connection))
        for name in names:
            if not name.startswith(IMPORTED):
                continue
            key = name.removeprefix(IMPORTED)
            if dataset is None or not has_number(connection, dataset, key):
                samples = "synthetic sample" if dataset is None else f"sample of {dataset}"
                raise ConfigError(
                    f"An arm ranks by {name!r}, but no {samples} has a number {key!r} of its crawl. Numbers of the records' JSON are "
                    "stored by alchemist ingest --imported-scores."
                )
            found[name] = None
    for row in list_scorers(engine):
        if row.kind == "scorer" and row.state != "retired":
            found[row.name] = row.config["name"]
    unregistered = _unregistered()
    for name in names:
        if name not in found:
            found[name] = _find_unregistered(name, unregistered, found)
    return {name: found[name] for name in names}


def score_dataset(dataset: str, names: Sequence[str]) -> None:
    """Give every sample of a dataset these scores, as `alchemist score --scorer` does; finished shards are not scored again.

    Raises:
        ConfigError: There is no score of a name, or no sample has it.
    """
    for scorer in dict.fromkeys(find_sources(names, dataset).values()):
        if scorer is not None:
            score.run(score.ScoreConfig(dataset=dataset, scorer=scorer))


def _unregistered() -> dict[str, str]:
    """Return what can be registered by its name alone: the classes of declared scorers, and of those without required options."""
    declared = {name: section.use for name, section in load_project().scorers.items()}
    return {name: name for name in scorer_names()} | declared


def _find_unregistered(name: str, unregistered: Mapping[str, str], stored: Mapping[str, object]) -> str:
    for scorer, use in unregistered.items():
        if name != scorer and not name.startswith(f"{scorer}_"):
            continue
        section = load_project().scorers.get(scorer)
        if section is None and not needs_no_options(use):
            continue
        opened = open_scorer(use, section.options if section is not None else {})
        opened.close()
        if name in output_names(scorer, opened.outputs):
            return scorer
    known = ", ".join(stored) or "none yet"
    raise ConfigError(
        f"An arm ranks by {name!r}, which is neither a rater nor a score. Scores: {known}; scorers that can be registered: "
        f"{', '.join(unregistered)}. A scorer with options is declared in the project file under [scorers.NAME]; see alchemist scorer list."
    )
