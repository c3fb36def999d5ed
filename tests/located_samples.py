"""A located sample, as the store returns it."""

import hashlib
from typing import Any

from alchemist_core.store.sample_table import LocatedSample


def located(number: int, **fields: Any) -> LocatedSample:
    """Make a sample of a number; its fields may be replaced."""
    sample = LocatedSample(
        sample_id=number, pair_hash=hashlib.sha256(b"pair%d" % number).digest(),
        image_hash=hashlib.sha256(b"image%d" % number).digest(), perceptual_hash=-number or None,
        caption=f"кот номер {number} 🟥", dataset_id=1, root_uri="s3://crawl", shard_id=1, uri="1.tar", ordinal=number,
        key=f"{number:09d}", file_exts=["jpg", "txt"], file_offsets=[512 * number, 512 * number + 9], file_sizes=[9, 8],
        content_hash=None, repair=None,
    )  # fmt: skip
    return sample._replace(**fields)
