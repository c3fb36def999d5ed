"""The project file: found, read, and refused with file, key, value and what is allowed; values of a dataset apply to it alone."""

import os
import re
from pathlib import Path
from typing import get_args

import pytest

from alchemist_core.config import bounds_of
from alchemist_core.errors import ConfigError
from alchemist_core.project import Project, load_project, read_project, train_downstream_command, train_rater_command
from alchemist_core.settings import find_project_file, load_settings


def write(folder: Path, text: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "alchemist.toml"
    path.write_text(text, encoding="utf-8")
    return path


def refusal(folder: Path, text: str) -> str:
    path = write(folder, text)
    with pytest.raises(ConfigError) as caught:
        read_project(path)
    message = str(caught.value)
    assert all(line.startswith(f"{path}") for line in message.splitlines())
    return message.replace(str(path), "FILE")


def test_without_a_file_every_value_is_its_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    project = load_project()
    assert project == Project()
    assert project.path is None
    assert (project.checks.max_quarantined_ratio, project.drift.warn_psi, project.drift.hold_psi) == (0.2, 0.1, 0.25)
    assert project.drift.min_scores == 500
    assert project.ingest.repair


def test_the_nearest_file_above_the_working_directory_is_read_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path, "[drift]\nhold_psi = 0.5\n")
    below = tmp_path / "a" / "b"
    below.mkdir(parents=True)
    monkeypatch.chdir(below)
    assert load_project().drift.hold_psi == 0.5
    assert load_project().path == path
    assert load_project() is load_project()


def test_the_named_file_is_read_wherever_the_command_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    named = write(tmp_path / "named", "[drift]\nhold_psi = 0.4\n")
    write(tmp_path / "here", "[drift]\nhold_psi = 0.5\n")
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("ALCHEMIST_PROJECT", str(named))
    load_settings.cache_clear()
    assert load_project().drift.hold_psi == 0.4


@pytest.mark.parametrize("name", ["absent.toml", "."])
def test_a_named_file_that_is_none_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv("ALCHEMIST_PROJECT", str(tmp_path / name))
    load_settings.cache_clear()
    with pytest.raises(ConfigError, match=r"ALCHEMIST_PROJECT is '.*', which is not a file"):
        load_project()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_a_file_that_another_user_left_above_is_refused_unless_it_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path, "[drift]\nhold_psi = 0.5\n")
    os.chown(path, 12_345, -1)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r"belongs to another user.*ALCHEMIST_PROJECT="):
        find_project_file()
    monkeypatch.setenv("ALCHEMIST_PROJECT", str(path))
    load_settings.cache_clear()
    assert load_project().drift.hold_psi == 0.5


def test_a_dataset_has_its_own_values_and_inherits_the_rest(tmp_path: Path) -> None:
    project = read_project(write(tmp_path, """
        [checks]
        max_quarantined_ratio = 0.3
        [drift]
        hold_psi = 2.0
        [datasets.web.checks]
        max_garbage_ratio = 0.5
        [datasets.web.drift]
        warn_psi = 1.5
        [datasets."a.b\\n".ingest]
        repair = false
    """))  # fmt: skip
    web, other, odd = (project.of_dataset(name) for name in ("web", "books", "a.b\n"))
    assert (web.checks.max_quarantined_ratio, web.checks.max_garbage_ratio) == (0.3, 0.5)
    assert (web.drift.warn_psi, web.drift.hold_psi) == (1.5, 2.0)
    assert (other.checks.max_quarantined_ratio, other.checks.max_garbage_ratio) == (0.3, 0.1)
    assert (web.ingest.repair, odd.ingest.repair) == (True, False)
    assert project.origin("checks", "max_garbage_ratio", "web") == "[datasets.web.checks] max_garbage_ratio"
    assert project.origin("checks", "max_quarantined_ratio", "web") == "[checks] max_quarantined_ratio"
    assert project.origin("checks", "max_garbage_ratio", "books") == "default of [checks] max_garbage_ratio"
    assert project.origin("ingest", "repair", "a.b\n") == "[datasets.'a.b\\n'.ingest] repair"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[drift\n", r"FILE is not valid TOML: .*line 1"),
        ("[checks]\nmax_aspect_ration = 3\n", r"FILE: \[checks\] 'max_aspect_ration' is not a known key. Did you mean max_aspect_ratio\?"),
        ("[check]\n", r"FILE: 'check' is not a known key. Did you mean checks\?"),
        ("[checks]\nhold_psi = 0.3\n", r"\[checks\] 'hold_psi' is not a known key. Did you mean \[drift\] hold_psi\?"),
        ("[datasets.web]\ncheks = {}\n", r"\[datasets.web\] 'cheks' is not a known key. Did you mean checks\?"),
        ("[datasets.web.drift]\nwarn-psi = 1\n", r"\[datasets.web.drift\] 'warn-psi' is not a known key. Did you mean warn_psi\?"),
        ("[zzz]\n", r"'zzz' is not a known key. Known keys: acceptance, checks, datasets, downstream, drift, .*, selection\."),
        ("[checks]\nmax_quarantined_ratio = 20\n", r"\[checks\] 'max_quarantined_ratio' = 20 is not.*at least 0, at most 1; default: 0.2"),
        ("[checks]\nmax_quarantined_ratio = '20%'\n", r"'max_quarantined_ratio' = '20%' is not allowed"),
        ("[checks]\nmax_quarantined_ratio = true\n", r"'max_quarantined_ratio' = True is not allowed"),
        ("[checks]\nmax_quarantined_ratio = nan\n", r"'max_quarantined_ratio' = nan is not allowed"),
        ("[checks]\nmin_image_side = 8.5\n", r"'min_image_side' = 8.5 is not allowed"),
        ("[ingest]\nrepair = 1\n", r"\[ingest\] 'repair' = 1 is not allowed"),
        ("checks = 3\n", r"'checks' = 3 is not allowed"),
        ("datasets = 3\n", r"'datasets' = 3 is not allowed"),
        ("[datasets]\nweb = 3\n", r"\[datasets\.?w?e?b?\].* is not allowed"),
        ("[drift]\nwarn_psi = 0.3\n", r"\[drift\] is not allowed: warn_psi = 0.3 is above hold_psi = 0.25"),
        ("[drift]\nwarn_psi = 0.2\n[datasets.web.drift]\nhold_psi = 0.15\n", r"FILE: \[datasets.web.drift\] is not allowed: warn_psi"),
        ("[checks]\nmin_caption_characters = 50\nmax_caption_characters = 10\n", r"it must be at most max_caption_characters"),
        ('[datasets."\x1b[31m"]\n'.replace("\x1b", "\\u001b") + "x = 1\n", r"\[datasets.'\\x1b\[31m'\] 'x'"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_refused_with_file_key_value_and_what_is_allowed(tmp_path: Path, text: str, said: str) -> None:
    assert re.search(said, refusal(tmp_path, text))


def test_a_fault_of_the_shared_section_is_reported_once_whatever_datasets_inherit_it(tmp_path: Path) -> None:
    text = "[drift]\nhold_psi = -1\n[datasets.web.drift]\nwarn_psi = 0.1\n[datasets.books.checks]\nmax_examples = 1\n"
    assert len(refusal(tmp_path, text).splitlines()) == 1


def test_a_file_that_is_not_text_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path, "")
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="cannot be read"):
        read_project(path)


def test_every_key_of_every_section_has_a_description_and_numbers_have_bounds() -> None:
    for section in ("ingest", "checks", "drift", "acceptance", "schedule", "launch", "prices", "notifications"):
        model = type(getattr(Project(), section))
        for name, field in model.model_fields.items():
            assert field.description, (section, name)
            assert {int, float}.isdisjoint(kinds_of(field.annotation)) or " " in bounds_of(field), (section, name)


def kinds_of(annotation: object) -> set[object]:
    return {annotation, *get_args(annotation)}


@pytest.mark.parametrize(
    ("text", "rater", "downstream"),
    [
        ("", "alchemist train-rater --preset PRESET --dataset web --validation NAME", " --preset PRESET"),
        ('[rater]\ndataset = "web"\n', "alchemist train-rater --preset PRESET --validation NAME", " --preset PRESET"),
        ('[rater]\npreset = "tiny"\ndataset = "books"\nvalidation = "goal"\n', "alchemist train-rater --dataset web", " --preset PRESET"),
        ('[rater]\npreset = "tiny"\n[downstream]\npreset = "tiny"\n', "alchemist train-rater --dataset web --validation NAME", ""),
    ],
)  # fmt: skip
def test_the_next_command_names_only_options_that_the_file_does_not_give(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, rater: str, downstream: str
) -> None:
    (tmp_path / "alchemist.toml").write_text(text)
    monkeypatch.chdir(tmp_path)
    load_project.cache_clear()
    assert train_rater_command("web") == rater
    assert train_downstream_command("s") == f"alchemist train-downstream s{downstream}"
