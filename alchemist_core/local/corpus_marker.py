"""Tells a finished corpus from half of one by a file of its parameters. Knows nothing of what is in the corpus."""

import json
from collections.abc import Mapping
from pathlib import Path

from alchemist_core.errors import DataError

Parameters = Mapping[str, int | str | bool]


class CorpusMarker:
    """The two small files that say which parameters a folder was made with, and whether it is whole."""

    def __init__(self, out_root: Path, name: str, parameters: Parameters) -> None:
        self._root = out_root
        self._finished = out_root / f"{name}.json"
        self._unfinished = out_root / f"{name}.unfinished.json"
        self._parameters = dict(parameters)

    def is_finished(self) -> bool:
        """Tell whether the corpus of these parameters is whole; none or half of it is not.

        Raises:
            DataError: The folder holds something else.
        """
        if not self._root.exists() or not any(self._root.iterdir()):
            return False
        for path in (self._finished, self._unfinished):
            if path.exists():
                self._compare(path)
                return path == self._finished
        raise DataError(f"{self._root} is not empty and holds no such corpus; name another folder")

    def start(self) -> None:
        """Note the parameters before the first byte."""
        self._root.mkdir(parents=True, exist_ok=True)
        self._unfinished.write_text(json.dumps(self._parameters, indent=2), "utf-8")

    def finish(self) -> None:
        """Declare the corpus whole."""
        self._unfinished.replace(self._finished)

    def _compare(self, path: Path) -> None:
        try:
            found = json.loads(path.read_text("utf-8"))
        except ValueError:
            found = None
        if found != self._parameters and not (found is None and path == self._unfinished):
            raise DataError(
                f"{self._root} holds a corpus made with {found}, not with {self._parameters}; "
                "name another folder, or remove that one"
            )
