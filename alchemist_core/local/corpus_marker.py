"""Marker files that distinguish a complete corpus from an interrupted one, and record its parameters."""

import json
from collections.abc import Mapping
from pathlib import Path

from alchemist_core.errors import DataError

Parameters = Mapping[str, int | str | bool]


class CorpusMarker:
    """Two small files that record the parameters of a generated folder, and whether it is complete."""

    def __init__(self, out_root: Path, name: str, parameters: Parameters) -> None:
        self._root = out_root
        self._finished = out_root / f"{name}.json"
        self._unfinished = out_root / f"{name}.unfinished.json"
        self._parameters = dict(parameters)

    def is_finished(self) -> bool:
        """Return whether the corpus with these parameters is complete.

        Raises:
            DataError: The folder contains something else.
        """
        if not self._root.exists() or not any(self._root.iterdir()):
            return False
        for path in (self._finished, self._unfinished):
            if path.exists():
                self._compare(path)
                return path == self._finished
        raise DataError(f"{self._root} is not empty and does not contain this corpus. Give another folder.")

    def start(self) -> None:
        """Record the parameters, before the first file is written."""
        self._root.mkdir(parents=True, exist_ok=True)
        self._unfinished.write_text(json.dumps(self._parameters, indent=2), "utf-8")

    def finish(self) -> None:
        """Mark the corpus as complete."""
        self._unfinished.replace(self._finished)

    def _compare(self, path: Path) -> None:
        try:
            found = json.loads(path.read_text("utf-8"))
        except ValueError:
            found = None
        if found != self._parameters and not (found is None and path == self._unfinished):
            raise DataError(
                f"{self._root} contains a corpus with parameters {found}, not {self._parameters}. "
                "Give another folder, or remove this one."
            )
