"""Arms of a comparison: the subset itself, and the controls that it must beat."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from alchemist_core.data.artifacts import artifact_path
from alchemist_core.data.manifests import list_hashes, read_manifest
from alchemist_core.errors import ConfigError
from alchemist_core.selection.draw import draw_members
from alchemist_core.selection.keys import Domain, Noise
from alchemist_core.selection.strategies import Random
from alchemist_core.store.eligible import EligiblePairs
from alchemist_core.store.subsets import SubsetRow

ARMS = ("subset", "random", "planted", "full")
PLANTED, WORTHY = "planted", "informative"
# planted+plain: where the undamaged pairs are too few, plain ones fill the rest.
FILLED = f"{PLANTED}+"


@dataclass(frozen=True, slots=True)
class Arms:
    """What the arms of one subset are drawn from."""

    subset: SubsetRow
    eligible: EligiblePairs
    truth: Path | None

    def members(self, arm: str, seed: int) -> list[bytes]:
        """Return the pair hashes that an arm trains on; a pair that stands twice is seen twice an epoch.

        Raises:
            ConfigError: If the arm is unknown, or planted and the truth is not given.
        """
        match arm:
            case "subset":
                return read_manifest(
                    artifact_path(self.subset.manifest_uri), sha256=self.subset.manifest_sha256
                ).pair_hashes()
            case "random":
                return self._draw(np.arange(len(self.eligible)), self.subset.n_samples, seed, Domain.RANDOM_CONTROL)
            case "planted":
                return self._planted(seed)
            case "full":
                return list_hashes(self.eligible.pair_hash_N32)
            case _ if arm.startswith(FILLED):
                return self._planted(seed, filling=arm.removeprefix(FILLED))
            case _:
                raise ConfigError(f"--arms {arm}: unknown. Arms: {', '.join(ARMS)}, {FILLED}KIND.")

    def _draw(self, among: NDArray[np.int64], k: int, seed: int, domain: Domain) -> list[bytes]:
        rank_N, hash_N = np.zeros(len(among)), self.eligible.pair_hash64_N[among]
        drawn = draw_members(rank_N, hash_N, k=k, strategy=Random(), noise=Noise(seed, domain))
        return list_hashes(self.eligible.pair_hash_N32[among[drawn]])

    def _planted(self, seed: int, filling: str | None = None) -> list[bytes]:
        """Draw as many undamaged pairs as the subset has; where there are fewer, each is repeated as evenly as can be.

        With a filling, pairs of that kind are drawn first for the places that are left, and what they leave is repeated.
        """
        worthy = self._of_kind(WORTHY, seed)
        n_places = self.subset.n_samples
        others: list[bytes] = []
        if filling is not None:
            among = self._of_kind(filling, seed)
            n_filled = min(max(0, n_places - len(worthy)), len(among))
            others = self._draw(among, n_filled, seed, Domain.PLANTED_FILLING) if n_filled else []
        n_whole, n_rest = divmod(n_places - len(others), len(worthy))
        every = list_hashes(self.eligible.pair_hash_N32[worthy])
        return every * n_whole + (self._draw(worthy, n_rest, seed, Domain.PLANTED_CONTROL) if n_rest else []) + others

    def _of_kind(self, kind: str, seed: int) -> NDArray[np.int64]:
        """Return the places of the eligible pairs of a kind."""
        if self.truth is None:
            raise ConfigError(
                "--arms planted needs --truth FILE: the Parquet file of a drawn corpus that says what each pair is worth."
            )
        rows = _read_truth(self.truth)
        wanted = {row["pair_hash"] for row in rows if row["kind"] == kind}
        if not wanted:
            kinds = ", ".join(sorted({row["kind"] for row in rows}))
            raise ConfigError(f"--truth {self.truth}: it knows no pair of kind {kind!r}. Its kinds: {kinds}.")
        among = [i for i, pair_hash in enumerate(self.members("full", seed)) if pair_hash in wanted]
        if not among:
            raise ConfigError(
                f"--truth {self.truth}: none of its {len(wanted):,} {kind} pairs is eligible. Is it another corpus's?"
            )
        return np.array(among, dtype=np.int64)


def _read_truth(path: Path) -> list[dict[str, Any]]:
    """Read what each pair of a synthetic corpus is worth."""
    try:
        rows: list[dict[str, Any]] = pq.read_table(path, columns=["pair_hash", "kind"]).to_pylist()
    except (OSError, pa.ArrowException) as error:
        why = str(error).partition("\n")[0]
        raise ConfigError(
            f"--truth {path} is not a Parquet file with the columns pair_hash and kind ({why}). Name the truth.parquet of a drawn corpus."
        ) from error
    return rows
