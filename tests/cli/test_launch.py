"""A training is started as several processes where [launch] says so; what it computes does not depend on it."""

from pathlib import Path

import pytest

from alchemist_core.__main__ import main
from alchemist_core.cli import launch
from alchemist_core.cli.launch import Topology, declared_topology
from alchemist_core.errors import ConfigError
from alchemist_core.project import load_project
from alchemist_core.settings import load_settings


def declare(folder: Path, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "alchemist.toml").write_text(text)
    monkeypatch.chdir(folder)
    load_project.cache_clear()
    load_settings.cache_clear()


def test_without_launch_a_command_runs_in_its_own_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    declare(tmp_path, "[launch]\n", monkeypatch)
    assert declared_topology("train-rater") is None


def test_only_trainings_are_launched_and_a_launched_process_is_not_launched_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    declare(tmp_path, "[launch]\nprocesses_per_node = 4\n", monkeypatch)
    expected = Topology(processes_per_node=4, nodes=1, restarts=0, host="127.0.0.1", port=0)
    assert declared_topology("train-rater") == declared_topology("train-downstream") == expected
    assert declared_topology("score") is None
    monkeypatch.setenv("RANK", "0")
    assert declared_topology("train-rater") is None


def test_several_nodes_meet_at_the_variable_of_their_pod_else_at_the_address_of_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    declare(tmp_path, '[launch]\nnodes = 2\nrendezvous = "a.example:29400"\n', monkeypatch)
    assert declared_topology("train-rater") == Topology(1, 2, 3, "a.example", 29400)
    monkeypatch.setenv("ALCHEMIST_RENDEZVOUS", "job-0.nodes:29500")
    load_settings.cache_clear()
    assert declared_topology("train-rater") == Topology(1, 2, 3, "job-0.nodes", 29500)


def test_nodes_without_a_place_to_meet_are_refused_with_the_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    declare(tmp_path, "[launch]\nnodes = 2\n", monkeypatch)
    with pytest.raises(ConfigError, match=r"nodes is 2, .* Set \[launch\] rendezvous"):
        declared_topology("train-rater")


def test_the_former_variable_is_refused_with_the_key_that_replaced_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    declare(tmp_path, "", monkeypatch)
    monkeypatch.setenv("ALCHEMIST_LAUNCH", "accelerate launch --num-processes 4")
    with pytest.raises(ConfigError, match=r"ALCHEMIST_LAUNCH was removed.*\[launch\] processes_per_node"):
        declared_topology("train-rater")
    assert declared_topology("score") is None


def test_a_rendezvous_is_a_host_and_a_port(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    declare(tmp_path, '[launch]\nrendezvous = "a.example"\n', monkeypatch)
    with pytest.raises(ConfigError, match="rendezvous"):
        load_project()


def test_the_way_to_a_rendezvous_on_this_machine_starts_at_its_own_address() -> None:
    assert launch._find_local_address("127.0.0.1") == ("127.0.0.1", True)


@pytest.mark.parametrize(
    ("codes", "expected", "n_runs"), [([0], 0, 1), ([2, 0], 2, 1), ([1, 137, 0], 0, 3), ([1, 1, 1, 0], 1, 3)]
)
def test_processes_start_again_after_a_failure_that_may_pass(
    monkeypatch: pytest.MonkeyPatch, codes: list[int], expected: int, n_runs: int
) -> None:
    waiting = list(codes)
    monkeypatch.setattr(launch, "_run_once", lambda *_: waiting.pop(0))
    topology = Topology(1, 2, 2, "a", 1)
    from alchemist_core.stages.train_rater import TrainRaterConfig

    assert launch.launch(topology, TrainRaterConfig(dataset="a", validation="b"), []) == expected
    assert len(codes) - len(waiting) == n_runs


@pytest.mark.slow
def test_a_process_that_fails_gives_its_exit_code() -> None:
    # An unknown option of the command: argparse ends each process with 2, before anything else.
    assert launch._run_once(Topology(2, 1, 0, "127.0.0.1", 0), "id", ["train-rater", "--no-such-option"]) == 2


def test_a_bad_option_is_refused_before_processes_are_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    declare(tmp_path, "[launch]\nprocesses_per_node = 2\n", monkeypatch)
    monkeypatch.setattr(launch, "_run_once", lambda *_: pytest.fail("processes were started"))
    assert main(["train-rater", "--preset", "tiny", "--dataset", "a", "--validation", "b", "--batch-size", "0"]) == 2
    assert "batch-size" in capsys.readouterr().err
