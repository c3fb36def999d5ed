"""The command line is generated from config models and never loads what a command does not need."""

import importlib
import json
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from alchemist_core import notifications
from alchemist_core.__main__ import main
from alchemist_core.cli import command_line
from alchemist_core.cli.check import CheckConfig
from alchemist_core.cli.command_line import build_parser, read_config
from alchemist_core.cli.flags import flag_fields
from alchemist_core.cli.parser import bare_parser
from alchemist_core.cli.verbs import RENAMED, STAGES, VERBS, load_commands
from alchemist_core.code_version import code_version
from alchemist_core.config import Config, Result
from alchemist_core.errors import ConfigError
from alchemist_core.stages.select import SelectConfig, name_subset
from alchemist_core.stages.train_rater import TrainRaterConfig
from tests.written_commands import commands_in, require_accepted

HEAVY = ("torch", "airflow", "great_expectations", "transformers", "accelerate", "datasets")


def test_every_command_has_a_line_of_help() -> None:
    for name, verb in VERBS.items():
        assert verb.help.endswith("."), name
        for sub_verb, command in load_commands(name).items():
            assert not sub_verb or command.run.__doc__, f"{name} {sub_verb}"


def test_a_noun_has_several_sub_commands() -> None:
    for name in VERBS:
        # `import` is a verb like `export`, no noun.
        assert "" in (commands := load_commands(name)) or len(commands) > 1 or name == "import", name


def test_the_modules_of_a_group_hold_exactly_the_commands_that_it_lists() -> None:
    for verb in VERBS.values():
        modules = {name: importlib.import_module(f"alchemist_core.{name}") for name in set(verb.modules.values())}
        assert {command: name for name, module in modules.items() for command in module.COMMANDS} == dict(verb.modules)


def test_a_removed_command_is_refused_with_what_to_do_instead(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["corpus", "emoji", "--side", "32"])
    assert capsys.readouterr().err.startswith(
        "error: The command alchemist corpus emoji was removed. Ingest images of your own, or run: alchemist corpus scenes. See:"
    )


@pytest.mark.parametrize("old", RENAMED)
def test_a_former_command_is_refused_with_its_new_name(old: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert old not in VERBS
    verb, *sub_verb = RENAMED[old].split()
    assert not sub_verb or sub_verb[0] in load_commands(verb)
    with pytest.raises(SystemExit) as stopped:
        main([old, "night", "--dataset", "web"])
    assert stopped.value.code == 2
    said = capsys.readouterr().err
    assert (
        said
        == f"error: The command alchemist {old} was renamed. Run: alchemist {RENAMED[old]}. See: alchemist --help\n"
    )


def test_an_option_that_became_an_argument_is_refused_with_the_way_to_give_it(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit):
        main(["rater", "promote", "--rater", "newest"])
    said = capsys.readouterr().err
    assert said.startswith(
        "error: Unknown option --rater. Give RATER without an option name: alchemist rater promote RATER."
    )


def test_stages_and_files_have_the_same_names() -> None:
    folder = Path(command_line.__file__).parents[1] / "stages"
    for stage in STAGES:
        assert (folder / f"{stage.replace('-', '_')}.py").exists(), stage
        assert "" in load_commands(stage)


def test_every_flag_has_a_description_and_a_name_of_its_own() -> None:
    for verb in VERBS:
        for command in load_commands(verb).values():
            names = [path[-1] for path, _ in flag_fields(command.config)]
            assert len(names) == len(set(names)), verb
            for path, field in flag_fields(command.config):
                assert field.description, (verb, path)


def test_no_option_calls_another_value_than_its_default_the_default() -> None:
    """Help says "default: ..." where a description says "none: ...", which is false of an option whose default is a value."""
    said_none = {
        (verb, path[-1])
        for verb in VERBS
        for command in load_commands(verb).values()
        for path, field in flag_fields(command.config)
        if "; none: " in (field.description or "")
        and field.get_default(call_default_factory=True) not in (None, (), [])
    }
    assert said_none == set()


def test_no_option_calls_a_folder_of_artifacts_one_of_the_home() -> None:
    said = {
        (verb, path[-1], found[1])
        for verb in VERBS
        for command in load_commands(verb).values()
        for path, field in flag_fields(command.config)
        if (found := re.search(r"(\S+)/ under the home", field.description or ""))
    }
    assert said
    assert {one for one in said if not one[2].startswith("artifacts/")} == set()


def test_config_models_are_frozen_and_refuse_unknown_keys() -> None:
    for verb in VERBS:
        for command in load_commands(verb).values():
            assert issubclass(command.config, Config)
            assert command.config.model_config.get("frozen")
            assert command.config.model_config.get("extra") == "forbid"


CLONE = Path(command_line.__file__).parents[1].parent
README = (CLONE / "README.md").read_text(encoding="utf-8")
IN_ORDER = (CLONE / "docs" / "reference" / "commands-in-order.md").read_text(encoding="utf-8")
COMMANDS = list(commands_in(README + IN_ORDER))
RUNBOOK = (CLONE / "infra" / "RUNBOOK.md").read_text(encoding="utf-8")
FIRST_LOOKS = re.findall(r"^ {4}(alchemist .*)$|`(alchemist stack logs [a-z]+)`", RUNBOOK, re.MULTILINE)


@pytest.mark.parametrize("line", [*COMMANDS, *("".join(found) for found in FIRST_LOOKS)])
def test_every_command_of_the_readme_and_the_runbooks_first_looks_is_accepted(line: str) -> None:
    require_accepted(line)


def test_the_list_of_commands_shows_every_stage() -> None:
    shown = {line.split()[1] for line in COMMANDS}
    assert set(STAGES) <= shown


@pytest.mark.slow
def test_help_and_flags_load_nothing_heavy() -> None:
    code = (
        "import sys; from alchemist_core.cli.command_line import build_parser; build_parser(None).format_help();"
        f"print([name for name in {HEAVY} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_version_is_that_which_runs_record(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ALCHEMIST_CODE_VERSION", "0.2.0+5a0390767547")
    code_version.cache_clear()
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    code_version.cache_clear()
    assert (ended.value.code, capsys.readouterr().out) == (0, "alchemist 0.2.0+5a0390767547\n")


def test_help_names_pages_that_an_installation_has() -> None:
    assert "README" not in bare_parser().format_help()


def test_the_list_of_commands_imports_no_module_of_a_command() -> None:
    code = (
        "import sys; from alchemist_core.cli.command_line import build_parser; build_parser([]).format_help();"
        "rooms = ('stages', 'store', 'shards', 'local', 'experiments');"
        "print([name for name in sys.modules if name.startswith(tuple(f'alchemist_core.{room}' for room in rooms))])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_name_that_select_gives_is_one_that_it_takes() -> None:
    config = SelectConfig.model_validate({"dataset": "web,books", "policy": {"retention": 0.07}})
    assert name_subset(config) == "web+books-auto-r7"
    assert SelectConfig.model_validate({"dataset": "web", "name": name_subset(config)}).name == name_subset(config)


def test_a_dataset_that_can_name_no_subset_asks_for_a_name() -> None:
    with pytest.raises(ConfigError, match=r"'my crawl-auto-r20' is not a valid subset name .*\. Pass --name"):
        name_subset(SelectConfig.model_validate({"dataset": "my crawl"}))


def test_the_same_choices_have_the_same_hash_and_others_do_not() -> None:
    one, two = (TrainRaterConfig(dataset="d", validation="v") for _ in range(2))
    assert one.fingerprint() == two.fingerprint()
    assert one.fingerprint() != TrainRaterConfig(dataset="d", validation="w").fingerprint()


def test_a_value_out_of_bounds_is_refused_with_flag_limit_and_value(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["select", "--dataset", "d", "--retention", "1.5"]) == 2
    text = capsys.readouterr().err
    assert "--retention" in text
    assert "less than or equal to 1" in text
    assert "1.5" in text


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        (["scor"], "Did you mean score?"),
        (["subset", "lst"], "Did you mean list?"),
        (["select", "--datset", "d"], "Did you mean --dataset?"),
        (["ingest", "--role", "trian"], "Did you mean train?"),
    ],
)
def test_a_mistyped_word_is_answered_with_the_one_that_was_meant(
    capsys: pytest.CaptureFixture[str], words: list[str], meant: str
) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(words)
    text = capsys.readouterr().err
    assert stopped.value.code == 2
    assert meant in text
    assert "--help" in text
    assert "usage:" not in text


@pytest.mark.parametrize(
    ("suites", "said"), [("shards,subst", "Did you mean subset?"), (",", "Give at least one."), ("shards,,", "")]
)
def test_of_several_suites_a_mistyped_one_is_answered_with_the_one_that_was_meant(suites: str, said: str) -> None:
    if not said:
        assert CheckConfig.model_validate({"suite": suites}).suite == ("shards",)
        return
    with pytest.raises(ConfigError, match=re.escape(said)):
        read_config(CheckConfig, {"suite": suites})


def test_a_verb_that_was_omitted_is_answered_with_the_list(capsys: pytest.CaptureFixture[str]) -> None:
    for words, listed in (([], "train-rater"), (["subset"], "rollback")):
        with pytest.raises(SystemExit):
            main(words)
        assert listed in capsys.readouterr().err


def test_help_lists_every_verb_once_within_80_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    lines = build_parser([]).format_help().splitlines()
    heads = [line.split()[0] for line in lines if line.startswith("  ") and line[2:3].islower()]
    assert sorted(heads) == sorted(VERBS)
    assert max(map(len, lines)) <= 80


@pytest.mark.parametrize(
    ("words", "usage"),
    [
        (["train-rater"], "alchemist train-rater --dataset DATASET --validation VALIDATION [options]"),
        (["sample", "explain"], "alchemist sample explain SAMPLE --subset SUBSET [options]"),
        (["db", "psql"], "alchemist db psql ..."),
        (["stack", "logs"], "alchemist stack logs [PROCESS] [options]"),
    ],
)
def test_the_usage_line_names_what_must_be_given(
    capsys: pytest.CaptureFixture[str], words: list[str], usage: str
) -> None:
    with pytest.raises(SystemExit):
        build_parser(words).parse_args([*words, "--help"])
    assert capsys.readouterr().out.startswith(f"usage: {usage}\n")


def test_a_refused_value_comes_with_its_flags_own_text(capsys: pytest.CaptureFixture[str]) -> None:
    for words, flag, text in (
        (["sample", "takedown", "--sample", "a/b", "--reason", "asked"], "--sample ", "DATASET/SHARD/KEY"),
        (["plan", "evaluate", "--seeds", "0,x"], "--seeds ", "separated by commas"),
        (["sample", "explain", "", "--subset", "s"], "SAMPLE ", "DATASET/SHARD/KEY"),
    ):
        assert main(words) == 2
        said = capsys.readouterr().err
        assert flag in said
        assert text in said


def test_a_bare_word_that_is_left_out_has_its_default() -> None:
    for words, process in ((["stack", "logs"], "scheduler"), (["stack", "logs", "metrics"], "metrics")):
        options = vars(build_parser(words).parse_args(words))
        assert read_config(options["command"].config, options).as_json()["process"] == process


def test_a_run_that_is_stopped_by_hand_leaves_no_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    commands = load_commands("stack")

    def interrupted(_config: Config) -> None:
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(commands, "status", commands["status"]._replace(run=interrupted))
        assert main(["stack", "status"]) == 130
    assert "Run the same command again: it continues from what was stored." in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "role"), [([], "reader"), (["--role", "writer"], "writer"), (["--role=owner"], "owner")]
)
def test_what_follows_psql_is_psqls_own(words: list[str], role: str) -> None:
    given: list[Config] = []
    commands = load_commands("db")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(commands, "psql", commands["psql"]._replace(run=given.append))
        command = ["db", "psql", *words, "-c", "SELECT 1", "--json", "--role"]
        command_line.run_command(build_parser(command), command)
    assert given[0].as_json() == {"role": role, "arguments": ["-c", "SELECT 1", "--json", "--role"]}


def test_what_follows_airflow_is_airflows_own() -> None:
    given: list[Config] = []
    commands = load_commands("stack")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(commands, "airflow", commands["airflow"]._replace(run=given.append))
        words = ["stack", "airflow", "dags", "trigger", "build_subset", "--conf", '{"name": "a b"}', "--json"]
        command_line.run_command(build_parser(words), words)
    assert given[0].as_json() == {"arguments": words[2:]}


class Said(Result):
    n: int = 3

    def summary(self) -> str:
        return "3 done."


def run_as(name: str, run: Callable[..., Result | None], *words: str, next_step: str | None = None) -> str:
    """Run a command whose work another function does, and return what is printed."""
    verb, _, sub_verb = name.partition(" ")
    commands = load_commands(verb)
    with pytest.MonkeyPatch.context() as patch:
        command = commands[sub_verb]._replace(run=run, next_step=lambda _config, _report: next_step)
        patch.setitem(commands, sub_verb, command)
        line = [*name.split(), *words]
        return command_line.run_command(build_parser(line), line).text


def test_a_mapped_stage_works_in_its_slot_and_any_other_verb_has_none() -> None:
    slots: list[int] = []

    def work(_config: Config, *, slot: int) -> Said:
        slots.append(slot)
        return Said()

    run_as("score", work)
    run_as("score", work, "--slot", "3")
    assert slots == [0, 3]
    assert run_as("stack status", lambda _config: Said()) == "3 done."


def test_a_report_is_its_summary_with_the_next_command_or_one_object() -> None:
    assert run_as("stack status", lambda _config: None) == ""
    assert run_as("stack status", lambda _config: None, "--json") == "{}"
    assert (
        run_as("stack status", lambda _config: Said(), next_step="alchemist stack up")
        == "3 done.\nnext: alchemist stack up"
    )
    assert json.loads(run_as("stack status", lambda _config: Said(), "--json", next_step="alchemist stack up")) == {
        "n": 3
    }


def test_what_a_command_announced_is_sent_also_when_it_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[str] = []
    monkeypatch.setattr(notifications, "send_announced", lambda: sent.append("sent"))

    def fail(_config: Config) -> None:
        raise ConfigError("no")

    with pytest.raises(ConfigError):
        run_as("stack status", fail)
    run_as("stack status", lambda _config: None)
    assert sent == ["sent", "sent"]


def test_an_argument_with_a_nul_is_refused_before_anything_is_read() -> None:
    with pytest.raises(ConfigError, match="NUL character"):
        command_line.run_command(build_parser(["stack", "status"]), ["stack", "status", "a\0b"])


def next_command(said: str) -> list[str]:
    """The words of the first command that a report recommends."""
    (line,) = (line for line in said.splitlines() if line.startswith("next: "))
    program, *words = shlex.split(line.removeprefix("next: ").partition(";")[0])
    assert program == "alchemist"
    return words


@pytest.mark.db
def test_a_report_ends_with_the_command_that_comes_next(
    database_url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    few = ["--n-train", "20", "--n-validation", "0", "--n-test", "0", "--n-nights", "1"]
    assert main(["corpus", "scenes", "--out", str(tmp_path / "drawn"), *few]) == 0
    ingest = next_command(capsys.readouterr().out)
    assert ingest == ["ingest", "--dataset", "drawn", "--root", str(tmp_path / "drawn" / "train")]
    assert main(ingest) == 0
    score = next_command(capsys.readouterr().out)
    assert score == ["score", "--dataset", "drawn"]
    assert main(score) == 0
    train = next_command(capsys.readouterr().out)
    assert train == ["train-rater", "--preset", "PRESET", "--dataset", "NAME", "--validation", "NAME"]


@pytest.mark.db
@pytest.mark.parametrize("words", [["check", "--suite", "scores"], ["report"]])
def test_a_dataset_that_is_not_there_is_no_empty_one(
    database_url: str, capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    assert main([*words, "--dataset", "nope"]) == 2
    assert "'nope' is not registered" in capsys.readouterr().err


@pytest.mark.db
def test_json_is_one_object_on_the_last_line(database_url: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "score", "--json"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1]) == {
        "slots": [0],
        "work": [],
        "rater": None,
        "n_shards": 0,
        "n_samples": 0,
        "raters": [],
    }
