"""Notifications: their text, and how they are sent to a program or to web addresses (Slack, Teams, mail, any webhook).

Independent of the database: `store/notifications.py` stores the events and sends them to each of `receivers`.
"""

import json
import os
import re
import shlex
import subprocess
import unicodedata
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from functools import partial
from hashlib import sha256
from typing import Literal, NoReturn
from urllib.parse import quote

from alchemist_core.errors import AlchemistError, ConfigError
from alchemist_core.settings import load_settings

Kind = Literal["held_night", "failed_check", "lost_shards", "failed_task", "question", "answered", "worse_than_random"]
TITLES: dict[Kind, str] = {
    "held_night": "A night is held",
    "failed_check": "A data check failed",
    "lost_shards": "Shards are missing or changed",
    "failed_task": "A task failed",
    "question": "A question needs an answer",
    "answered": "A question was answered",
    "worse_than_random": "A subset is worse than random",
}
COMMAND_TIMEOUT_S = 30
RETRIES, RETRY_WAIT_S = 2, 0.5
"""Pauses after failed attempts at a web address; each attempt takes at most 8 seconds."""
LONGEST_TEXT = 4000
"""Longest text, in characters from its end: receivers refuse long messages, and the end of a log matters most."""
# Chat programs interpret these (`<!channel>` in Slack, `@everyone` in Discord): names of data must not alert people.
HARMLESS = str.maketrans({"<": "‹", ">": "›", "@": "＠"})


class NotSentError(AlchemistError):
    """Report that a receiver did not accept an event; the message contains no secret."""


_senders: dict[object, Callable[[], None]] = {}
_command_readers: list[Callable[[], str | None]] = []


@dataclass(frozen=True, slots=True)
class Event:
    """One event that people are notified of, once for each `key`."""

    kind: Kind
    key: str
    what_happened: str
    where_to_look: str
    what_to_do: str
    facts: Mapping[str, str | int | float | None] = field(default_factory=dict)

    @property
    def title(self) -> str:
        """Return the headline."""
        return f"Alchemist: {TITLES[self.kind]}"

    @property
    def text(self) -> str:
        """Return the message: what happened, where to look, what to do, then the facts."""
        facts = [f"{name}: {value}" for name, value in self.facts.items() if value is not None]
        lines = [self.what_happened, f"Look: {self.where_to_look}", f"Do: {self.what_to_do}", *facts]
        # Further lines of a value are indented, so that a log or a name cannot imitate a line of the message.
        return "\n".join(plain(line).replace("\n", "\n    ") for line in lines)


def plain(text: str) -> str:
    r"""Return a text without characters that a terminal or a chat program interprets; keep line breaks, cut a long start.

    >>> plain("a\x1b[31m<!channel>\u202eb")
    'a[31m‹!channel›b'
    """
    kept = (sign for sign in text if sign == "\n" or unicodedata.category(sign) not in {"Cc", "Cf", "Cs", "Zl", "Zp"})
    return "".join(kept).translate(HARMLESS)[-LONGEST_TEXT:]


def code_span(value: object) -> str:
    r"""Return a value as Markdown code, so that nothing in it is rendered as a link, HTML or markup.

    >>> print(code_span("[a](http://b)\n<i>`` "))
    ``` [a](http://b) ‹i›``  ```
    """
    text = " ".join(plain(str(value)).splitlines())
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", text)), default=0))
    return f"{fence} {text} {fence}" if "`" in text else f"`{text}`"


def send_at_end(store: object, send: Callable[[], None]) -> None:
    """Register events to send at the end of the command, when the command line calls `send_announced`."""
    _senders[store] = send


def read_command_from(read: Callable[[], str | None]) -> None:
    """Set where the command is read from if ALCHEMIST_NOTIFY_COMMAND is not set: the project file, which this module does not know."""
    _command_readers[:] = [read]


def send_announced() -> None:
    """Send the events that this process announced, whether its command succeeded or not."""
    while _senders:
        _senders.popitem()[1]()


def task_page(dag_id: str, run_id: str, task_id: str, *, map_index: int = -1, tab: str = "") -> str | None:
    """Return the URL of a task in Airflow; none if ALCHEMIST_AIRFLOW_URL is not set."""
    address = load_settings().airflow_url
    if address is None:
        return None
    task = "/".join(quote(part, safe="") for part in ("dags", dag_id, "runs", run_id, "tasks", task_id))
    mapped = f"/mapped/{map_index}" if map_index >= 0 else ""
    return f"{address.rstrip('/')}/{task}{mapped}" + (f"/{tab}" if tab else "")


def page_of_this_task(otherwise: str) -> str:
    """Return the URL of the Airflow task that runs this command; outside Airflow, that of the runbook heading `otherwise`."""
    names = ("AIRFLOW_CTX_DAG_ID", "AIRFLOW_CTX_DAG_RUN_ID", "AIRFLOW_CTX_TASK_ID")
    dag_id, run_id, task_id = (os.environ.get(name, "") for name in names)
    map_index = int(os.environ.get("AIRFLOW_CTX_MAP_INDEX", "-1"))
    page = task_page(dag_id, run_id, task_id, map_index=map_index) if dag_id and run_id and task_id else None
    return page or runbook_page(otherwise)


def explorer_page(*parts: object) -> str | None:
    """Return the URL of a page of the explorer by the parts of its path; none if no address of the explorer or of Airflow is set.

    Args:
        *parts: Such as "nights", dataset and crawl date. Slashes in a part are quoted.
    """
    settings = load_settings()
    airflow = settings.airflow_url and f"{settings.airflow_url.rstrip('/')}/alchemist"
    address = settings.explorer_url or airflow
    if address in (None, "none"):
        return None
    return "/".join([str(address).rstrip("/"), *(quote(str(part), safe="") for part in parts)])


def docs_address() -> str:
    """Return the address of the documentation: ALCHEMIST_DOCS_URL, else the site of this version."""
    return load_settings().docs_url.rstrip("/")


def runbook_page(heading: str) -> str:
    """Return the address of a runbook heading."""
    return f"{docs_address()}/how-to/runbook.html#{heading}"


def receivers() -> Iterator[tuple[str, Callable[[Event], None]]]:
    """Yield each receiver in the settings: a name without secrets, and a function that sends an event to it.

    The function raises NotSentError, even if the setting is wrong: a mistyped address must not stop a stage.
    """
    settings = load_settings()
    try:
        command = settings.notify_command or next((read() for read in _command_readers), None)
    except ConfigError as error:
        # The project file is wrong: the event waits until it is corrected.
        yield "command", partial(_refuse, str(error))
    else:
        if command:
            yield "command", partial(_run_command, command)
    addresses = settings.notify_url.get_secret_value().split() if settings.notify_url else []
    for number, address in enumerate(addresses, 1):
        # Named by its hash, so that a receiver that accepted an event does not get it again.
        name = f"url {number} ({sha256(address.encode()).hexdigest()[:8]})"
        yield name, lambda event, address=address: _post(address, event)  # type: ignore[misc]  # bound now, not later


def _refuse(reason: str, _event: Event) -> NoReturn:
    raise NotSentError(reason)


def _run_command(command: str, event: Event) -> None:
    document = {"title": event.title, **asdict(event), "text": event.text}
    try:
        words = shlex.split(command)
        subprocess.run(
            words,
            input=json.dumps(document),
            text=True,
            check=True,
            timeout=COMMAND_TIMEOUT_S,
            stdout=subprocess.DEVNULL,
        )
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        raise NotSentError(f"The notification command: {_why_not_run(error)}") from None


def _why_not_run(error: Exception) -> str:
    """Describe how a program failed, without its arguments: they may contain a password, and this text is logged and stored."""
    if isinstance(error, subprocess.CalledProcessError):
        return f"it failed with exit code {error.returncode}"
    if isinstance(error, subprocess.TimeoutExpired):
        return f"it took more than {COMMAND_TIMEOUT_S} seconds"
    if isinstance(error, OSError):
        return f"it cannot be started ({error.strerror})"
    return f"it cannot be read as a command line ({error})"


def _post(address: str, event: Event) -> None:
    with warnings.catch_warnings():
        # Apprise imports the libraries of all services that it finds; some of them use deprecated features.
        warnings.simplefilter("ignore")
        _post_by_apprise(address, event)


def _post_by_apprise(address: str, event: Event) -> None:
    import apprise  # noqa: PLC0415  takes half a second to import

    asset = apprise.AppriseAsset(
        app_id="Alchemist", async_mode=False, default_service_retry=RETRIES, default_service_wait=RETRY_WAIT_S
    )
    service = apprise.Apprise(asset=asset)
    with apprise.LogCapture(level=apprise.logging.WARNING) as log:  # type: ignore[no-untyped-call]
        # A plain web address is a webhook that accepts JSON.
        if not any(service.add(form) for form in (address, *_as_webhook(address))):
            raise NotSentError("Apprise does not support this address. Use json://HOST/PATH, slack://… or msteams://….")
        kind = apprise.NotifyType.INFO if event.kind in ("question", "answered") else apprise.NotifyType.WARNING
        is_sent = service.notify(event.text, event.title, kind, body_format=apprise.NotifyFormat.TEXT)
        if not is_sent:
            lines = [line for line in log.getvalue().splitlines() if line.strip()]
            raise NotSentError(plain(lines[-1] if lines else "it did not accept the message"))


def _as_webhook(address: str) -> list[str]:
    scheme, separator, rest = address.partition("://")
    return [f"{'jsons' if scheme == 'https' else 'json'}://{rest}"] if separator and scheme in ("http", "https") else []
