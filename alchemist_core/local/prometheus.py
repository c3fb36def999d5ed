"""The local Prometheus, where its program is installed: our rules and our exporter, at this installation's ports.

Knows its configuration and command line. Does not start it: the supervisor does.
"""

import shutil
from pathlib import Path

from alchemist_core.local.stack_state import Ports
from alchemist_core.resources import resource

RULES = resource("infra", "prometheus")
KEPT_FOR = "90d"


def is_installed() -> bool:
    """Tell whether Prometheus can be started: its program is found."""
    return shutil.which("prometheus") is not None


def prometheus_command(home: Path, ports: Ports) -> list[str]:
    """Write the configuration and return the command line."""
    folder = home / "prometheus"
    folder.mkdir(parents=True, exist_ok=True)
    config = (RULES / "prometheus.yml").read_text().replace("127.0.0.1:9477", f"127.0.0.1:{ports.metrics}")
    for name in ("recording.yml", "alerts.yml"):
        config = config.replace(f"- {name}", f"- {RULES / name}")
    path = folder / "prometheus.yml"
    path.write_text(config)
    return [
        str(shutil.which("prometheus")), f"--config.file={path}", f"--storage.tsdb.path={folder / 'data'}",
        f"--storage.tsdb.retention.time={KEPT_FOR}", f"--web.listen-address=127.0.0.1:{ports.prometheus}",
    ]  # fmt: skip
