"""One cell of an experiment: select, train, evaluate. Each stage finds what a finished run of it left, so a killed experiment goes on."""

from dataclasses import asdict, dataclass
from typing import Any

from alchemist_core.config import fingerprint
from alchemist_core.errors import DataError
from alchemist_core.experiments.arms import Arm
from alchemist_core.experiments.trial import Trial
from alchemist_core.loops.config import DownstreamConfig
from alchemist_core.selection.config import SelectionPolicy, policy_spec
from alchemist_core.stages import evaluate, select, train_downstream
from alchemist_core.store.engine import open_store
from alchemist_core.store.models import find_model, read_evaluations
from alchemist_core.store.raters import RaterRow
from alchemist_core.store.subsets import find_by_id


@dataclass(frozen=True, slots=True)
class Cell:
    """One arm at one retention under one seed, measured."""

    arm: str
    retention: float
    seed: int
    n_samples: int
    n_steps: int
    # nats a token on the evaluation dataset, lower is better
    loss: float
    # Multiple of the experiment's epochs; each length has a schedule of its own.
    length: float = 1.0

    def as_json(self) -> dict[str, Any]:
        """Return what the store keeps."""
        return asdict(self)


def measure_cell(
    trial: Trial, arm: Arm, policy: dict[str, Any], rater: RaterRow, *, retention: float, model: DownstreamConfig
) -> Cell:
    """Take one arm through the three stages.

    Args:
        trial: The seed.
        arm: What is compared.
        policy: The selection policy's fields, `auto` resolved.
        rater: Whose ranks.
        retention: Share kept, 0-1.
        model: How every arm is trained.
    """
    given = SelectionPolicy.model_validate({**policy, "retention": retention, "seed": trial.seed})
    # The members' own spec is in the name, so that an arm which another experiment tried too is one subset.
    spec = policy_spec(given, given.resolve(rater.rule))  # type: ignore[arg-type]  # the table's CHECK knows the rules
    name = f"{trial.dataset}-{given.strategy}-r{retention * 100:g}-{fingerprint([rater.name, spec])[:8]}"
    selected = select.run(select.SelectConfig(dataset=(trial.dataset,), name=name, rater=rater.name, policy=given))
    trained = train_downstream.run(
        train_downstream.TrainDownstreamConfig(
            subset=name,
            version=selected.version,
            arms=(arm.trains,),
            seeds=(trial.seed,),
            truth=trial.truth,
            model=model,
        )
    )
    return _evaluate(trial, arm, retention, trained.identities[0], beside=(name, selected.version))


def _evaluate(trial: Trial, arm: Arm, retention: float, identity: str, *, beside: tuple[str, int | None]) -> Cell:
    engine = open_store()
    model = find_model(engine, identity)
    assert model is not None
    # A model of the same members may have been trained for a subset of another name: it is measured there.
    if model.subset_id is not None:
        subset = find_by_id(engine, model.subset_id)
        beside = subset.name, subset.version
    measured = evaluate.run(evaluate.EvaluateConfig(subset=beside[0], version=beside[1], evaluation=trial.evaluation))
    rows = read_evaluations(engine, [model.model_id], measured.contract)
    losses = [float(row.value) for row in rows if row.metric == evaluate.METRIC]
    if len(losses) != 1:
        raise DataError(
            f"Model {identity} of arm {arm.word}, seed {trial.seed}, has {len(losses)} held-out losses under contract "
            f"{measured.contract}, not 1: run the experiment again."
        )
    return Cell(arm.word, retention, trial.seed, model.n_samples, model.n_steps, losses[0])
