"""Scores and captions by a vision-language model behind a server with OpenAI's interface, such as vLLM, SGLang, Ollama or OpenAI.

Each sample is one request: its pixels, the prompt, and a JSON schema whose properties are the scores, or the caption. Answers are paid
for, so each is on the disk before it is used: after a kill, only requests that were under way are sent again.

From top to bottom: options, the scorer, captions, asking, the server, answers on the disk.

Letters: B samples in a batch · M outputs.
"""

import base64
import hashlib
import io
import json
import random
import re
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple
from urllib.parse import unquote, urlsplit
from urllib.request import getproxies, proxy_bypass

import numpy as np
import urllib3
from jaxtyping import Float32, UInt8
from numpy.typing import NDArray
from PIL import Image
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    create_model,
    model_validator,
)
from urllib3.exceptions import HTTPError, InvalidHeader, LocationParseError, ProtocolError

from alchemist_core.config import Config, fingerprint
from alchemist_core.errors import ConfigError, DataError
from alchemist_core.scorers.scorer import NOT_IDENTITY, Batch, Scorer, ScorerUnavailableError, TransientFault
from alchemist_core.settings import load_settings
from alchemist_core.shards.faults import Reason, is_storable
from alchemist_core.shards.images import BadImageError
from alchemist_core.shards.pictures import PictureWorkers
from alchemist_core.telemetry import on_one_line, say

ANSWERS = "scorer_answers"
"""Folder of the home with the answers of models, one file for each kind of request. Whoever deletes one pays again."""
BACKOFF_S, MAX_BACKOFF_S = 0.5, 30.0
"""Pause before the first repetition and the longest one, in seconds; each is twice the one before, less up to half at random."""
MAX_PAUSE_S = 300.0
"""A server that asks for a longer pause is unavailable."""
MAX_ANSWER_BYTES = 1 << 20
MAX_CAPTION_CHARS = 10_000
_READ_BYTES = 1 << 16
_SIZE = re.compile(r"[0-9]{1,18}")
_MAX_QUOTED = 200
_JPEG_QUALITY = 95
_BUSY_STATUS = frozenset({408, 425, 429, 503, 504})
"""The server has no time; another sample would fare no better."""
SEVERAL = 3
"""As many samples that all get no answer speak against the server; fewer may be bad themselves if it has answered others in this run."""
_OWN_STATUS = frozenset({400, 413, 415, 422})
"""The server refuses this request, and would refuse it again."""


class Output(Config):
    """A score that the model gives, and its bounds."""

    name: str = Field(pattern=r"^[a-z][a-z0-9_]*$", description="Name of the score and of the JSON property")
    low: float = Field(0.0, allow_inf_nan=False, description="Lowest value")
    high: float = Field(10.0, allow_inf_nan=False, description="Highest value")

    @model_validator(mode="after")
    def _require_range(self) -> "Output":
        if self.low >= self.high:
            message = f"{self.name}: low {self.low} must be below high {self.high}"
            raise ValueError(message)
        return self


def _read_outputs(value: Any) -> Any:
    """Read a text such as `quality:0:10 text:0:1`."""
    if not isinstance(value, str):
        return value
    parts = [word.split(":") for word in value.split()]
    if any(len(part) != len(Output.model_fields) for part in parts):
        message = f"{value!r}: write NAME:LOW:HIGH, and a space between two outputs"
        raise ValueError(message)
    return [dict(zip(Output.model_fields, part, strict=True)) for part in parts]


class ServerOptions(Config):
    """Which model is asked what, and how fast."""

    endpoint: str = Field(
        pattern=r"^https?://[^\s@?#]+$",
        description="Base URL of the server with its version, such as http://localhost:8000/v1; requests go to its chat/completions. The "
        "key is the secret ALCHEMIST_VLM_API_KEY, which is sent by https or to this machine",
        json_schema_extra=NOT_IDENTITY,
    )
    model: str = Field(min_length=1, description="Model, as the server names it")
    prompt: str = Field(
        min_length=1, description="What the model is asked about the image; {caption} stands for the caption"
    )
    image_side: int = Field(512, ge=32, le=4096, description="Side in pixels of the image that is sent")
    image_format: Literal["jpeg", "png"] = Field(
        "jpeg", description=f"jpeg: quality {_JPEG_QUALITY}; png: lossless and larger"
    )
    concurrency: int = Field(8, ge=1, le=256, description="Requests at a time", json_schema_extra=NOT_IDENTITY)
    timeout_s: float = Field(60.0, gt=0, le=3600, description="Seconds for one request", json_schema_extra=NOT_IDENTITY)
    retries: int = Field(
        5, ge=0, le=20, description="Times that a failed request is repeated", json_schema_extra=NOT_IDENTITY
    )
    price_per_1000_input_tokens: float | None = Field(
        None,
        ge=0,
        description="Price of 1,000 tokens of requests; none: costs are not counted",
        json_schema_extra=NOT_IDENTITY,
    )
    price_per_1000_output_tokens: float | None = Field(
        None,
        ge=0,
        description="Price of 1,000 tokens of answers; none: costs are not counted",
        json_schema_extra=NOT_IDENTITY,
    )

    def request_fields(self) -> dict[str, Any]:
        """Return the fields of each request that decide about the answer beside model, prompt and image."""
        return {}


class VlmOptions(ServerOptions):
    """Which model is asked for which scores, and how fast."""

    outputs: Annotated[tuple[Output, ...], BeforeValidator(_read_outputs)] = Field(
        (Output(name="score"),), min_length=1,
        description="Scores with name, low and high; as a text: NAME:LOW:HIGH, separated by spaces",
    )  # fmt: skip
    parameters: dict[str, Any] = Field(
        {"temperature": 0, "max_tokens": 300},
        description="Further fields of each request; they replace the default ones",
    )

    def request_fields(self) -> dict[str, Any]:
        """Return `parameters`."""
        return self.parameters

    @model_validator(mode="after")
    def _require_distinct(self) -> "VlmOptions":
        names = [output.name for output in self.outputs]
        if len(set(names)) < len(names):
            message = f"outputs {', '.join(names)}: a name occurs twice"
            raise ValueError(message)
        return self


class Answer(NamedTuple):
    """What the model said about a sample: its scores, or a text, or why there is neither."""

    scores: tuple[float, ...] = ()
    refusal: str | None = None
    text: str = ""


Key = tuple[bytes, bytes]
"""sha256 of the image's file, and of the prompt with the caption in it."""


class VisionLanguageModel(Scorer):
    """Asks a vision-language model for scores of each image and caption, by OpenAI's interface with a JSON schema.

    A sample is quarantined with the reason if the model refuses it, or if its answers do not fit the schema after all retries. If
    the server does not answer, nothing is stored, and a later run asks again. Requests that fail are repeated after a pause, which
    the server can set (Retry-After). Answers are kept in the home and not asked for again; only two processes that ask the same at the
    same moment both pay.

    A model may change behind its name, and may answer the same question otherwise: give `model` a dated name where there is one.
    """

    Options = VlmOptions
    is_padded = False
    is_remote = True
    n_threads = 2
    """While the last requests of one batch are under way, those of the next one are sent."""

    def __init__(self, options: Config, device: str = "cpu") -> None:
        assert isinstance(options, VlmOptions)
        super().__init__(options, device)
        self._given = options
        self.image_side = options.image_side
        self.outputs = tuple(output.name for output in options.outputs)
        self.batch_size = min(64, 4 * options.concurrency)
        self._scores_model = _make_model(options.outputs)
        self._asker = Asker(options, self._scores_model, "scores", self._read, {})
        self.counts, self.answers = self._asker.counts, self._asker.answers

    def score(self, batch: Batch) -> Float32[np.ndarray, "B M"]:
        """Return the model's scores.

        Raises:
            ScorerUnavailableError: The server does not answer, or answers none of the requests.
        """
        keys = [self.key_of(batch, at) for at in range(len(batch))]

        def question(at: int) -> Question:
            # A copy, because the pixels are overwritten when this method has returned, and it returns early on errors.
            return Question(batch.image_BHWC[at].copy(), self._prompt(batch, at))

        return self._collect(batch, self._asker.ask(keys, question))

    def key_of(self, batch: Batch, at: int) -> Key:
        """Return the key of a sample's answer; without hashes in the batch, that of its pixels stands for its file's."""
        image_hash = (
            batch.image_hashes[at] if batch.image_hashes else hashlib.sha256(batch.image_BHWC[at].tobytes()).digest()
        )
        return image_hash, hashlib.sha256(self._prompt(batch, at).encode()).digest()

    def _prompt(self, batch: Batch, at: int) -> str:
        return self._given.prompt.replace("{caption}", batch.captions[at])

    def _collect(self, batch: Batch, answers: Sequence[Answer | str]) -> NDArray[np.float32]:
        score_BM = np.full((len(batch), len(self.outputs)), np.nan, np.float32)
        for at, answer in enumerate(answers):
            if isinstance(answer, str):
                text = f"the server answered other requests, but not this one: {answer}"
                batch.faults[at] = TransientFault(text) if isinstance(answer, TransientFault) else text
            elif answer.refusal is not None:
                batch.faults[at] = answer.refusal
            else:
                score_BM[at] = answer.scores
        return score_BM

    def _read(self, content: str) -> Answer:
        return Answer(tuple(self._scores_model.model_validate_json(content).model_dump().values()))

    def close(self) -> None:
        """Wait for the requests under way, close the connections, and print the numbers of requests and tokens, and the cost."""
        self._asker.close()


def _make_model(outputs: Sequence[Output]) -> type[BaseModel]:
    """Return the model of a valid answer; its schema goes with the request."""
    fields: dict[str, Any] = {
        # By an alias, so that an output may have the name of a method of pydantic.
        f"output_{at}": (float, Field(alias=output.name, ge=output.low, le=output.high, allow_inf_nan=False))
        for at, output in enumerate(outputs)
    }
    return create_model("Scores", __config__=ConfigDict(extra="forbid", strict=True), **fields)


# --- Captions -----------------------------------------------------------------------------------------------------------------


class CaptionOptions(ServerOptions):
    """Which model writes captions, by which prompt, and how fast."""

    max_tokens: int = Field(500, ge=1, le=100_000, description="Longest answer, in tokens")
    temperature: float = Field(0.0, ge=0, le=2, description="Temperature of the sampling of the answer")

    def request_fields(self) -> dict[str, Any]:
        """Return the limit of tokens and the temperature."""
        return {"max_tokens": self.max_tokens, "temperature": self.temperature}


class _Caption(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    caption: Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=MAX_CAPTION_CHARS)]


class Captioner:
    """Asks a model for a caption of each image. The whole image is sent, scaled down until it fits into a square of `image_side`."""

    def __init__(self, options: CaptionOptions) -> None:
        self._given = options
        self._asker = Asker(options, _Caption, "caption", _read_caption, {"fit": "whole image"})
        self.counts = self._asker.counts
        self._workers = PictureWorkers(1)

    def key_of(self, image_hash: bytes, caption: str) -> Key:
        """Return the key of the answer about an image.

        Args:
            image_hash: sha256 of its file.
            caption: Its present caption, which the prompt may contain.
        """
        return image_hash, hashlib.sha256(self._prompt(caption).encode()).digest()

    def kept(self, keys: Sequence[Key]) -> dict[Key, Answer]:
        """Return the answers that are on the disk, and the refusals of this run."""
        of_this_run = {key: self._asker.undecoded[key] for key in keys if key in self._asker.undecoded}
        return self._asker.answers.find(keys) | of_this_run

    def caption(
        self, keys: Sequence[Key], image: Callable[[int], bytes], captions: Sequence[str]
    ) -> list[Answer | str]:
        """Return for each image the answer, which is then on the disk, or why the server gave none to this request.

        Args:
            keys: Keys of the answers.
            image: Returns the file of an image, by its place in `keys`; called for those that have no answer yet.
            captions: The present captions.

        Raises:
            ScorerUnavailableError: The server does not answer, or answers none of the requests.
        """
        return self._asker.ask(keys, lambda at: self._question(image(at), captions[at]))

    def close(self) -> None:
        """Wait for the requests under way, close the connections, and print the numbers of requests and tokens, and the cost."""
        self._workers.close()
        self._asker.close()

    def _question(self, data: bytes, caption: str) -> "Question":
        # In a worker process, because this one has the key of the server and the address of the store.
        return Question(self._workers.fit(data, self._given.image_side), self._prompt(caption))

    def _prompt(self, caption: str) -> str:
        return self._given.prompt.replace("{caption}", caption)


def _read_caption(content: str) -> Answer:
    caption = _Caption.model_validate_json(content).caption
    if not is_storable(caption):
        raise ValueError("the caption contains NUL or a lone surrogate")
    return Answer(text=caption)


# --- Asking -------------------------------------------------------------------------------------------------------------------


class Question(NamedTuple):
    """What is asked about one sample."""

    image_HWC: UInt8[np.ndarray, "H W 3"]
    prompt: str


class Asker:
    """Asks a model about images, several at a time, and keeps its answers.

    Args:
        options: The server and the model.
        valid: Model of a valid answer; its schema goes with the request.
        name: Name of the schema.
        read: Turns a valid answer into what is kept; raises ValueError if it is not valid.
        image: What else decides about the pixels that are sent beside side and format.
    """

    def __init__(
        self,
        options: ServerOptions,
        valid: type[BaseModel],
        name: str,
        read: Callable[[str], Answer],
        image: Mapping[str, str],
    ) -> None:
        self._given, self._valid, self._name, self._read_content = options, valid, name, read
        self.counts = Counts()
        self._server = _Server(options, self.counts)
        kind = {"request": self._request("", ""), "side": options.image_side, "format": options.image_format} | dict(
            image
        )
        self.answers = AnswerFile(load_settings().home.resolve() / ANSWERS / f"{fingerprint(kind)}.sqlite")
        self.undecoded: dict[Key, Answer] = {}
        self._threads = ThreadPoolExecutor(options.concurrency, thread_name_prefix="vlm")
        self._is_closed = threading.Event()
        # Keys that a call is asking for; a call that needs one of them too waits until that call has ended.
        self._under_way: set[Key] = set()
        self._ended = threading.Condition()

    def ask(self, keys: Sequence[Key], question: Callable[[int], Question]) -> list[Answer | str]:
        """Return the answer to each question, which is then on the disk, or why the server gave none to this request.

        Args:
            keys: Keys of the answers; equal ones are asked for once, also by several threads at a time.
            question: Returns what is asked, by the place in `keys`; called for answers that are not kept yet.

        Raises:
            ScorerUnavailableError: The server does not answer, or answers none of the requests.
        """
        place_of = {key: at for at, key in enumerate(keys)}
        found: dict[Key, Answer | str] = dict(self.answers.find(list(place_of)))
        self.counts.add(n_kept=len(found))
        while left := [key for key in place_of if key not in found]:
            with self._ended:
                found |= self.answers.find(left)
                own = [key for key in left if key not in found and key not in self._under_way]
                if not own:
                    if len(found) < len(place_of):
                        self._ended.wait()
                    continue
                self._under_way.update(own)
            try:
                found |= self._ask_each(own, lambda key: question(place_of[key]))
            finally:
                with self._ended:
                    self._under_way.difference_update(own)
                    self._ended.notify_all()
        errors = [one for one in found.values() if isinstance(one, str)]
        if errors and len(errors) == len(found) and not self._are_bad(errors):
            raise self._unavailable(errors[0])
        return [found[key] for key in keys]

    def _ask_each(self, keys: Sequence[Key], question: Callable[[Key], Question]) -> dict[Key, Answer | str]:
        """Ask the questions of different keys, several at a time."""
        found: dict[Key, Answer | str] = {}
        asked: dict[Key, Future[Answer | str]] = {}
        for key in keys:
            try:
                asked[key] = self._threads.submit(self._ask, key, question(key))
            except BadImageError as error:
                # Without an answer it would hold its shard back for ever.
                found[key] = refused = Answer(refusal=f"its image cannot be sent: {error}")
                if error.reason in (Reason.TOO_SLOW, Reason.DECODER_DIED):
                    # More time or memory may let a later run decode it.
                    self.undecoded[key] = refused
                else:
                    self.answers.keep(key, refused)
        return found | _results(asked)

    def _are_bad(self, errors: Sequence[str]) -> bool:
        """Return whether samples without an answer are bad themselves: the server works, because it has answered others in this run."""
        has_answered = self.counts.n_scored + self.counts.n_refused > 0
        return has_answered and (len(errors) < SEVERAL or not any(isinstance(one, TransientFault) for one in errors))

    def close(self) -> None:
        """Wait for the requests under way, close the connections, and print the numbers of requests and tokens, and the cost."""
        self._is_closed.set()
        self._threads.shutdown(cancel_futures=True)
        self._server.close()
        self.answers.close()
        if self.counts.n_requests or self.counts.n_kept:
            say(f"{self._given.model}: {self.counts.describe(self._given)}")

    def _request(self, prompt: str, image_url: str) -> dict[str, Any]:
        """Return the request; with empty texts it is what all requests have in common."""
        image = {"type": "image_url", "image_url": {"url": image_url}}
        schema = {"name": self._name, "strict": True, "schema": self._valid.model_json_schema()}
        return self._given.request_fields() | {
            "model": self._given.model,
            "messages": [{"role": "user", "content": [{"type": "text", "text": prompt}, image]}],
            "response_format": {"type": "json_schema", "json_schema": schema},
        }

    def _ask(self, key: Key, question: Question) -> Answer | str:
        """Return the answer, which is then on the disk, or why the server gave none to this request.

        Raises:
            ScorerUnavailableError: The server would answer no request.
        """
        url = _data_url(question.image_HWC, self._given.image_format)
        try:
            answer = self._try(json.dumps(self._request(question.prompt, url)).encode())
        except _RequestError as fault:
            if fault.whose == "server":
                raise self._unavailable(fault.text) from fault
            if fault.whose == "request":
                return TransientFault(fault.text) if fault.is_repeated else fault.text
            answer = Answer(refusal=fault.text)
        self.answers.keep(key, answer)
        self.counts.add(**{"n_scored" if answer.refusal is None else "n_refused": 1})
        return answer

    def _try(self, body: bytes) -> Answer:
        """Send a request until its answer is valid.

        Raises:
            _RequestError: The last one, after all retries.
        """
        attempt = n_answers = 0
        while True:
            try:
                return self._read(self._server.post(body, n_answers))
            except _RequestError as fault:
                attempt += 1
                n_answers += fault.whose == "answer"
                if not fault.is_repeated or attempt > self._given.retries:
                    raise
                if self._is_closed.wait(_backoff_s(attempt)):
                    raise _RequestError("server", "the run ended before the request was repeated") from fault
                self.counts.add(n_repeated=1)

    def _read(self, completion: "_Completion") -> Answer:
        """Return what is kept of the model's answer, or its refusal.

        Raises:
            _RequestError: The answer does not fit the schema.
        """
        choice = completion.choices[0]
        if choice.message.refusal or choice.finish_reason == "content_filter":
            return Answer(refusal=f"the model refused it: {_quote(choice.message.refusal or 'content filter')}")
        content = choice.message.content or ""
        try:
            return self._read_content(content)
        except ValueError as error:
            cut = ", cut off at the limit of tokens" if choice.finish_reason == "length" else ""
            why = _explain_invalid(error)
            raise _RequestError(
                "answer", f"the answer does not fit the schema ({why}){cut}: {_quote(content)}"
            ) from None

    def _unavailable(self, text: str) -> ScorerUnavailableError:
        return ScorerUnavailableError(
            f"{self._given.endpoint} does not score: {text}. Check the server, endpoint, model and ALCHEMIST_VLM_API_KEY. What it has "
            "answered is kept; run the command again."
        )


def _explain_invalid(error: ValueError) -> str:
    if not isinstance(error, ValidationError):
        return str(error)
    first = error.errors()[0]
    return f"{'.'.join(map(str, first['loc']))}: {first['msg']}".lstrip(": ")


def _data_url(image_HWC: UInt8[np.ndarray, "H W 3"], image_format: str) -> str:
    data = io.BytesIO()
    options = {"quality": _JPEG_QUALITY, "subsampling": 0} if image_format == "jpeg" else {}
    Image.fromarray(image_HWC).save(data, image_format, **options)
    return f"data:image/{image_format};base64,{base64.b64encode(data.getvalue()).decode()}"


def _results(asked: Mapping[Key, "Future[Answer | str]"]) -> dict[Key, Answer | str]:
    """Wait for all results; after an error, those that have not begun are cancelled."""
    done, waiting = wait(asked.values(), return_when=FIRST_EXCEPTION)
    for future in done:
        if error := future.exception():
            for other in waiting:
                other.cancel()
            raise error
    return {key: future.result() for key, future in asked.items()}


def _backoff_s(attempt: int) -> float:
    # The jitter keeps requests that failed together from coming back together.
    return min(MAX_BACKOFF_S, BACKOFF_S * 2.0 ** (attempt - 1)) * random.uniform(0.5, 1.0)  # noqa: S311  no secret


def _quote(text: str) -> str:
    return repr(on_one_line(text)[:_MAX_QUOTED])


# --- The server ---------------------------------------------------------------------------------------------------------------


class _RequestError(Exception):
    """A request without a valid answer.

    Args:
        whose: What caused it. server: it would answer no request. request: it might answer another one. answer: the model's answer.
        text: What happened.
        is_repeated: Whether the same request may succeed later.
    """

    def __init__(self, whose: Literal["server", "request", "answer"], text: str, *, is_repeated: bool = True) -> None:
        super().__init__(text)
        self.whose, self.text, self.is_repeated = whose, text, is_repeated


class _Message(BaseModel):
    content: str | None = None
    refusal: str | None = None


class _Choice(BaseModel):
    message: _Message
    finish_reason: str | None = None


def _read_tokens(value: Any, read: ValidatorFunctionWrapHandler) -> Any:
    # The answer is paid for: a number of tokens that makes no sense must not lose it.
    try:
        return read(value)
    except ValidationError:
        return 0


_Tokens = Annotated[int, Field(ge=0, le=10**9), WrapValidator(_read_tokens)]


class _Usage(BaseModel):
    """How many tokens the server counted; 0 for what is not a number of tokens."""

    prompt_tokens: _Tokens = 0
    completion_tokens: _Tokens = 0


class _Completion(BaseModel):
    """What is read of an answer of chat/completions."""

    choices: list[_Choice] = Field(min_length=1)
    usage: _Usage | None = None


@dataclass(slots=True)
class Counts:
    """What a scorer has asked, got and paid."""

    n_requests: int = 0
    n_repeated: int = 0
    n_scored: int = 0
    n_refused: int = 0
    n_kept: int = 0
    """Answers that an earlier run had asked for."""
    n_input_tokens: int = 0
    n_output_tokens: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, **numbers: int) -> None:
        """Add to counts by their names."""
        with self._lock:
            for name, number in numbers.items():
                setattr(self, name, getattr(self, name) + number)

    def cost(self, options: ServerOptions) -> float | None:
        """Return the cost of all tokens, of invalid answers too, in the currency of the prices; None without prices."""
        prices = options.price_per_1000_input_tokens, options.price_per_1000_output_tokens
        if prices == (None, None):
            return None
        return ((prices[0] or 0) * self.n_input_tokens + (prices[1] or 0) * self.n_output_tokens) / 1000

    def describe(self, options: ServerOptions) -> str:
        """Return the counts as a line of text."""
        cost = self.cost(options)
        return (
            f"{self.n_requests:,} requests ({self.n_repeated:,} of them repeated), {self.n_scored:,} samples scored, "
            f"{self.n_refused:,} refused, {self.n_kept:,} answers of earlier runs; {self.n_input_tokens:,} input and "
            f"{self.n_output_tokens:,} output tokens" + ("" if cost is None else f", cost {cost:,.4f}")
        )


class _Server:
    """Sends requests, from several threads at a time, and says of each failure what caused it (`_RequestError`)."""

    def __init__(self, options: ServerOptions, counts: Counts) -> None:
        self._url, self._timeout_s, self._counts = (
            f"{options.endpoint.rstrip('/')}/chat/completions",
            options.timeout_s,
            counts,
        )
        self._key = _read_key(options.endpoint)
        self._headers = {"Content-Type": "application/json", "Accept-Encoding": "identity"}
        if self._key:
            self._headers["Authorization"] = f"Bearer {self._key}"
        settings: dict[str, Any] = {"maxsize": options.concurrency, "timeout": options.timeout_s, "retries": False}
        self._pool = _open_pool(self._url, settings)
        self._resume_at, self._lock = 0.0, threading.Lock()

    def post(self, body: bytes, n_answers: int = 0) -> _Completion:
        """Send a request and return its answer.

        The request has a key that depends on nothing but these arguments. A server that knows the header Idempotency-Key gives
        a request that is sent again after a lost answer, by whichever process, the answer that was paid for.

        Args:
            body: The request.
            n_answers: Number of answers of the model to it that do not fit the schema. Other failures cost nothing and keep the key.

        Raises:
            _RequestError: There is no answer, or it is not a completion.
        """
        time.sleep(max(0.0, self._resume_at - time.monotonic()))
        self._counts.add(n_requests=1)
        headers = self._headers | {"Idempotency-Key": hashlib.sha256(b"%d " % n_answers + body).hexdigest()}
        try:
            response = self._pool.request(
                "POST", self._url, body=body, headers=headers, preload_content=False, redirect=False
            )
            data = self._read(response)
        except InvalidHeader as error:
            raise _RequestError("request", self._scrub(f"the answer has an invalid header: {error}")) from None
        except ProtocolError as error:
            text = self._scrub(f"the connection was cut: {error}")
            raise _RequestError("request", text) from None
        except HTTPError as error:
            text = self._scrub(f"{type(error).__name__}: {error}")
            raise _RequestError("server", text) from None
        if response.status != 200:
            raise self._explain(response, data)
        try:
            completion = _Completion.model_validate_json(data)
        except ValidationError:
            text = self._scrub(data.decode(errors="replace"))
            raise _RequestError("request", f"the answer is not a chat completion: {_quote(text)}") from None
        usage = completion.usage or _Usage()
        self._counts.add(n_input_tokens=usage.prompt_tokens, n_output_tokens=usage.completion_tokens)
        return completion

    def _read(self, response: urllib3.BaseHTTPResponse) -> bytes:
        """Return the body; a timeout holds for all of it, and not for each part.

        It is never decompressed: a few bytes can hold more than all memory.
        """
        deadline, data = time.monotonic() + self._timeout_s, bytearray()
        try:
            n_announced = _announced_bytes(response)
        except _RequestError:
            response.close()
            if response.status == 200:
                raise
            return b""  # The status says what happened.
        while part := response.read1(_READ_BYTES, decode_content=False):
            data += part
            if len(data) > MAX_ANSWER_BYTES or time.monotonic() > deadline:
                response.close()
                raise _RequestError("request", f"the answer has no end after {len(data):,} bytes")
        response.release_conn()
        if len(data) < n_announced:
            raise _RequestError("request", f"the connection was cut after {len(data):,} bytes")
        return bytes(data)

    def _explain(self, response: urllib3.BaseHTTPResponse, data: bytes) -> _RequestError:
        status = response.status
        text = f"status {status}, {_quote(self._scrub(data.decode(errors='replace')))}"
        if status in _BUSY_STATUS:
            pause_s = _retry_after_s(response.headers.get("Retry-After"))
            with self._lock:
                self._resume_at = max(self._resume_at, time.monotonic() + min(pause_s, MAX_PAUSE_S))
            if pause_s > MAX_PAUSE_S:
                return _RequestError("server", f"{text}; it asks for a pause of {pause_s:,.0f} s", is_repeated=False)
            return _RequestError("server", text)
        if status in _OWN_STATUS:
            return _RequestError("request", text, is_repeated=False)
        return _RequestError("request" if status >= 500 else "server", text, is_repeated=status >= 500)

    def _scrub(self, text: str) -> str:
        """Return a text of the server without the key, which some servers repeat."""
        return text.replace(self._key, "(key)") if self._key else text

    def close(self) -> None:
        """Close all connections."""
        self._pool.clear()


def _read_key(endpoint: str) -> str:
    """Return the key for a server; empty without one.

    Raises:
        ConfigError: No header can carry the key, or this server must not get it.
    """
    settings = load_settings()
    key = "" if settings.vlm_api_key is None else settings.vlm_api_key.get_secret_value().strip()
    if not key.isascii() or len(key.split()) > 1:
        raise ConfigError("ALCHEMIST_VLM_API_KEY must be one word of ASCII characters. Its value is not shown.")
    if not key:
        return ""
    if not endpoint.startswith("https:") and not _is_loopback(endpoint):
        raise ConfigError(
            f"{endpoint} would get ALCHEMIST_VLM_API_KEY in plain text. Use an https:// address, or a server on this machine such as "
            "http://localhost:8000/v1; unset the key if the server needs none."
        )
    only = settings.vlm_api_key_host
    if only is not None and _host_of(endpoint) != only.lower():
        raise ConfigError(
            f"{endpoint} must not get ALCHEMIST_VLM_API_KEY: ALCHEMIST_VLM_API_KEY_HOST allows only the host {only.lower()}. Correct the "
            "endpoint, or that variable."
        )
    return key


def _host_of(url: str) -> str:
    # By the same rules as the connection: other parsers find another host in some addresses.
    try:
        return (urllib3.util.parse_url(url).host or "").strip("[]")
    except LocationParseError:
        raise ConfigError(f"The endpoint {url} is not a valid URL. Write it as http://localhost:8000/v1.") from None


def _is_loopback(url: str) -> bool:
    host = _host_of(url)
    with suppress(ValueError):
        return ip_address(host).is_loopback
    return host == "localhost"


def _open_pool(url: str, settings: Mapping[str, Any]) -> urllib3.PoolManager:
    """Return the connections to a server, through its proxy if it has one, with the name and password of the proxy's address."""
    if not (proxy := _find_proxy(url)):
        return urllib3.PoolManager(**settings)
    auth = urllib3.util.parse_url(proxy).auth
    # As latin-1, in which urllib3 writes the header: any bytes may be written as %XX.
    login = None if auth is None else urllib3.make_headers(proxy_basic_auth=unquote(auth, "latin-1"))
    return urllib3.ProxyManager(proxy, proxy_headers=login, **settings)


def _find_proxy(url: str) -> str | None:
    """Return the proxy that the environment names for a URL, as other clients read HTTPS_PROXY and NO_PROXY; without a scheme: http.

    There is none for this machine, so that its key does not reach a proxy in plain text.
    """
    if _is_loopback(url):
        return None
    parts = urlsplit(url)
    proxy = None if proxy_bypass(parts.hostname or "") else getproxies().get(parts.scheme)
    return proxy if not proxy or "://" in proxy else f"http://{proxy}"


def _announced_bytes(response: urllib3.BaseHTTPResponse) -> int:
    """Return the size of a body; 0 if the server does not announce it.

    Raises:
        _RequestError: The body is compressed, or its size is not one number.
    """
    encoding, size = (
        response.headers.get(name, none) for name, none in (("Content-Encoding", "identity"), ("Content-Length", "0"))
    )
    if encoding.strip().lower() != "identity":
        raise _RequestError(
            "request", f"the answer has Content-Encoding {_quote(encoding)}, but only identity was asked for"
        )
    if not _SIZE.fullmatch(size):
        raise _RequestError(
            "request", f"the answer has Content-Length {_quote(size)}, which is not one number of bytes"
        )
    return int(size)


def _retry_after_s(header: str | None) -> float:
    """Return the pause that a server asks for, in seconds; 0 if it asks for none, or for what is not a number of seconds or a date."""
    try:
        return urllib3.Retry().parse_retry_after(header) if header else 0.0
    except (InvalidHeader, ValueError, OverflowError):
        return 0.0


# --- Answers on the disk ------------------------------------------------------------------------------------------------------


class AnswerFile:
    """Answers by their keys in an SQLite file, which several threads, processes and machines use at a time.

    It has a rollback journal, because SQLite's write-ahead log needs memory that all users of the file share, and the home of a cluster is
    a volume that several machines mount. Locks of that volume must work (NFS 4, CephFS).
    """

    def __init__(self, path: Path) -> None:
        self._path, self._lock = path, threading.Lock()
        self._connection: sqlite3.Connection | None = None

    def find(self, keys: Sequence[Key]) -> dict[Key, Answer]:
        """Return the answers of those keys that have one; creates no file.

        Raises:
            ScorerUnavailableError: They cannot be read, such as when another process holds the file for too long.
        """
        if self._connection is None and not self._path.exists():
            return {}
        query = "SELECT answer FROM answers WHERE image_sha256 = ? AND prompt_sha256 = ?"
        try:
            with self._lock:
                rows = [(key, self._open().execute(query, key).fetchone()) for key in keys]
        except sqlite3.Error as error:
            raise ScorerUnavailableError(f"The answers in {self._path} cannot be read: {error}.") from error
        return {key: _unpack(row[0]) for key, row in rows if row is not None}

    def keep(self, key: Key, answer: Answer) -> None:
        """Write an answer to the disk; when this returns, neither a kill nor a power cut loses it.

        Raises:
            ScorerUnavailableError: It cannot be written, such as when the disk is full.
        """
        statement = "INSERT OR REPLACE INTO answers VALUES (?, ?, ?)"
        try:
            with self._lock:
                self._open().execute(statement, (*key, json.dumps(answer._asdict())))
        except sqlite3.Error as error:
            raise ScorerUnavailableError(f"An answer cannot be written to {self._path}: {error}.") from error

    def forget(self, images: Iterable[bytes]) -> int:
        """Delete the answers about images, given by the sha256 of their files; return how many.

        Raises:
            DataError: They cannot be deleted, such as from a damaged file.
        """
        delete = "DELETE FROM answers WHERE image_sha256 = ?"
        try:
            with self._lock:
                return sum(self._open().execute(delete, (image,)).rowcount for image in images)
        except sqlite3.Error as error:
            raise DataError(
                f"The answers of models in {self._path} cannot be deleted: {error}. Repair what prevents it, or delete the file: its "
                "answers are then paid for again. Then run: alchemist maintain takedowns"
            ) from error

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            if self._connection is not None:
                self._connection.close()

    def _open(self) -> sqlite3.Connection:
        if self._connection is None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            # Autocommit: each statement is a transaction.
            connection = sqlite3.connect(self._path, timeout=60, isolation_level=None, check_same_thread=False)
            connection.execute("PRAGMA journal_mode = DELETE")
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute(
                "CREATE TABLE IF NOT EXISTS answers (image_sha256 BLOB, prompt_sha256 BLOB, answer TEXT NOT NULL, "
                "PRIMARY KEY (image_sha256, prompt_sha256)) WITHOUT ROWID"
            )
            self._connection = connection
        return self._connection


def forget_answers(images: Iterable[bytes]) -> tuple[int, list[DataError]]:
    """Delete the answers of all models about images; a takedown calls it, as what is computed from an image goes with the image.

    Returns:
        The number of answers deleted, and why others could not be.
    """
    images, n_forgotten, failures = list(images), 0, list[DataError]()
    for path in sorted((load_settings().home.resolve() / ANSWERS).glob("*.sqlite")):
        answers = AnswerFile(path)
        try:
            n_forgotten += answers.forget(images)
        except DataError as error:
            failures.append(error)
        answers.close()
    return n_forgotten, failures


def _unpack(text: str) -> Answer:
    stored = json.loads(text)
    return Answer(tuple(stored["scores"]), stored["refusal"], stored.get("text", ""))
