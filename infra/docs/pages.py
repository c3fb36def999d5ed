"""The pages of the documentation made from the code: settings, project file, presets, metrics, DAGs, records, protocols, checks."""

import ast
import re
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, get_args, get_origin

import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from alchemist_core.cli.flags import describe
from alchemist_core.cli.forms import build_forms
from alchemist_core.cli.sections import SECTIONS, NetworkFiles, keys_of
from alchemist_core.presets import NETWORKS, PRESETS, RECIPES, line_of
from alchemist_core.project import VARIABLES as OVERRIDES
from alchemist_core.project import DatasetSection, Project, ScorerSection
from alchemist_core.quality import suites
from alchemist_core.quality.limits import CheckLimits
from alchemist_core.scorers.catalogue import BUILT_IN
from alchemist_core.shards.crawl_attributes import CRAWL_ATTRIBUTES
from alchemist_core.shards.faults import Reason
from alchemist_core.shards.repairs import ENCODING_OF, Repair
from alchemist_core.telemetry import CATALOGUE
from infra.docs import commands, errors, interface
from infra.docs.markdown import plain, table

CHECKOUT = Path(__file__).parents[2]
PROJECT_HEAD = """# Project file

`alchemist.toml` says what an installation curates, with which models and within which limits. `alchemist init` writes it,
`alchemist config check`
checks it, `alchemist config show` prints each value that takes effect and where it comes from. A command looks for it in the
working directory and in
the folders above it, or takes the path in `ALCHEMIST_PROJECT`. An option of a command has precedence over the file, the file over
a recipe and a
preset, and these over the default. For `select`, the word `none` leaves out a value of the file: `--where none`, `--max-share none`.
An unknown key is refused. Relative paths start at the folder of the file.
"""
PRESETS_HEAD = """# Presets and recipes

A *preset* is a size of the networks, made for some hardware (`--preset`, `preset` in `[rater]` and `[downstream]`). A *recipe* is
a scoring rule and how
`select` uses its scores (`--recipe`). The two combine; other options override single values. `alchemist presets NAME` prints all
values of a preset,
`alchemist plan train-rater --preset NAME` its memory, time and cost on your GPU.
"""
METRICS_HEAD = """# Metrics and alerts

`alchemist serve-metrics` serves these metrics to Prometheus, read from the database at every scrape. Labels are bounded: no
metric has a label
with a sample, a shard or a run. Airflow's own metrics are passed on under their names (`airflow_…`).

## Metrics
"""
ALERTS_HEAD = """
## Alerts

*page*: act now. *ticket*: act on the next working day. The name of each alert leads to its entry in the [runbook](../how-to/runbook.md).

"""
DAGS_HEAD = """# DAGs and their forms

A task of a DAG is one command of [`alchemist`](commands/index.md). An empty field of a form means what the [project
file](project-file.md) says at the time of the
run. `alchemist dags install` writes the forms and schedules from the project file. The [runbook](../how-to/runbook.md) says what
to do when a task fails.
"""
RECORDS_HEAD = """# Reason codes and crawl attributes

## Reason codes

Why a record was quarantined, in `quarantined_samples.reason`; `quarantined_samples.detail` says what was found. The codes never change.

"""
CHECKS_HEAD = """# Data checks

`alchemist check` runs these checks. One that *stops* ends the pipeline of its night or subset: no sample of the night can be selected
until the data is repaired, or a person [releases or rejects the night](../how-to/held-night.md), and a subset is not published. One that
*warns* is only counted. `--crawl-date` names the night. Without it, each night of the dataset that is not decided yet is checked, and a
failure stops this night. Then all nights together are checked, which stops none, and where checks only warn, because they also meet nights
that a person has decided or that are being scored; only `locations_are_scored_or_quarantined` fails the command. The limits are keys of
[`[checks]`](project-file.md#checks), or of `[datasets.NAME.checks]` for one dataset; the
bounds below are the default ones. Suites of your own: [runbook](../how-to/runbook.md#check).
"""
REPAIRS_HEAD = """## Repairs

Records that could be used after a repair, in `sample_locations.repair`. The bytes of the record stay as they are: every reader
repairs them again.

"""


def render() -> dict[str, str]:
    """Return every page that needs no database, by path."""
    return {
        **commands.render(), **errors.render(), **interface.render(), "reference/project-file.md": project_file(),
        "reference/presets.md": presets(), "reference/metrics.md": metrics(), "reference/dags.md": dags(),
        "reference/records.md": records(), "reference/protocols.md": protocols(), "reference/checks.md": checks(),
    }  # fmt: skip


def project_file() -> str:
    """Return the page of the project file."""
    parts = [PROJECT_HEAD, "## Sections\n"]
    fields = Project.model_fields
    names = {"datasets": "datasets.NAME", "scorers": "scorers.NAME"}
    parts.append(
        table(
            ("section", "holds"), [(_link(names.get(name, name)), field.description) for name, field in fields.items()]
        )
    )
    for name, field in fields.items():
        title = names.get(name, name)
        parts.append(f"## [{title}] {{ #{_anchor(title)} }}\n")
        parts.append(f"{field.description}.\n")
        if name in SECTIONS:
            parts += _stage_section(name)
        else:
            model = {"datasets": DatasetSection, "scorers": ScorerSection}.get(name, field.annotation)
            parts.append(table(("key", "meaning"), [_key(name, key, one) for key, one in model.model_fields.items()]))
        if name == "evaluation":
            parts += ["### [evaluation.PROTOCOL]\n", f"{(NetworkFiles.__doc__ or '').strip()}\n"]
            parts.append(
                table(("key", "meaning"), [_key("", key, one) for key, one in NetworkFiles.model_fields.items()])
            )
    return "\n".join(parts)


def _anchor(title: str) -> str:
    return title.replace(".", "-").lower()


def _link(title: str) -> str:
    return f"[`[{title}]`](#{_anchor(title)})"


def _stage_section(name: str) -> Iterator[str]:
    stage, of_one_run, _ = SECTIONS[name]
    options = f"Options of [`alchemist {stage}`](commands/stages.md#alchemist-{stage}); a list may be a TOML list."
    without = ", ".join(f"`{key}`" for key in sorted(of_one_run))
    yield options + (f" Not in the file, because they belong to one run: {without}." if without else "") + "\n"
    yield table(("key", "meaning"), [(f"`{key}`", _about(key, one.field)) for key, one in keys_of(name).items()])


def _about(name: str, field: FieldInfo) -> str:
    kind = field.annotation
    choices = ", ".join(f"`{word}`" for word in get_args(kind)) if str(get_origin(kind)) == "typing.Literal" else ""
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return plain(field.description or name)
    if name in ("preset", "recipe"):
        return f"{plain(field.description or '')}. One of: {choices}"
    text = (
        plain(describe(name, field))
        .replace("default: True", "default: true")
        .replace("default: False", "default: false")
    )
    return text + (f". One of: {choices}" if choices else "")


def _key(section: str, name: str, field: FieldInfo) -> tuple[str, str]:
    override = OVERRIDES.get((section, name))
    note = f" `ALCHEMIST_{override.upper()}` overrides it." if override else ""
    return f"`{name}`", _about(name, field) + note


def presets() -> str:
    """Return the page of presets and recipes."""
    parts = [PRESETS_HEAD]
    for name, preset in PRESETS.items():
        parts += [f"## {name}\n", f"For {preset.hardware}.\n"]
        for stage, values in preset.values.items():
            parts.append(f"`alchemist {stage.replace('_', '-')} --preset {name}`: {line_of(stage, name)}.\n")
            if own := values.get(NETWORKS[stage]):
                parts.append(
                    table(
                        ("option", "value"), [(f"`--{key.replace('_', '-')}`", _value(one)) for key, one in own.items()]
                    )
                )
    parts += ["## Recipes\n", table(("recipe", "is", "values at retention 20%"), [_recipe(name) for name in RECIPES])]
    return "\n".join(parts)


def _value(value: object) -> str:
    return "yes" if value is True else "the network's own" if value in (None, {}) else f"`{value}`"


def _recipe(name: str) -> tuple[str, str, str]:
    recipe = RECIPES[name]
    flat = dict(_leaves(recipe.values(0.2)))
    return f"`{name}`", recipe.text, ", ".join(f"`{key} = {value}`" for key, value in flat.items()) or "the defaults"


def _leaves(values: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _leaves(value)
        else:
            yield key, value


def metrics() -> str:
    """Return the page of metrics, alerts and recording rules."""
    rows = [(f"`{one.name}`", ", ".join(f"`{label}`" for label in one.labels), plain(one.text)) for one in CATALOGUE]
    parts = [METRICS_HEAD, table(("metric", "labels", "meaning"), rows), ALERTS_HEAD]
    alerts = [(one["alert"], one) for one in _rules("alerts.yml")]
    parts.append(table(
        ("alert", "severity", "fires after", "summary"),
        [(f"[{name}](../how-to/runbook.md#{name.lower()})", one["labels"]["severity"], one.get("for", "at once"),
          plain(one["annotations"]["summary"])) for name, one in alerts],
    ))  # fmt: skip
    for name, one in alerts:
        parts.append(f"### Condition of {name}\n\n```promql\n{one['expr'].strip()}\n```\n")
    parts.append("## Recording rules\n")
    parts += [f"`{one['record']}`\n\n```promql\n{one['expr'].strip()}\n```\n" for one in _rules("recording.yml")]
    return "\n".join(parts)


def _rules(name: str) -> Iterator[dict[str, Any]]:
    given = yaml.safe_load((CHECKOUT / "infra" / "prometheus" / name).read_text(encoding="utf-8"))
    for group in given["groups"]:
        yield from group["rules"]


def dags() -> str:
    """Return the page of the DAGs and their forms, without the values of a project file."""
    parts, forms = [DAGS_HEAD], build_forms()
    for path in sorted((CHECKOUT / "dags" / "alchemist_dags").glob("*.py")):
        text = path.read_text(encoding="utf-8")
        if "\n@dag(" not in text:
            continue
        about = (ast.get_docstring(ast.parse(text)) or "").partition("\nRunbook:")[0]
        parts += [f"## {path.stem}\n", plain(_as_code(about)) + "\n"]
        if form := forms.get(path.stem):
            parts.append(table(("field", "section", "meaning"), [_field(name, one) for name, one in form.items()]))
    return "\n".join(parts)


def _as_code(text: str) -> str:
    """Return text whose indented lines are a picture in a block of code."""
    lines, is_code = [], False
    for line in text.split("\n"):
        if line.startswith("    ") != is_code and line.strip():
            lines.append("```text" if not is_code else "```")
            lines += [] if not is_code else [""]
            is_code = not is_code
        lines.append(line.removeprefix("    ") if is_code else line)
    return "\n".join([*lines, *(["```"] if is_code else [])]).replace("\n\n```\n", "\n```\n")


def _field(name: str, field: Mapping[str, Any]) -> tuple[str, str, str]:
    choices = [str(choice) for choice in field.get("enum", ()) if choice is not None]
    text = field["description"].rstrip(".") + "."
    return f"`{name}`", field.get("section", ""), plain(text) + (f" One of: {', '.join(choices)}." if choices else "")


def records() -> str:
    """Return the page of reason codes and crawl attributes."""
    rows = [(f"`{reason.value}`", heading) for reason, heading in _reasons()]
    attributes = [(f"`{one.name}`", ", ".join(f"`{key}`" for key in one.keys), one.comment) for one in CRAWL_ATTRIBUTES]
    return "\n".join([
        RECORDS_HEAD, table(("code", "concerns"), rows), REPAIRS_HEAD, table(("code", "repair"), list(_repairs())), "## Crawl attributes\n",
        "Fields of a record's JSON that have a column of their own in `samples`; the first key with a text is used.\n",
        table(("column", "keys", "meaning"), attributes),
    ])  # fmt: skip


def checks() -> str:
    """Return the page of the built-in data checks."""
    limits, parts = CheckLimits(), [CHECKS_HEAD]
    of_suite = {
        "shards": suites.shards(limits), "samples": suites.samples(limits), "scores": suites.scores(limits),
        "subset": suites.subset(1, limits), "evaluation": suites.evaluation(),
    }  # fmt: skip
    for suite, found in of_suite.items():
        rows = [
            (f"`{one.name}`", _about_check(one), "stops" if one.severity == suites.FAIL else "warns",
             ", ".join(f"`{key}`" for key in one.settings), plain(suites.REMEDIES[one.name]))
            for one in found
        ]  # fmt: skip
        parts += [
            f"## Suite {suite}\n",
            table(("check", "expects", "if it fails", "limits in `[checks]`", "what to do"), rows),
        ]
    return "\n".join(parts)


def _about_check(check: suites.Check) -> str:
    """Return what a check expects, without what it found."""
    if check.name == "subset_has_its_recorded_size":
        return "number of members: as recorded with the version"
    return plain(check.describe({"expected": dict(check.arguments)}).partition("; found ")[0].removeprefix("expected "))


def _reasons() -> Iterator[tuple[Reason, str]]:
    """Yield each reason with the heading under which the code lists it."""
    source = (CHECKOUT / "alchemist_core" / "shards" / "faults.py").read_text(encoding="utf-8")
    heading = ""
    for line in source.partition("class Reason")[2].splitlines():
        if line.strip().startswith("# "):
            heading = line.strip(" #.").lower()
        elif line and not line.startswith(" ") and heading:
            return
        elif "=" in line:
            yield Reason[line.split("=")[0].strip()], heading


def _repairs() -> Iterator[tuple[str, str]]:
    """Yield each repair with what the code says about it."""
    source = (CHECKOUT / "alchemist_core" / "shards" / "repairs.py").read_text(encoding="utf-8")
    said = dict(re.findall(r'= "(\w+)"\n    """(.+)"""', source))
    for repair in Repair:
        yield f"`{repair.value}`", said.get(repair.value) or f"The caption is not UTF-8 but {ENCODING_OF[repair]}."


def protocols() -> str:
    """Return the page of evaluation protocols, metrics and scorers."""
    parts = [
        "# Evaluation protocols and scorers\n",
        "## Evaluation protocols\n",
        (
            "`alchemist evaluate NAME --protocol P` measures the models of a subset under fixed conditions. A file of your own "
            "(`--protocol my.toml`) has the same keys; see [the packages](../contributing/packages/protocols.md).\n"
        ),
    ]
    for path in sorted((CHECKOUT / "alchemist_core" / "protocols").glob("*.toml")):
        text = path.read_text(encoding="utf-8")
        about = " ".join(line.lstrip("# ") for line in text.splitlines() if line.startswith("#"))
        values = ", ".join(f"`{key} = {value}`" for key, value in _leaves(tomllib.loads(text)))
        parts += [f"### {path.stem}\n", plain(about) + "\n", values + "\n"]
    parts += ["## Scorers\n", "Built in; `alchemist scorer list --available` adds those of installed packages.\n"]
    parts.append(
        table(
            ("scorer", "class", "does"),
            [(f"`{name}`", f"`{at}`", plain(_about_class(at))) for name, at in BUILT_IN.items()],
        )
    )
    return "\n".join(parts)


def _about_class(address: str) -> str:
    module, _, name = address.partition(":")
    path = CHECKOUT.joinpath(*module.split(".")).with_suffix(".py")
    tree = ast.parse(path.read_text(encoding="utf-8"))
    node = next(one for one in tree.body if isinstance(one, ast.ClassDef) and one.name == name)
    return (ast.get_docstring(node) or "").partition("\n\n")[0]
