"""`alchemist weights check`: each form of file is loaded as a run loads it, and each fault is named with its key."""

import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import CLIPConfig, CLIPModel

from alchemist_core.__main__ import main
from alchemist_core.cli.weights import WeightsCheckConfig, WeightsListConfig, check_weights, list_weights
from alchemist_core.errors import ConfigError
from alchemist_core.files import file_sha256
from alchemist_core.models.config import StarConfig
from alchemist_core.models.published.flux import export_flux
from alchemist_core.models.published.sources import ENCODER_FORM
from alchemist_core.models.published.tokenizer import export_tokenizer
from alchemist_core.models.star import Star
from alchemist_core.project import load_project
from alchemist_core.rating.config import RaterFeatures
from alchemist_core.rating.rater import Rater
from alchemist_core.stages.network_checks import check_network, check_sizes
from alchemist_core.stages.networks import needed_networks
from alchemist_core.training.config import DownstreamConfig, RaterTrainingConfig
from tests.models.given_flux import TINY, new_transformer, write_flux_parts
from tests.models.given_models import lively_tokenizer
from tests.models.published.published_keys import Shapes, rater_keys, star_keys
from tests.models.test_text_models import make_tokenizer, save_clip
from tests.random_detector import save_random_detector
from tests.rehearsal.weights import write_inception

Weights = dict[str, Tensor]


def random_weights(shapes: Shapes, dtype: torch.dtype = torch.float32) -> Weights:
    generator = torch.Generator().manual_seed(0)
    return {
        key: torch.empty(shape, dtype=dtype).uniform_(-0.1, 0.1, generator=generator) for key, shape in shapes.items()
    }


@pytest.fixture(scope="module")
def star_40m(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """STAR-40M at its real size, as its publishers would write it: a training checkpoint with random weights."""
    path = tmp_path_factory.mktemp("star") / "star-40m.pth"
    torch.save({"epoch": 1, "iter": 2, "trainer": {"var_wo_ddp": random_weights(star_keys(8), torch.float16)}}, path)
    return path


@pytest.fixture
def narrow() -> Weights:
    """A STAR of two blocks under the published keys."""
    return random_weights(star_keys(2))


def write(folder: Path, weights: Weights, form: str) -> Path:
    """Write weights as .pth, as a training checkpoint, as .safetensors, or as a folder that holds one file."""
    if form == "safetensors":
        save_file(weights, folder / "star.safetensors")
        return folder / "star.safetensors"
    content = {"trainer": {"var_wo_ddp": weights}} if form == "checkpoint" else weights
    torch.save(content, folder / "star.pth")
    return folder if form == "folder" else folder / "star.pth"


def check(source: Path | str, layout: str | None = None) -> Any:
    (row,) = check_weights(WeightsCheckConfig(source=str(source), layout=layout)).checked
    return row


def refusal(source: Path | str, layout: str | None = None) -> str:
    with pytest.raises(ConfigError) as refused:
        check(source, layout)
    assert "\n" not in str(refused.value)
    return str(refused.value)


@pytest.mark.slow
def test_star_40m_at_its_real_size_is_loaded_and_described(star_40m: Path) -> None:
    row = check(star_40m, "star-40m")
    assert row.holds == "STAR-40M (depth 8, width 512, captions of 1,024 features)"
    assert row.parameters == 40_963_200
    assert row.shapes["pos_start"] == "1 × 1 × 512"
    assert row.sha256 == file_sha256(star_40m).hex()


def test_a_file_of_another_size_is_refused_with_the_size_that_it_has(star_40m: Path) -> None:
    told = refusal(star_40m, "star-0.3b")
    assert "First difference: pos_start is (1, 1, 512), not (1, 1, 1024)." in told
    assert "The shapes are those of STAR-40M (depth 8, width 512, captions of 1,024 features)." in told


def test_a_file_of_another_network_is_refused_with_the_network_that_it_has(star_40m: Path) -> None:
    for layout in ("tokenizer", "flux-mini", "inception"):
        told = refusal(star_40m, layout)
        assert "STAR-40M (depth 8, width 512, captions of 1,024 features)" in told, layout


@pytest.mark.parametrize("form", ["pth", "checkpoint", "safetensors", "folder"])
def test_every_form_of_file_is_loaded(tmp_path: Path, narrow: Weights, form: str) -> None:
    row = check(write(tmp_path, narrow, form), "star")
    assert row.holds == "a STAR of 2 blocks (depth 2, width 128, captions of 1,024 features)"
    assert row.parameters == sum(weight.numel() for weight in narrow.values())
    assert Path(row.path).is_file()
    assert check(write(tmp_path, narrow, form)).name == "star", "without a layout, the keys say what it is"


@pytest.mark.parametrize("form", ["pth", "safetensors", "folder"])
def test_a_renamed_key_is_named(tmp_path: Path, narrow: Weights, form: str) -> None:
    renamed = {key.replace("blocks.1.ffn.fc2.bias", "blocks.1.ffn.fc_2.bias"): weight for key, weight in narrow.items()}
    told = refusal(write(tmp_path, renamed, form), "star")
    assert "First difference: blocks.1.ffn.fc2.bias is missing." in told
    assert "1 unexpected: blocks.1.ffn.fc_2.bias" in told


@pytest.mark.parametrize(("form", "told"), [
    ("pth", "is cut off: its table of contents, which comes last, is missing"),
    ("folder", "is cut off: its table of contents, which comes last, is missing"),
    ("safetensors", "is cut off or damaged: it ends inside of "),
])  # fmt: skip
def test_a_file_that_is_cut_off_says_so(tmp_path: Path, narrow: Weights, form: str, told: str) -> None:
    source = write(tmp_path, narrow, form)
    path = source / "star.pth" if source.is_dir() else source
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    said = refusal(source, "star")
    assert told in said
    assert said.endswith("Download it again.")


def test_numbers_that_are_not_finite_are_named(tmp_path: Path, narrow: Weights) -> None:
    narrow["blocks.1.ffn.fc2.bias"][3] = torch.nan
    assert "blocks.1.ffn.fc2.bias holds numbers that are not finite" in refusal(write(tmp_path, narrow, "pth"), "star")


class Hostile:
    """Runs a command when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.path}",)


def test_a_hostile_file_runs_nothing_and_gets_one_line(
    tmp_path: Path, narrow: Weights, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save({"trainer": {"var_wo_ddp": narrow, "config": Hostile(tmp_path / "OWNED")}}, tmp_path / "star.pth")
    for arguments in (["--layout", "star"], []):
        assert main(["weights", "check", str(tmp_path / "star.pth"), *arguments]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert "holds more than tensors: reading it would run" in line
        assert not (tmp_path / "OWNED").exists()


def test_the_paper_s_rater_is_loaded(tmp_path: Path) -> None:
    torch.save({"trainer": {"varRater_wo_ddp": random_weights(rater_keys(2))}}, tmp_path / "rater.pth")
    assert check(tmp_path / "rater.pth").holds == "the paper's rater (depth 2, width 128)"


@pytest.mark.parametrize("form", ["pth", "checkpoint", "safetensors", "folder"])
def test_a_star_is_loaded_for_the_backbone_of_a_rater(tmp_path: Path, narrow: Weights, form: str) -> None:
    source = write(tmp_path, narrow, form)
    assert check(source, "rater").holds == "a STAR of 2 blocks (depth 2, width 128, captions of 1,024 features)"


def test_a_renamed_key_of_a_star_for_the_backbone_of_a_rater_is_named(tmp_path: Path, narrow: Weights) -> None:
    narrow["blocks.1.ffn.fc_2.bias"] = narrow.pop("blocks.1.ffn.fc2.bias")
    assert "First difference: blocks.1.ffn.fc2.bias is missing." in refusal(write(tmp_path, narrow, "pth"), "rater")


def test_models_and_raters_that_were_trained_here_are_loaded(tmp_path: Path) -> None:
    star, told = (
        Star(StarConfig()),
        "a STAR of 2 blocks (depth 2, width 128, captions of 144 features) that was trained here",
    )
    save_file(star.state_dict(), tmp_path / "model.safetensors")
    (row,) = check_weights(WeightsCheckConfig(base_model=str(tmp_path))).checked
    assert row.holds == check(tmp_path, "rater").holds == check(tmp_path, "star-40m").holds == told
    rater = Rater(star.trunk, 128, reading=RaterFeatures.HIDDEN)
    save_file(rater.state_dict(), tmp_path / "rater.safetensors")
    assert check(tmp_path / "rater.safetensors", "rater").holds == "a rater that was trained here"


def test_a_text_encoder_is_loaded_from_its_folder_and_a_missing_weight_is_named(tmp_path: Path) -> None:
    save_clip(tmp_path, tmp_path)
    row = check(f"clip:{tmp_path}")
    assert (row.name, row.path) == ("text-encoder", str(tmp_path))
    assert row.holds == "a CLIP text encoder (24 features of a text token)"
    assert check(tmp_path, "text-encoder") == row
    weights = load_file(tmp_path / "model.safetensors")
    lost = weights.popitem()[0]
    save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
    assert f"{lost} is missing" in refusal(tmp_path, "text-encoder")


@pytest.mark.parametrize("name", ["minilm", "efficientnet-lite0"])
def test_networks_of_packages_are_loaded(name: str) -> None:
    (found,) = [row for row in list_weights(WeightsListConfig()).networks if row.name == name]
    assert check(found.here, name).parameters > 1_000_000


def test_an_aesthetic_head_is_loaded(tmp_path: Path) -> None:
    save_file({"weight": torch.zeros(1, 768), "bias": torch.zeros(1)}, tmp_path / "head.safetensors")
    assert check(tmp_path / "head.safetensors", "aesthetic-head").parameters == 769
    assert "must hold weight and bias" in refusal(
        write(tmp_path, {"a": torch.zeros(1)}, "safetensors"), "aesthetic-head"
    )


def test_unknown_layouts_and_keys_are_refused_with_the_choices(tmp_path: Path) -> None:
    source = write(tmp_path, {"a": torch.zeros(1)}, "safetensors")
    assert "does not have the keys of a known network" in refusal(source)
    assert "--layout 'vae' is unknown. Choose from: star-40m," in refusal(source, "vae")
    assert "There is no file of weights at" in refusal(tmp_path / "no.pth")


def test_a_layout_without_a_file_and_nothing_to_check_are_refused() -> None:
    with pytest.raises(ConfigError, match="--layout star needs a file or folder"):
        check_weights(WeightsCheckConfig(layout="star"))
    with pytest.raises(ConfigError, match="Nothing to check"):
        check_weights(WeightsCheckConfig())


def test_a_run_s_networks_are_checked_together_and_every_fault_is_told(
    tmp_path: Path, narrow: Weights, capsys: pytest.CaptureFixture[str]
) -> None:
    save_clip(tmp_path / "clip", tmp_path / "clip")
    star = write(tmp_path, narrow, "pth")
    run = WeightsCheckConfig(
        preset="gpu24", text_encoder=f"clip:{tmp_path / 'clip'}", proxy_weights=str(star), protocol=("fid_mjhq",)
    )
    with pytest.raises(ConfigError) as refused:
        check_weights(run)
    tokenizer, proxy, inception = str(refused.value).splitlines()
    assert tokenizer.startswith(
        "tokenizer: not named yet (train-rater --tokenizer-weights). Get it: hf:FoundationVision/var/"
    )
    assert proxy.startswith(
        f"star-40m: {star} does not hold weights of this size. First difference: pos_start is (1, 1, 128), not (1, 1, 512)"
    )
    assert inception.startswith("inception: not named yet (evaluate, protocol fid_mjhq). Get it: https://")
    assert "text-encoder: loaded" in capsys.readouterr().err


def test_weights_that_do_not_fit_the_run_s_text_encoder_are_refused(tmp_path: Path, star_40m: Path) -> None:
    """Whole and of the right depth, but STAR reads captions of 1,024 features, and this encoder gives 24."""
    save_clip(tmp_path, tmp_path)
    config = RaterTrainingConfig(
        proxy_depth=8, proxy_width=512, n_heads=None, rater_init="scratch", tokenizer_weights="vae.pth", resolution=256,
        proxy_weights=str(star_40m), text_encoder=f"clip:{tmp_path}",
    )  # fmt: skip
    with pytest.raises(ConfigError, match=r"First difference: encoder_proj\.weight is \(512, 1024\), not \(512, 24\)"):
        check_sizes(config)


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        ({"preset": "tiny"}, []),
        ({"preset": "gpu80"}, ["tokenizer", "text-encoder"]),
        ({"preset": "flux_mini", "protocol": "fid_mjhq_flux"}, ["flux-mini", "flux-components", "inception"]),
        ({"text_encoder": "minilm"}, ["minilm"]),
        ({"base_model": "star.pth"}, ["star"]),
        ({"rater_weights": "rater.pth"}, ["rater"]),
    ],
)
def test_the_list_holds_what_a_run_needs(arguments: dict[str, str], names: list[str]) -> None:
    assert [row.name for row in list_weights(WeightsListConfig.model_validate(arguments)).networks] == names


def test_the_list_says_where_weights_are(tmp_path: Path, star_40m: Path) -> None:
    shutil.copy(star_40m, tmp_path / "star.pth")
    found = list_weights(WeightsListConfig(preset="gpu24", proxy_weights=str(tmp_path / "star.pth")))
    here = {row.name: row.here for row in found.networks}
    assert here["star-40m"] == str(tmp_path / "star.pth")
    assert here["tokenizer"] == "not found: not named yet (train-rater --tokenizer-weights)."
    text = found.summary()
    assert "publisher: Tian et al. 2024 (VAR), FoundationVision" in text
    assert "licence:   MIT" in text
    assert "size:      109.0 million numbers, 436 MB in fp32" in text


def test_an_unknown_preset_or_protocol_is_refused_with_the_choices() -> None:
    for arguments, told in (
        ({"preset": "huge"}, "There is no preset 'huge'. Choose from: tiny,"),
        ({"protocol": "fit"}, "No evaluation protocol"),
    ):
        with pytest.raises(ConfigError, match=told):
            list_weights(WeightsListConfig.model_validate(arguments))


PROJECT = """
[rater]
preset = "gpu80"
tokenizer_weights = "vae.pth"
text_encoder = "clip:./clip"
[downstream]
preset = "gpu24"
text_encoder = "clip:./clip"
[evaluation]
protocols = ["fid_mjhq", "heldout_loss"]
[evaluation.fid_mjhq]
weights = "inception.pth"
[evaluation.geneval]
detector = "mask2former"
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a project file, which is the working directory."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "alchemist.toml").write_text(PROJECT, encoding="utf-8")
    load_project.cache_clear()
    return tmp_path


def test_the_list_reads_the_project_file_and_an_option_overrides_it(project: Path) -> None:
    (project / "mask2former").mkdir()
    here = {row.name: row.here for row in list_weights(WeightsListConfig()).networks}
    assert here == {
        "tokenizer": f"not found: {project / 'vae.pth'} does not exist. Correct the path.",
        "text-encoder": f"not found: There is no folder {project / 'clip'}. Give {ENCODER_FORM}.",
        "inception": f"not found: {project / 'inception.pth'} does not exist. Correct the path.",
        "mask2former": str(project / "mask2former"),
        "clip-l": "not found: not named yet (evaluate, protocol geneval).",
    }
    named = list_weights(WeightsListConfig(protocol=("kid_offline",), text_encoder="minilm")).networks
    assert [row.name for row in named] == ["tokenizer", "minilm", "efficientnet-lite0"]


def test_a_base_model_that_is_an_option_is_used_as_the_project_file_s_preset_uses_it(project: Path) -> None:
    (project / "alchemist.toml").write_text(
        '[downstream]\npreset = "flux_mini"\nflux_components = "flux"\n', encoding="utf-8"
    )
    load_project.cache_clear()
    networks = list_weights(WeightsListConfig(base_model="flux-mini.safetensors")).networks
    assert [row.name for row in networks] == ["flux-mini", "flux-components"]


def test_weights_of_an_option_override_those_of_the_project_file_for_one_protocol(project: Path) -> None:
    own = project / "own.pth"
    own.touch()

    def inception(**given: object) -> tuple[str, list[str]]:
        networks = list_weights(WeightsListConfig.model_validate({"evaluation_weights": own, **given})).networks
        here = {row.name: row.here for row in networks}
        return here["inception"], list(here)

    assert inception(protocol="fid_mjhq")[0] == str(own)
    with pytest.raises(
        ConfigError, match=r"^--evaluation-weights .*own\.pth .* fid_mjhq, heldout_loss\. .*--protocol NAME"
    ):
        inception()
    # The networks of GenEval are listed too, and have files of their own.
    (project / "alchemist.toml").write_text(PROJECT.replace(', "heldout_loss"', ""), encoding="utf-8")
    load_project.cache_clear()
    here, names = inception()
    assert here == str(own)
    assert {"mask2former", "clip-l"} <= set(names)


def test_the_check_of_a_project_names_every_network_that_is_missing(project: Path) -> None:
    save_clip(project / "clip", project / "clip")
    with pytest.raises(ConfigError) as refused:
        check_weights(WeightsCheckConfig())
    assert [line.partition(":")[0] for line in str(refused.value).splitlines()] == [
        "tokenizer",
        "inception",
        "mask2former",
        "clip-l",
    ]


@pytest.mark.slow
def test_inception_is_loaded_and_a_renamed_key_is_named(tmp_path: Path) -> None:
    path = tmp_path / "inception.pth"
    write_inception(path)
    row = check(path)
    assert (row.name, row.holds) == ("inception", "InceptionV3 for FID")
    weights = torch.load(path)
    weights["renamed"] = weights.pop("Mixed_5b.branch1x1.conv.weight")
    torch.save(weights, path)
    assert (
        "First difference: Mixed_5b.branch1x1.conv.weight is missing. The shapes are those of InceptionV3"
        in refusal(path)
    )


def test_networks_of_evaluation_are_loaded_from_their_folders(tmp_path: Path) -> None:
    assert check(save_random_detector(tmp_path / "mask2former"), "mask2former").holds == "Mask2Former"
    sizes = {"hidden_size": 24, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    CLIPModel(CLIPConfig(text_config=sizes, vision_config=sizes | {"image_size": 32, "patch_size": 8})).save_pretrained(
        tmp_path / "clip"
    )
    make_tokenizer().save_pretrained(tmp_path / "clip")
    assert str(check(tmp_path / "clip", "clip-l").holds).startswith("CLIP (24 features")


@pytest.mark.slow
def test_flux_is_loaded_with_its_encoders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("alchemist_core.stages.network_checks.FluxConfig", lambda: TINY)
    published = {key: tensor.contiguous() for key, tensor in export_flux(new_transformer().state_dict(), TINY).items()}
    save_file(published, tmp_path / "flux.safetensors")
    row = check(tmp_path / "flux.safetensors")
    assert (row.name, row.holds) == ("flux-mini", "a FLUX transformer (1 double and 2 single blocks, width 32)")
    parts = write_flux_parts(tmp_path / "parts")
    assert check(parts, "flux-components").parameters > 1_000
    shutil.rmtree(parts / "vae")
    assert "parts lacks vae" in refusal(parts, "flux-components")


def test_a_smaller_flux_of_the_project_file_is_checked_by_its_own_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    published = {key: tensor.contiguous() for key, tensor in export_flux(new_transformer().state_dict(), TINY).items()}
    save_file(published, tmp_path / "flux.safetensors")
    of_model = {"flux": TINY, "method": "lora", "base_model": "flux.safetensors", "flux_components": tmp_path}
    (needed, _) = needed_networks([DownstreamConfig.model_validate(of_model)])
    assert needed.flux == TINY
    monkeypatch.chdir(tmp_path)
    assert check_network(needed.name, "flux.safetensors", flux=needed.flux).n_numbers > 0
    with pytest.raises(ConfigError, match="does not hold weights of this size"):
        check_network(needed.name, "flux.safetensors")


def test_the_published_tokenizer_is_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = lively_tokenizer()
    monkeypatch.setattr("alchemist_core.stages.network_checks.published_tokenizer", lambda: tokenizer.config)
    weights = export_tokenizer(tokenizer)
    row = check(write(tmp_path, weights, "pth"))
    assert (row.name, row.holds) == ("tokenizer", "a published tokenizer (32 codes of 12 features)")
    renamed = {
        key.replace("decoder.conv_out.bias", "decoder.conv_last.bias"): weight for key, weight in weights.items()
    }
    assert "First difference: decoder.conv_out.bias is missing" in refusal(write(tmp_path, renamed, "pth"), "tokenizer")
