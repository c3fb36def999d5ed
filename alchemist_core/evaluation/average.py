"""The paper's average over its two metrics of images, as a contract that names what it is made of. Knows no store."""

from typing import Any, Literal

from pydantic import Field, ValidationError

from alchemist_core.config import Config
from alchemist_core.errors import ConfigError
from alchemist_core.evaluation.contract import Contract, read_fields, refuse_differences

AVERAGE = "average_score"
SHARED = ("n_images", "first_seed", "prompts_sha256", "sampler", "sampling")
"""What both ingredients must have in common: they are measured on the same images."""


class AverageContract(Config):
    """CLIP-Score over FID, of models that were measured under two other contracts.

    Source: Alchemist Fig. 1.
    """

    metric: Literal["average_score"] = Field(..., description="What is measured")
    clip_score: str = Field(..., description="Name of the contract of the CLIP-Score")
    fid: str = Field(..., description="Name of the contract of the FID")


def read_average(name: str) -> tuple[str, AverageContract] | None:
    """Read a contract as `read_contract` does, if it is one of an average.

    Raises:
        ConfigError: No such contract, or a field that is none.
    """
    stem, fields = read_fields(name)
    if fields.get("metric") != AVERAGE:
        return None
    try:
        return stem, AverageContract.model_validate(fields)
    except ValidationError as error:
        raise ConfigError(f"The contract {name} cannot be read: {error}") from error


def name_average(clip_score: dict[str, Any], fid: dict[str, Any]) -> str:
    """Name the average of two pinned contracts: it says the extractors where they are not the published ones.

    Raises:
        ConfigError: They are of other metrics, or of other images.
    """
    titles = []
    for wanted, pinned in (("clip_score", clip_score), ("fid", fid)):
        contract = Contract.model_validate({key: value for key, value in pinned.items() if key != "name"})
        if contract.metric != wanted:
            raise ConfigError(
                f"{wanted} is measured by {pinned['name']}, whose metric is {contract.metric}: name another."
            )
        titles.append(contract.title.removeprefix(wanted))
    first, second = ({name: pinned.get(name) for name in SHARED} for pinned in (clip_score, fid))
    refuse_differences(first, second, whose=f"contract {clip_score['name']}")
    return AVERAGE + "".join(titles)
