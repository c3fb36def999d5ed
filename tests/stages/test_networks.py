"""Which networks a run needs follows from its configs, and where they lie from this machine's files."""

from pathlib import Path
from typing import Any

import pytest

from alchemist_core.config import Config
from alchemist_core.errors import ConfigError
from alchemist_core.models.published.catalogue import EXTRACTORS, NETWORKS, STAR_NETWORKS
from alchemist_core.presets import PRESETS, preset_values
from alchemist_core.protocols.protocol import SHIPPED, read_protocol
from alchemist_core.stages.evaluate import EvaluateConfig
from alchemist_core.stages.networks import NeededNetwork, needed_networks, why_missing
from alchemist_core.stages.select import SelectConfig
from alchemist_core.stages.train_downstream import TrainDownstreamConfig
from alchemist_core.stages.train_rater import TrainRaterConfig
from alchemist_core.training.config import DownstreamConfig, RaterTrainingConfig
from tests.models.published.given_hub import FIRST, HubCache, hub
from tests.models.published.published_keys import rater_keys, star_keys, tokenizer_keys

__all__ = ["hub"]


def names(*configs: Config, **required: tuple[str, ...]) -> list[str]:
    return [needed.name for needed in needed_networks(configs, required)]


def rater(**fields: Any) -> TrainRaterConfig:
    return TrainRaterConfig.model_validate({"dataset": "web", "validation": "v", "training": fields})


def model(**fields: Any) -> TrainDownstreamConfig:
    return TrainDownstreamConfig.model_validate({"subset": "s", "model": fields})


def test_the_smallest_run_needs_no_network() -> None:
    assert names(rater(), model(), SelectConfig(dataset="web"), EvaluateConfig(subset="s")) == []


def test_a_rater_needs_what_its_options_name() -> None:
    needed = needed_networks([
        rater(
            tokenizer_weights="vae.pth", resolution=256, text_encoder="clip:folder", proxy_weights="star.pth", proxy_depth=16,
            rater_weights="rater.pth", rater_init="weights",
        )
    ])  # fmt: skip
    assert {one.name: (one.needed_by, one.source) for one in needed} == {
        "tokenizer": (("train-rater --tokenizer-weights",), "vae.pth"),
        "star-0.3b": (("train-rater --proxy-weights",), "star.pth"),
        "rater": (("train-rater --rater-weights",), "rater.pth"),
        "text-encoder": (("train-rater --text-encoder",), "clip:folder"),
    }


def test_a_network_that_two_stages_need_is_listed_once_with_both() -> None:
    (one,) = needed_networks([rater(text_encoder="clip:folder"), model(text_encoder="clip:folder")])
    assert one.needed_by == ("train-rater --text-encoder", "train-downstream --text-encoder")


def test_a_model_needs_its_base() -> None:
    assert names(model(method="finetune", base_model="star.pth", depth=8, width=512, n_heads=8)) == ["star-40m"]
    assert names(model(method="lora", base_model="star.pth", depth=2)) == ["star"]
    flux = {"method": "lora", "flux": {}, "base_model": "flux.safetensors", "flux_components": "flux"}
    assert names(model(**flux)) == ["flux-mini", "flux-components"]
    assert names(DownstreamConfig(text_encoder="minilm")) == ["minilm"]


@pytest.mark.parametrize(
    ("protocol", "networks"),
    [
        ("heldout_loss", []),
        ("fid_mjhq", ["inception"]),
        ("clean_fid_mjhq", ["inception"]),
        ("clip_score_mjhq", ["clip-l"]),
        ("average_mjhq", ["clip-l", "inception"]),
        ("kid_offline", ["efficientnet-lite0"]),
        ("image_text_offline", ["image-text-head", "efficientnet-lite0", "minilm"]),
        ("geneval", ["mask2former", "clip-l"]),
    ],
)
def test_a_protocol_needs_its_extractor(protocol: str, networks: list[str]) -> None:
    assert names(EvaluateConfig(subset="s", protocol=protocol)) == networks


def test_every_shipped_protocol_has_its_networks_in_the_catalogue() -> None:
    for path in SHIPPED.glob("*.toml"):
        assert set(names(EvaluateConfig(subset="s", protocol=path.stem))) <= NETWORKS.keys()
        extractor = read_protocol(path.stem).fields.get("extractor")
        assert extractor is None or extractor in EXTRACTORS


@pytest.mark.parametrize("preset", PRESETS)
def test_what_a_preset_needs_is_needed_before_an_option_names_it(preset: str) -> None:
    configs = [
        kind.model_validate(preset_values(stage, preset=preset)[section])
        for stage, section, kind in (
            ("train_rater", "training", RaterTrainingConfig), ("train_downstream", "model", DownstreamConfig),
        )
        if PRESETS[preset].values.get(stage)
    ]  # fmt: skip
    needed = needed_networks(configs, PRESETS[preset].needs)
    options = {use.partition(" --")[2].replace("-", "_") for one in needed for use in one.needed_by}
    assert options == {option for options in PRESETS[preset].needs.values() for option in options}
    assert all(one.source is None for one in needed)


def test_weights_on_this_machine_are_found_and_missing_ones_say_why(tmp_path: Path, hub: HubCache) -> None:
    (tmp_path / "star.pth").write_text("weights")
    (hub.commit("org/name", FIRST) / "vae.pth").write_text("weights")

    def needed(source: str | None) -> NeededNetwork:
        return NeededNetwork("tokenizer", ("train-rater --tokenizer-weights",), source)

    assert needed(str(tmp_path / "star.pth")).find() == tmp_path / "star.pth"
    found = needed("hf:org/name/vae.pth").find()
    assert found is not None
    assert found.read_text() == "weights"
    assert why_missing(needed("hf:org/name/vae.pth")) is None
    assert why_missing(needed(None)) == "not named yet (train-rater --tokenizer-weights)."
    assert why_missing(needed("/nowhere/vae.pth")) == "/nowhere/vae.pth does not exist. Correct the path."
    told = why_missing(needed("hf:org/name/other.pth"))
    assert told is not None
    assert "hf:org/name/other.pth cannot be downloaded" in told
    with pytest.raises(ConfigError, match="There is no folder /nowhere"):
        NeededNetwork("text-encoder", (), "clip:/nowhere").find()


def test_a_package_s_weights_are_found_without_a_name() -> None:
    for name in ("minilm", "efficientnet-lite0"):
        path = NeededNetwork(name, ()).find()
        assert path is not None
        assert path.exists()


def test_the_catalogue_s_sizes_are_those_of_the_published_keys() -> None:
    keys = {STAR_NETWORKS[depth]: star_keys(depth) for depth in STAR_NETWORKS}
    keys |= {"rater": rater_keys(8), "tokenizer": tokenizer_keys()}
    for name, shapes in keys.items():
        n_numbers = 0
        for shape in shapes.values():
            size = 1
            for side in shape:
                size *= side
            n_numbers += size
        assert NETWORKS[name].n_numbers == n_numbers, name
        assert name == "tokenizer" or f"{len(shapes)} keys" in NETWORKS[name].layout


def test_every_network_says_who_published_it_and_where_to_get_it() -> None:
    for network in NETWORKS.values():
        assert all((network.what, network.publisher, network.licence, network.layout, network.source, network.size))
