"""Evaluation contracts: all that two values of an image metric must share to be compared, and what differs when they do not.

A contract is a TOML file. What it leaves out (a hash of weights, prompts or references) is pinned by the first evaluation under
its name; from then on nothing may differ. Knows no store, no model and no image.
"""

import hashlib
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError, model_validator

from alchemist_core.config import Config
from alchemist_core.errors import ConfigError

Metric = Literal["fid", "kid", "clip_score", "image_text_similarity", "geneval", "geneval_scenes"]
Extractor = Literal[
    "inception_v3", "inception_v3_clean", "efficientnet_lite0", "clip", "efficientnet_lite0_minilm_head", "mask2former",
    "drawn_shapes",
]  # fmt: skip
STANDARD: dict[str, Extractor] = {
    "fid": "inception_v3", "kid": "inception_v3", "clip_score": "clip", "geneval": "mask2former",
    "geneval_scenes": "drawn_shapes",
}  # fmt: skip
"""The extractor that a metric's bare name promises; with any other one the name says which."""

LEAST_SIDE = {"efficientnet_lite0": 32, "efficientnet_lite0_minilm_head": 32}
"""Below it nothing is left of an image before the network's last layer."""

SHIPPED = Path(__file__).parent
REMOVED = {"geneval_offline": "use geneval, with folders of Mask2Former and CLIP"}
"""Protocols that earlier versions shipped, and what to use instead."""


class Contract(Config):
    """One metric under fixed conditions."""

    metric: Metric = Field(..., description="What is measured")
    extractor: Extractor = Field(..., description="The network, or for drawn scenes the analysis, that looks at images")
    weights_sha256: str | None = Field(
        None, pattern=r"^[0-9a-f]{64}$", description="sha256 of the extractor's weights; none where it has none"
    )
    resolution: int = Field(..., ge=8, le=4096, description="Side to which generated and reference images are brought")
    resize: Literal["bicubic"] = Field(
        "bicubic", description="Filter by which they are: Pillow's, antialiased, on the largest centred square"
    )
    n_images: int = Field(..., ge=2, le=1_000_000, description="Images drawn from each model, one a prompt")
    first_seed: int = Field(0, ge=0, lt=2**31, description="Seed of the first image; the next ones count up")
    prompts_sha256: str | None = Field(None, pattern=r"^[0-9a-f]{64}$", description="Hash of the prompts in order")
    sampler: Literal["star", "flow"] = Field(
        "star", description="What draws: the scale-wise generator, or flow matching (FLUX-mini)"
    )
    sampling: dict[str, float | int] = Field(
        default_factory=dict, description="Guidance, steps or cuts, and batch of the sampler"
    )
    reference_sha256: str | None = Field(
        None, pattern=r"^[0-9a-f]{64}$", description="Hash of the reference images; none where a metric has none"
    )
    categories: tuple[str, ...] | None = Field(
        None, min_length=1, description="Categories of the pairs that get a row of their own, as MJHQ-30K names them"
    )
    labels_sha256: str | None = Field(
        None, pattern=r"^[0-9a-f]{64}$", description="Hash of each pair's category in order; none without categories"
    )
    n_subsets: int | None = Field(None, ge=1, le=10_000, description="Draws over which a KID is averaged")
    subset_size: int | None = Field(None, ge=2, le=100_000, description="Images of a draw")

    images_per_prompt: int | None = Field(None, ge=1, le=64, description="GenEval's images of a prompt")
    classes_sha256: str | None = Field(
        None, pattern=r"^[0-9a-f]{64}$", description="Hash of the names of a detector's classes in order"
    )
    namer_sha256: str | None = Field(
        None, pattern=r"^[0-9a-f]{64}$", description="sha256 of the weights that name colours (CLIP)"
    )
    thresholds: dict[str, float | int] | None = Field(None, description="When a detector's box counts")

    @model_validator(mode="after")
    def _only_geneval_detects(self) -> "Contract":
        is_detected = self.images_per_prompt is not None and self.thresholds is not None
        if is_detected != (self.metric == "geneval") or (self.images_per_prompt is None) != (self.thresholds is None):
            message = (
                f"images_per_prompt and thresholds belong to metric geneval, and to it alone; this one is {self.metric}"
            )
            raise ValueError(message)
        return self

    @model_validator(mode="after")
    def _only_a_kid_is_drawn(self) -> "Contract":
        has_draws = self.n_subsets is not None and self.subset_size is not None
        if has_draws != (self.metric == "kid") or (self.n_subsets is None) != (self.subset_size is None):
            message = f"n_subsets and subset_size belong to metric kid, and to it alone; this one is {self.metric}"
            raise ValueError(message)
        return self

    @model_validator(mode="after")
    def _only_a_fid_has_categories(self) -> "Contract":
        if self.categories is not None and self.metric != "fid":
            message = f"categories belong to metric fid, and to it alone; this one is {self.metric}"
            raise ValueError(message)
        return self

    @model_validator(mode="after")
    def _images_are_large_enough(self) -> "Contract":
        if self.resolution < (least := LEAST_SIDE.get(self.extractor, 0)):
            message = f"resolution {self.resolution} is too small for extractor {self.extractor}: at least {least}"
            raise ValueError(message)
        return self

    @property
    def title(self) -> str:
        """The metric's name in every table: it says the extractor where that is not the published one.

        >>> Contract(metric="fid", extractor="efficientnet_lite0", resolution=64, n_images=9).title
        'fid_efficientnet_lite0'
        """
        is_standard = STANDARD.get(self.metric) == self.extractor
        return self.metric if is_standard else f"{self.metric}_{self.extractor}"

    def pinned(self, **found: Any) -> "Contract":
        """Fill in what was left out.

        Raises:
            ConfigError: A value was given and is another one now.
        """
        given = {name: value for name in found if (value := getattr(self, name)) is not None}
        refuse_differences(given, {name: found[name] for name in given}, whose="the contract's file")
        return self.model_validate(self.model_dump() | found)


def read_contract(name: str) -> tuple[str, Contract]:
    """Read a contract that is shipped, by its name, or any TOML file by its path; its name is the file's.

    Raises:
        ConfigError: No such contract, or a field that is none.
    """
    stem, fields = read_fields(name)
    try:
        return stem, Contract.model_validate(fields)
    except ValidationError as error:
        raise ConfigError(f"The contract {name} cannot be read: {error}") from error


def read_fields(name: str) -> tuple[str, dict[str, Any]]:
    """Read a contract's file, whatever it says.

    Raises:
        ConfigError: There is none, or it is no TOML.
    """
    path = Path(name) if name.endswith(".toml") else SHIPPED / f"{name}.toml"
    if not path.is_file():
        shipped = ", ".join(sorted(each.stem for each in SHIPPED.glob("*.toml")))
        instead = f" {name} was removed: {REMOVED[name]}." if name in REMOVED else ""
        raise ConfigError(
            f"No contract {name!r}: give heldout_loss, one of {shipped}, or the path of a .toml file.{instead}"
        )
    try:
        return path.stem, tomllib.loads(path.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"The contract {path} cannot be read: {error}") from error


def find_differences(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[str]:
    """Name the fields that differ; those of a nested table with a dot.

    >>> find_differences({"n": 1, "sampling": {"top_k": 5}}, {"n": 1, "sampling": {"top_k": 6}})
    ['sampling.top_k']
    """
    names = []
    for name in sorted(first.keys() | second.keys()):
        one, other = first.get(name), second.get(name)
        if isinstance(one, Mapping) and isinstance(other, Mapping):
            names += [f"{name}.{part}" for part in find_differences(one, other)]
        elif one != other:
            names.append(name)
    return names


def refuse_differences(pinned: Mapping[str, Any], found: Mapping[str, Any], *, whose: str) -> None:
    """Let only equal conditions pass.

    Raises:
        ConfigError: Some field differs; the text names each.
    """
    lines = [
        f"{name} is {_value(found, name)!r}, but {whose} says {_value(pinned, name)!r}"
        for name in find_differences(pinned, found)
    ]
    if lines:
        raise ConfigError(
            "; ".join(lines) + ". Values under different conditions cannot be compared: restore what differs, "
            "or copy the contract's file under another name."
        )


def texts_sha256(texts: Sequence[str]) -> str:
    """Hash prompts, or categories, in their order.

    >>> texts_sha256(["a", "b"]) != texts_sha256(["b", "a"])
    True
    """
    parts = (hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest() for text in texts)
    return hashlib.sha256(b"".join(parts)).hexdigest()


def _value(fields: Mapping[str, Any], name: str) -> Any:
    first, _, rest = name.partition(".")
    value = fields.get(first)
    return _value(value, rest) if rest and isinstance(value, Mapping) else value


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
