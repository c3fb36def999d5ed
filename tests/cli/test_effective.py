"""The effective options of a command: option over project file over recipe over preset over default, with the same hash from everywhere."""

import json
import re
import shlex
from pathlib import Path

import pytest

from alchemist_core.__main__ import main
from alchemist_core.cli.command_line import build_parser
from alchemist_core.cli.effective import Effective, check_project, read_effective
from alchemist_core.cli.flags import flag_fields
from alchemist_core.cli.sections import SECTIONS, config_of, keys_of
from alchemist_core.config import BARE_WORD
from alchemist_core.errors import ConfigError
from alchemist_core.project import load_project
from alchemist_core.stages.evaluate import EvaluateConfig, split_protocols
from alchemist_core.stages.ingest import IngestConfig
from alchemist_core.stages.select import SelectConfig
from alchemist_core.stages.train_downstream import TrainDownstreamConfig
from alchemist_core.stages.train_rater import TrainRaterConfig


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, in which the project file lies."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(folder: Path, text: str) -> Path:
    path = folder / "alchemist.toml"
    path.write_text(text, encoding="utf-8")
    load_project.cache_clear()
    return path


def read(line: str) -> Effective:
    words = shlex.split(line)
    options = vars(build_parser(words).parse_args(words))
    return read_effective(options["command"].config, options)


def refusal(line: str) -> str:
    with pytest.raises(ConfigError) as caught:
        read(line)
    return str(caught.value)


RATER = """
[rater]
preset = "tiny"
recipe = "paper"
dataset = "web"
validation = "goal"
batch_size = 128
seed = 4
"""


def test_an_option_is_above_the_file_the_recipe_the_preset_and_the_default(folder: Path) -> None:
    write(folder, RATER)
    config, origins = read("train-rater --seed 5 --preset gpu24 --tokenizer-weights vae.pth --text-encoder clip:sd21")
    assert isinstance(config, TrainRaterConfig)
    training = config.training
    assert (config.dataset, training.seed, training.batch_size, training.rule, training.rater_depth, training.penalty) == (
        "web", 5, 128, "loss", 8, 1.0,
    )  # fmt: skip
    told = {name: str(origin) for name, origin in origins.items()}
    assert told["preset"] == "--preset"
    assert told["training.seed"] == "--seed"
    assert told["training.batch_size"] == "[rater] batch_size"
    assert told["training.rule"] == "recipe paper"
    assert told["training.rater_depth"] == "preset gpu24"
    assert "training.penalty" not in told


def test_the_file_is_above_the_preset_and_the_recipe_also_where_an_option_chose_them(folder: Path) -> None:
    write(folder, '[rater]\nrule = "alignment"\nresolution = 512\n[selection]\ndrop_top_ratio = 0.1\nretention = 0.9\n')
    training = read(
        "train-rater --preset gpu24 --recipe paper --dataset a --validation b --tokenizer-weights v --text-encoder clip:x"
    ).config
    assert isinstance(training, TrainRaterConfig)
    assert (training.training.rule, training.training.resolution) == ("alignment", 512)
    policy = read("select --dataset a --recipe paper").config
    assert isinstance(policy, SelectConfig)
    assert (policy.policy.drop_top_ratio, policy.policy.mean_rank, policy.policy.retention) == (0.1, 0.625, 0.9)


def test_a_recipe_sees_the_retention_of_the_file(folder: Path) -> None:
    write(folder, '[selection]\nrecipe = "paper"\nretention = 0.8\n')
    config = read("select --dataset a").config
    assert isinstance(config, SelectConfig)
    assert config.policy.drop_top_ratio == 0.15


def test_a_retention_may_be_a_percentage_which_the_recipe_sees(folder: Path) -> None:
    config = read("select --dataset a --recipe paper --retention 80%").config
    assert isinstance(config, SelectConfig)
    assert (config.policy.retention, config.policy.drop_top_ratio) == (0.8, 0.15)
    with pytest.raises(ConfigError, match="--retention 'many%' is not valid"):
        read("select --dataset a --retention many%")


def test_a_file_may_leave_the_retention_to_the_scores_and_an_option_overrides_it(folder: Path) -> None:
    write(folder, '[selection]\nretention = "auto"\nvariety = 0.5\nweight_by = "rank"\n')
    config = read("select --dataset a").config
    assert isinstance(config, SelectConfig)
    assert config == read("select --dataset a --retention auto --variety 0.5 --weight-by rank").config
    assert (config.policy.keeps_all_accepted, config.policy.accept, config.policy.variety) == (True, "auto", 0.5)
    fixed = read("select --dataset a --retention 20% --fill repeat").config
    assert isinstance(fixed, SelectConfig)
    assert (fixed.policy.retention, fixed.policy.fill, fixed.policy.accept) == (0.2, "repeat", "all")
    write(folder, '[selection]\nretention = "automatic"\n')
    with pytest.raises(ConfigError, match=r"\[selection\] 'retention' = 'automatic' is not allowed"):
        read("select --dataset a")


GIVEN = {
    "train-rater": (
        "--preset tiny --recipe paper --dataset web --validation goal --seed 3 --rater-learning-rate 0.01 --softmax-group-size 16",
        ('[rater]\npreset = "tiny"\nrecipe = "paper"\ndataset = "web"\nvalidation = "goal"\nseed = 3\nrater_learning_rate = 1e-2\n'
        "softmax_group_size = 16\n"),
    ),
    "select": (
        "--dataset web,books --retention 0.3 --dedup near --max-share 1 --where 'width > 5' --stratify --rescale --decontaminate t",
        ('[selection]\ndataset = ["web", "books"]\nretention = 0.3\ndedup = "near"\nmax_share = 1\nwhere = "width > 5"\n'
        'stratify = true\nrescale = true\ndecontaminate = ["t"]\n'),
    ),
    "materialize s": ("--shard-size 10 --to s3://b/k", '[materialization]\nshard_size = 10\nto = "s3://b/k"\n'),
    "train-downstream s": (
        "--preset tiny --arms subset,full --seeds 0,1 --width 32 --truth /t.parquet",
        '[downstream]\npreset = "tiny"\narms = ["subset", "full"]\nseeds = [0, 1]\nwidth = 32\ntruth = "/t.parquet"\n',
    ),
    "evaluate s": ("--evaluation t --protocol fid_mjhq", '[evaluation]\ndataset = "t"\nprotocols = ["fid_mjhq"]\n'),
    "score": ("--dataset web --no-heuristics", '[scoring]\ndataset = "web"\nheuristics = false\n'),
    "report": ("--dataset web", '[report]\ndataset = "web"\n'),
    "ingest --dataset web": ("--root /data/web --role evaluation", '[datasets.web]\nroot = "/data/web"\nrole = "evaluation"\n'),
    "plan evaluate": (
        "--evaluation t --arms subset --seeds 3 --protocol heldout_loss,kid_offline",
        '[downstream]\narms = ["subset"]\nseeds = [3]\n[evaluation]\ndataset = "t"\nprotocols = ["heldout_loss", "kid_offline"]\n',
    ),
}  # fmt: skip


@pytest.mark.parametrize("command", GIVEN)
def test_the_hash_of_a_config_does_not_depend_on_where_its_values_came_from(folder: Path, command: str) -> None:
    flags, text = GIVEN[command]
    by_flag = read(f"{command} {flags}").config
    write(folder, text)
    by_file, origins = read(command)
    assert by_file.fingerprint() == by_flag.fingerprint()
    assert by_file == by_flag
    assert {origin.kind for name, origin in origins.items() if name not in ("subset", "dataset")} <= {"file", "recipe"}
    write(folder, "")
    if command not in ("score", "report", "plan evaluate"):
        return
    assert read(command).config.fingerprint() != by_file.fingerprint()


def test_every_option_of_a_stage_is_a_key_of_its_section_except_those_of_one_run() -> None:
    for section, (stage, of_one_run, renamed) in SECTIONS.items():
        options = {path[-1] for path, field in flag_fields(config_of(stage)) if field.json_schema_extra != BARE_WORD}
        assert of_one_run <= options, section
        others = {"preset", "recipe", "flux"}
        assert {renamed.get(name, name) for name in options - of_one_run} == keys_of(section).keys() - others


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[rater]\nbatch_sise = 3\n", r"\[rater\] 'batch_sise' is not a known key. Did you mean batch_size\?"),
        ("[rater]\narms = []\n", r"\[rater\] 'arms' is not a known key. Did you mean \[downstream\] arms\?"),
        ("[rater]\nzzz = 1\n", r"\[rater\] 'zzz' is not a known key. Known keys: batch_size, .*"),
        ("[rater]\nbatch_size = 1\n", r"'batch_size' = 1 is not allowed: .*greater than or equal to 2 \(Training samples .*at least 2"),
        ("[rater]\nbatch_size = '64'\n", r"'batch_size' = '64' is not allowed: Input should be a valid integer"),
        ("[rater]\nseed = true\n", r"'seed' = True is not allowed"),
        ("[rater]\npenalty = nan\n", r"'penalty' = nan is not allowed"),
        ("[rater]\ncompile = 1\n", r"'compile' = 1 is not allowed"),
        ("[rater]\nrule = 'lose'\n", r"'rule' = 'lose' is not allowed: Input should be 'alignment', 'loss'"),
        ("[rater]\npreset = 'huge'\n", r"'preset' = 'huge' is not allowed: Input should be 'tiny', "),
        ("[rater]\nrecipe = 'tiny'\n", r"'recipe' = 'tiny' is not allowed"),
        ("[rater]\nn_steps = 3\n", r"\[rater\] 'n_steps' is now max_train_steps\."),
        ("[rater]\ntraining = {}\n", r"\[rater\] 'training' is not a known key"),
        ("[selection]\nname = 's'\n", r"'name' belongs to a single run and not to the project file. Give it to the command: --name\."),
        ("[selection]\nretention = 20\n", r"'retention' = 20 is not allowed"),
        ("[selection]\ndataset = 3\n", r"'dataset' = 3 is not allowed"),
        ("[downstream]\nsubset = 's'\n", r"'subset' is an argument of the command and not an option"),
        ("[downstream]\nseeds = [1, 1]\n", r"'seeds' = \[1, 1\] is not allowed: 1 is repeated"),
        ("[downstream]\nseeds = ['1']\n", r"'seeds' = \['1'\] is not allowed"),
        ("[evaluation]\nevaluation = 't'\n", r"'evaluation' is not a known key. Did you mean dataset\?"),
        ("[evaluation]\nweights = '/w'\n", r"'weights' belongs to a single run"),
        ("[evaluation]\nprotocols = [3]\n", r"'protocols' = 3 is not allowed"),
        ("[evaluation.fid_mjhq]\nweight = '/w'\n", r"\[evaluation.fid_mjhq\] 'weight' is not a known key. Did you mean weights\?"),
        ("[evaluation.fid_mjhq]\nweights = 3\n", r"\[evaluation.fid_mjhq\] 'weights' = 3 is not allowed"),
        ("[evaluation.fid_mjqh]\nweights = '/w'\n", r"\[evaluation.fid_mjqh\] is not a protocol .*Did you mean fid_mjhq\?"),
        ("[evaluation]\nprotocols = ['fid_mjqh']\n", r"\[evaluation\] protocols: No evaluation protocol 'fid_mjqh'"),
        ("[scoring]\nrater = 'newest'\n", r"'rater' belongs to a single run"),
        ("rater = 3\n", r"'rater' = 3 is not allowed"),
        ("[rater]\npreset = 'tiny'\nsoftmax_group_size = 48\n", r"\[rater\] is not allowed: .*multiple of softmax_group_size 48"),
        ("[downstream]\npreset = 'tiny'\nmethod = 'lora'\n", r"\[downstream\] is not allowed: .*lora and finetune require"),
        ("[schedule]\nnightly = '2 o clock'\n", r"a cron expression has 5 fields .*this one has 3"),
        ("[schedule]\nnightly = '0 25 * * *'\n", r"'25' is not a hour \(0 to 23\)"),
        ("[schedule]\nnightly = '0 2 * * 1-5'\n", r"'nightly' = '0 2 \* \* 1-5' is not .*must start once on each day: MINUTE HOUR"),
        ("[schedule]\nnightly = '@weekly'\n", r"must start once on each day"),
        ("[schedule]\nnightly = '0 2,14 * * *'\n", r"must start once on each day"),
        ("[schedule]\nnightly = '*/30 2 * * *'\n", r"must start once on each day"),
        ("[schedule]\ntrain = '@yesterday'\n", r"'train' = '@yesterday' is not allowed"),
        ("[schedule]\ntimezone = 'Mars/Base'\n", r"there is no time zone 'Mars/Base'"),
        ("[prices]\ngpu_hours = 3\n", r"\[prices\] 'gpu_hours' is not a known key. Did you mean gpu_hour\?"),
        ("[prices]\ngpu_hour = -3\n", r"'gpu_hour' = -3 is not allowed"),
        ("[datasets.web]\nrole = 'trian'\n", r"\[datasets.web\] 'role' = 'trian' is not allowed"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_refused_with_file_key_value_and_what_is_allowed(folder: Path, text: str, said: str) -> None:
    path = write(folder, text)
    with pytest.raises(ConfigError) as caught:
        check_project(load_project())
    assert all(line.startswith(f"{path}: ") for line in str(caught.value).splitlines())
    assert re.search(said, str(caught.value)), str(caught.value)


@pytest.mark.parametrize("value", ["0 2 * * *", "*/15 0-6,22 1 JAN SUN", "@weekly", "none"])
def test_a_schedule_is_cron_a_preset_or_none(folder: Path, value: str) -> None:
    write(folder, f'[schedule]\nmaintenance = "{value}"\n')
    assert load_project().schedule.maintenance == value


@pytest.mark.parametrize("value", ["0 2 * * *", "30  1 * * *", "@daily", "none"])
def test_a_night_starts_once_on_each_day_or_by_hand_only(folder: Path, value: str) -> None:
    write(folder, f'[schedule]\nnightly = "{value}"\n')
    assert load_project().schedule.nightly == value


def test_a_command_checks_its_own_section_only_and_the_whole_file_is_checked_by_config(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(folder, "[downstream]\nwidht = 3\nseeds = [1, 1]\n")
    read("train-rater --preset tiny --dataset a --validation b")
    assert main(["config", "check"]) == main(["config", "show"]) == 2
    assert capsys.readouterr().err.count("Did you mean width?") == 2
    assert "is repeated" in refusal("train-downstream s --preset tiny")


def test_rules_between_values_are_checked_on_those_that_take_effect(folder: Path) -> None:
    write(folder, '[rater]\npreset = "tiny"\ndataset = "web"\nvalidation = "goal"\nbatch_size = 48\n')
    check_project(load_project())
    said = refusal("train-rater --softmax-group-size 32")
    assert "multiple of softmax_group_size 32" in said
    assert "The project file gives [rater] batch_size." in said


def test_a_required_option_may_come_from_the_file_and_is_asked_for_with_both_places(folder: Path) -> None:
    write(folder, '[rater]\ndataset = "web"\n')
    said = refusal("train-rater --preset tiny")
    assert said.startswith("--validation is required, here or as [rater] validation of alchemist.toml. Help: ")
    assert "requires --preset" in refusal("train-rater")


def test_an_ingest_takes_root_and_role_of_its_dataset_from_the_file(folder: Path) -> None:
    write(folder, '[datasets.goal]\nrole = "validation"\nroot = "tars/goal"\n[datasets.web]\nroot = "s3://crawl/web"\n')
    goal, web, other = (read(f"ingest --dataset {name}").config for name in ("goal", "web", "other"))
    assert isinstance(goal, IngestConfig)
    assert isinstance(web, IngestConfig)
    assert isinstance(other, IngestConfig)
    assert (goal.root, goal.role) == (str(folder / "tars/goal"), "validation")
    assert (web.root, web.role) == ("s3://crawl/web", "train")
    assert other.root is None
    moved = read("ingest --dataset goal --root /elsewhere").config
    assert isinstance(moved, IngestConfig)
    assert (moved.root, moved.role) == ("/elsewhere", "validation")


def test_a_relative_path_of_the_file_starts_at_its_folder_wherever_the_command_runs(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "models" / "sd21").mkdir(parents=True)
    write(folder, """
        [rater]
        preset = "gpu24"
        dataset = "web"
        validation = "goal"
        tokenizer_weights = "vae.pth"
        text_encoder = "clip:models/sd21"
        [downstream]
        preset = "tiny"
        truth = "truth.parquet"
        text_encoder = "clip:openai/clip-vit-large-patch14"
        [materialization]
        to = "out"
        [evaluation]
        protocols = ["heldout_loss", "mine.toml"]
        [evaluation.mine]
        weights = "inception.pt"
    """)  # fmt: skip
    monkeypatch.chdir(folder / "models" / "sd21")
    rater, model, copy, evaluation = (
        read(line).config for line in ("train-rater", "train-downstream s", "materialize s", "evaluate s")
    )
    assert isinstance(rater, TrainRaterConfig)
    assert isinstance(model, TrainDownstreamConfig)
    assert isinstance(evaluation, EvaluateConfig)
    assert rater.training.tokenizer_weights == str(folder / "vae.pth")
    assert rater.training.text_encoder == f"clip:{folder}/models/sd21"
    assert model.truth == folder / "truth.parquet"
    assert model.model.text_encoder == "clip:openai/clip-vit-large-patch14"
    assert copy.as_json()["to"] == str(folder / "out")
    assert evaluation.protocol == f"heldout_loss,{folder}/mine.toml"
    assert [one.weights for one in split_protocols(evaluation)] == [None, folder / "inception.pt"]


def test_a_table_of_the_file_makes_flux_smaller_for_a_trial_and_checks_its_keys(folder: Path) -> None:
    of_flux = '[downstream]\npreset = "flux_mini"\nbase_model = "flux.safetensors"\nflux_components = "flux"\n'
    write(folder, f"{of_flux}[downstream.flux]\nn_double_blocks = 1\n")
    config = read("train-downstream s").config
    assert isinstance(config, TrainDownstreamConfig)
    assert config.model.flux is not None
    assert (config.model.flux.n_double_blocks, config.model.flux.n_single_blocks) == (1, 10)
    write(folder, f"{of_flux}[downstream.flux]\nn_blocks = 1\n")
    assert "[downstream] 'flux' = {'n_blocks': 1} is not allowed" in refusal("train-downstream s")


def test_the_weights_of_a_protocol_are_its_own_and_an_option_belongs_to_one_protocol(folder: Path) -> None:
    write(
        folder, '[evaluation]\nprotocols = ["fid_mjhq", "heldout_loss"]\n[evaluation.fid_mjhq]\nweights = "/w/a.pt"\n'
    )
    fid, loss = split_protocols(EvaluateConfig(subset="s", protocol="fid_mjhq, heldout_loss"))
    assert (fid.protocol, fid.weights, loss.protocol, loss.weights) == (
        "fid_mjhq",
        Path("/w/a.pt"),
        "heldout_loss",
        None,
    )
    given = EvaluateConfig(subset="s", protocol="fid_mjhq", weights=Path("/w/a.pt"))
    assert fid.fingerprint() == given.fingerprint()
    assert split_protocols(given) == [given]
    with pytest.raises(ConfigError, match=r"--weights /w can belong to one protocol only.*\[evaluation.PROTOCOL\]"):
        split_protocols(EvaluateConfig(subset="s", protocol="fid_mjhq,heldout_loss", weights=Path("/w")))


def test_geneval_takes_its_networks_from_the_section_of_its_protocol(folder: Path) -> None:
    write(folder, '[evaluation.geneval]\ndetector = "m2f"\nclip = "/clip"\nclass_names = "/names.txt"\n')
    config = read("geneval judge --images i --out o --clip /other").config.as_json()
    assert (config["detector"], config["clip"], config["class_names"]) == (str(folder / "m2f"), "/other", "/names.txt")


def shown(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, dict[str, dict[str, object]]]:
    capsys.readouterr()
    assert main(["config", "show", *words, "--json"]) == 0
    found: dict[str, dict[str, dict[str, object]]] = json.loads(capsys.readouterr().out)["values"]
    return found


def test_config_show_prints_every_effective_value_with_its_origin(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(folder, RATER)
    assert main(["config", "show", "train-rater", "--seed", "5"]) == 0
    text = capsys.readouterr().out
    assert text.startswith(f"project file: {path}\n\ntrain-rater\n")
    assert re.search(r"^  seed +5 +--seed$", text, re.MULTILINE)
    assert re.search(r"^  batch_size +128 +\[rater\] batch_size$", text, re.MULTILINE)
    assert re.search(r"^  rule +loss +recipe paper$", text, re.MULTILINE)
    assert re.search(r"^  penalty +1.0 +default$", text, re.MULTILINE)
    values = shown(capsys, "train-rater", "--seed", "5")["train-rater"]
    assert values["seed"] == {"value": 5, "kind": "option", "origin": "--seed", "path": None}
    assert values["dataset"] == {"value": "web", "kind": "file", "origin": "[rater] dataset", "path": str(path)}
    options = {path[-1] for path, _ in flag_fields(TrainRaterConfig)}
    assert values.keys() == options | {"preset", "recipe"}


def test_config_show_works_without_a_file_and_a_preset_and_marks_what_a_run_requires(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    values = shown(capsys)
    assert {"ingest", "train-rater", "evaluate", "checks", "schedule", "prices"} <= values.keys()
    assert values["train-rater"]["dataset"] == {"value": None, "kind": "default", "origin": "required", "path": None}
    assert values["train-rater"]["preset"]["value"] is None
    assert main(["config", "check"]) == 2
    assert "alchemist init" in capsys.readouterr().err


def test_config_show_shows_sections_datasets_and_what_a_variable_overrides(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write(
        folder,
        '[prices]\ngpu_hour = 2.5\ncore_hour = 0.1\n[datasets.web]\nroot = "w"\n[datasets.web.drift]\nhold_psi = 0.4\n',
    )
    monkeypatch.setenv("ALCHEMIST_PRICE_PER_GPU_HOUR", "3")
    values = shown(capsys)
    assert (values["prices"]["gpu_hour"]["value"], values["prices"]["gpu_hour"]["origin"]) == (
        3.0,
        "ALCHEMIST_PRICE_PER_GPU_HOUR",
    )
    assert values["prices"]["core_hour"]["origin"] == "[prices] core_hour"
    assert values["datasets.web"]["root"]["value"] == str(folder / "w")
    assert values["datasets.web"]["drift.hold_psi"]["origin"] == "[datasets.web.drift] hold_psi"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["train-ratter"], "Did you mean train-rater?"),
        (["rater"], "Run: alchemist config show train-rater."),
        (["checks", "--max", "3"], "Unexpected argument '--max'"),
        (["train-rater", "--seed", "x"], "--seed 'x' is not valid"),
        (["train-rater", "--sede", "3"], "Did you mean --seed?"),
    ],
)
def test_config_show_refuses_what_it_does_not_know(
    folder: Path, capsys: pytest.CaptureFixture[str], words: list[str], said: str
) -> None:
    try:
        code = main(["config", "show", *words])
    except SystemExit as stopped:
        code = int(stopped.code or 0)
    assert code == 2
    assert said in capsys.readouterr().err
