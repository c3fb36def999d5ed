"""Look at samples, subsets, nights and raters in a browser, without Airflow: a server on this machine for this user."""

import getpass
import ipaddress
import socket
import threading
import webbrowser

from pydantic import Field, field_validator

from alchemist_core.config import Command, Config
from alchemist_core.errors import ConfigError
from alchemist_core.ports import explain_port
from alchemist_core.store.engine import can_write, database_url, open_reader
from alchemist_core.telemetry import say


class ExploreConfig(Config):
    """Where to serve the explorer."""

    port: int = Field(9480, ge=1024, le=65535, description="TCP port")
    host: str = Field(
        "127.0.0.1",
        description="Loopback address to listen on. Other machines cannot reach it; for several people, use Airflow's tab",
    )
    open: bool = Field(False, description="Open it in the default browser")

    @field_validator("host")
    @classmethod
    def _require_loopback(cls, host: str) -> str:
        try:
            is_loopback = ipaddress.ip_address(host).is_loopback
        except ValueError:
            is_loopback = False
        if not is_loopback:
            raise ValueError("must be a loopback address, such as 127.0.0.1 or ::1")
        return host


def serve(config: ExploreConfig) -> None:
    """Serve the explorer to this user until stopped."""
    # Imported here, so that the error of a missing library names the extra, and help imports none.
    import uvicorn  # noqa: PLC0415

    from alchemist_core.explorer.alone import OwnMachine  # noqa: PLC0415
    from alchemist_core.explorer.app import make_app  # noqa: PLC0415

    open_reader()
    # As browsers write it, who give it back as the host.
    host = f"[{ipaddress.ip_address(config.host)}]" if ":" in config.host else config.host
    guard = OwnMachine(config.port, getpass.getuser(), host=host, may_write=(may_write := can_write(database_url())))
    if not may_write:
        say("The user of ALCHEMIST_DATABASE_URL may only read the store, so the explorer offers no action.")
    with _listen(config.host, config.port) as listener:
        address = f"http://{host}:{config.port}/?{guard.query}"
        say(f"Explorer for {getpass.getuser()}, once: {address} (stop: Ctrl-C)")
        settings = uvicorn.Config(
            make_app(guard), log_level="warning", access_log=False, server_header=False, proxy_headers=False, lifespan="off",
            ws="none", limit_concurrency=2_000, timeout_graceful_shutdown=5,
        )  # fmt: skip
        if config.open:
            # A browser in the terminal ends only after it was answered.
            threading.Thread(target=webbrowser.open, args=(address,), daemon=True).start()
        uvicorn.Server(settings).run(sockets=[listener])


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family)
    # As servers do, so that lingering connections of a former one do not count.
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        with explain_port(host, port):
            listener.bind((host, port))
            listener.listen(128)
    except (OSError, ConfigError):
        listener.close()
        raise
    return listener


COMMANDS = {"": Command(ExploreConfig, serve)}
