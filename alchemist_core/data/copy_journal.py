"""How far a copy under way is: a line a finished tar, in the hidden folder where it grows. Gone when the copy is complete."""

import json
import shutil
from contextlib import suppress
from pathlib import Path

from alchemist_core.data.copy_manifest import read_copy_manifest
from alchemist_core.data.shard_copying import CopiedShard

JOURNAL_NAME = ".journal"


class Journal:
    """Opens a folder for a copy, made where it is not there, and emptied where it was another copy's.

    Args:
        folder: Where the tars grow; nobody else writes there.
        identity: The copy's name.
    """

    def __init__(self, folder: Path, identity: str) -> None:
        self._path = folder / JOURNAL_NAME
        self.known: dict[str, CopiedShard] = {}
        if not self._read(identity):
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            self._path.write_text(f"{identity}\n", encoding="utf-8")
        # What a kill left half written; nobody else writes here.
        for cut in folder.glob(".*"):
            if cut != self._path:
                cut.unlink()

    def add(self, shard: CopiedShard) -> None:
        """Note a finished tar, which is safe on the disk by now."""
        with self._path.open("a", encoding="utf-8") as file:
            file.write(f"\n{json.dumps(shard)}\n")

    def remove(self) -> None:
        """Forget it: the manifest says all."""
        self._path.unlink(missing_ok=True)

    def _read(self, identity: str) -> bool:
        """Take up what an interrupted copy finished; a line that was cut by a kill is as good as none."""
        manifest = read_copy_manifest(self._path.parent)
        if manifest is not None and manifest[0] == identity:
            self.known = {shard.name: shard for shard in manifest[1]}
            return True
        if not self._path.is_file():
            return False
        found, *lines = self._path.read_text(encoding="utf-8", errors="replace").splitlines() or [""]
        for line in lines:
            with suppress(ValueError, TypeError):
                shard = CopiedShard(*json.loads(line))
                self.known[shard.name] = shard
        return found == identity
