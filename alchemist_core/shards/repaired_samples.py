"""Samples as training reads them: the source's bytes, repaired as ingest repaired them."""

import json
from typing import Any

from alchemist_core.shards.captions import read_annotation, read_document
from alchemist_core.shards.images import encode_first_frame
from alchemist_core.shards.repairs import Repair, split_repairs
from alchemist_core.shards.tars import IMAGE_EXTS


def repair_sample(sample: dict[str, Any], repair: str | None) -> dict[str, Any]:
    """Return a sample, bytes by extension, as it is to be read; without a repair it is the one that was given.

    The caption is UTF-8 in `.txt` where there is one, the `.json` can be parsed, and an image has one frame: a PNG, for the content
    decides what an image is.

    Args:
        sample: The files of a record by extension, and whatever else a reader keeps beside them.
        repair: As the location's row, or the manifest of a materialized dataset, names it.

    Raises:
        BadTextError, BadImageError: The bytes are not those that were repaired.
    """
    if not repair:
        return sample
    repairs, repaired = split_repairs(repair), dict(sample)
    if Repair.FIRST_FRAME in repairs:
        repaired |= {ext: encode_first_frame(data) for ext, data in sample.items() if ext in IMAGE_EXTS}
    if repairs - {Repair.FIRST_FRAME}:
        text, document = sample.get("txt"), sample.get("json")
        caption = read_annotation(text, document, repairs).caption
        if text is not None:
            repaired["txt"] = caption.encode()
        if document is not None:
            fields = {"caption": caption} | read_document(document, repairs)
            repaired["json"] = json.dumps(fields, ensure_ascii=False).encode()
    return repaired
