"""Generate the forms and the schedules of the DAGs from the config models and the project file, as Python literals.

`make generate` writes those of an installation without a project file; `alchemist dags install` and `alchemist stack up` those of the
project file. `dags/` does not import `alchemist_core`, and Airflow chooses a widget by a plain `type`: schemas are flattened, and an
empty field is null. An empty field is not passed to the command, so that it means what the project file says.
"""

import json
import re
import sys
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from alchemist_core.cli.effective import compose, leaves
from alchemist_core.cli.flags import flag_fields
from alchemist_core.cli.sections import SECTION_OF, SECTIONS, config_of, section_values
from alchemist_core.config import Formerly
from alchemist_core.presets import DEFAULT_RECIPE, PRESETS, RECIPE_STAGES, RECIPES, preset_values, presets_of
from alchemist_core.project import NEVER, Project

Field = dict[str, Any]

KEPT = ("description", "enum", "pattern", "format")
# Airflow's number widget silently changes a typed 35 to the maximum and drops a minus sign. A field without a type is a text
# widget; Airflow's server checks both the typed text (`then`) and a number from the REST API (`else`).
BOUNDS = {"exclusiveMinimum": "above", "minimum": "at least", "exclusiveMaximum": "below", "maximum": "at most"}
# One seed gives no interval, so the form defaults to three; the stage defaults to one, for quick trials.
SEEDS = "0,1,2"
SEEDS_TEXT = (
    "Seeds, separated by commas; all arms of a seed start from the same weights. Several seeds give an interval"
)
SWITCH = [None, "yes", "no"]
"""Choices of an option that is switched on or off; jobs.py turns them into true and false."""
EMPTY_TEXTS = {
    ("ingest", "dataset"): "all training datasets, registered ones and those of the project file",
    # As `Run.of` of dags/alchemist_dags/jobs.py reads it.
    ("ingest", "crawl_date"): "today in the time zone of the schedule; if the schedule starts the run, the day before",
    ("ingest", "root"): "as [datasets.NAME] of the project file says",
}
"""What an empty field means where the option's own text does not say it."""
FORMS_HEADER = '"""The forms of the DAGs. Written from the config models and the project file: do not edit."""\n'
SCHEDULES_HEADER = '''"""When the DAGs start, and the project file of their tasks. Written from the project file: do not edit."""
'''


class Part(NamedTuple):
    """A section of a form: its title, the stage, and the fields of the stage's config model.

    Airflow shows fields without a section first and unfolded, and each section folded.
    """

    title: str | None
    stage: str
    names: tuple[str, ...]


LAYOUT: dict[str, tuple[Part, ...]] = {
    "nightly_rescore": (Part(None, "ingest", ("dataset", "root", "crawl_date")),),
    "train_rater": (
        Part(None, "train-rater", ("dataset", "validation", "max_samples")),
        Part("Size and scoring rule", "train-rater", ("preset", "recipe", "rule")),
        Part(
            "Networks", "train-rater", ("resolution", "tokenizer", "tokenizer_weights", "proxy_weights", "text_encoder")
        ),
        Part("Training", "train-rater", ("seed", "max_train_steps", "batch_size")),
    ),
    "build_subset": (
        Part(None, "select", ("dataset", "retention", "name", "rater")),
        Part("Strategy", "select", ("recipe", "strategy", "drop_top_ratio", "mean_rank", "std_rank", "start_rank")),
        Part("Sampling", "select", ("seed", "rank_by", "rescale")),
        Part("Which samples", "select", ("where", "dedup", "decontaminate", "accept", "accept_loss", "min_score")),
        Part("Repeats and weights", "select", ("fill", "weight_by", "weight_clip")),
        Part(
            "Variety, strata and caps",
            "select",
            ("variety", "stratify", "stratify_by", "max_share", "max_share_of", "allow_fewer"),
        ),
    ),
    "evaluate_subset": (
        Part(
            None,
            "train-downstream",
            (
                "preset",
                "text_encoder",
                "method",
                "base_model",
                "flux_components",
                "num_train_epochs",
                "max_train_steps",
            ),
        ),
        Part("Comparison", "train-downstream", ("arms", "seeds", "truth")),
        Part("Measurement", "evaluate", ("evaluation", "protocol")),
        Part("Report", "report", ("dataset",)),
    ),
}
SWITCHES = {
    "build_subset": {
        "materialize": "Write the members as tar shards with a verified manifest",
        "dry_run": "Only preview what would be selected",
        "approve": "Ask a person before the version is published",
    }
}
"""What a DAG does besides its stages, switched on in its form."""


def build_forms(project: Project | None = None) -> dict[str, dict[str, Field]]:
    """Return the form of each DAG: every field as keywords of Airflow's Param.

    Args:
        project: The project file, whose values the descriptions name. None: an installation whose file is not known.
    """
    forms = {}
    for dag, parts in LAYOUT.items():
        fields = {name: field for part in parts for name, field in _fields_of(part, project).items()}
        switches = {name: _switch(name, text) for name, text in SWITCHES.get(dag, {}).items()}
        forms[dag] = fields | switches
    return forms


def build_renames() -> dict[str, dict[str, str]]:
    """Return the current names of renamed form fields by their former names, for each DAG."""
    marks = {
        path[-1]: mark.name
        for stage in ("select", "train-downstream", "train-rater")
        for path, field in flag_fields(config_of(stage))
        for mark in field.metadata
        if isinstance(mark, Formerly) and mark.name
    }
    return {
        dag: {marks[name]: name for part in parts for name in part.names if name in marks}
        for dag, parts in LAYOUT.items()
    }


class Given(NamedTuple):
    """A value that takes effect without an option, and where it comes from: file, preset or recipe, and its name."""

    value: Any
    kind: str
    name: str


class Empty(NamedTuple):
    """What the fields of a stage mean if they are left empty."""

    stage: str
    project: Project | None
    given: dict[str, Given]
    """What the project file, its preset and its recipe give, by the name of the field."""
    chosen: dict[str, str | None]
    """The preset and the recipe of the project file."""

    @classmethod
    def of(cls, stage: str, project: Project | None) -> "Empty":
        """Read the section of a stage; stages without a section have only defaults."""
        if project is None or stage not in SECTION_OF:
            return cls(stage, project, {}, {})
        found = compose(stage, config_of(stage), {}, section_values(project, SECTION_OF[stage]))
        chosen = {"preset": found.preset, "recipe": found.recipe}
        given = {}
        for path, origin in found.origins.items():
            value: Any = found.values | chosen
            for part in path.split("."):
                value = value[part]
            given[path.rpartition(".")[2]] = Given(value, origin.kind, origin.name)
        return cls(stage, project, given, chosen | {"recipe": found.recipe or DEFAULT_RECIPE})

    def describe(self, name: str, default: Any, tail: str) -> str:
        """Return what an empty field means; empty text if its description needs no addition.

        Args:
            name: The field.
            default: Its default.
            tail: What its own description says about an option that is not given.
        """
        otherwise = EMPTY_TEXTS.get((self.stage, name)) or tail or ("" if default in (None, [], ()) else _text(default))
        if (self.stage, name) in EMPTY_TEXTS or self.stage not in SECTION_OF:
            return otherwise
        if name in SECTIONS[SECTION_OF[self.stage]].of_one_run:
            return otherwise
        if self.project is None or self.project.path is None:
            return self._describe_unknown(name, otherwise, tail)
        return self._describe_known(name, otherwise, tail, self.project.path.name)

    def _describe_unknown(self, name: str, otherwise: str, tail: str) -> str:
        """Return the meaning where the project file is not known."""
        if name == "preset":
            return "as the project file says"
        kind = None if tail else _set_by(self.stage).get(name)
        return f"as the project file says, else {f'the value of the {kind}' if kind else otherwise or 'none'}"

    def _describe_known(self, name: str, otherwise: str, tail: str, file: str) -> str:
        """Return the meaning with the values of the project file."""
        if (given := self.given.get(name)) is not None:
            value = _text(given.value)
            return f"as {file} says ({value})" if given.kind == "file" else f"{value} ({given.kind} {given.name})"
        preset = self.chosen.get("preset")
        if name == "preset":
            return f"none, so choose one: {file} names none"
        if preset and name in PRESETS[preset].needs.get(self.stage.replace("-", "_"), ()):
            return f"none, but preset {preset} requires it and {file} does not give it"
        kind = _set_by(self.stage).get(name)
        if kind is None or tail:
            return otherwise or "none"
        chosen = self.chosen[kind]
        return f"{otherwise or 'none'} ({kind} {chosen})" if chosen else f"the value of the {kind}"


@cache
def _set_by(stage: str) -> dict[str, str]:
    """Return the fields that presets or recipes of a stage set, and which of the two does.

    >>> _set_by("train-rater")["resolution"], _set_by("train-rater")["rule"]
    ('preset', 'recipe')
    """
    name = stage.replace("-", "_")
    sources = [("preset", preset_values(name, preset=each)) for each in presets_of(name)]
    sources += [("recipe", preset_values(name, recipe=each)) for each in RECIPES]
    return {path.rpartition(".")[2]: kind for kind, values in sources for path in leaves(values)}


def _fields_of(part: Part, project: Project | None) -> dict[str, Field]:
    """Return the fields of one section of a form."""
    declared, empty = _declared(part.stage), Empty.of(part.stage, project)
    fields = {}
    for name in part.names:
        field = _choice(part.stage, name) if name in ("preset", "recipe") else declared[name]
        is_required = field["is_required"] and name not in empty.given
        widget = _widget(name, field, is_required=is_required)
        if not is_required:
            text, tail = _split_empty(widget["description"])
            meaning = empty.describe(name, field.get("default"), tail)
            widget["description"] = f"{text}; empty: {meaning}" if meaning else text
        fields[name] = widget | ({"section": part.title} if part.title else {})
    if "seeds" in fields and "seeds" not in empty.given:
        fields["seeds"] |= {"type": "string", "default": SEEDS, "description": SEEDS_TEXT}
    return fields


@cache
def _declared(stage: str) -> dict[str, Field]:
    """Return the fields of a stage's config by name, as JSON schema describes them; not to be changed."""
    schema = config_of(stage).model_json_schema()
    return dict(_flatten(schema, schema.get("$defs", {})))


def _split_empty(description: str) -> tuple[str, str]:
    """Return a description without its last part, and that part: what an option that is not given means.

    >>> _split_empty("Samples; none: all")
    ('Samples', 'all')
    """
    found = re.fullmatch(r"(.*?); (?:none|default): (.*)", description, re.DOTALL)
    return (found[1], found[2]) if found else (description, "")


def _flatten(schema: Field, definitions: Field) -> list[tuple[str, Field]]:
    """Return every field with references resolved and nested models flattened, and whether it is required."""
    found: list[tuple[str, Field]] = []
    for name, declared in schema["properties"].items():
        field = {**definitions.get(declared.get("$ref", "").rpartition("/")[2], {}), **declared}
        if "properties" in field:
            found += _flatten(field, definitions)
        else:
            found.append((name, {**field, "is_required": name in schema.get("required", ())}))
    return found


def _widget(name: str, field: Field, *, is_required: bool) -> Field:
    """Return one field as keywords of Airflow's Param; a field that is not required may be empty.

    Args:
        name: name of the field.
        field: its flat JSON schema.
        is_required: whether it must be filled in.
    """
    choices = field.get("anyOf", [field])
    inner = next(choice for choice in choices if choice.get("type") != "null")
    merged = {**inner, **field}
    kept = {key: value for key, value in merged.items() if key in KEPT}
    if kept.get("format") != "date":  # the only format with its own widget
        kept.pop("format", None)
    kind = "string" if inner["type"] in ("array", "boolean") else inner["type"]
    if inner["type"] == "boolean":
        kept["enum"] = SWITCH[1:]
    if is_required:
        return {"type": kind, "title": _title(name), **kept, "minLength": 1}
    if "enum" in kept:
        # Airflow would show the empty choice as null.
        kept |= {"enum": [None, *kept["enum"]], "values_display": {"null": "empty"}}
    if kind in ("integer", "number"):
        bounds = {key: merged[key] for key in BOUNDS if key in merged}
        return {"default": None, "title": _title(name), **kept, **_typed_number(kind, bounds, merged.get("or_word"))}
    return {"type": [kind, "null"], "default": None, "title": _title(name), **kept}


def _typed_number(kind: str, bounds: Field, word: str | None = None) -> Field:
    """Return the conditions of a number: a pattern for typed text, with the allowed values in words, and bounds for a number.

    The text may also be the word.

    >>> _typed_number("integer", {"minimum": 0, "exclusiveMaximum": 100})["then"]["allowed"]
    'at least 0, below 100'
    >>> re.search(_typed_number("number", {})["then"]["pattern"], "-1.5") is not None
    True
    """
    words = ", ".join(
        f"{BOUNDS[key]} {value:g}" if kind == "number" else f"{BOUNDS[key]} {value}" for key, value in bounds.items()
    )
    largest: float = bounds.get("maximum") or bounds.get("exclusiveMaximum") or 10**9
    assert isinstance(largest, (int, float)), f"a bound of a form is {largest!r}"
    if kind == "integer":
        pattern = rf"^\s*[0-9]{{1,{len(str(largest))}}}\s*$"
    elif largest == 1:
        words += "; such as 0.2 or 20%"
        not_zero = r"(?![0.\s%]*$)" if "exclusiveMinimum" in bounds else ""
        not_one = r"(?!0*1\.?0*\s*$|0*100)" if "exclusiveMaximum" in bounds else ""
        pattern = rf"^\s*{not_zero}{not_one}(0*\.[0-9]+|0+\.?|0*1\.?0*|([0-9]{{1,2}}(\.[0-9]+)?|100(\.0+)?)\s*%)\s*$"
    else:
        words = words or "such as 0.2 or -1.5"
        sign = "" if bounds else "-?"
        pattern = rf"^\s*{sign}([0-9]{{1,{len(str(int(largest)))}}}(\.[0-9]*)?|\.[0-9]+)\s*$"
    then: Field = {"allowed": words, "pattern": pattern}
    if word is not None:
        then = {"allowed": f"{words}; or {word}", "pattern": rf"{pattern}|^\s*{word}\s*$", "word": word}
    return {
        "if": {"type": "string"},
        "then": then,
        "else": {"type": [kind, "null"], **bounds},
    }


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return ",".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


def _choice(stage: str, name: str) -> Field:
    """Return the schema of preset or recipe, which are no fields of a config model."""
    stage, is_preset = stage.replace("-", "_"), name == "preset"
    words = list(presets_of(stage) if is_preset else RECIPES)
    text = "Size of the networks" if is_preset else RECIPE_STAGES[stage]
    default = None if is_preset else DEFAULT_RECIPE
    return {"type": "string", "description": text, "default": default, "is_required": False, "enum": words}


def _switch(name: str, text: str) -> Field:
    return {"type": "boolean", "default": False, "title": _title(name), "description": text, "section": "Afterwards"}


def _title(name: str) -> str:
    return name.replace("_", " ").capitalize().replace("Max train steps", "Steps")


def render_forms(project: Project | None = None) -> str:
    """Return the text of dags/alchemist_dags/forms.py, one field per line."""
    # Through JSON, so that the literal contains only plain values.
    forms: dict[str, dict[str, Field]] = json.loads(json.dumps(build_forms(project)))
    lines = [FORMS_HEADER, "FORMS = {"]
    for dag, fields in forms.items():
        lines += [f'    "{dag}": {{', *(f'        "{name}": {field},' for name, field in fields.items()), "    },"]
    lines += ["}", "", "# Current names of renamed fields, by their former names.", "RENAMED = {"]
    lines += [f'    "{dag}": {renames},' for dag, renames in build_renames().items()]
    return "\n".join([*lines, "}", ""])


def render_schedules(project: Project | None = None) -> str:
    """Return the text of dags/alchemist_dags/schedules.py."""
    section = (project or Project()).schedule
    times = {"nightly_rescore": section.nightly, "train_rater": section.train, "maintenance": section.maintenance}
    declared = {} if project is None else project.datasets
    datasets = sorted(name for name, own in declared.items() if own.role == "train")
    path = None if project is None or project.path is None else json.dumps(str(project.path))
    lines = [
        SCHEDULES_HEADER,
        "# Cron expressions; None: by hand only.",
        "CRON = {",
        *(f'    "{dag}": {None if cron == NEVER else json.dumps(cron)},' for dag, cron in times.items()),
        "}",
        f"TIMEZONE = {json.dumps(section.timezone)}",
        "# Whether evaluate_subset starts when build_subset publishes a version.",
        f"EVALUATE_PUBLISHED = {section.evaluate == 'published'}",
        "# Training datasets of the project file: the crawl of each starts a night.",
        f"DATASETS = {json.dumps(datasets)}",
        "# The project file that tasks read where ALCHEMIST_PROJECT is not set.",
        f"PROJECT = {path}",
        "# Nodes of a training: the pods of its Indexed Job on Kubernetes.",
        f"NODES = {(project or Project()).launch.nodes}",
    ]
    return "\n".join([*lines, ""])


RENDERED = {"forms.py": render_forms, "schedules.py": render_schedules}
"""The files that are generated, by name."""


if __name__ == "__main__":
    for file, render in RENDERED.items():
        (Path(sys.argv[1]) / file).write_text(render(), encoding="utf-8")
