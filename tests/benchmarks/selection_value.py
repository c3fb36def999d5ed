"""The value of selection: the policy is fitted on some seeds and compared on others with random, oracle and full.

`python -m tests.benchmarks.selection_value [--worlds scenes,damaged,real] [--corpus FOLDER] [--seeds 3,4,5,6,7] [--workers 2]`, alone
on the machine. Every cell is a stage run in the configured store, so a killed benchmark resumes. Each worker uses one thread. The
rows go to `.alchemist/bench/selection_parts.json`, tables and figures to `.alchemist/artifacts/experiments/value-*`.
`--dry-run` only prints the planned work and its estimated time.
"""

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from alchemist_core.experiments import cost
from alchemist_core.experiments.cost import Work
from alchemist_core.experiments.running import Experiment, RunConfig
from alchemist_core.settings import load_settings
from alchemist_core.stages.ingest import IngestConfig
from alchemist_core.stages.ingest import run as ingest
from tests.benchmarks.damaged_corpus import make_corpus
from tests.benchmarks.rows import Row, write_rows
from tests.benchmarks.selection_rows import ROWS_OF_WORLD

ROLES = (("", "train", "train"), ("-validation", "validation", "validation"), ("-test", "test", "evaluation"))
# The cells of the tuning run, which the parts then reuse, so the tuning seeds are measured in parallel.
STARTS = (0, 0.2, 0.4, 0.6, 0.8)
PROBE = {"retentions": "0.2", "tuning-seeds": ""}
# Arguments of `alchemist experiment run` for each part of a world.
SCENES = {
    "r20": {
        "retentions": "0.2",
        "arms": "random,planted,alignment/auto,learnability/auto,loss/top_k,loss/gsample,loss/paper,loss/auto",
    },
    "r50": {
        "retentions": "0.5",
        "arms": "random,planted,planted+plain,planted+chaotic,alignment/auto,learnability/auto,full",
    },
    "r20-half": {"retentions": "0.2", "arms": "alignment/auto,learnability/auto", "num-train-epochs": "5"},
    "r50-steps": {"retentions": "0.5", "arms": "alignment/auto,learnability/auto", "budget": "steps"},
    "r50-long": {"retentions": "0.5", "arms": "alignment/auto,learnability/auto,full", "num-train-epochs": "30"},
}
PICTURES = {
    "both": {"retentions": "0.2,0.5", "arms": "random,planted,alignment/auto,learnability/auto,full"},
}
WORLDS = {"scenes": SCENES, "damaged": PICTURES, "real": PICTURES}
PICTURE_FIELDS = "resolution=32,text_encoder=minilm"


def main() -> None:
    """Measure every cell with some workers, then lay out each part over all seeds."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--worlds", default="scenes", help=f"of {', '.join(WORLDS)}")
    parser.add_argument("--corpus", type=Path, help="folder of real tars, for the worlds damaged and real")
    parser.add_argument("--seeds", default="3,4,5,6,7")
    # Four: with three, Student's interval is 1.6 times as wide, and `auto` selects at random if no gain is significant.
    parser.add_argument("--tuning-seeds", default="0,1,2,8")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument(
        "--scenes", default="", help="fields of the drawn scenes, such as n_train=600: to try the program"
    )
    parser.add_argument(
        "--training", default="", help="fields of the rater's training, as for alchemist experiment run"
    )
    parser.add_argument("--dry-run", action="store_true")
    given = parser.parse_args()
    rows: list[Row] = []
    failed: list[str] = []
    for world in given.worlds.split(","):
        bench = Bench(world, given)
        bench.state()
        if not given.dry_run:
            rows += bench.run()
            failed += bench.failed
    if rows:
        write_rows("selection_parts", rows)
    if failed:
        raise SystemExit(f"Failed and left out: {', '.join(failed)}.")


class Bench:
    """One world: its corpora, its parts, its commands."""

    def __init__(self, world: str, given: argparse.Namespace) -> None:
        self.world, self.given = world, given
        self.parts = WORLDS[world]
        # Names of the experiments that failed; the others go on.
        self.failed: list[str] = []
        self.seeds, self.choose = given.seeds.split(","), given.tuning_seeds.split(",")
        self.fields = {"experiment": "rank_window", "tuning-seeds": given.tuning_seeds}
        self.fields |= {"scenes": given.scenes, "training": given.training} if world == "scenes" else self._pictures()

    def state(self) -> None:
        """Print what must be trained and how long it takes, timed on this machine."""
        first, *others = self.parts
        work = self._work("bands").times(len(self.choose)) + self._work(first).times(len(self.seeds))
        for kind in self._kinds():
            models = self._work(f"probe-{kind}")
            work += Work(models.n_models, models.n_model_steps, 0, 0).times(len(self.choose))
        for part in others:
            models = self._work(part)
            # The first part trained the raters.
            work += Work(models.n_models, models.n_model_steps, 0, 0).times(len(self.seeds))
        config = self._config(first)
        stated = cost.state_cost(config, work, Experiment(config).models()[0], rater="alignment")
        minutes = stated["seconds"] / 60 / self.given.workers
        print(
            f"{self.world}: {cost.describe_cost(stated)}\n{self.given.workers} workers: {minutes:.0f} minutes",
            flush=True,
        )

    def run(self) -> list[Row]:
        """Measure the bands, then the probed regions, then every reported seed, then read each part over the seeds that it has.

        No rows if a part has no seed, because rows compare arms of several parts.
        """
        began = time.perf_counter()
        self._together([[self._command("bands", seed)] for seed in self.choose])
        # Each process reports on its own seed, because one process makes a corpus.
        probes = zip(self._kinds(), self.seeds, strict=False)
        self._together([[self._command(f"probe-{kind}", seed)] for kind, seed in probes])
        # A seed's parts share its rater: one worker takes them one after another.
        self._together([[self._command(part, seed) for part in self.parts] for seed in self.seeds])
        names = {}
        for part in self.parts:
            measured = [seed for seed in self.seeds if self._name(part, seed) not in self.failed]
            if measured and self._lay_out(part, ",".join(measured)):
                names[part] = self._name(part, ",".join(measured))
        minutes = (time.perf_counter() - began) / 60
        took = Row(f"{self.world}: minutes", round(minutes, 1), "min", None, None, "what was found is not repeated")
        return [*ROWS_OF_WORLD[self.world](self.world, names), took] if names.keys() == self.parts.keys() else [took]

    def _name(self, part: str, seeds: str) -> str:
        return f"value-{self.world}-{part}-s{seeds.replace(',', '-')}"

    def _command(self, part: str, seeds: str) -> list[str]:
        fields = self._fields(part) | {"seeds": seeds, "name": self._name(part, seeds)}
        return ["experiment", "run", *(word for name, value in fields.items() for word in (f"--{name}", value))]

    def _fields(self, part: str) -> dict[str, str]:
        name, _, kind = part.partition("-")
        if name == "bands":
            return self.fields | PROBE | {"arms": self._bands()}
        if name == "probe":
            return self.fields | {"retentions": self._retentions(kind), "arms": f"random,{kind}/auto"}
        return self.fields | self.parts[part]

    def _kinds(self) -> list[str]:
        """Return the kinds of raters whose strategy `auto` this world uses."""
        arms = ",".join(fields["arms"] for fields in self.parts.values()).split(",")
        return sorted({arm.partition("/")[0] for arm in arms if arm.endswith("/auto")})

    def _retentions(self, kind: str) -> str:
        asked = [fields["retentions"] for fields in self.parts.values() if f"{kind}/auto" in fields["arms"]]
        return ",".join(sorted({ratio for ratios in asked for ratio in ratios.split(",")}))

    def _bands(self) -> str:
        """Return the arms that the tuning runs of this world need."""
        return ",".join(("random", *(f"{kind}/block@{start:g}" for kind in self._kinds() for start in STARTS)))

    def _config(self, part: str) -> RunConfig:
        fields = self._fields(part) | {"seeds": self.given.seeds}
        return RunConfig.model_validate({name.replace("-", "_"): value for name, value in fields.items()})

    def _work(self, part: str) -> Work:
        experiment = Experiment(self._config(part))
        return cost.work_of_cells(experiment.config, experiment.arms, experiment.models(), experiment.n_pairs)

    def _together(self, chains: Sequence[Sequence[list[str]]]) -> None:
        """Run chains of commands beside one another; note those that fail, and go on."""
        with ThreadPoolExecutor(self.given.workers) as pool:
            self.failed += [name for names in pool.map(run_chain, chains) for name in names]

    def _lay_out(self, part: str, seeds: str) -> bool:
        """Print the table of a part over seeds that were measured; return whether that succeeded."""
        try:
            print(_alchemist(self._command(part, seeds)), flush=True)
        except SystemExit as error:
            print(f"{self._name(part, seeds)} failed: {error}", flush=True)
            self.failed.append(self._name(part, seeds))
            return False
        return True

    def _pictures(self) -> dict[str, str]:
        if self.given.corpus is None:
            raise SystemExit(f"world {self.world} needs --corpus FOLDER, a folder of image-text tars")
        root = load_settings().home.resolve() / "bench" / f"pictures-{self.world}"
        for seed in [*self.choose, *self.seeds]:
            make_corpus(self.given.corpus, root / seed, seed=int(seed), is_damaged=self.world == "damaged")
            for suffix, part, role in ROLES:
                named = {"dataset": f"{self.world}-s{seed}{suffix}", "root": str(root / seed / part), "role": role}
                ingest(IngestConfig.model_validate(named))
        name = f"{self.world}-s{{seed}}"
        return {
            "dataset": name,
            "validation": f"{name}-validation",
            "evaluation": f"{name}-test",
            "truth": str(root / "{seed}" / "truth.parquet"),
            "training": f"{PICTURE_FIELDS},{self.given.training}",
            "model": "text_encoder=minilm",
        }


def run_chain(chain: Sequence[list[str]]) -> list[str]:
    """Run commands one after another; return the names of those that failed, which are their last words. The others go on."""
    failed = []
    for words in chain:
        try:
            _alchemist(words)
        except SystemExit as error:
            print(f"{time.strftime('%H:%M:%S')} {words[-1]} failed: {error}", flush=True)
            failed.append(words[-1])
        else:
            print(f"{time.strftime('%H:%M:%S')} {words[-1]}", flush=True)
    return failed


def _alchemist(words: Sequence[str]) -> str:
    command, environment = [sys.executable, "-m", "alchemist_core", *words], os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(words)}\n{done.stderr[-2000:]}")
    return done.stdout


if __name__ == "__main__":
    main()
