"""Generate the forms of the DAGs from the config models, as a Python literal (`make generate`).

`dags/` does not import `alchemist_core`, and Airflow chooses a widget by a plain `type`: schemas are flattened, and an optional
field may be null.
"""

import json
from collections.abc import Iterable
from typing import Any

from pydantic import BaseModel

from alchemist_core.cli.flags import flag_fields
from alchemist_core.config import Formerly
from alchemist_core.presets import RECIPES, presets_of

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
PRESET_TEXT = "Size of the networks; empty: as the project file says, which must then name one"
RECIPE_TEXT = "Scoring rule and rank window; empty: ours, rule alignment"
HEADER = (
    '"""The forms of the DAGs. Written by `make generate` from the config models; a test compares: do not edit."""\n'
)


def build_forms() -> dict[str, dict[str, Field]]:
    """Return the form of each DAG: every field as keywords of Airflow's Param."""
    from alchemist_core.stages.evaluate import EvaluateConfig  # noqa: PLC0415  imported only to generate
    from alchemist_core.stages.ingest import IngestConfig  # noqa: PLC0415
    from alchemist_core.stages.report import ReportConfig  # noqa: PLC0415
    from alchemist_core.stages.select import SelectConfig  # noqa: PLC0415
    from alchemist_core.stages.train_downstream import TrainDownstreamConfig  # noqa: PLC0415
    from alchemist_core.stages.train_rater import TrainRaterConfig  # noqa: PLC0415

    return {
        "nightly_rescore": _form(IngestConfig, "dataset", "root", "crawl_date"),
        "train_rater": {
            "preset": _choice("preset", PRESET_TEXT, presets_of("train_rater")),
            "recipe": _choice("recipe", RECIPE_TEXT, RECIPES),
            **_form(TrainRaterConfig, "dataset", "validation"),
            **_form(TrainRaterConfig, "rule", "seed", "max_train_steps", "max_samples", is_preset=True),
        },
        "build_subset": {
            **_form(SelectConfig, "dataset", "retention", "name", "strategy"),
            **_form(SelectConfig, "drop_top_ratio", "mean_rank", "std_rank", "start_rank", "seed", "rater"),
            **_form(SelectConfig, "dedup", "rescale"),
            "materialize": _switch("materialize", "Write the members as tar shards with a verified manifest"),
            "dry_run": _switch("dry_run", "Only preview what would be selected"),
            "approve": _switch("approve", "Ask a person before the version is published"),
        },
        "evaluate_subset": {
            "preset": _choice("preset", PRESET_TEXT, presets_of("train_downstream")),
            **_form(TrainDownstreamConfig, "arms"),
            "seeds": {**_form(TrainDownstreamConfig, "seeds")["seeds"], "default": SEEDS, "description": SEEDS_TEXT},
            **_form(TrainDownstreamConfig, "truth"),
            **_form(EvaluateConfig, "evaluation"),
            **_form(ReportConfig, "dataset"),
        },
    }


def build_renames() -> dict[str, dict[str, str]]:
    """Return the current names of renamed form fields by their former names, for each DAG."""
    from alchemist_core.stages.select import SelectConfig  # noqa: PLC0415  imported only to generate
    from alchemist_core.stages.train_downstream import TrainDownstreamConfig  # noqa: PLC0415
    from alchemist_core.stages.train_rater import TrainRaterConfig  # noqa: PLC0415

    marks = {
        path[-1]: mark.name
        for model in (SelectConfig, TrainDownstreamConfig, TrainRaterConfig)
        for path, field in flag_fields(model)
        for mark in field.metadata
        if isinstance(mark, Formerly) and mark.name
    }
    return {dag: {marks[name]: name for name in form if name in marks} for dag, form in build_forms().items()}


def _form(model: type[BaseModel], *names: str, is_preset: bool = False) -> dict[str, Field]:
    schema = model.model_json_schema()
    fields = dict(_flatten(schema, schema.get("$defs", {})))
    return {name: _widget(name, fields[name], is_preset=is_preset) for name in names}


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


def _widget(name: str, field: Field, *, is_preset: bool) -> Field:
    """Return one field as keywords of Airflow's Param.

    Args:
        name: name of the field.
        field: its flat JSON schema.
        is_preset: whether an empty field means the value of the preset.
    """
    choices = field.get("anyOf", [field])
    inner = next(choice for choice in choices if choice.get("type") != "null")
    merged = {**inner, **field}
    kept = {key: value for key, value in merged.items() if key in KEPT}
    if kept.get("format") != "date":  # the only format with its own widget
        kept.pop("format", None)
    kept["description"] = kept["description"].replace("; none: ", "; empty: ")
    kind = "string" if inner["type"] == "array" else inner["type"]
    is_empty_allowed = len(choices) > 1 or is_preset
    if is_preset and len(choices) == 1:
        kept["description"] += "; empty: the value of the preset"
        kept |= {"enum": [None, *kept["enum"]]} if "enum" in kept else {}
    if kind in ("integer", "number"):
        bounds = {key: merged[key] for key in BOUNDS if key in merged}
        default = None if is_empty_allowed else str(field["default"])
        number = _typed_number(kind, bounds, is_empty_allowed=is_empty_allowed)
        return {"default": default, "title": _title(name), **kept, **number}
    if is_empty_allowed:
        return {"type": [kind, "null"], "default": None, "title": _title(name), **kept}
    if field["is_required"]:
        return {"type": kind, "title": _title(name), **kept, **({"minLength": 1} if kind == "string" else {})}
    return {"type": kind, "default": _text(field["default"]), "title": _title(name), **kept}


def _typed_number(kind: str, bounds: Field, *, is_empty_allowed: bool) -> Field:
    """Return the conditions of a number: a pattern for typed text, with the allowed values in words, and bounds for a number.

    >>> _typed_number("integer", {"minimum": 0, "exclusiveMaximum": 100}, is_empty_allowed=False)["then"]["allowed"]
    'at least 0, below 100'
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
        pattern = rf"^\s*([0-9]{{1,{len(str(int(largest)))}}}(\.[0-9]*)?|\.[0-9]+)\s*$"
    number = {"type": [kind, "null"] if is_empty_allowed else kind, **bounds}
    return {"if": {"type": "string"}, "then": {"allowed": words, "pattern": pattern}, "else": number}


def _text(default: Any) -> Any:
    return ",".join(map(str, default)) if isinstance(default, (list, tuple)) else default


def _choice(name: str, text: str, choices: Iterable[str]) -> Field:
    """Return an optional field with fixed choices."""
    return {
        "type": ["string", "null"], "default": None, "title": _title(name), "description": text, "enum": [None, *choices],
    }  # fmt: skip


def _switch(name: str, text: str) -> Field:
    return {"type": "boolean", "default": False, "title": _title(name), "description": text}


def _title(name: str) -> str:
    return name.replace("_", " ").capitalize().replace("Max train steps", "Steps")


def render_forms() -> str:
    """Return the text of dags/alchemist_dags/forms.py, one field per line."""
    # Through JSON, so that the literal contains only plain values.
    forms: dict[str, dict[str, Field]] = json.loads(json.dumps(build_forms()))
    lines = [HEADER, "FORMS = {"]
    for dag, fields in forms.items():
        lines += [f'    "{dag}": {{', *(f'        "{name}": {field},' for name, field in fields.items()), "    },"]
    lines += ["}", "", "# Current names of renamed fields, by their former names.", "RENAMED = {"]
    lines += [f'    "{dag}": {renames},' for dag, renames in build_renames().items()]
    return "\n".join([*lines, "}", ""])


if __name__ == "__main__":
    print(render_forms(), end="")  # noqa: T201  the output is the file
