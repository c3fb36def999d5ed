"""Which networks with published weights the stages need, from their configs, and where these are. No torch."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from alchemist_core.config import Config
from alchemist_core.errors import AlchemistError, ConfigError
from alchemist_core.models.extractors import find_weights, minilm_folder
from alchemist_core.models.flux_config import FluxConfig
from alchemist_core.models.published.catalogue import EXTRACTORS, STAR_NETWORKS
from alchemist_core.models.published.sources import HUB_ENCODER, locate_encoder, locate_file
from alchemist_core.project import load_project
from alchemist_core.protocols.protocol import AverageProtocol, ImageProtocol, read_protocol
from alchemist_core.settings import load_settings
from alchemist_core.stages.evaluate import EvaluateConfig, split_protocols
from alchemist_core.stages.train_downstream import TrainDownstreamConfig
from alchemist_core.stages.train_rater import TrainRaterConfig
from alchemist_core.training.config import DownstreamConfig, RaterTrainingConfig


@dataclass(frozen=True, slots=True)
class NeededNetwork:
    """A network that a stage needs."""

    name: str
    """Its name in the catalogue."""
    needed_by: tuple[str, ...]
    """The stages, each with the option that names the weights."""
    source: str | None = None
    """The path or hub name that the config gives; None if it gives none, or for a package."""
    flux: FluxConfig | None = None
    """The size of a FLUX transformer; None: FLUX-mini's."""

    def find(self) -> Path | None:
        """Return the file or folder of the weights on this machine; nothing is downloaded.

        Raises:
            AlchemistError: Weights are named, and are missing or incomplete; the message names what and where.
        """
        if self.name == "minilm":
            return Path(minilm_folder())
        if self.name == "efficientnet-lite0":
            return find_weights("efficientnet_lite0", None)
        if self.source is None:
            return None
        if self.source.startswith(HUB_ENCODER):
            return locate_encoder(self.source, is_offline=True)[1].model
        if self.source.startswith("hf:"):
            return locate_file(self.source, is_offline=True).path
        if not Path(self.source).exists():
            raise ConfigError(f"{self.source} does not exist. Correct the path.")
        return Path(self.source)


def needed_networks(
    configs: Iterable[Config], required: Mapping[str, Sequence[str]] | None = None
) -> list[NeededNetwork]:
    """Return each network that stages with these configs need, once.

    Args:
        configs: Configs of train-rater, train-downstream and evaluate, or of the training alone; other stages need no weights of
            their own, because a rater's folder holds what scoring needs but for the text encoder.
        required: Options of a preset that must name weights, by stage; those that no config names are needed too.
    """
    found: dict[tuple[str, str | None], NeededNetwork] = {}
    for config in configs:
        for one in _needs(config, required or {}):
            key = one.name, one.source
            earlier = found.get(key, replace(one, needed_by=()))
            found[key] = replace(one, needed_by=tuple(dict.fromkeys((*earlier.needed_by, *one.needed_by))))
    return list(found.values())


def _needs(config: Config, required: Mapping[str, Sequence[str]]) -> list[NeededNetwork]:
    match config:
        case TrainRaterConfig():
            return _needs(config.training, required)
        case TrainDownstreamConfig():
            return _needs(config.model, required)
        case RaterTrainingConfig():
            return _of_rater(config, required.get("train_rater", ()))
        case DownstreamConfig():
            return _of_model(config, required.get("train_downstream", ()))
        case EvaluateConfig():
            return [need for one in split_protocols(config) for need in _of_protocol(one.protocol, one.weights)]
    return []


def _of_rater(config: RaterTrainingConfig, required: Sequence[str]) -> list[NeededNetwork]:
    star = STAR_NETWORKS.get(config.proxy_depth, "star")
    names = {"tokenizer_weights": "tokenizer", "proxy_weights": star, "rater_weights": "rater"}
    return _of_options("train-rater", config, names, required)


def _of_model(config: DownstreamConfig, required: Sequence[str]) -> list[NeededNetwork]:
    base = STAR_NETWORKS.get(config.depth, "star") if config.flux is None else "flux-mini"
    names = {"base_model": base, "flux_components": "flux-components"}
    needed = _of_options("train-downstream", config, names, required)
    return [replace(one, flux=config.flux) for one in needed]


def _of_options(
    stage: str, config: RaterTrainingConfig | DownstreamConfig, names: Mapping[str, str], required: Sequence[str]
) -> list[NeededNetwork]:
    needed = []
    for option, name in names.items():
        given = getattr(config, option)
        if given is not None or option in required:
            needed.append(_need(name, stage, option, None if given is None else str(given)))
    encoder = config.text_encoder
    if encoder == "minilm":
        needed.append(_need("minilm", stage, "text_encoder"))
    elif encoder.startswith(HUB_ENCODER) or "text_encoder" in required:
        needed.append(
            _need("text-encoder", stage, "text_encoder", encoder if encoder.startswith(HUB_ENCODER) else None)
        )
    return needed


def _of_protocol(name: str, weights: Path | None) -> list[NeededNetwork]:
    file, files = read_protocol(name), load_project().files_of(name)
    if "extractor" in file.fields:
        networks = EXTRACTORS[file.check(ImageProtocol).extractor]
    elif "fid" in file.fields and "clip_score" in file.fields:
        average = file.check(AverageProtocol)
        return [need for part in (average.clip_score, average.fid) for need in _of_protocol(part, None)]
    else:
        return []
    # GenEval's two networks have keys of their own; any other metric's network is the one that --weights names.
    given = {networks[0]: weights or files.get("weights")} | {
        network: files[key] for key, network in (("detector", "mask2former"), ("clip", "clip-l")) if key in files
    }
    used = f"evaluate, protocol {file.name}"
    return [
        NeededNetwork(network, (used,), None if given.get(network) is None else str(given[network]))
        for network in networks
    ]


def aesthetic_networks() -> list[NeededNetwork]:
    """Return the networks of aesthetic scores, which settings name."""
    settings = load_settings()
    return [
        NeededNetwork(name, (f"score-aesthetics, {variable}",), None if path is None else str(path))
        for name, variable, path in (
            ("clip-l", "ALCHEMIST_AESTHETIC_CLIP", settings.aesthetic_clip),
            ("aesthetic-head", "ALCHEMIST_AESTHETIC_HEAD", settings.aesthetic_head),
        )
    ]


def _need(name: str, stage: str, option: str, source: str | None = None) -> NeededNetwork:
    return NeededNetwork(name, (f"{stage} --{option.replace('_', '-')}",), source)


def why_missing(needed: NeededNetwork) -> str | None:
    """Return why the weights of a network cannot be read on this machine; None if they are there.

    >>> why_missing(NeededNetwork("flux-mini", ("train-downstream --base-model",)))
    'not named yet (train-downstream --base-model).'
    """
    try:
        path = needed.find()
    except AlchemistError as error:
        return str(error)
    return f"not named yet ({'; '.join(needed.needed_by)})." if path is None else None
