"""`alchemist init` writes a project file from what it finds and is told, and the commands that it prints work."""

import contextlib
import errno
import json
import os
import pty
import re
import shlex
import subprocess
import sys
import time
import tomllib
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from alchemist_core.__main__ import main
from alchemist_core.cli import init
from alchemist_core.errors import DataError
from alchemist_core.local.machine import Gpu, Machine
from alchemist_core.project import load_project, read_project
from alchemist_core.settings import load_settings
from alchemist_core.shards import survey
from alchemist_core.shards.survey import Survey, survey_root
from alchemist_core.shards.tar_writer import write_tar
from tests.cli.test_effective import read

LONG = "a photograph of an old stone bridge over a wide river with many small boats below it in the morning light of a cold spring day"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(init, "look_at_machine", lambda: Machine((), 2, 8.0))
    load_project.cache_clear()
    return tmp_path


def on(monkeypatch: pytest.MonkeyPatch, *gpus: Gpu) -> None:
    monkeypatch.setattr(init, "look_at_machine", lambda: Machine(gpus, 16, 120.0))


def written(path: Path | str = "alchemist.toml") -> dict[str, Any]:
    return tomllib.loads(Path(path).read_text(encoding="utf-8"))


def test_the_file_declares_what_was_found_with_a_comment_on_each_line(
    corpus: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["init", "--data", str(corpus / "train"), "--dataset", "web"]) == 0
    said, found = capsys.readouterr().out, written()
    # The folders beside the training data are proposed for the other roles.
    assert {name: (each["role"], each["root"]) for name, each in found["datasets"].items()} == {
        "web": ("train", str(corpus / "train")),
        "web-validation": ("validation", str(corpus / "validation")),
        "web-test": ("evaluation", str(corpus / "test")),
    }
    assert found["rater"] == {
        "preset": "tiny", "recipe": "ours", "dataset": "web", "validation": "web-validation", "text_encoder": "words",
    }  # fmt: skip
    assert found["evaluation"] == {"dataset": "web-test", "protocols": ["heldout_loss"]}
    # Each of both sections has a recipe of its own, and the comments say so.
    in_selection = Path("alchemist.toml").read_text().partition("\n[selection]")[2].partition("\n[")[0]
    assert '\n# recipe = "fusion"' in in_selection
    assert re.search(
        r'^recipe = "ours".*select reads recipe in \[selection\]$', Path("alchemist.toml").read_text(), re.MULTILINE
    )
    assert found["selection"]["decontaminate"] == ["web-test"]
    lines = [line for line in Path("alchemist.toml").read_text().splitlines() if line]
    assert all(" # " in line or line.startswith("# ") for line in lines)
    (dedup,) = (line for line in lines if line.startswith("dedup = "))
    assert "of those that alchemist duplicates find has found. exact:" in dedup
    assert "machine: no GPU, 2 cores, 8 GiB of memory" in said
    assert re.search(r"web: 6 tars, about 24\d samples", said)
    assert "small networks to try the commands with" in Path("alchemist.toml").read_text()


def test_what_was_written_is_what_commands_read(corpus: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["init", "--data", str(corpus / "train"), "--dataset", "web"]) == 0
    capsys.readouterr()
    assert main(["config", "show", "--json"]) == 0
    values = json.loads(capsys.readouterr().out)["values"]
    assert values["train-rater"]["validation"] == {
        "value": "web-validation", "kind": "file", "origin": "[rater] validation", "path": str(Path("alchemist.toml").resolve()),
    }  # fmt: skip
    assert read("train-rater").config.as_json()["dataset"] == "web"


@pytest.mark.slow
def test_the_printed_commands_lead_to_a_compared_subset(
    corpus: Path, database_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["init", "--data", str(corpus / "train"), "--dataset", "web", "--json"]) == 0
    commands = json.loads(capsys.readouterr().out)["next"]
    shorten(Path("alchemist.toml"))
    printed = {}
    for words in filter(None, (shlex.split(line, comments=True)[1:] for line in commands)):
        code = main(words)
        said = capsys.readouterr()
        printed[" ".join(words)] = said.out
        if words == ["rater", "certify"]:
            # So few steps give no good rater; the next command then says what to do.
            assert code in (0, 5), said.err
        elif words == ["rater", "promote"] and code == 5:
            assert "--without-" in said.err
            reason = next(word for word in said.err.split() if word.startswith("--without-"))
            assert main(["rater", "promote", reason, "a miniature with few steps"]) == 0
        else:
            assert code == 0, (words, said.err)
    assert "random" in printed["subset compare web-auto-r20"]
    assert "all.html" in printed["report"]


def shorten(path: Path) -> None:
    """Take fewer steps and one seed: the way is the same."""
    text = path.read_text().replace("seeds = [0, 1, 2]", "seeds = [0]\nnum_train_epochs = 1")
    path.write_text(
        text.replace("\n[rater]  #", "\n[rater]\nproxy_warmup_steps = 8\nmax_train_steps = 8\nbatch_size = 32  #")
    )
    load_project.cache_clear()


def test_without_validation_and_evaluation_data_the_next_step_is_to_declare_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_tar(tmp_path / "web" / "a.tar", [(64, "a dog")])
    assert main(["init", "--data", "web"]) == 0
    said = capsys.readouterr().out
    assert "# First declare a dataset of role validation" in said
    assert "# First declare a dataset of role evaluation" in said
    found = written()
    assert "validation" not in found["rater"]
    assert "dataset" not in found["evaluation"]
    assert found["datasets"]["web"]["root"] == str(tmp_path / "web")


@pytest.mark.parametrize(
    ("gpus", "preset"),
    [
        ((), "tiny"),
        ((Gpu("T4", 15.0),), "tiny"),
        ((Gpu("L4", 22.5),), "gpu24"),
        ((Gpu("A100", 80.0), Gpu("A100", 80.0)), "gpu80"),
        ((Gpu("A100", 80.0), Gpu("L4", 22.5)), "gpu24"),
    ],
)
def test_the_preset_is_proposed_by_the_memory_of_the_smallest_gpu(
    corpus: Path, monkeypatch: pytest.MonkeyPatch, gpus: tuple[Gpu, ...], preset: str
) -> None:
    on(monkeypatch, *gpus)
    assert main(["init", "--data", str(corpus / "train")]) == 0
    found = written()
    assert (found["rater"]["preset"], found["downstream"]["preset"]) == (preset, preset)
    # The preset's own, so that a command can be tried with another preset: alchemist plan train-rater --preset gpu80.
    assert (
        f"\n# resolution = {16 if preset == 'tiny' else 256}  # side of the images"
        in Path("alchemist.toml").read_text()
    )
    assert "resolution" not in found["rater"]
    offered = f"# processes_per_node = {len(gpus)}" in Path("alchemist.toml").read_text()
    assert offered is (len(gpus) > 1), "several processes are offered where there are several GPUs"


def test_a_preset_with_weights_names_those_that_are_missing_and_takes_those_that_are_given(
    corpus: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    on(monkeypatch, Gpu("L4", 22.5))
    assert main(["init", "--data", str(corpus / "train")]) == 0
    said = capsys.readouterr().out
    assert "# First set tokenizer_weights in [rater]: hf:FoundationVision/var/vae_ch160v4096z32.pth" in said
    assert "# First set text_encoder in [rater]" in said
    assert "tokenizer_weights" not in written()["rater"]
    given = ["--tokenizer-weights", "/w/vae.pth", "--text-encoder", "clip:/w/sd21"]
    assert main(["init", "--data", str(corpus / "train"), *given, "--force"]) == 0
    found = written()
    assert (found["rater"]["tokenizer_weights"], found["rater"]["text_encoder"]) == ("/w/vae.pth", "clip:/w/sd21")
    assert found["downstream"]["text_encoder"] == "clip:/w/sd21"
    assert "# First" not in capsys.readouterr().out
    assert read("train-rater").config.as_json()["training"]["tokenizer_weights"] == "/w/vae.pth"


def test_long_captions_get_an_encoder_that_reads_them(tmp_path: Path) -> None:
    make_tar(tmp_path / "web" / "a.tar", [(64, LONG)] * 3)
    make_tar(tmp_path / "short" / "a.tar", [(64, "a dog")] * 3)
    for name, encoder in (("web", "minilm"), ("short", "words")):
        assert main(["init", "--data", name, "--force"]) == 0
        assert written()["rater"]["text_encoder"] == encoder
        assert "which is enough for 95% of the captions" in Path("alchemist.toml").read_text()


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        ([], 2, "--data is required"),
        (["--data", "absent"], 6, "absent"),
        (["--data", "empty"], 6, "has no .tar file"),
        (["--data", "web", "--preset", "huge"], 2, "--preset 'huge' is not one of tiny, "),
        (["--data", "web", "--dataset", "a b"], 2, "--dataset 'a b' is not valid"),
        (["--data", "web", "--text-encoder", "nonsense"], 2, "'text_encoder' = 'nonsense' is not allowed"),
    ],
)
def test_a_wrong_answer_is_refused_and_writes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], code: int, said: str
) -> None:
    (tmp_path / "empty").mkdir()
    make_tar(tmp_path / "web" / "a.tar", [(64, "a dog")])
    assert main(["init", *words]) == code
    assert said in capsys.readouterr().err
    assert not Path("alchemist.toml").exists()


def test_a_folder_of_pictures_is_refused_with_the_command_that_writes_its_tars(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "my pictures").mkdir()
    Image.new("RGB", (64, 64)).save(tmp_path / "my pictures" / "a.png")
    (tmp_path / "my pictures" / "a.txt").write_text("a black square")
    assert main(["init", "--data", "my pictures"]) == 6
    command = capsys.readouterr().err.partition("then give that folder: ")[2]
    assert main(shlex.split(command)[1:]) == 0
    assert main(["init", "--data", "my pictures-tars"]) == 0
    assert "1 tar, about 1 sample" in capsys.readouterr().out


def test_a_file_that_exists_is_kept_unless_it_is_forced(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_tar(tmp_path / "web" / "a.tar", [(64, "a dog")])
    Path("alchemist.toml").write_text("[drift]\n")
    assert main(["init", "--data", "web"]) == 2
    assert "--force" in capsys.readouterr().err
    assert Path("alchemist.toml").read_text() == "[drift]\n"
    assert main(["init", "--data", "web", "--to", "other.toml"]) == main(["init", "--data", "web", "--force"]) == 0
    assert written() == written("other.toml")


@pytest.mark.parametrize(
    ("to", "used", "is_exported"),
    [
        ("alchemist.toml", None, False),
        ("alchemist.toml", "alchemist.toml", False),
        ("alchemist.toml", "demo.toml", True),
        ("alchemist.toml", "gone.toml", True),
        ("my project.toml", None, True),
    ],
)
def test_the_next_commands_read_the_file_that_was_written(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    to: str,
    used: str | None,
    is_exported: bool,
) -> None:
    """The demo and its tutorial export the demo's file, in the same shell."""
    make_tar(tmp_path / "web" / "a.tar", [(64, "a dog")])
    Path("demo.toml").touch()
    if used:
        monkeypatch.setenv("ALCHEMIST_PROJECT", used)
        load_settings.cache_clear()
    assert main(["init", "--data", "web", "--to", to, "--json"]) == 0
    first = json.loads(capsys.readouterr().out)["next"][0]
    assert (first == f"export ALCHEMIST_PROJECT={shlex.quote(str(tmp_path / to))}") is is_exported


def test_two_folders_of_one_name_are_two_datasets(tmp_path: Path) -> None:
    for above in ("web", "good/2026-01", "heldout/2026-01"):
        make_tar(tmp_path / above / "a.tar", [(64, "a dog")])
    others = ["--validation-data", "good/2026-01", "--evaluation-data", "heldout/2026-01"]
    assert main(["init", "--data", "web", *others]) == 0
    project = read_project(Path("alchemist.toml"))
    assert {name: each.role for name, each in project.datasets.items()} == {
        "web": "train", "2026-01": "validation", "web-evaluation": "evaluation",
    }  # fmt: skip


def test_a_name_that_is_taken_twice_gets_a_number(tmp_path: Path) -> None:
    for above in ("web", "good/web-evaluation", "heldout/web-evaluation"):
        make_tar(tmp_path / above / "a.tar", [(64, "a dog")])
    others = ["--validation-data", "good/web-evaluation", "--evaluation-data", "heldout/web-evaluation"]
    assert main(["init", "--data", "web", *others]) == 0
    assert list(read_project(Path("alchemist.toml")).datasets) == ["web", "web-evaluation", "web-evaluation-2"]


@pytest.mark.parametrize(
    "other", [["--validation-data", "web"], ["--validation-data", "good", "--evaluation-data", "good/"]]
)
def test_a_folder_has_one_role(tmp_path: Path, capsys: pytest.CaptureFixture[str], other: list[str]) -> None:
    for above in ("web", "good"):
        make_tar(tmp_path / above / "a.tar", [(64, "a dog")])
    assert main(["init", "--data", "web", *other]) == 2
    assert "is already the root of the" in capsys.readouterr().err
    assert not Path("alchemist.toml").exists()


@pytest.mark.parametrize("name", ['quoted "web"', "back\\slash", "größe", "new\nline", "tab\t#=", "[x]", "'"])
def test_a_folder_of_any_name_is_written_so_that_it_is_read_again(tmp_path: Path, name: str) -> None:
    make_tar(tmp_path / name / "a.tar", [(64, "a dog")])
    assert main(["init", "--data", name]) == 0
    project = read_project(Path("alchemist.toml"))
    assert [each.root for each in project.datasets.values()] == [str(tmp_path / name)]


@pytest.mark.parametrize(
    ("given", "name"), [("../web", "web"), ("../data/train", "below"), ("../.hidden", "hidden")], ids=str
)
def test_a_folder_above_the_working_folder_is_named_and_written_without_dots(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: str, name: str
) -> None:
    work = tmp_path / "below" / "project"
    work.mkdir(parents=True)
    monkeypatch.chdir(work)
    make_tar(work / given / "a.tar", [(64, "a dog")])
    assert main(["init", "--data", given]) == 0
    declared = read_project(Path("alchemist.toml")).datasets
    assert {key: each.root for key, each in declared.items()} == {name: str((work / given).resolve())}


def test_a_name_that_leaves_no_room_for_that_of_a_subset_writes_no_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_tar(tmp_path / "web" / "a.tar", [(64, "a dog")])
    assert main(["init", "--data", "web", "--dataset", "w" * 100]) == 2
    assert "is not a valid subset name" in capsys.readouterr().err
    assert not Path("alchemist.toml").exists()


@pytest.mark.slow
def test_on_a_terminal_each_answer_is_asked_for_and_an_empty_one_takes_the_proposal(corpus: Path) -> None:
    answers = [str(corpus / "train"), "", "", "tiny"]
    said = on_terminal(["init", "--dataset", "web"], answers)
    for question in ("Folder or s3:// address of the training tars", "validation tars", "evaluation tars", "Preset ("):
        assert question in said
    assert "web: 6 tars" in said
    assert "()" not in said
    found = written()
    assert found["datasets"].keys() == {"web", "web-validation", "web-test"}
    assert found["rater"]["preset"] == "tiny"


@pytest.mark.slow
def test_on_a_terminal_the_end_of_the_input_is_no_answer() -> None:
    said = on_terminal(["init"], ["\x04"], code=2)
    assert "error: The question 'Folder or s3:// address of the training tars' was not answered." in said
    assert not Path("alchemist.toml").exists()


@pytest.mark.slow
def test_on_a_terminal_a_wrong_folder_is_asked_for_again_and_the_dataset_can_be_named(corpus: Path) -> None:
    answers = [
        "",
        "absent",
        str(corpus / "train"),
        "a b",
        "crawl",
        str(corpus / "nothing"),
        str(corpus / "validation"),
        "",
        "tiny",
    ]
    said = on_terminal(["init"], answers)
    assert said.count("Folder or s3:// address of the training tars") == 3
    assert said.count("Folder of the validation tars") == 2
    assert "absent" in said
    found = written()
    assert [(name, declared["role"]) for name, declared in found["datasets"].items()] == [
        ("crawl", "train"), ("crawl-validation", "validation"), ("crawl-test", "evaluation"),
    ]  # fmt: skip


def on_terminal(words: list[str], answers: list[str], *, code: int = 0) -> str:
    """Run the command on a terminal of its own, type the answers, and return what it printed."""
    leader, follower = pty.openpty()
    environment = os.environ | {"COLUMNS": "200", "PATH": os.environ["PATH"], "TERM": "dumb"}
    process = subprocess.Popen(
        [sys.executable, "-m", "alchemist_core", *words],
        stdin=follower,
        stdout=follower,
        stderr=follower,
        env=environment,
    )
    os.close(follower)
    for answer in answers:
        os.write(leader, f"{answer}\n".encode())
    said, ends_at = b"", time.monotonic() + 120
    with contextlib.suppress(OSError):  # As a terminal ends when its last process does.
        while time.monotonic() < ends_at and (part := os.read(leader, 4096)):
            said += part
    os.close(leader)
    assert process.wait(30) == code, said.decode()
    return said.decode()


def test_a_survey_reads_some_records_of_some_tars_and_counts_what_is_damaged(tmp_path: Path) -> None:
    for number in range(12):
        make_tar(tmp_path / "web" / f"{number:02}.tar", [(32 + number, "a dog"), (64, "two words more")])
    (tmp_path / "web" / "00.tar").write_bytes(b"no tar")
    found = survey_root(str(tmp_path / "web"))
    # 2 of the 5 tars that are opened hold damage or other sides; the first of them is no tar at all.
    assert (found.n_tars, found.n_read, found.n_faults) == (12, 8, 0)
    assert (found.smallest_side, found.side, found.words, found.formats) == (34, 52, 2, {"png": 8})
    assert 20 <= found.n_samples <= 28


def test_a_survey_counts_the_others_if_a_tar_cannot_be_opened_and_names_the_reason_if_none_can(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(survey, "N_RECORDS", 2)
    for number in range(3):
        make_tar(tmp_path / "web" / f"{number}.tar", [(32, "a dog")] * 40)
    refused = {"1.tar"}
    open_path = Path.open

    def refuse(path: Path, *given: Any, **options: Any) -> Any:
        # Root may read every file, so that the rights alone would refuse nothing.
        if path.name in refused:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return open_path(path, *given, **options)

    monkeypatch.setattr(Path, "open", refuse)
    found = survey_root(str(tmp_path / "web"))
    assert (found.n_tars, found.n_read) == (3, 4)
    assert 100 <= found.n_samples <= 160
    refused |= {"0.tar", "2.tar"}
    with pytest.raises(
        DataError, match=r"0\.tar cannot be opened \(Permission denied\)\. Correct its permissions"
    ) as caught:
        survey_root(str(tmp_path / "web"))
    assert "alchemist shard" not in str(caught.value)
    (tmp_path / "web" / "0.tar").unlink()
    assert main(["init", "--data", str(tmp_path / "web"), "--dataset", "web"]) == DataError.exit_code
    assert not Path("alchemist.toml").exists()


def test_a_survey_without_a_readable_record_says_so(tmp_path: Path) -> None:
    (tmp_path / "web").mkdir()
    (tmp_path / "web" / "a.tar").write_bytes(b"no tar")
    found = survey_root(str(tmp_path / "web"))
    assert isinstance(found, Survey)
    assert found.side is None
    assert "No record could be read" in found.describe()


def make_tar(path: Path, samples: list[tuple[int, str]]) -> None:
    """Write images of these sides with these captions."""
    import io

    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    entries: list[tuple[str, bytes]] = []
    for number, (side, caption) in enumerate(samples):
        image = io.BytesIO()
        Image.new("RGB", (side + 9, side), (number, 9, 9)).save(image, "png")
        entries += [(f"{number:04}.png", image.getvalue()), (f"{number:04}.txt", caption.encode())]
    write_tar(path, entries)
