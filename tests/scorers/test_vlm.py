"""A vision-language model as a scorer, against a server that misbehaves in every way: each sample is scored or refused, once."""

import logging
import os
import re
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from base64 import b64encode
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from alchemist_core.errors import ConfigError
from alchemist_core.scorers import vlm
from alchemist_core.scorers.registration import describe, open_scorer
from alchemist_core.scorers.running import ScorerRunner
from alchemist_core.scorers.scorer import ScorerUnavailableError, TransientFault
from alchemist_core.scorers.vlm import ANSWERS, Answer, AnswerFile, forget_answers
from alchemist_core.settings import load_settings
from tests.scorers.score_by_vlm import make_batch, options, score
from tests.scorers.vlm_server import INVALID, LENGTHS, TRANSIENT, image_of, serving

KEY = "sk-test-7531"
ALWAYS = (*INVALID, "refusal", "content filter", "500", "400", "cut")
"""Behaviours towards samples that get no score."""


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vlm, "BACKOFF_S", 0.001)


def misbehave(sample: int, n_before: int) -> str:
    """One sample in four never gets a score; of the others, most get it at their second or third request."""
    if sample % 4 == 0:
        return ALWAYS[sample // 4 % len(ALWAYS)]
    return "ok" if n_before >= sample % 3 else TRANSIENT[(sample + n_before) % len(TRANSIENT)]


def has_score(samples: range) -> list[bool]:
    return [sample % 4 != 0 for sample in samples]


def answer_files() -> list[Path]:
    return sorted((load_settings().home / ANSWERS).glob("*.sqlite"))


def kept(samples: range) -> set[int]:
    """The samples whose answers are on the disk."""
    if not answer_files():
        return set()
    scorer = open_scorer("vlm", options("http://nowhere/v1"))
    assert isinstance(scorer, vlm.VisionLanguageModel)
    keys = {scorer.key_of(make_batch(samples), at): sample for at, sample in enumerate(samples)}
    found = {keys[key] for key in scorer.answers.find(list(keys))}
    scorer.close()
    return found


N_SAMPLES = [60, pytest.param(1000, marks=pytest.mark.slow)]


@pytest.mark.parametrize("n_samples", N_SAMPLES)
def test_every_sample_is_scored_or_refused_with_a_reason(n_samples: int) -> None:
    samples = range(n_samples)
    with serving(misbehave) as server:
        scorer = open_scorer("vlm", options(server.url))
        assert isinstance(scorer, vlm.VisionLanguageModel)
        rated = ScorerRunner(scorer, "judge").rate(make_batch(samples))
        scorer.close()
    is_scored_P = np.isfinite(rated.score_PM).all(1)
    assert is_scored_P.tolist() == has_score(samples)
    assert np.isfinite(rated.score_PM).any(1).tolist() == has_score(samples)
    assert rated.score_PM[is_scored_P, 0].tolist() == [sample % 11 for sample in samples if sample % 4]
    assert set(rated.score_PM[is_scored_P, 1].tolist()) == {0.5}
    assert rated.faults.keys() == {sample for sample in samples if not sample % 4}
    for sample, why in rated.faults.items():
        assert told(misbehave(sample, 0)) in why, (sample, why)

    counts = scorer.counts
    assert counts.n_requests == server.n_requests.total()
    assert counts.n_repeated == sum(n - 1 for n in server.n_requests.values())
    assert counts.n_scored == sum(has_score(samples))
    # Requests that the server fails are no answers: their samples are asked again if somebody retries them.
    n_failed = sum(misbehave(sample, 0) in {"500", "400", "cut"} for sample in samples if not sample % 4)
    assert counts.n_refused == n_samples - counts.n_scored - n_failed


def test_the_tokens_of_invalid_answers_are_paid_and_counted_too(caplog: pytest.LogCaptureFixture) -> None:
    prices = {"price_per_1000_input_tokens": 2.0, "price_per_1000_output_tokens": 8.0}
    with serving(lambda sample, n_before: "out of bounds" if n_before < sample else "ok") as server:
        score(server.url, range(3), **prices, timeout_s=60)
    assert server.n_paid == {0: 1, 1: 2, 2: 3}
    (said,) = caplog.messages
    assert said.startswith(
        "judge-1: 6 requests (3 of them repeated), 3 samples scored, 0 refused, 0 answers of earlier runs; "
    )
    assert said.endswith(f"6,000 input and 60 output tokens, cost {6 * (2.0 + 0.08):.4f}")


@pytest.mark.parametrize("odd", [10**400, -5, None, "many", 0.5, [1]], ids=lambda odd: str(odd)[:9])
def test_a_number_of_tokens_that_makes_no_sense_counts_as_none_and_loses_no_answer(
    odd: object, caplog: pytest.LogCaptureFixture
) -> None:
    with serving(lambda *_: "ok") as server:
        server.usage = {"prompt_tokens": odd, "completion_tokens": 10}
        score(server.url, range(3), price_per_1000_input_tokens=2.0, price_per_1000_output_tokens=8.0, timeout_s=60)
    assert server.n_paid == {0: 1, 1: 1, 2: 1}
    (said,) = caplog.messages
    assert said.endswith(f"; 0 input and 30 output tokens, cost {3 * 0.08:.4f}")


def told(behaviour: str) -> str:
    return {
        "refusal": "the model refused it: 'I will not rate people.'",
        "content filter": "the model refused it: 'content filter'",
        "refusal text": "I'm sorry, I can't help with this image.",
        "out of bounds": "quality: Input should be less than or equal to 10",
        "other schema": "text: Field required",
        "more than asked": "why: Extra inputs are not permitted",
        "500": "the server answered other requests, but not this one: status 500",
        "400": "the server answered other requests, but not this one: status 400",
        "cut": "the server answered other requests, but not this one: ",
    }.get(behaviour, "the answer does not fit the schema")


def test_a_request_has_a_new_idempotency_key_only_after_an_answer_of_the_model() -> None:
    behaviours = ["cut", "429", "not json", "500", "ok"]
    with serving(lambda _, n_before: behaviours[min(n_before, 4)]) as server:
        score(server.url, range(1))
        keys = list(server.request_keys[0])
        score(server.url, range(1), prompt="Another question about {caption}")
    assert [len({*keys[:3]}), len({*keys[3:]}), len({*keys})] == [1, 1, 2]
    assert all(re.fullmatch("[0-9a-f]{64}", key) for key in keys)
    assert not {*keys} & {*server.request_keys[0][5:]}


def test_a_server_that_knows_idempotency_keys_is_paid_once_for_an_answer_that_was_lost() -> None:
    with serving(lambda *_: "ok", knows_keys=True) as server:
        first = score(server.url, range(6))
        # The process died after the server had answered, and before the answer was kept.
        shutil.rmtree(load_settings().home / vlm.ANSWERS)
        assert np.array_equal(score(server.url, range(6)).score_PM, first.score_PM)
    assert set(server.n_requests.values()) == {2}
    assert set(server.n_paid.values()) == {1}


@pytest.mark.parametrize("n_samples", N_SAMPLES)
@pytest.mark.parametrize("knows_keys", [False, True])
@pytest.mark.slow
def test_nothing_is_asked_twice_after_a_kill(n_samples: int, knows_keys: bool) -> None:
    """Only requests that were under way when the process died are sent again: as many as it has connections."""
    samples, concurrency = range(n_samples), 4

    with serving(lambda *_: "late", knows_keys=knows_keys) as server:
        command = [sys.executable, "-m", "tests.scorers.score_by_vlm", server.url, str(n_samples)]
        environment = os.environ | {"ALCHEMIST_HOME": str(load_settings().home)}
        with subprocess.Popen(command, env=environment, cwd=Path(__file__).parents[2]) as process:
            while server.n_paid.total() < n_samples // 2:
                assert process.poll() is None
                time.sleep(0.002)
            process.send_signal(signal.SIGKILL)
        # Answers of requests that were under way are counted by the server even if nobody reads them.
        while server.n_open:
            time.sleep(0.01)
        paid_before, kept_before = server.n_paid.copy(), kept(samples)
        assert n_samples // 2 - concurrency <= len(kept_before) < n_samples
        assert kept_before <= paid_before.keys()
        lost = paid_before.keys() - kept_before
        assert len(lost) <= concurrency
        server.n_requests.clear()
        rated = score(server.url, samples, timeout_s=60)
    assert np.isfinite(rated.score_PM).all()
    assert server.n_requests.keys() == set(samples) - kept_before
    assert {sample for sample in samples if server.n_paid[sample] > 1} == (set() if knows_keys else lost)
    with serving(lambda *_: "500") as idle:
        again = score(idle.url, samples)
    assert np.array_equal(again.score_PM, rated.score_PM)
    assert not idle.n_requests


def test_refusals_are_answers_too_and_not_asked_again() -> None:
    with serving(lambda sample, _: "refusal" if sample else "not json") as server:
        first = score(server.url, range(3))
        server.n_requests.clear()
        assert score(server.url, range(3)).faults == first.faults
        assert not server.n_requests


def test_batches_that_ask_the_same_at_the_same_time_pay_for_one_answer() -> None:
    with serving(lambda *_: "late") as server:
        scorer = open_scorer("vlm", options(server.url))
        runner = ScorerRunner(scorer, "judge")
        with ThreadPoolExecutor(2) as threads:
            first, second = threads.map(runner.rate, [make_batch(range(6)), make_batch(range(3, 9))])
        scorer.close()
    assert set(server.n_requests.values()) == {1}
    assert first.score_PM[:, 0].tolist() == [0, 1, 2, 3, 4, 5]
    assert second.score_PM[:, 0].tolist() == [3, 4, 5, 6, 7, 8]


def test_a_batch_asks_again_for_what_another_batch_was_asking_for_when_it_failed() -> None:
    with serving(lambda _, n_before: "late" if n_before else "slow") as server:
        scorer = open_scorer("vlm", options(server.url, retries=0, concurrency=2))
        runner = ScorerRunner(scorer, "judge")
        with ThreadPoolExecutor(2) as threads:
            futures = [threads.submit(runner.rate, make_batch(range(1))) for _ in range(2)]
        scorer.close()
    failed = [future for future in futures if future.exception() is not None]
    (rated,) = [future.result() for future in futures if future not in failed]
    assert len(failed) == 1
    assert isinstance(failed[0].exception(), ScorerUnavailableError)
    assert rated.score_PM[:, 0].tolist() == [0]


def test_as_many_requests_are_under_way_as_the_options_say() -> None:
    with serving(lambda *_: "late") as server:
        score(server.url, range(12), concurrency=3)
    assert server.most_open == 3


def test_another_prompt_side_or_model_is_another_question() -> None:
    with serving(lambda *_: "ok") as server:
        for more in (
            {},
            {"prompt": "Rate {caption}"},
            {"image_side": 64},
            {"model": "judge-2"},
            {"image_format": "png"},
            {"parameters": {}},
        ):
            score(server.url, range(1), **more)
        assert server.n_requests[0] == 6
        score(server.url, range(1), concurrency=1, timeout_s=5, retries=0, price_per_1000_input_tokens=1)
        assert server.n_requests[0] == 6


def test_the_server_gets_the_pixels_the_caption_the_schema_and_the_parameters() -> None:
    with serving(lambda *_: "ok") as server:
        score(server.url, range(7, 8), image_format="png", parameters={"temperature": 0.5, "seed": 3})
    body = server.bodies[7]
    assert np.array_equal(image_of(body), make_batch(range(7, 8)).image_BHWC[0])
    assert body["messages"][0]["content"][0]["text"] == "How good is the image of sample 7"
    assert (body["model"], body["temperature"], body["seed"]) == ("judge-1", 0.5, 3)
    sent = body["response_format"]["json_schema"]["schema"]
    assert (sent["required"], sent["additionalProperties"]) == (["quality", "text"], False)
    bounds = {name: (about["type"], about["minimum"], about["maximum"]) for name, about in sent["properties"].items()}
    assert bounds == {"quality": ("number", 0.0, 10.0), "text": ("number", 0.0, 1.0)}


def test_a_jpeg_is_close_to_the_pixels() -> None:
    with serving(lambda *_: "ok") as server:
        score(server.url, range(7, 8))
    assert np.abs(image_of(server.bodies[7]).astype(int) - 7).max() <= 1


@pytest.mark.parametrize(
    ("behaviour", "n_requests", "told"),
    [
        ("500", 3, "status 500"), ("503", 3, "status 503"), ("429", 3, "status 429"), ("401", 1, "status 401"), ("404", 1, "status 404"),
        ("400", 1, "status 400"), ("cut", 3, "cut"), ("html", 3, "not a chat completion: '<html>"), ("302", 1, "status 302"),
        ("429 bomb", 3, "status 429"), ("bomb", 3, "Content-Encoding 'gzip, gzip, gzip'"), ("two lengths", 3, "Content-Length '2, 2'"),
    ],
)  # fmt: skip
def test_a_server_that_answers_nobody_is_unavailable_and_nobody_is_refused(
    behaviour: str, n_requests: int, told: str
) -> None:
    with serving(lambda *_: behaviour) as server:
        with pytest.raises(ScorerUnavailableError, match=told) as raised:
            score(server.url, range(2), retries=2, concurrency=1)
        assert server.n_requests[0] == n_requests
    assert server.url in str(raised.value)
    assert "Check the server, endpoint, model and ALCHEMIST_VLM_API_KEY" in str(raised.value)
    assert not kept(range(2))


@pytest.mark.parametrize(
    ("behaviour", "is_transient"), [("400", False), ("500", True), ("bomb", True), *((name, True) for name in LENGTHS)]
)
def test_a_bad_sample_alone_in_its_batch_is_quarantined_if_the_server_answered_others(
    behaviour: str, is_transient: bool
) -> None:
    with serving(lambda sample, _: behaviour if sample == 4 else "ok") as server:
        rated = score(server.url, range(5), concurrency=1, retries=0, timeout_s=60)
    assert list(rated.faults) == [4]
    assert isinstance(rated.faults[4], TransientFault) == is_transient


def test_a_server_that_fails_in_the_middle_of_a_run_is_unavailable() -> None:
    with (
        serving(lambda sample, _: "500" if sample > 3 else "ok") as server,
        pytest.raises(ScorerUnavailableError, match="status 500"),
    ):
        score(server.url, range(8), concurrency=1, retries=0, timeout_s=60)
    assert kept(range(8)) == set(range(4))


@pytest.mark.parametrize("behaviour", ["429", "503", "slow"])
def test_a_server_without_time_for_one_sample_refuses_none(behaviour: str) -> None:
    """Otherwise a busy hour would quarantine good samples. What was answered is kept."""
    with serving(lambda sample, _: behaviour if sample == 1 else "ok") as server, pytest.raises(ScorerUnavailableError):
        score(server.url, range(3), retries=1, timeout_s=0.2)
    assert kept(range(3)) == {0, 2}


def test_no_server_at_all_is_unavailable() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        with pytest.raises(ScorerUnavailableError, match="NewConnectionError"):
            score(f"http://127.0.0.1:{unused.getsockname()[1]}/v1", range(2), retries=1)


def test_every_connection_waits_as_long_as_the_server_asks() -> None:
    with serving(lambda _, n_before: "ok" if n_before else "429") as server:
        server.retry_after = "1"
        began = time.monotonic()
        score(server.url, range(1))
    first, second = server.arrived_at
    assert second - first >= 0.95
    assert second - began < 10


@pytest.mark.parametrize("pause", ["9" * 5000, "Tue, 01 Nov 99999 00:00:00 GMT", "-1", "later"])
def test_a_pause_that_is_no_number_of_seconds_is_none(pause: str) -> None:
    with serving(lambda _, n_before: "ok" if n_before > 2 else "429") as server:
        server.retry_after = pause
        assert not score(server.url, range(1)).faults
    assert server.n_requests[0] == 4


def test_an_answer_is_asked_for_without_compression() -> None:
    """A few compressed bytes can fill all memory before anything can count them."""
    with serving(lambda *_: "ok") as server:
        score(server.url, range(1))
    assert server.accepted == {"identity"}


def test_a_server_that_asks_for_a_long_pause_is_unavailable_at_once() -> None:
    with serving(lambda *_: "429") as server:
        server.retry_after = "86400"
        with pytest.raises(ScorerUnavailableError, match=r"asks for a pause of [0-9,]+ s"):
            score(server.url, range(1))
    assert server.n_requests[0] == 1


def test_the_key_is_sent_and_never_shown(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    (tmp_path / "key").write_text(f"{KEY}\n")
    monkeypatch.setenv("ALCHEMIST_VLM_API_KEY_FILE", str(tmp_path / "key"))
    load_settings.cache_clear()
    caplog.set_level(logging.DEBUG)
    with serving(lambda sample, _: "401" if sample else "ok") as server:
        score(server.url, range(1))
        with pytest.raises(ScorerUnavailableError, match=r"no, Bearer \(key\)") as raised:
            score(server.url, range(2))
    assert server.keys == {f"Bearer {KEY}"}
    spec = describe(open_scorer("vlm", options(server.url)))
    stored = b"".join(path.read_bytes() for path in (load_settings().home / ANSWERS).iterdir())
    for text in (str(raised.value), caplog.text, spec.model_dump_json(), stored.decode(errors="replace")):
        assert KEY not in text


def test_a_key_that_no_header_can_carry_is_refused_without_showing_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALCHEMIST_VLM_API_KEY", "sk two words")
    load_settings.cache_clear()
    with pytest.raises(ConfigError, match="must be one word of ASCII characters") as refused:
        open_scorer("vlm", options("http://nowhere/v1"))
    assert "sk two" not in str(refused.value)


@pytest.fixture
def key(monkeypatch: pytest.MonkeyPatch) -> str:
    """The key of the server, in the environment."""
    monkeypatch.setenv("ALCHEMIST_VLM_API_KEY", KEY)
    load_settings.cache_clear()
    return KEY


@pytest.mark.parametrize(
    "endpoint",
    [
        "http://192.0.2.7:8000/v1", "http://vllm.example/v1", "http://localhost.example/v1", "http://127.0.0.1.example/v1",
        "http://vllm.example\\.localhost/v1",
    ],
)  # fmt: skip
def test_a_key_is_not_sent_in_plain_text_to_another_machine(key: str, endpoint: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(endpoint)) as refused:
        open_scorer("vlm", options(endpoint))
    assert "Use an https:// address" in str(refused.value)
    assert key not in str(refused.value)


@pytest.mark.parametrize(
    "endpoint", ["https://vllm.example/v1", "http://localhost:8000/v1", "http://127.0.0.2/v1", "http://[::1]:8000/v1"]
)
def test_a_key_may_be_sent_encrypted_or_to_this_machine(key: str, endpoint: str) -> None:
    assert key
    open_scorer("vlm", options(endpoint)).close()


def test_a_setting_names_the_only_host_that_gets_the_key(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A person who may change a project file could otherwise have the key sent anywhere."""
    monkeypatch.setenv("ALCHEMIST_VLM_API_KEY_HOST", "API.example")
    load_settings.cache_clear()
    open_scorer("vlm", options("https://api.example/v1")).close()
    with pytest.raises(
        ConfigError, match=r"https://other\.example/v1 .* ALCHEMIST_VLM_API_KEY_HOST .*api\.example"
    ) as refused:
        open_scorer("vlm", options("https://other.example/v1"))
    assert key not in str(refused.value)


def test_a_key_for_this_machine_goes_through_no_proxy(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(lambda *_: "ok") as server, serving(lambda *_: "ok") as proxy:
        for name in ("http_proxy", "HTTP_PROXY"):
            monkeypatch.setenv(name, proxy.url.removesuffix("/v1"))
        score(server.url, range(1))
    assert server.keys == {f"Bearer {key}"}
    assert not proxy.keys


@pytest.mark.parametrize("scheme", ["http://", ""])
@pytest.mark.parametrize(
    ("login", "sent"), [("", None), ("ann:s%40cret%C3%A9@", "Basic " + b64encode("ann:s@creté".encode()).decode())]
)
def test_a_proxy_gets_the_name_and_password_of_its_address(
    scheme: str, login: str, sent: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving(lambda *_: "ok") as proxy:
        # It answers itself, for a server that does not exist.
        for name in ("http_proxy", "HTTP_PROXY"):
            monkeypatch.setenv(name, f"{scheme}{login}{proxy.url.removeprefix('http://').removesuffix('/v1')}")
        for name in ("no_proxy", "NO_PROXY"):
            monkeypatch.delenv(name, raising=False)
        assert np.isfinite(score("http://model.test/v1", range(1)).score_PM).all()
    assert proxy.proxy_keys == {sent}


def test_its_identity_is_the_question_and_neither_the_server_nor_the_speed() -> None:
    spec = describe(open_scorer("vlm", options("http://one/v1")))
    other = describe(
        open_scorer(
            "vlm", options("https://two/v1", concurrency=9, timeout_s=9, retries=9, price_per_1000_input_tokens=1)
        )
    )
    assert spec.outputs == ("quality", "text")
    assert spec.identity_hash("text") == other.identity_hash("text") != spec.identity_hash("quality")
    asked = describe(open_scorer("vlm", options("http://one/v1", prompt="Rate it")))
    assert asked.identity_hash("text") != spec.identity_hash("text")


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ({"endpoint": "localhost:8000"}, "endpoint: String should match pattern"),
        ({"endpoint": "https://me:secret@host/v1"}, "endpoint: String should match pattern"),
        ({"endpoint": "http://[::1/v1"}, r"http://\[::1/v1/chat/completions is not a valid URL"),
        ({"outputs": "quality:0"}, "write NAME:LOW:HIGH"),
        ({"outputs": "quality:5:5"}, "low 5.0 must be below high 5.0"),
        ({"outputs": "a:0:1 a:0:2"}, "a name occurs twice"),
        ({"outputs": [{"name": "Bad name"}]}, "outputs.0.name"),
    ],
)
def test_options_that_cannot_be_meant_are_refused(more: dict[str, object], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        open_scorer("vlm", options("http://nowhere/v1", **more))


def test_outputs_may_have_the_names_of_pydantic_s_methods() -> None:
    scorer = open_scorer("vlm", options("http://nowhere/v1", outputs="json:0:1 copy:0:1 model_config:0:1"))
    assert scorer.outputs == ("json", "copy", "model_config")


def test_opening_a_scorer_sends_and_writes_nothing() -> None:
    with serving(lambda *_: "ok") as server:
        open_scorer("vlm", options(server.url)).close()
        assert not server.n_requests
    assert not (load_settings().home / ANSWERS).exists()


def test_several_processes_and_threads_share_one_file(tmp_path: Path) -> None:
    """Each opens the file for itself, at the same moment."""
    keys = [(bytes([number]) * 32, b"p" * 32) for number in range(8)]

    def keep(key: tuple[bytes, bytes]) -> None:
        file = AnswerFile(tmp_path / "answers.sqlite")
        file.keep(key, Answer((float(key[0][0]),)))
        file.close()

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(keep, keys))
    # No write-ahead log, which machines that mount the same volume cannot share.
    assert [path.name for path in tmp_path.iterdir()] == ["answers.sqlite"]
    with sqlite3.connect(tmp_path / "answers.sqlite") as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("delete",)
    found = AnswerFile(tmp_path / "answers.sqlite").find([*keys, (b"x" * 32, b"p" * 32)])
    assert found == {key: Answer((float(key[0][0]),)) for key in keys}


def test_answers_that_cannot_be_read_make_it_unavailable_and_refuse_no_sample(tmp_path: Path) -> None:
    with pytest.raises(ScorerUnavailableError, match="cannot be read: unable to open database file"):
        AnswerFile(tmp_path).find([(b"a", b"b")])


def test_a_full_disk_makes_it_unavailable(tmp_path: Path) -> None:
    file = AnswerFile(tmp_path / "answers.sqlite")
    file.keep((b"a", b"b"), Answer((1.0,)))
    assert file._connection is not None
    file._connection.execute("PRAGMA max_page_count = 2")
    with pytest.raises(
        ScorerUnavailableError, match=r"cannot be written to .*answers\.sqlite: database or disk is full"
    ):
        file.keep((b"c", b"d"), Answer(refusal="x" * 100_000))


def test_a_takedown_deletes_the_answers_about_an_image() -> None:
    with serving(lambda *_: "ok") as server:
        score(server.url, range(3))
        score(server.url, range(3), model="judge-2")
    assert forget_answers([(1).to_bytes(32, "big")]) == (2, [])
    assert kept(range(3)) == {0, 2}


def test_samples_without_hashes_are_told_apart_by_their_pixels() -> None:
    batch = make_batch(range(3))
    batch.captions, batch.image_hashes = ["sample 5"] * 3, ()
    batch.image_BHWC[2] = batch.image_BHWC[1]
    with serving(lambda *_: "ok") as server:
        scorer = open_scorer("vlm", options(server.url))
        assert scorer.score(batch)[:, 0].tolist() == [5, 5, 5]
        scorer.close()
    assert server.n_requests[5] == 2
