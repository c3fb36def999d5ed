"""Every change of how a value is measured is noticed, and the difference is named."""

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from alchemist_core.errors import ConfigError
from alchemist_core.metrics.catalogue import METRICS, find_metric
from alchemist_core.protocols.protocol import (
    SHIPPED,
    AverageProtocol,
    ImageProtocol,
    ProtocolFile,
    find_differences,
    read_protocol,
    refuse_differences,
    texts_sha256,
)
from tests.metrics.given_metric import metric_of, read_image_protocol

FIELDS: dict[str, Any] = {
    "metric": "kid",
    "extractor": "efficientnet_lite0",
    "weights_sha256": "a" * 64,
    "resolution": 64,
    "resize": "bicubic",
    "n_images": 100,
    "first_seed": 0,
    "prompts_sha256": "b" * 64,
    "sampler": "star",
    "sampling": {"guidance": 1.0, "top_k": 600},
    "reference_sha256": "c" * 64,
    "categories": None,
    "labels_sha256": None,
    "images_per_prompt": None,
    "classes_sha256": None,
    "namer_sha256": None,
    "thresholds": None,
    "n_subsets": 10,
    "subset_size": 50,
}
OTHERS: dict[str, Any] = {
    "metric": "fid",
    "extractor": "inception_v3",
    "weights_sha256": "d" * 64,
    "resolution": 65,
    "resize": "box",
    "n_images": 101,
    "first_seed": 1,
    "prompts_sha256": "d" * 64,
    "sampler": "flow",
    "sampling": {"guidance": 2.0, "top_k": 600},
    "reference_sha256": "d" * 64,
    "categories": ["animals"],
    "labels_sha256": "d" * 64,
    "images_per_prompt": 4,
    "classes_sha256": "d" * 64,
    "namer_sha256": "d" * 64,
    "thresholds": {"threshold": 0.3},
    "n_subsets": 11,
    "subset_size": 51,
}


def test_every_field_of_a_protocol_is_tried() -> None:
    assert FIELDS.keys() == OTHERS.keys() == ImageProtocol.model_fields.keys()


@pytest.mark.parametrize("field", sorted(FIELDS))
def test_equal_protocols_pass_and_one_changed_field_is_refused_by_its_name(field: str) -> None:
    found = ImageProtocol.model_validate(FIELDS).as_json()
    refuse_differences(FIELDS, found, whose="run 1")
    with pytest.raises(ConfigError, match=rf"^{field}.*is .*, but run 1 has") as caught:
        refuse_differences(FIELDS, found | {field: OTHERS[field]}, whose="run 1")
    assert sum(name in str(caught.value) for name in FIELDS) == 1


def test_a_hash_in_the_file_must_be_the_one_found() -> None:
    protocol = ImageProtocol.model_validate(FIELDS)
    with pytest.raises(ConfigError, match=r"weights_sha256 is 'eeee.*file has 'aaaa"):
        protocol.pinned(weights_sha256="e" * 64)


def test_what_the_file_leaves_out_is_filled_in() -> None:
    protocol = ImageProtocol.model_validate(FIELDS | {"prompts_sha256": None})
    assert protocol.pinned(prompts_sha256="e" * 64).prompts_sha256 == "e" * 64


@pytest.mark.parametrize("path", sorted(SHIPPED.glob("*.toml")), ids=lambda path: path.stem)
def test_a_shipped_protocol_can_be_read(path: Path) -> None:
    file = read_protocol(path.stem)
    assert file.name == path.stem
    assert file.metric in METRICS
    if file.metric == "average_score":
        average = file.check(AverageProtocol)
        assert [read_image_protocol(part).metric for part in (average.clip_score, average.fid)] == ["clip_score", "fid"]
    elif not file.metric.startswith("heldout"):
        assert file.check(ImageProtocol).n_images > 1


def test_only_the_published_extractor_gives_a_metric_its_bare_name() -> None:
    assert read_image_protocol("fid_mjhq").title == "fid"
    assert read_image_protocol("clean_fid_mjhq").title == "fid_inception_v3_clean"
    assert read_image_protocol("kid_offline").title == "kid_efficientnet_lite0"


def test_clean_fid_and_fid_are_never_mixed() -> None:
    """They differ in the extractor alone: the same images, the same weights, another way to the network's 299 px."""
    fid, clean = (read_image_protocol(name).as_json() for name in ("fid_mjhq", "clean_fid_mjhq"))
    with pytest.raises(ConfigError, match=r"^extractor is 'inception_v3_clean', but fid_mjhq has 'inception_v3'\. "):
        refuse_differences(fid, clean, whose="fid_mjhq")


def test_categories_are_the_whole_s_protocol_and_ten_names() -> None:
    whole, split = (read_image_protocol(name).as_json() for name in ("fid_mjhq", "fid_mjhq_categories"))
    assert split | {"categories": None} == whole
    assert len(set(split["categories"])) == 10


def test_categories_belong_to_a_fid_alone() -> None:
    with pytest.raises(ValidationError, match="categories is a field of metric fid only; this one is kid"):
        ImageProtocol.model_validate(FIELDS | {"categories": ["animals"]})


def test_an_unknown_protocol_is_answered_with_the_known_ones() -> None:
    with pytest.raises(
        ConfigError, match=r"^No evaluation protocol 'nonesuch'\. Name one of .*heldout_loss, .*kid_offline, or give"
    ):
        read_protocol("nonesuch")


@pytest.mark.parametrize(
    ("name", "instead"),
    [("geneval_offline", "geneval, with folders of Mask2Former and CLIP"), ("scenes_geneval", "kid_offline")],
)
def test_a_removed_protocol_is_answered_with_its_successor(name: str, instead: str) -> None:
    with pytest.raises(ConfigError, match=rf"^No evaluation protocol '{name}'\. {name} was removed: use {instead}\. "):
        read_protocol(name)


def test_an_unknown_field_of_a_file_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text((SHIPPED / "fid_mjhq.toml").read_text().replace("n_images", "n_pictures"))
    with pytest.raises(
        ConfigError, match=r"^Evaluation protocol mine is not valid: n_images: Field required; n_pictures: [^\n]*$"
    ):
        read_image_protocol(str(path))


def test_images_too_small_for_the_network_are_refused() -> None:
    with pytest.raises(
        ValidationError, match="resolution 31 is too small for extractor efficientnet_lite0: at least 32"
    ):
        ImageProtocol.model_validate(FIELDS | {"resolution": 31})


@pytest.mark.parametrize("changed", [{"metric": "fid"}, {"n_subsets": None}, {"subset_size": None}])
def test_draws_belong_to_a_kid_alone(changed: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="are fields of metric kid only"):
        ImageProtocol.model_validate(FIELDS | changed)


def test_a_subset_of_images_is_at_most_as_large_as_the_set() -> None:
    assert ImageProtocol.model_validate(FIELDS | {"n_images": 50}).subset_size == 50
    with pytest.raises(ValidationError, match="subset_size 50 is larger than n_images 49"):
        ImageProtocol.model_validate(FIELDS | {"n_images": 49})


def test_prompts_are_hashed_with_their_borders() -> None:
    assert texts_sha256(["ab", "c"]) != texts_sha256(["a", "bc"])


@pytest.mark.parametrize(
    ("field", "least", "most"),
    [
        ("resolution", 32, 4096), ("n_images", 2, 1_000_000), ("first_seed", 0, 2**31 - 1), ("n_subsets", 1, 10_000),
        ("subset_size", 2, 100_000),
    ],
)  # fmt: skip
def test_a_number_may_be_as_small_or_large_as_its_bounds(field: str, least: int, most: int) -> None:
    # A subset of images is at most as large as the set.
    given = FIELDS | {"n_images": 1_000_000, "subset_size": 2}
    for allowed in (least, most):
        assert getattr(ImageProtocol.model_validate(given | {field: allowed}), field) == allowed
    for refused in (least - 1, most + 1):
        with pytest.raises(ValidationError, match=field):
            ImageProtocol.model_validate(given | {field: refused})


def test_a_network_without_a_least_side_takes_eight_pixels() -> None:
    plain = FIELDS | {"extractor": "inception_v3"}
    assert ImageProtocol.model_validate(plain | {"resolution": 8}).resolution == 8
    with pytest.raises(ValidationError, match="resolution"):
        ImageProtocol.model_validate(plain | {"resolution": 7})
    head = {"metric": "image_text_similarity", "extractor": "efficientnet_lite0_minilm_head"}
    undrawn = FIELDS | {"n_subsets": None, "subset_size": None}
    with pytest.raises(ValidationError, match="at least 32"):
        ImageProtocol.model_validate(undrawn | head | {"resolution": 31})


@pytest.mark.parametrize("wrong", ["a" * 63, "a" * 65, "A" * 64, "g" * 64])
@pytest.mark.parametrize("field", sorted(name for name in FIELDS if name.endswith("sha256")))
def test_a_hash_is_64_small_hexadecimal_digits(field: str, wrong: str) -> None:
    with pytest.raises(ValidationError, match=field):
        ImageProtocol.model_validate(FIELDS | {field: wrong})


GENEVAL = {
    "metric": "geneval", "extractor": "mask2former", "resolution": 64, "n_images": 8, "images_per_prompt": 4,
    "thresholds": {"threshold": 0.3},
}  # fmt: skip


@pytest.mark.parametrize(
    "changed",
    [
        {"metric": "kid"}, {"images_per_prompt": None}, {"thresholds": None},
        {"metric": "fid", "thresholds": None}, {"metric": "fid", "images_per_prompt": None},
        {"images_per_prompt": None, "thresholds": None},
    ],
)  # fmt: skip
def test_thresholds_and_images_of_a_prompt_belong_to_geneval_alone(changed: dict[str, Any]) -> None:
    assert ImageProtocol.model_validate(GENEVAL).metric == "geneval"
    with pytest.raises(ValidationError, match=f"only; this one is {changed.get('metric', 'geneval')}"):
        ImageProtocol.model_validate(GENEVAL | changed)


@pytest.mark.parametrize("n", [0, 65])
def test_a_prompt_has_one_to_64_images(n: int) -> None:
    assert [ImageProtocol.model_validate(GENEVAL | {"images_per_prompt": m}).images_per_prompt for m in (1, 64)] == [
        1,
        64,
    ]
    with pytest.raises(ValidationError, match="images_per_prompt"):
        ImageProtocol.model_validate(GENEVAL | {"images_per_prompt": n})


@pytest.mark.parametrize(
    ("metric", "extractor", "title"),
    [
        ("kid", "inception_v3", "kid"), ("kid", "inception_v3_clean", "kid_inception_v3_clean"),
        ("fid", "inception_v3", "fid"), ("clip_score", "clip", "clip_score"), ("fid", "clip", "fid_clip"),
        ("image_text_similarity", "efficientnet_lite0_minilm_head", "image_text_similarity_efficientnet_lite0_minilm_head"),
    ],
)  # fmt: skip
def test_a_title_names_every_extractor_but_the_published_one(metric: str, extractor: str, title: str) -> None:
    draws = {} if metric == "kid" else {"n_subsets": None, "subset_size": None}
    assert ImageProtocol.model_validate(FIELDS | {"metric": metric, "extractor": extractor} | draws).title == title


def test_a_value_that_only_one_side_has_differs() -> None:
    assert find_differences({"b": {"x": 1}, "a": 1}, {"b": {"y": 1}}) == ["a", "b.x", "b.y"]
    assert find_differences({"b": {"x": 1}}, {"b": None}) == ["b"]
    with pytest.raises(ConfigError, match=r"^b\.x is None, but run 1 has 1; c is 2, but run 1 has None\."):
        refuse_differences({"b": {"x": 1}}, {"b": {}, "c": 2}, whose="run 1")


def test_a_protocol_that_is_not_toml_is_refused_with_its_path(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text("metric = ")
    with pytest.raises(ConfigError, match=r"^Evaluation protocol .*mine\.toml is not valid TOML: "):
        read_image_protocol(str(tmp_path / "mine.toml"))


def test_metrics_without_text_features_give_no_clip_score() -> None:
    protocol = ImageProtocol.model_validate(
        {"metric": "clip_score", "extractor": "inception_v3", "resolution": 64, "n_images": 2}
    )
    with pytest.raises(
        ConfigError, match="clip_score needs features of texts, which extractor inception_v3 does not compute"
    ):
        metric_of(protocol)


def test_a_metric_that_no_class_measures_is_refused_with_the_known_ones() -> None:
    with pytest.raises(
        ConfigError, match=r"names metric 'psnr'. Allowed: average_score, clip_score, fid, .*heldout_loss"
    ):
        find_metric(ProtocolFile("mine", {"metric": "psnr"}))
