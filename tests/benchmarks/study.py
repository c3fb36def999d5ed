"""Which selection for which corpus: recipes, controls and methods of the field on several worlds, paired over corpus and training seeds.

`python -m tests.benchmarks.study PLAN [--plan] [--quick] [--corpus FOLDER] [--hours H] [--workers 2]`

A study is a list of trials: one world with one corpus seed, all its arms and retentions, each trained with several seeds whose losses are
averaged. Each finished trial is a JSON file under `.alchemist/study/NAME/`; a rerun does only what is missing, and the stages of an
unfinished trial resume in the store. `--keep` copies the finished trials to `tests/benchmarks/trials/NAME/`, which git keeps: with them a
study can be continued in another clone, or on another machine. A trial that fails is named, and the others go on; then the program ends
with an error. `--plan` counts the trainings and their time, and trains nothing.

`value` is `make bench-selection-value`: the synthetic and the damaged corpus, rule `learnability`, its fusions and their controls.
`worlds` and `methods` are `make study`: corpora of other kinds, and the methods of the field. `choice` chooses between recipes on
seeds that report nothing; `default` measures on other seeds what was chosen, and `sizes-100` to `sizes-2400` with how many validation
samples it works, and `topics` what a validation dataset does that shows half of the topics. All write a table with the cost of each
selection, as JSON and as figures.
"""

import argparse
import json
import math
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import cache, partial
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

import numpy as np
import pyarrow.parquet as pq
from sqlalchemy import text

from alchemist_core.code_version import code_version
from alchemist_core.config import fingerprint
from alchemist_core.errors import AlchemistError, MissingDependencyError
from alchemist_core.experiments.arms import RATERS, parse_arm
from alchemist_core.experiments.cost import StepTimingConfig
from alchemist_core.experiments.halving import plan_halving
from alchemist_core.experiments.method_scores import EMBEDDED
from alchemist_core.experiments.methods import METHODS
from alchemist_core.experiments.recipes import BALANCED
from alchemist_core.experiments.results import MARGIN, ArmRow, LossOfSeed, compare_cells, losses_by_arm
from alchemist_core.experiments.running import RunConfig
from alchemist_core.experiments.trial import Cell
from alchemist_core.local.scenes import draw_scenes
from alchemist_core.report.arm_names import arm_title
from alchemist_core.report.charts import Axis, Line, Point, interval_chart, line_chart
from alchemist_core.report.page import render_chart
from alchemist_core.selection.config import SelectionPolicy
from alchemist_core.selection.fusion import fuse_ranks
from alchemist_core.selection.ranks import fit_rank_scale
from alchemist_core.settings import load_settings
from alchemist_core.stages.ingest import IngestConfig
from alchemist_core.stages.ingest import run as ingest
from alchemist_core.statistics import Estimate, area_under_curve, estimate, estimate_gain
from alchemist_core.store.embeddings import CLUSTERS_OF_EXPERIMENTS
from alchemist_core.store.engine import create_store, open_store
from alchemist_core.store.experiments import find_experiment
from tests.benchmarks import worlds
from tests.benchmarks.damaged_corpus import make_corpus
from tests.benchmarks.rows import Row, write_rows
from tests.benchmarks.worlds import World, make_world

SIGNAL = "learnability"
FUSED = (SIGNAL, "trained_critic", "image_density")
FUSION = f"{'+'.join(FUSED)}/head_gsample"
RECIPES = ("learnability/auto", FUSION, f"{FUSION};accept=auto;fill=repeat")
"""Recipes that are judged: the window of the rule, its fusion with a critic and a density ratio, and the same among accepted samples, which
are repeated where they are too few."""
CONTROLS = ("random", "oracle", "validation", f"{RECIPES[2]}+validation")
OTHERS = (*CONTROLS, BALANCED, *RECIPES)
"""Arms of the other worlds."""
FUSIONS = tuple(
    f"{signals}/head_gsample" for signals in ("trained_critic+image_density", "learnability+trained_critic")
)
"""Fusions with a part left out: the rater, the density ratio."""
BY_RULE = ("alignment/auto", "alignment+trained_critic+image_density/head_gsample;accept=auto;fill=repeat")
"""The rule that is the default, and its fusion, beside the same of rule `learnability`."""
WITHOUT_RATER = "trained_critic+image_density/head_gsample;accept=auto;fill=repeat"
ADVISED = (
    *("random", "oracle", "validation", f"{BY_RULE[1]}+validation"),
    *(*BY_RULE, RECIPES[0], RECIPES[2], WITHOUT_RATER),
)
"""What the product advises, with its controls."""
SIZES = (100, 300, 600, 1_200, 2_400)
"""Numbers of validation samples, each a plan."""
BY_TOPIC = ("trained_critic/top_k", FUSION)
BY_CLUSTER = "stratify=true;stratify_by=cluster"
"""Recipes that may prefer the topics of the validation dataset, and options that give every cluster of similar images its share."""
SIGNALS = ("pmi/auto", "learnability+pmi/head_gsample")
"""Signals beside them: mutual information of image and caption, alone and in a fusion."""
FIELD = ("loss/paper", "seal/auto", "two_steps/auto", "clarity/top_k", *(f"{name}/top_k" for name in METHODS))
KEPT = Path(__file__).with_name("trials")
"""Finished trials that git keeps, a folder for each plan."""
ROLES = (("", "train", "train"), ("-validation", "validation", "validation"), ("-test", "test", "evaluation"))
PICTURES = ("damaged", "real", "openclipart")
PICTURE_TRAINING, PICTURE_MODEL = "resolution=32,text_encoder=minilm", "text_encoder=minilm"
# Of the damaged and the real corpus, whose tars hold 6,000 samples.
N_PICTURES = 6_000


@dataclass(frozen=True, slots=True)
class Plan:
    """Worlds, arms and seeds of a study."""

    name: str
    worlds: tuple[str, ...]
    arms: tuple[str, ...]
    retentions: tuple[float, ...] = (0.2, 0.5)
    seeds: tuple[int, ...] = (30, 31, 32, 33, 34)
    trainings: int = 3
    n_train: int = 12_000
    validation_share: float = 0.05
    # Number of validation samples; none: a share of the corpus.
    n_validation: int | None = None
    epochs: int = 10
    training: str = ""
    model: str = ""
    # Side of the images for the frozen encoders of methods: of pictures, and of the drawn worlds, whose images have 64 px.
    method_resolution: int = 224
    drawn_resolution: int = 224
    # Seeds on which a recipe is searched, and tested, for each world; none: no search. Its promise is compared with the seeds above.
    search_seeds: tuple[int, ...] = ()
    confirmation_seeds: tuple[int, ...] = ()
    # Recipes that are searched.
    searched: tuple[str, ...] = RECIPES

    def trials(self) -> list["Trial"]:
        """Return every world with every seed, the first seed of all worlds first, so that a short night shows all worlds."""
        return [Trial(self, world, seed) for seed in self.seeds for world in self.worlds]

    def measured(self) -> dict[str, Any]:
        """Return what each trial depends on, without its world and its seed."""
        others = ("name", "worlds", "seeds", "search_seeds", "confirmation_seeds", "searched")
        found = {name: value for name, value in vars_of(self).items() if name not in others}
        if self.n_validation is None:
            # The plans that were measured before it existed keep their trials.
            del found["n_validation"]
        return found

    def quick(self) -> "Plan":
        """Return the same plan at its smallest size."""
        small = "proxy_warmup_steps=20,max_train_steps=20,batch_size=32"
        return replace(
            self, name=f"{self.name}-quick", retentions=(0.5,), seeds=self.seeds[:2], trainings=2, n_train=400, epochs=1,
            validation_share=0.3, n_validation=None, training=small, model="batch_size=32,width=16,depth=1",
            method_resolution=64, drawn_resolution=64,
            search_seeds=self.search_seeds[:1], confirmation_seeds=self.confirmation_seeds[:2],
        )  # fmt: skip


PLANS = {
    # Seeds 30 to 34 are those of research page 031.
    "value": Plan("value", ("scenes", "damaged"), (*CONTROLS, *RECIPES), seeds=(35, 36, 37, 38, 39)),
    # Chooses the default among rules and their fusions; figures of these seeds are those of a choice.
    "choice": Plan(
        "choice",
        ("scenes", "damaged", "shifted", "skewed"),
        ("random", "oracle", *BY_RULE, RECIPES[0], RECIPES[2]),
        seeds=(60, 61, 62, 63),
        trainings=2,
        n_train=6_000,
        drawn_resolution=112,
    ),
    # What was chosen, on seeds that chose nothing; and weights, and balanced random samples.
    "default": Plan(
        "default",
        ("scenes", "damaged"),
        (*ADVISED, BALANCED, f"{BY_RULE[1]};weight_by=rank"),
        seeds=(64, 65, 66, 67, 68),
        trainings=2,
        n_train=6_000,
        drawn_resolution=112,
    ),
    # The same number of training samples for all sizes: with 2,400 for validation, the real corpus has 3,600 others.
    **{
        f"sizes-{n}": Plan(
            f"sizes-{n}",
            ("damaged", "scenes"),
            ADVISED,
            retentions=(0.2,),
            seeds=(70, 71, 72, 73, 74),
            trainings=2,
            n_train=3_600,
            n_validation=n,
            drawn_resolution=112,
        )
        for n in SIZES
    },
    # A validation dataset that shows half of the topics, judged on all of them.
    "topics": Plan(
        "topics",
        ("half_seen",),
        (
            *("random", BALANCED, "validation", RECIPES[0]),
            *(word for arm in BY_TOPIC for word in (arm, f"{arm};{BY_CLUSTER}")),
        ),
        retentions=(0.5,),
        seeds=(80, 81, 82, 83, 84),
        trainings=2,
        n_train=6_000,
        drawn_resolution=112,
    ),
    "worlds": Plan(
        "worlds",
        (*worlds.KINDS, "real"),
        OTHERS,
        trainings=2,
        n_train=6_000,
        drawn_resolution=112,
        search_seeds=(50, 51, 52, 53),
        # Of `shifted`, the validation datasets of seeds 54 and 57 have too few captions for a critic.
        confirmation_seeds=(55, 56, 58, 59),
    ),
    "methods": Plan(
        "methods",
        ("scenes", "redundant", "skewed", "damaged"),
        (*OTHERS, *FUSIONS, *SIGNALS, *FIELD),
        retentions=(0.2,),
        seeds=(40, 41, 42, 43, 44),
        trainings=2,
        n_train=6_000,
        drawn_resolution=112,
    ),
}


@dataclass(frozen=True, slots=True)
class Trial:
    """One world with one corpus seed."""

    plan: Plan
    world: str
    seed: int

    @property
    def name(self) -> str:
        """Name of its experiment; with other arms or other options it is another one."""
        return f"{self.dataset}-{fingerprint(self.plan.measured())[:6]}"

    @property
    def dataset(self) -> str:
        """Name of its training dataset; of another size it is another one."""
        return self._dataset(str(self.seed))

    @property
    def any_seed(self) -> str:
        """Name of the training dataset, with `{seed}` in place of the seed."""
        return self._dataset("{seed}")

    def _dataset(self, seed: str) -> str:
        sizes = fingerprint([self.plan.n_train, self.plan.n_validation or self.plan.validation_share])[:6]
        return f"{self.plan.name}-{self.world}-{sizes}-s{seed}"

    @property
    def path(self) -> Path:
        """The file that its result is written to."""
        return _folder(self.plan) / self.file_name

    @property
    def file_name(self) -> str:
        """Name of the file of its result."""
        return f"{self.world}-s{self.seed}.json"

    def find(self) -> dict[str, Any] | None:
        """Return its result, from this machine or as git keeps it; None if it is missing or of another plan."""
        return _find(self.path, self.plan, fingerprint(self.plan.measured()))

    def find_search(self) -> dict[str, Any] | None:
        """Return the search for a recipe of its world, from this machine or as git keeps it; None if it is missing or of another plan."""
        return _find(self.search_path, self.plan, fingerprint(self.search_options()))

    @property
    def n_train(self) -> int:
        """Number of training samples, for the plan."""
        if self.world in ("damaged", "real"):
            return min(self.plan.n_train, N_PICTURES)
        return min(self.plan.n_train, 5_000) if self.world == "openclipart" else self.plan.n_train

    @property
    def search_path(self) -> Path:
        """The file of the search for a recipe of its world."""
        return _folder(self.plan) / f"search-{self.world}.json"

    def search_options(self) -> dict[str, str]:
        """Return the options of alchemist tune-selection search for its world."""
        plan, own = self.plan, self.options(Path())
        shared = ("trainings", "num-train-epochs", "method-resolution", "training", "model")
        return {
            "name": f"{plan.name}-{self.world}-search-{fingerprint(plan.measured())[:6]}",
            "dataset": self.any_seed, "validation": f"{self.any_seed}-validation",
            "evaluation": f"{self.any_seed}-test", "recipes": ",".join(plan.searched), "retention": str(plan.retentions[-1]),
            "seeds": ",".join(map(str, plan.search_seeds)), "confirmation-seeds": ",".join(map(str, plan.confirmation_seeds)),
            **{name: own[name] for name in shared},
        }  # fmt: skip

    def config(self) -> RunConfig:
        """Return the options of the experiment."""
        return RunConfig.model_validate(
            {name.replace("-", "_"): value for name, value in self.options(Path()).items() if value != ""}
        )

    def options(self, truth: Path) -> dict[str, str]:
        """Return the options of alchemist experiment run."""
        plan, is_picture = self.plan, self.world in PICTURES
        return {
            "experiment": "methods", "name": self.name, "dataset": self.dataset, "validation": f"{self.dataset}-validation",
            "evaluation": f"{self.dataset}-test", "truth": str(truth), "arms": ",".join(plan.arms),
            "retentions": ",".join(map(str, plan.retentions)), "tuning-seeds": "", "seeds": str(self.seed),
            "trainings": str(plan.trainings), "num-train-epochs": str(plan.epochs),
            "method-resolution": str(plan.method_resolution if is_picture else plan.drawn_resolution),
            "training": ",".join(filter(None, (PICTURE_TRAINING if is_picture else "", plan.training))),
            "model": ",".join(filter(None, (PICTURE_MODEL if is_picture else "", plan.model))),
        }  # fmt: skip


def main() -> None:
    """Plan, measure what is missing, and write the table of what there is."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", nargs="+", choices=PLANS)
    parser.add_argument("--plan", action="store_true", help="count the trainings and their time; train nothing")
    parser.add_argument(
        "--quick", action="store_true", help="the smallest size, to try the program; its figures mean nothing"
    )
    parser.add_argument("--corpus", type=Path, help="folder of real tars, for the worlds damaged and real")
    parser.add_argument("--worlds", default="", help="only these worlds, separated by commas")
    parser.add_argument("--seeds", default="", help="only these seeds of the plan, separated by commas")
    parser.add_argument("--arms", default="", help="these arms instead of the plan's")
    parser.add_argument(
        "--validation-share", type=float, help="size of the validation datasets as a share of the corpus"
    )
    parser.add_argument("--hours", type=float, default=1e9, help="start no trial after so many hours")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--keep", action="store_true", help="copy the finished trials to where git keeps them")
    given = parser.parse_args()
    failed = []
    for name in given.study:
        study = Study(_adapted(PLANS[name], given), given.corpus, given.workers)
        print(study.describe(), flush=True)
        if not given.plan:
            failed += study.run(given.hours)
            study.write()
        if given.keep:
            study.keep()
    if failed:
        raise SystemExit(f"Failed, and tried again by the next run: {', '.join(failed)}")


def limit_seeds(plan: Plan, words: str) -> Plan:
    """Return the plan with only those of its seeds that are among the words, which commas separate; no words: with all."""
    return replace(plan, seeds=tuple(seed for seed in plan.seeds if str(seed) in words.split(","))) if words else plan


def _adapted(plan: Plan, given: argparse.Namespace) -> Plan:
    changed: dict[str, Any] = {}
    if given.worlds:
        changed["worlds"] = tuple(world for world in plan.worlds if world in given.worlds.split(","))
    plan = limit_seeds(plan, given.seeds)
    if given.arms:
        changed["arms"] = tuple(given.arms.split(","))
    if given.validation_share is not None:
        share = {"validation_share": given.validation_share, "n_validation": None}
        changed |= share | {"name": f"{plan.name}-v{given.validation_share:g}"}
    plan = replace(plan, **changed)
    return plan.quick() if given.quick else plan


class Study:
    """A plan on this machine: its trials, what is done, and its table."""

    def __init__(self, plan: Plan, corpus: Path | None, workers: int) -> None:
        self.plan, self._corpus, self._workers = plan, corpus, workers
        self.trials = [trial for trial in plan.trials() if self._has_source(trial.world)]

    def _has_source(self, world: str) -> bool:
        if world in ("damaged", "real") and self._corpus is None:
            print(f"World {world} is left out: it needs --corpus FOLDER, a folder of image-text tars.")
            return False
        return True

    def missing(self) -> list[Trial]:
        """Return the trials without a result."""
        return [trial for trial in self.trials if trial.find() is None]

    def missing_searches(self) -> list[Trial]:
        """Return a trial of each world whose recipe is still to be searched."""
        firsts = {trial.world: trial for trial in reversed(self.trials)}.values()
        return [trial for trial in firsts if self.plan.search_seeds and trial.find_search() is None]

    def describe(self) -> str:
        """Count the trainings that are missing, and their time on this machine."""
        missing, n_models, n_steps, n_raters, n_rater_steps = self.missing(), 0, 0, 0, 0
        for trial in missing:
            config = trial.config()
            arms = [arm for arm, _ in config.cells()]
            model = config.model_of(num_train_epochs=config.num_train_epochs)
            for arm, retention in config.cells():
                n_models += config.trainings
                n_steps += config.trainings * model.steps(round(trial.n_train * (retention if arm.is_sized else 1.0)))
            kinds = {kind for arm in arms for kind in arm.raters}
            n_raters += len(kinds)
            trainings = [config.training_of(kind, 0) for kind in kinds]
            n_rater_steps += sum(one.proxy_warmup_steps + one.max_train_steps for one in trainings)
        searches = self.missing_searches()
        n_models += len(searches) * self.plan.trainings * self._n_search
        for trial in searches:
            config = trial.config()
            model = config.model_of(num_train_epochs=self.plan.epochs)
            kinds = {kind for recipe in self.plan.searched for kind in parse_arm(recipe, retention=0.5).raters}
            trainings = [config.training_of(kind, 0) for kind in kinds for _ in self._choosing_seeds]
            n_raters += len(trainings)
            n_rater_steps += sum(one.proxy_warmup_steps + one.max_train_steps for one in trainings)
            n_steps += (
                self.plan.trainings * self._n_search * model.steps(round(trial.n_train * self.plan.retentions[-1]))
            )
        done = f"{self.plan.name}: {len(self.trials)} trials, {len(self.trials) - len(missing)} done"
        done += f", {len(searches)} searches of a recipe missing" if searches else ""
        if not missing and not searches:
            return f"{done}."
        seconds = _time_steps((missing or searches)[0])
        hours = (n_steps * seconds[0] + n_rater_steps * seconds[1]) / 3600
        return (
            f"{done}. Missing: {n_models} models of {n_steps:,} steps together at {seconds[0] * 1e3:.1f} ms, {n_raters} raters of "
            f"{n_rater_steps:,} steps at {seconds[1] * 1e3:.1f} ms (measured now): {hours:.2f} core-hours, "
            f"{hours / self._workers:.2f} hours with {self._workers} workers; encoding images and scoring come on top."
        )

    @property
    def _choosing_seeds(self) -> tuple[int, ...]:
        return (*self.plan.search_seeds, *self.plan.confirmation_seeds)

    @property
    def _n_search(self) -> int:
        """Number of trainings of a search, each with one seed."""
        plan = self.plan
        return (
            plan_halving(
                len(plan.searched), plan.search_seeds, plan.confirmation_seeds, has_fallback=BALANCED in plan.searched
            ).n_trainings
            if plan.search_seeds
            else 0
        )

    def run(self, hours: float) -> list[str]:
        """Measure the missing trials, several at a time; start none after so many hours. Return the names of those that failed."""
        create_store()
        until = time.monotonic() + hours * 3600
        failed: list[str] = []

        def attempt(measure: Callable[[Trial, Path | None], None], trial: Trial) -> None:
            if time.monotonic() > until:
                return
            name = trial.name if measure is _run_trial else f"search of {trial.world}"
            try:
                measure(trial, self._corpus)
            except MissingDependencyError as error:
                print(f"{name} is left out: {error}", flush=True)
            except (SystemExit, AlchemistError) as error:
                # The other trials go on: one arm that fails must not cost a night.
                print(f"{name} failed: {error}", flush=True)
                failed.append(name)

        with ThreadPoolExecutor(self._workers) as pool:
            list(pool.map(partial(attempt, _run_trial), self.missing()))
            list(pool.map(partial(attempt, search_recipe), self.missing_searches()))
        return failed

    def keep(self) -> None:
        """Copy the finished trials and searches to where git keeps them."""
        folder = KEPT / self.plan.name
        folder.mkdir(parents=True, exist_ok=True)
        found = [(one.path, fingerprint(one.plan.measured())) for one in self.trials] + [
            (one.search_path, fingerprint(one.search_options())) for one in self.trials if one.plan.search_seeds
        ]
        for path, plan in dict(found).items():
            if path.exists() and json.loads(path.read_text("utf-8")).get("plan") == plan:
                shutil.copy2(path, folder)
        print(f"finished trials: {folder}")

    def write(self) -> None:
        """Write the table of the finished trials, its figures, and for `value` the rows with their targets."""
        found = [result for trial in self.trials if (result := trial.find()) is not None]
        if not found:
            print("No trial is finished.")
            return
        table = make_table(found)
        folder = _folder(self.plan)
        searched = {trial.world: search for trial in self.trials if (search := trial.find_search()) is not None}
        promises = compare_promises(found, searched)
        kept = {
            "plan": vars_of(self.plan), "n_trials": len(found), "n_missing": len(self.missing()), **table, "promises": promises,
        }  # fmt: skip
        (folder / "table.json").write_text(json.dumps(kept, indent=1, sort_keys=True) + "\n", encoding="utf-8")
        for world, retention, svg in draw(found):
            (folder / f"{world}-r{retention * 100:g}.svg").write_text(svg, encoding="utf-8")
        if promises:
            (folder / "promises.svg").write_text(draw_promises(promises), encoding="utf-8")
        for line in lines_of(table["rows"]):
            print(line)
        for one in promises:
            print(f"{one['world']}: {one['winner']} promised {_shown(one['promised'])}, came {_shown(one['came'])}")
        print(f"{len(found)} of {len(self.trials)} trials are finished; files: {folder}")
        if self.plan.name.startswith("value"):
            write_rows(f"selection_{self.plan.name.replace('-', '_')}", value_rows(found))


def vars_of(plan: Plan) -> dict[str, Any]:
    """Return a plan as JSON."""
    return {name: getattr(plan, name) for name in plan.__slots__}


@cache
def _state_left_out(path: Path) -> None:
    """Once for each file: a plan looks for it several times."""
    print(f"{path} is left out: it was measured by another plan.")


def _find(path: Path, plan: Plan, wanted: str) -> dict[str, Any] | None:
    for place in (path, KEPT / plan.name / path.name):
        if place.exists():
            found: dict[str, Any] = json.loads(place.read_text("utf-8"))
            if found.get("plan") == wanted:
                return found
            _state_left_out(place)
    return None


def _folder(plan: Plan) -> Path:
    folder = load_settings().home.resolve() / "study" / plan.name
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _time_steps(trial: Trial) -> tuple[float, float]:
    from alchemist_core.training.step_timing import seconds_a_step

    config = trial.config()
    timing = StepTimingConfig(model=config.model_of(), rater=config.training_of("learnability", 0))
    return seconds_a_step(timing.model, timing.rater)


def _run_trial(trial: Trial, corpus: Path | None) -> None:
    """Make the corpus, run the experiment, and keep its cells with what each selection cost."""
    began = time.monotonic()
    root = make_trial(trial, corpus)
    options = trial.options(root / "truth.parquet")
    words = [word for name, value in options.items() for word in (f"--{name}", value)]
    run_alchemist(["experiment", "run", *words], trial.name)
    result = find_experiment(open_store(), trial.name).result
    assert result is not None
    runs = _read_runs(trial)
    scores, kinds = _read_scores(runs.names, root / "truth.parquet")
    kept = {
        "plan": fingerprint(trial.plan.measured()), "world": trial.world, "seed": trial.seed, "cells": result["cells"],
        "left_out": result.get("left_out", []), "costs": runs.seconds,
        "aucs": aucs_of(scores, kinds), "accepted": accepted_by(_read_threshold(trial, runs.names.get(SIGNAL)), scores, kinds),
        "seconds": round(time.monotonic() - began, 1), "code_version": code_version(),
    }  # fmt: skip
    partial = trial.path.with_suffix(".partial")
    partial.write_text(json.dumps(kept, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    partial.replace(trial.path)
    print(f"{time.strftime('%H:%M:%S')} {trial.name}: {kept['seconds']:.0f} s", flush=True)


def run_alchemist(words: Sequence[str], of: str) -> str:
    """Run a command with one thread; a failure is printed at once, since the other trials go on for hours.

    Raises:
        SystemExit: It failed.
    """
    command, environment = [sys.executable, "-m", "alchemist_core", *words], os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        print(f"{time.strftime('%H:%M:%S')} {of} failed\n{done.stdout[-2000:]}\n{done.stderr[-3000:]}", flush=True)
        raise SystemExit(f"exit status {done.returncode}")
    return done.stdout


def search_recipe(trial: Trial, corpus: Path | None) -> None:
    """Make the corpora of the seeds that choose, search for the recipe of the world, and keep what it promises.

    Raises:
        SystemExit: The search failed; what it said is printed.
    """
    for seed in (*trial.plan.search_seeds, *trial.plan.confirmation_seeds):
        make_trial(replace(trial, seed=seed), corpus)
    words = [word for name, value in trial.search_options().items() if value for word in (f"--{name}", value)]
    printed = run_alchemist(["tune-selection", "search", *words, "--json"], f"search of {trial.world}")
    found = json.loads(printed.strip().splitlines()[-1])["recipe"] | {"plan": fingerprint(trial.search_options())}
    partial = trial.search_path.with_suffix(".partial")
    partial.write_text(json.dumps(found, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    partial.replace(trial.search_path)
    print(f"{time.strftime('%H:%M:%S')} {trial.world}: {found['said']}", flush=True)


def make_trial(trial: Trial, corpus: Path | None) -> Path:
    """Write the corpus of a trial and register its datasets."""
    plan, home = trial.plan, load_settings().home.resolve() / "study"
    root = home / "corpora" / trial.dataset
    n_test = max(48, plan.n_train // 12)
    if trial.world == "scenes":
        n_validation = plan.n_validation or round(plan.validation_share * plan.n_train)
        draw_scenes(root, seed=trial.seed, n_train=plan.n_train, n_validation=n_validation, n_test=n_test)
    elif trial.world in ("damaged", "real"):
        assert corpus is not None
        is_choosing = trial.seed in (*plan.search_seeds, *plan.confirmation_seeds)
        make_corpus(
            corpus, root, seed=trial.seed, is_damaged=trial.world == "damaged", n_train=trial.n_train,
            validation_share=plan.validation_share, n_validation=plan.n_validation,
            test_half=int(is_choosing) if plan.search_seeds else None,
        )  # fmt: skip
    else:
        world = World(trial.world, trial.seed, trial.n_train, n_test, plan.validation_share)
        drawings = None
        if trial.world == "openclipart":
            drawings = worlds.fetch_drawings(home / "openclipart")
            world = replace(world, side=plan.method_resolution)
        without = worlds.files_of_corpus(corpus) if corpus is not None and drawings is not None else frozenset[str]()
        make_world(world, root, drawings=drawings, without=without)
    for suffix, part, role in ROLES:
        named = {"dataset": f"{trial.dataset}{suffix}", "root": str(root / part), "role": role}
        ingest(IngestConfig.model_validate(named))
    return root


RUNS = text("""
    SELECT stage, config, result, coalesce(work_seconds, 0) AS seconds FROM alchemist.runs
    WHERE state = 'succeeded' AND config ->> 'dataset' = :dataset
        AND stage IN ('train_rater', 'score', 'score_method', 'cluster_corpus') ORDER BY run_id
""")


CLUSTERS = "clusters"
"""What arms with variety cost beside: clusters of the embeddings, and storing them."""
ENCODING = "encoding"
"""What every method that reads embeddings costs beside, and arms with variety: encoding the images and captions, which is done once."""


class Ledger(NamedTuple):
    """What a trial's runs say: seconds of work by kind of rater (training and scoring), method or clusters; the names of their scores."""

    seconds: dict[str, float]
    names: dict[str, str]


def _read_runs(trial: Trial) -> Ledger:
    found = Ledger({}, {})
    kind_of: dict[str, str] = {}
    with open_store().connect() as connection:
        for row in connection.execute(RUNS, {"dataset": trial.dataset}):
            if row.stage == "train_rater":
                kind_of[row.result["rater"]] = kind_of_training(row.config["training"])
            rater = row.result.get("rater") or row.result.get("scorer") or row.config.get("rater")
            other = CLUSTERS if rater.startswith(CLUSTERS_OF_EXPERIMENTS) else "?"
            kind = row.config["method"] if row.stage == "score_method" else kind_of.get(rater, other)
            if kind != CLUSTERS:
                found.names[kind] = row.result["name"] if row.stage == "score_method" else rater
            encoding = float(row.result.get("encoding_seconds", 0.0))
            for name, seconds in ((kind, float(row.seconds) - encoding), (ENCODING, encoding)):
                found.seconds[name] = round(found.seconds.get(name, 0.0) + seconds, 2)
    return found


SCORES = text("""
    SELECT samples.pair_hash, scores.score FROM alchemist.scores INNER JOIN alchemist.raters ON scores.rater_id = raters.rater_id
    INNER JOIN alchemist.samples ON scores.sample_id = samples.sample_id WHERE raters.name = :name ORDER BY samples.pair_hash
""")


Scores = Mapping[str, Mapping[bytes, float]]
"""The score of each sample, by score and pair_hash."""


def _read_scores(names: Mapping[str, str], truth: Path) -> tuple[Scores, dict[bytes, str]]:
    """Return the scores of a trial, and the kinds of its samples."""
    table = pq.read_table(truth).to_pydict()
    kinds = dict(zip(table["pair_hash"], table["kind"], strict=True))
    scores = {}
    with open_store().connect() as connection:
        for kind, name in names.items():
            rows = connection.execute(SCORES, {"name": name}).all()
            scores[kind] = {bytes(row.pair_hash): float(row.score) for row in rows if bytes(row.pair_hash) in kinds}
    return scores, kinds


def aucs_of(scores: Scores, kinds: Mapping[bytes, str]) -> dict[str, dict[str, float]]:
    """Return the areas under the curve by score and kind; of fusions with learnability too, fused as `--rank-by` does."""
    found = {name: _areas(list(of.values()), [kinds[pair] for pair in of]) for name, of in scores.items()}
    for signals in dict.fromkeys([*((SIGNAL, name) for name in scores if name != SIGNAL), FUSED]):
        if fused := _fuse(scores, signals):
            found["+".join(signals)] = _areas(list(fused.values()), [kinds[pair] for pair in fused])
    return found


def accepted_by(threshold: float | None, scores: Scores, kinds: Mapping[bytes, str]) -> dict[str, float] | None:
    """Return what the threshold of the fusion accepts: the share of all samples and of the good ones, and how many of them are good."""
    fused = _fuse(scores, FUSED)
    if threshold is None or not fused:
        return None
    is_good_N = np.array([kinds[pair] == worlds.GOOD for pair in fused])
    is_in_N = np.array(list(fused.values())) >= threshold
    shares = {"share": is_in_N.mean(), "good_kept": is_in_N[is_good_N].mean(), "precision": is_good_N[is_in_N].mean()}
    return {"threshold": threshold, **{name: round(float(share), 4) for name, share in shares.items()}}


THRESHOLD = text("""
    SELECT DISTINCT CAST(spec ->> 'min_score' AS double precision) FROM alchemist.subsets
    INNER JOIN alchemist.rank_snapshots USING (snapshot_id) INNER JOIN alchemist.rank_scales USING (rank_scale_id)
    INNER JOIN alchemist.raters ON rank_scales.rater_id = raters.rater_id
    WHERE starts_with(subsets.name, :dataset || '-') AND spec ->> 'accept' = 'auto' AND spec ->> 'rank_by' LIKE 'rater+%'
        AND raters.name = :rater
""")


def _read_threshold(trial: Trial, rater: str | None) -> float | None:
    with open_store().connect() as connection:
        found: float | None = connection.execute(THRESHOLD, {"dataset": trial.dataset, "rater": rater}).scalar()
    return found


def _fuse(scores: Scores, signals: Sequence[str]) -> dict[bytes, float]:
    """Return the fused score of each sample that has all of them; none if one is missing."""
    columns = [scores.get(name, {}) for name in signals]
    pairs = [pair for pair in columns[0] if all(pair in column for column in columns)]
    if not pairs:
        return {}
    ranks = [fit_rank_scale(column).rank(column) for column in (_column(of, pairs) for of in columns)]
    return dict(zip(pairs, fuse_ranks(np.stack(ranks, axis=1)).tolist(), strict=True))


def _column(of: Mapping[bytes, float], pairs: Sequence[bytes]) -> np.ndarray:
    return np.array([of[pair] for pair in pairs])


def _areas(scores: Sequence[float], kinds: Sequence[str]) -> dict[str, float]:
    score_N, kind_N = np.array(scores), np.array(kinds)
    good = score_N[kind_N == worlds.GOOD]
    unseen = score_N[kind_N == worlds.GOOD + worlds.UNSEEN]
    others = sorted(set(kinds) - {worlds.GOOD})
    # A wrong caption of unseen concepts is compared with the right ones of unseen concepts.
    better = {kind: unseen if kind == f"wrong_caption{worlds.UNSEEN}" else good for kind in others}
    return {kind: round(area_under_curve(better[kind], score_N[kind_N == kind]), 4) for kind in others if len(good)}


def kind_of_training(training: Mapping[str, Any]) -> str:
    """Return the kind of a rater by the options of its training: the kind with the most options that agree.

    >>> kind_of_training({"rule": "alignment", "penalty_schedule": "seal"}), kind_of_training({"rule": "loss"})
    ('seal', 'loss')
    """
    agree = [kind for kind, options in RATERS.items() if options.items() <= {**training}.items()]
    return max(agree, key=lambda kind: len(RATERS[kind]))


def selection_seconds(arm: str, costs: Mapping[str, float]) -> float:
    """Return what the selection of an arm costs: the rater and the scores that rank its samples; a control ranks by nothing.

    >>> selection_seconds("learnability+semdedup/top_k", {"learnability": 60.0, "semdedup": 5.0, "loss": 9.0, "encoding": 90.0})
    155.0
    >>> selection_seconds("random", {"learnability": 60.0})
    0.0
    >>> selection_seconds("loss/top_k;stratify=true;stratify_by=cluster", {"loss": 9.0, "clusters": 5.0, "encoding": 90.0})
    104.0
    """
    kind, parsed = arm.partition(";")[0].rpartition("/")[0], parse_arm(arm, retention=0.5)
    policy = SelectionPolicy.model_validate({"retention": 0.5, **(parsed.policy or {})})
    beside = {CLUSTERS, ENCODING} if policy.eligible_options().needs_comparison else set[str]()
    if not kind:
        return float(sum(costs.get(name, 0.0) for name in beside))
    needed = list(parsed.scores) + ([parsed.rater] if kind.startswith(parsed.rater) else [])
    if "rho_batches" in needed and "learnability" not in needed:
        # It ranks by the scores of that rater.
        needed.append("learnability")
    if not EMBEDDED.keys().isdisjoint(needed):
        beside.add(ENCODING)
    return float(sum(costs.get(name, 0.0) for name in {*needed, *beside}))


def make_table(found: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return a row for each world, retention and arm; and the best recipe of each world, if one is shown to be better than random.

    Costs are of the trials that ran alone, if there are any. A trial whose machine had other work is marked `beside_other_work` by hand.
    """
    rows, best = [], {}
    for world in dict.fromkeys(trial["world"] for trial in found):
        trials = [trial for trial in found if trial["world"] == world]
        alone = [trial for trial in trials if not trial.get("beside_other_work")] or trials
        compared = compare_cells(_cells(trials))
        for row in compared:
            seconds = fmean(selection_seconds(row.arm, trial["costs"]) for trial in alone)
            rows.append({"world": world, "selection_seconds": round(seconds, 1), **row.as_json()})
        for retention in dict.fromkeys(row.retention for row in compared):
            best[f"{world} {retention:.0%}"] = _best([row for row in compared if row.retention == retention])
    return {"rows": rows, "best": best, "aucs": mean_aucs(found)}


def mean_aucs(found: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, dict[str, Any]]]:
    """Return the mean area over the seeds, with its interval, by world, score and kind of sample."""
    values: dict[str, dict[str, dict[str, list[float]]]] = {}
    for trial in found:
        for score, areas in trial.get("aucs", {}).items():
            for kind, area in areas.items():
                values.setdefault(trial["world"], {}).setdefault(score, {}).setdefault(kind, []).append(area)
    return {
        world: {
            score: {kind: asdict(estimate(area)) for kind, area in areas.items()} for score, areas in scores.items()
        }
        for world, scores in values.items()
    }


def _cells(trials: Iterable[Mapping[str, Any]]) -> list[Cell]:
    return [Cell(**cell) for trial in trials for cell in trial["cells"]]


def _best(rows: Sequence[ArmRow]) -> str:
    """Return the arm with the largest gain that is above 0 with 95% confidence for all arms together; `not shown` if there is none.

    Few seeds show little: with three, a gain among 23 arms must exceed 12 standard deviations. Controls with a truth do not count.
    """
    others = [row for row in rows if row.gain is not None and row.arm not in ("full", "planted", "validation")]
    better = [row for row in others if row.gain is not None and row.gain.among(len(others)).is_positive]
    return max(better, key=lambda row: row.gain.mean if row.gain else 0.0).arm if better else "not shown"


def lines_of(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the table as text: world, retention, arm, seeds, gain over random with its interval, share of the gap, seconds of work that
    the selection costs in a process of one thread.
    """
    lines = [
        f"{'world':<12} {'kept':>4}  {'arm':<44} {'seeds':>5} {'gain over random':<26} {'gap closed':>10} {'work-s':>7}"
    ]
    for row in rows:
        gain, gap = row["gain"], row["gap_closed"]
        shown = "" if gain is None else _shown(gain)
        closed = "" if gap is None else f"{gap['mean']:.0%}"
        lines.append(
            f"{row['world']:<12} {row['retention']:>4.0%}  {arm_title(row['arm']):<44} {row['loss']['n']:>5} {shown:<26} {closed:>10} "
            f"{row['selection_seconds']:>7.0f}"
        )
    return lines


def _shown(found: Mapping[str, Any]) -> str:
    ends = "" if found["low"] is None else f" [{found['low']:.4f}, {found['high']:.4f}]"
    return f"{found['mean']:.4f}{ends}"


def draw(found: Sequence[Mapping[str, Any]]) -> Iterable[tuple[str, float, str]]:
    """Yield world, retention and the figure of its arms: gains over random with their intervals."""
    for world in dict.fromkeys(trial["world"] for trial in found):
        rows = compare_cells(_cells([trial for trial in found if trial["world"] == world]))
        for retention in dict.fromkeys(row.retention for row in rows):
            gains = [
                (arm_title(row.arm), row.gain) for row in rows if row.retention == retention and row.gain is not None
            ]
            title = f"{world}, retention {retention:.0%}"
            yield (
                world,
                retention,
                render_chart(interval_chart(gains, title, "gain over random, nats per token (right is better)")),
            )


def compare_promises(
    found: Sequence[Mapping[str, Any]], searched: Mapping[str, Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Return for each world what the search promised for its winner, and what the winner gave on the other seeds, in logs of losses."""
    rows = []
    for world, search in searched.items():
        cells = _cells([trial for trial in found if trial["world"] == world])
        losses = losses_by_arm([cell for cell in cells if cell.retention == search["retention"]])
        arm, random = losses.get(search["winner"]), losses.get("random")
        if arm and random:
            came = estimate([math.log(random[seed] / arm[seed]) for seed in sorted(arm.keys() & random.keys())])
            kept = {name: search[name] for name in ("winner", "recipe", "promised", "searched", "said")}
            rows.append({"world": world, "came": asdict(came), **kept})
    return rows


def draw_promises(promises: Sequence[Mapping[str, Any]], unit: str = "log(loss of random / loss)") -> str:
    """Draw what came, with its interval, over what was promised; on the dashed line both are the same."""
    points = {one["world"]: Point(one["promised"]["mean"], Estimate(**one["came"])) for one in promises}
    ends = [value for point in points.values() for value in (point.x, point.value.low, point.value.high)]
    axis = Axis.of(end for end in ends if end is not None)
    same = [Point(end, estimate([end])) for end in (axis.low, axis.high)]
    lines = [
        Line("as promised", same, "none", is_dashed=True),
        *(Line(name, [point]) for name, point in points.items()),
    ]
    title = "What came over what was promised"
    return render_chart(line_chart(lines, f"{title}, {unit}", axis, x_title=f"promised, {unit}"))


def value_rows(found: Sequence[Mapping[str, Any]]) -> list[Row]:
    """Judge the recipes: the whole gap, its lower end, against the validation dataset alone, and never worse than random."""
    rows: list[Row] = []
    for world in dict.fromkeys(trial["world"] for trial in found):
        cells = _cells([trial for trial in found if trial["world"] == world])
        for row in compare_cells(cells):
            if row.arm in RECIPES and row.gain is not None:
                losses = losses_by_arm([cell for cell in cells if cell.retention == row.retention])
                rows += _judge(f"{world}: {row.arm} at {row.retention:.0%}", row, losses)
    for world, scores in mean_aucs(found).items():
        for kind, least in LEAST_AUC.items():
            for score in ("trained_critic", "image_density", "+".join(FUSED)):
                if (area := scores.get(score, {}).get(kind)) is not None:
                    rows.append(
                        _row(
                            f"{world}: AUC of {score} against {kind}",
                            Estimate(**area),
                            f"≥ {least}",
                            ok=area["mean"] >= least,
                        )
                    )
    return rows


LEAST_AUC = {"wrong_caption": 0.9, "blur": 0.8, "blank": 0.95, "noise": 0.95, "collage": 0.95}
"""Targets on real pictures, by kind of damage. A score of one sample cannot see that it is a copy."""


def _judge(title: str, row: ArmRow, losses: Mapping[str, LossOfSeed]) -> list[Row]:
    assert row.gain is not None
    rows = []
    if (gap := row.gap_closed) is not None:
        rows.append(_row(f"{title}: gap closed", gap, "≥ 1", ok=gap.mean >= 1))
        rows.append(
            _row(
                f"{title}: gap closed, lower end",
                gap,
                "≥ 0.9",
                ok=gap.low is not None and gap.low >= 0.9,
                value=gap.low,
            )
        )
    if "validation" in losses:
        over = estimate_gain(losses[row.arm], losses["validation"])
        assert over is not None
        rows.append(
            _row(f"{title}: gain over the validation dataset alone", over, "lower end > 0", ok=over.is_positive)
        )
    margin = -MARGIN * estimate(list(losses["random"].values())).mean
    is_noninferior = row.gain.low is not None and row.gain.low > margin
    return [*rows, _row(f"{title}: gain over random", row.gain, f"lower end > {margin:.4f}", ok=is_noninferior)]


def _row(title: str, found: Estimate, target: str, *, ok: bool, value: float | None = None) -> Row:
    ends = "no interval" if found.low is None else f"[{found.low:.4f}, {found.high:.4f}]"
    shown = found.mean if value is None else value
    return Row(title, round(shown, 4), "", target, ok, f"{found.mean:.4f} {ends}, {found.n} corpus seeds")


if __name__ == "__main__":
    main()
