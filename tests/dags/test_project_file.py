"""The project file reaches every stage through the DAGs: an empty field of a form means what the file says, at the time of the run."""

import json
import shlex
from datetime import UTC, datetime
from types import SimpleNamespace

import pytest
from sqlalchemy import text

from alchemist_core.__main__ import main
from alchemist_core.cli.command_line import build_parser, read_config
from alchemist_core.cli.forms import LAYOUT, build_forms, render_forms, render_schedules
from alchemist_core.project import load_project, parse_project
from alchemist_core.store.engine import open_store
from tests.trained_store import corpus

from .test_policy import attribute, command, form, ours

__all__ = ["corpus"]

PROJECT = """
[datasets.web]
root = "{corpus}/train"
[datasets.goal]
role = "validation"
root = "{corpus}/validation"
[datasets.test]
role = "evaluation"
root = "{corpus}/test"
[rater]
preset = "tiny"
recipe = "{recipe}"
dataset = "web"
validation = "goal"
text_encoder = "{encoder}"
tokenizer = "{tokenizer}"
codebook_size = {codes}
proxy_warmup_steps = 4
max_train_steps = {steps}
batch_size = 16
[selection]
dataset = ["web"]
retention = {retention}
dedup = "{dedup}"
where = "width >= {width}"
decontaminate = ["test"]
[downstream]
preset = "tiny"
width = {model}
num_train_epochs = 1
arms = ["subset", "random"]
seeds = [{seed}]
[evaluation]
dataset = "test"
protocols = ["heldout_loss"]
[checks]
max_quarantined_ratio = {quarantined}
[report]
dataset = "web"
"""
FIRST = {
    "recipe": "ours", "encoder": "words", "tokenizer": "patches", "codes": 16, "steps": 4, "retention": 0.5, "dedup": "exact",
    "width": 1, "model": 16, "seed": 0, "quarantined": 0.5,
}  # fmt: skip
SECOND = FIRST | {
    "recipe": "paper", "codes": 32, "steps": 5, "retention": 0.25, "dedup": "off", "width": 2, "model": 32, "seed": 3,
    "quarantined": 0.25,
}  # fmt: skip


@pytest.fixture
def project(tmp_path, monkeypatch):
    """project(text): write the project file of the working directory and read it."""
    monkeypatch.chdir(tmp_path)

    def write(given):
        (tmp_path / "alchemist.toml").write_text(given, encoding="utf-8")
        load_project.cache_clear()
        return load_project()

    return write


def test_a_form_says_what_an_empty_field_means(project):
    found = project('[selection]\nstrategy = "shift_gsample"\nrecipe = "paper"\ndedup = "near"\nrescale = true\n')
    fields = build_forms(found)["build_subset"]
    told = {name: field["description"].partition("; empty: ")[2] for name, field in fields.items()}
    assert told["strategy"] == "as alchemist.toml says (shift_gsample)"
    assert told["rescale"] == "as alchemist.toml says (yes)"
    assert told["mean_rank"] == "0.625 (recipe paper)"
    assert told["retention"] == "0.2"
    assert told["max_share"] == "no limit"
    assert told["start_rank"] == "0.4"
    assert told["name"] == "<dataset>-<strategy>-r<percent>"
    # The file does not name it, and no run can do without it.
    assert "default" not in fields["dataset"]
    assert fields["dataset"]["minLength"] == 1


def test_the_form_of_an_installation_whose_file_is_not_known_says_that_the_file_comes_first():
    fields = build_forms()["build_subset"]
    assert fields["dedup"]["description"].endswith("; empty: as the project file says, else exact")
    assert build_forms()["train_rater"]["resolution"]["description"].endswith(
        "; empty: as the project file says, else the value of the preset"
    )
    assert (
        build_forms()["evaluate_subset"]["seeds"]["default"],
        build_forms()["train_rater"]["preset"]["default"],
    ) == ("0,1,2", None)


def meanings(project, text, dag):
    return {
        name: field["description"].partition("; empty: ")[2] for name, field in build_forms(project(text))[dag].items()
    }


def test_a_form_names_the_preset_or_recipe_that_an_empty_field_follows(project):
    """Where the file names no preset, the value is that of the preset that the form chooses."""
    told = meanings(project, '[rater]\npreset = "gpu24"\nbatch_size = 128\n', "train_rater")
    assert told["resolution"] == "256 (preset gpu24)"
    assert told["batch_size"] == "as alchemist.toml says (128)"
    assert told["rule"] == "alignment (recipe ours)"
    assert told["text_encoder"] == "none, but preset gpu24 requires it and alchemist.toml does not give it"
    assert meanings(project, '[rater]\npreset = "tiny"\n', "train_rater")["resolution"] == "16 (preset tiny)"
    told = meanings(project, '[rater]\nrecipe = "paper"\n', "train_rater")
    assert told["preset"] == "none, so choose one: alchemist.toml names none"
    assert (told["resolution"], told["rule"]) == ("the value of the preset", "loss (recipe paper)")
    assert told["seed"] == "0"


def test_a_form_names_the_project_file_by_its_name(tmp_path):
    path = tmp_path / "web.toml"
    found = parse_project('[rater]\npreset = "tiny"\n', path)
    assert build_forms(found)["train_rater"]["preset"]["description"].endswith("empty: as web.toml says (tiny)")


def test_what_the_file_declares_need_not_be_filled_in(project):
    forms = build_forms(
        project(
            '[rater]\ndataset = "web"\nvalidation = "goal"\n[downstream]\nseeds = [4, 5]\n[evaluation]\ndataset = "t"\n'
        )
    )
    assert forms["train_rater"]["dataset"]["default"] is None
    assert forms["train_rater"]["validation"]["description"].endswith("; empty: as alchemist.toml says (goal)")
    assert forms["evaluate_subset"]["seeds"]["default"] is None
    assert forms["evaluate_subset"]["seeds"]["description"].endswith("; empty: as alchemist.toml says (4,5)")
    assert forms["evaluate_subset"]["evaluation"]["description"].endswith("(t)")


def test_the_first_fields_are_unfolded_and_all_others_are_in_a_section():
    forms = build_forms()
    for dag, fields in forms.items():
        first, *_ = LAYOUT[dag]
        assert {name for name, field in fields.items() if "section" not in field} == set(first.names), dag
        assert list(fields)[: len([name for part in LAYOUT[dag] for name in part.names])] == [
            name for part in LAYOUT[dag] for name in part.names
        ]
    assert {"preset", "recipe", "tokenizer_weights", "text_encoder", "resolution"} <= forms["train_rater"].keys()
    assert {"where", "dedup", "decontaminate", "stratify", "max_share", "rescale"} <= forms["build_subset"].keys()
    assert {"preset", "text_encoder", "protocol", "evaluation"} <= forms["evaluate_subset"].keys()


def test_a_form_is_a_valid_form_of_airflow_also_with_a_project_file(project, dags):
    from airflow.sdk import Param  # noqa: TID251  tests of DAGs run Airflow

    found = project(PROJECT.format(corpus="/c", **SECOND))
    for fields in (build_forms(found), build_forms()):
        for each in fields.values():
            for field in each.values():
                if "default" in field:
                    assert Param(**field).resolve() == field["default"]


def test_schedules_are_written_from_the_file(project):
    found = project(
        '[schedule]\nnightly = "30 1 * * *"\ntrain = "@weekly"\nmaintenance = "none"\nevaluate = "none"\ntimezone = "Asia/Tokyo"\n'
    )
    written = {}
    exec(render_schedules(found), written)
    assert written["CRON"] == {"nightly_rescore": "30 1 * * *", "train_rater": "@weekly", "maintenance": None}
    assert (written["TIMEZONE"], written["EVALUATE_PUBLISHED"]) == ("Asia/Tokyo", False)
    assert written["PROJECT"] == str(found.path)


def test_generated_files_hold_a_value_of_the_file_as_data_whatever_it_is(project):
    hostile = 'x" + __import__("os").getcwd() + "\\n{{ 7 }}'
    found = project(f"[selection]\nwhere = {json.dumps(hostile)}\ndataset = [{json.dumps(hostile)}]\n")
    written = {}
    exec(render_forms(found), written)
    assert hostile in written["FORMS"]["build_subset"]["where"]["description"]


DOORS = {
    "train_rater": (
        "train_rater",
        {
            "preset": "tiny", "recipe": "paper", "dataset": "web", "validation": "goal", "seed": "7", "text_encoder": "minilm",
            "resolution": 32, "max_train_steps": 9,
        },
        ('[rater]\npreset = "tiny"\nrecipe = "paper"\ndataset = "web"\nvalidation = "goal"\nseed = 7\ntext_encoder = "minilm"\n'
        "resolution = 32\nmax_train_steps = 9\n"),
    ),
    "build_subset": (
        "select",
        {
            "dataset": "web,books", "retention": "25%", "strategy": "top_k", "where": "width > 5", "dedup": "near", "stratify": "yes",
            "rescale": "no", "max_share": 0.5, "max_share_of": "source",
        },
        ('[selection]\ndataset = ["web", "books"]\nretention = 0.25\nstrategy = "top_k"\nwhere = "width > 5"\ndedup = "near"\n'
        'stratify = true\nrescale = false\nmax_share = 0.5\nmax_share_of = "source"\n'),
    ),
    "evaluate_subset": (
        "train_downstream",
        {"preset": "tiny", "arms": "subset,full", "seeds": "0,1", "num_train_epochs": "3"},
        '[downstream]\npreset = "tiny"\narms = ["subset", "full"]\nseeds = [0, 1]\nnum_train_epochs = 3\n',
    ),
    "evaluate_subset ": (
        "evaluate",
        {"evaluation": "t", "protocol": "heldout_loss,kid_offline"},
        '[evaluation]\ndataset = "t"\nprotocols = ["heldout_loss", "kid_offline"]\n',
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", DOORS)
def test_the_hash_of_a_run_is_the_same_by_flag_by_form_and_by_file(dags, project, name):
    task_id, filled, file = DOORS[name]
    task = dags[name.strip()].get_task(task_id)
    empty = {"seeds": None} if task_id == "train_downstream" else {}

    def config_of(words):
        options = vars(build_parser(words).parse_args(words))
        return read_config(options["command"].config, options)

    by_form = config_of(command(task, form(task.dag, filled))[1:])
    flags = [f"--{key.replace('_', '-')}={value}" for key, value in filled.items()]
    typed = {"--retention=25%": "--retention=0.25", "--stratify=yes": "--stratify", "--rescale=no": "--no-rescale"}
    subject = ["--version", "3", "best"] if task_id in ("train_downstream", "evaluate") else []
    by_flag = config_of([task_id.replace("_", "-"), *(typed.get(flag, flag) for flag in flags), *subject])
    project(file)
    by_file = config_of(command(task, form(task.dag, dict.fromkeys(filled) | empty))[1:])
    assert by_flag.fingerprint() == by_form.fingerprint() == by_file.fingerprint()
    assert by_flag == by_form == by_file


class Scheduler:
    """Runs the command lines of a DAG's tasks one after another in this process, with an empty form, as a schedule would."""

    def __init__(self, capsys):
        self.capsys, self.results = capsys, {}

    def run(self, dag, *, day="2026-01-01", **filled):
        """Run every task that has a command; a mapped one once for each item."""
        self.results = {}
        params = form(dag, {"dataset": None, **dict.fromkeys(dag.params), **filled} if dag.params else {})
        for task in dag.topological_sort():
            if task.task_id == "approve":
                self.results["approve"] = None
                continue
            for item in self._items(task):
                self._run_task(task, params, item, day)

    def _items(self, task):
        if not task.is_mapped:
            return [None]
        source = next(upstream for upstream in task.upstream_list if upstream.task_id in ("plan", "plan_night"))
        of_nights = task.dag.dag_id == "nightly_rescore" and task.task_id != "score"
        return self.results["plan_night" if of_nights else source.task_id]

    def _run_task(self, task, params, item, day):
        run = SimpleNamespace(conf={}, run_type="manual", partition_key=day, run_after=datetime(2026, 1, 3, tzinfo=UTC))
        # Every task before it succeeded, or this test has failed.
        here = SimpleNamespace(
            xcom_pull=lambda task_ids: self.results[task_ids],
            dag_id=task.dag.dag_id,
            run_id="r",
            get_task_states=lambda *_, **__: {},
        )
        values = ours("jobs").Run.of({"params": params, "dag_run": run, "dag": task.dag, "ti": here}, item)
        when, returns = attribute(task, "when"), attribute(task, "returns")
        if when is not None and not when(values):
            return
        words = attribute(task, "line")(values)[1:]
        self.capsys.readouterr()
        code = main(words)
        said = self.capsys.readouterr()
        # So few steps give no good rater, and a person promotes it with a reason.
        if words[:2] == ["rater", "certify"] and code == 5:
            return
        if words[:2] == ["rater", "promote"] and code == 5:
            code = main(["rater", "promote", "--without-acceptance", "a few steps, for a test"])
        assert code == 0, (shlex.join(words), said.err)
        if returns is not None:
            result = json.loads(said.out.splitlines()[-1])
            keys = returns if isinstance(returns, tuple) else ()
            self.results[task.task_id] = (
                {key: result[key] for key in keys} if keys else result[returns] if returns else result
            )


def newest_configs():
    with open_store().connect() as connection:
        rows = connection.execute(
            text("SELECT DISTINCT ON (stage) stage, config FROM alchemist.runs ORDER BY stage, run_id DESC")
        )
        return dict(map(tuple, rows))


@pytest.mark.db
@pytest.mark.e2e
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_change_of_the_file_alone_shows_in_the_next_night_training_subset_and_evaluation(
    dags, project, corpus, database_url, capsys
):
    scheduler = Scheduler(capsys)

    def walk(values, *nights):
        project(PROJECT.format(corpus=corpus, **values))
        for name in ("goal", "test"):
            assert main(["ingest", "--dataset", name]) == 0
        for day in nights:
            scheduler.run(dags["nightly_rescore"], day=day)
        scheduler.run(dags["train_rater"])
        scheduler.run(dags["build_subset"])
        scheduler.run(dags["evaluate_subset"])
        return newest_configs()

    first = walk(FIRST, "2026-01-01")
    second = walk(SECOND, "2026-01-02")
    for told, given in ((first, FIRST), (second, SECOND)):
        training = told["train_rater"]["training"]
        assert (told["train_rater"]["dataset"], told["train_rater"]["validation"]) == ("web", "goal")
        assert (training["codebook_size"], training["max_train_steps"], training["text_encoder"]) == (
            given["codes"],
            given["steps"],
            "words",
        )
        assert training["rule"] == ("loss" if given["recipe"] == "paper" else "alignment")
        policy = told["select"]["policy"]
        assert (policy["retention"], policy["dedup"], policy["where"]) == (
            given["retention"],
            given["dedup"],
            f"width >= {given['width']}",
        )
        assert policy["decontaminate"] == ["test"]
        model = told["train_downstream"]
        assert (model["model"]["width"], model["seeds"], model["arms"]) == (
            given["model"],
            [given["seed"]],
            ["subset", "random"],
        )
        assert (told["evaluate"]["evaluation"], told["evaluate"]["protocol"]) == ("test", "heldout_loss")
        assert told["report"]["dataset"] == "web"
        assert told["ingest"]["root"] == str(corpus / "train")
    assert first["ingest"]["crawl_date"] != second["ingest"]["crawl_date"]
    with open_store().connect() as connection:
        applied = "SELECT DISTINCT observed -> 'limits' ->> 'max_quarantined_ratio' FROM alchemist.check_results"
        assert {float(value) for value in connection.execute(text(applied)).scalars() if value} == {0.25, 0.5}
