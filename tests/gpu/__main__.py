"""Run the parts one after another; write `.alchemist/bench/gpu.json`, and print it as one table."""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from alchemist_core.settings import load_settings
from tests.gpu.parts import PARTS, Given, Part, command_of, failed

GRACE_S = 20
"""Seconds in which a part that reached its limit may stop what it started."""


def parser() -> argparse.ArgumentParser:
    """Return the parser; its help lists the parts."""
    listed = "\n".join(f"  {part.name:<14} {part.what} (at most {part.limit_s // 60} minutes)" for part in PARTS)
    made = argparse.ArgumentParser(
        "python -m tests.gpu",
        description=f"{__doc__}\nIt needs no server and no network.\n\nparts:\n{listed}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    # Not `choices`: argparse compares them with the default, too, which is the empty list.
    made.add_argument("parts", nargs="*", metavar="PART", help="parts to run; default: all")
    made.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    made.add_argument("--smallest", action="store_true", help="the smallest size, to try the program on a CPU")
    made.add_argument("--corpus", type=Path, help="folder of image-text tars for part arms; default: synthetic scenes")
    made.add_argument("--out", type=Path, help="file of the rows; default: bench/gpu.json in the home")
    return made


def main(arguments: list[str] | None = None) -> int:
    """Run the parts; rows of other parts on the same machine stay in the file and in the table."""
    made = parser()
    given = made.parse_args(arguments)
    names = [part.name for part in PARTS]
    if unknown := set(given.parts) - {*names}:
        made.error(f"unknown part {', '.join(sorted(unknown))}; choose from {', '.join(names)}")
    out = given.out or load_settings().home.resolve() / "bench" / "gpu.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = json.loads(out.read_text(encoding="utf-8")) if out.exists() else []
    for part in PARTS:
        if given.parts and part.name not in given.parts:
            continue
        new = run_part(part, given)
        machine = new[-1]["machine"]
        rows = [row for row in rows if row["machine"] == machine and row["part"] != part.name] + new
        rows.sort(key=lambda row: names.index(row["part"]))
        out.write_text(json.dumps(rows, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    print_table(rows, out)
    return int(any(row["ok"] is False for row in rows))


def run_part(part: Part, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Run a part until its end or its limit; return its rows."""
    print(f"\n{part.name}: {part.what}; at most {part.limit_s} s", flush=True)
    environment = os.environ | ({} if options.device == "cuda" else {"CUDA_VISIBLE_DEVICES": ""})
    corpus = None if options.corpus is None else str(options.corpus.resolve())
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="alchemist-gpu-") as folder:
        # Postgres runs as another user where this one is root.
        Path(folder).chmod(0o755)
        command = command_of(Given(part.name, options.device, options.smallest, corpus, folder))
        # In a session of its own, so that all of it can be ended.
        process = subprocess.Popen(command, env=environment, start_new_session=True)
        why = _wait(process, part.limit_s)
        path = Path(folder) / "rows"
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        named = Path(folder) / "machine"
        machine = named.read_text(encoding="utf-8") if named.exists() else options.device
    rows = [json.loads(line) for line in lines]
    if why is not None:
        rows.append({"part": part.name, "machine": machine, **failed(f"{part.name}: incomplete", why)._asdict()})
    for row in rows:
        row["seconds"] = round(time.monotonic() - began)
    return rows


def _wait(process: subprocess.Popen[bytes], limit_s: float) -> str | None:
    """Wait for the end of a part; return why it is incomplete, or None."""
    try:
        code = process.wait(limit_s)
    except subprocess.TimeoutExpired:
        process.terminate()
        try:
            process.wait(GRACE_S)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        return f"stopped at its limit of {limit_s:g} s"
    except KeyboardInterrupt:
        process.terminate()
        process.wait(GRACE_S)
        raise
    return None if code == 0 else f"its process ended with {code}"


def print_table(rows: list[dict[str, Any]], out: Path) -> None:
    """Print the rows of all parts."""
    table = Table("what", "value", "unit", "target", "", "detail", title=rows[-1]["machine"])
    for number, row in enumerate(rows):
        value = "–" if row["value"] is None else f"{row['value']:,.4g}"
        mark = {None: "", True: "ok", False: "MISS"}[row["ok"]]
        cells = (row["name"], value, row["unit"], row["target"] or "", mark, row["detail"])
        is_last = number + 1 == len(rows) or rows[number + 1]["part"] != row["part"]
        table.add_row(*map(escape, cells), end_section=is_last)
    console = Console(width=None if sys.stdout.isatty() else 180)
    console.print(table)
    console.print(f"Written to {out}.", highlight=False)


if __name__ == "__main__":
    sys.exit(main())
