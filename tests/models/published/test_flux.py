"""FLUX-mini has the published sizes, reads the published layout, and computes what the published network computes."""

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.loaders.single_file_utils import convert_flux_transformer_checkpoint_to_diffusers
from safetensors.torch import save_file

from alchemist_core.errors import ConfigError
from alchemist_core.models.flux import make_transformer
from alchemist_core.models.flux_config import FluxConfig
from alchemist_core.models.lora import FLUX_TARGETS, add_lora
from alchemist_core.models.published.flux import export_flux, flux_keys, load_flux, to_diffusers
from tests.models.given_flux import TINY, new_transformer


def n_weights(tensors: Any) -> int:
    return sum(tensor.numel() for tensor in tensors)


def test_whole_and_adapters_have_the_published_sizes() -> None:
    with torch.device("meta"):
        transformer = make_transformer(FluxConfig())
    assert n_weights(transformer.parameters()) == 3_179_199_552
    assert len(transformer.state_dict()) == 320
    assert len(flux_keys(FluxConfig())) == 220
    adapted = add_lora(transformer, rank=16, targets=FLUX_TARGETS)
    assert n_weights(each for each in adapted.parameters() if each.requires_grad) == 6_881_280


def test_published_shapes_are_those_of_the_layout() -> None:
    with torch.device("meta"):
        published = export_flux(make_transformer(FluxConfig()).state_dict(), FluxConfig())
    shapes = {key: tuple(tensor.shape) for key, tensor in published.items()}
    assert shapes["double_blocks.4.img_attn.qkv.weight"] == (9216, 3072)
    assert shapes["double_blocks.0.txt_mod.lin.bias"] == (18432,)
    assert shapes["single_blocks.9.linear1.weight"] == (21504, 3072)
    assert shapes["single_blocks.0.linear2.weight"] == (3072, 15360)
    assert shapes["final_layer.adaLN_modulation.1.weight"] == (6144, 3072)
    assert shapes["guidance_in.in_layer.weight"] == (3072, 256)
    assert n_weights(published.values()) == 3_179_199_552


def test_rows_go_where_the_conversion_of_diffusers_puts_them() -> None:
    """Its conversion has the width of FLUX.1 built in and names no wrong key, so the map is ours; at this width both agree."""
    with torch.device("meta"):
        ours = make_transformer(FluxConfig()).state_dict()
    n_rows = {key: sum(len(ours[name]) for name in names) for key, names in flux_keys(FluxConfig()).items()}
    # A number for each row of all weights stands for the row.
    row_of = dict(zip(n_rows, torch.arange(sum(n_rows.values())).split(list(n_rows.values())), strict=True))
    rows = {name: tensor[:, 0] if tensor.dim() > 1 else tensor for name, tensor in ours.items()}
    found = to_diffusers(row_of, rows, FluxConfig(), source="rows")
    expected = convert_flux_transformer_checkpoint_to_diffusers(dict(row_of))
    assert found.keys() == expected.keys() == ours.keys()
    assert all(torch.equal(found[name], expected[name]) for name in found)


@pytest.mark.parametrize("prefix", ["", "model.diffusion_model."])
def test_a_published_file_gives_every_weight_back(tmp_path: Path, prefix: str) -> None:
    ours = new_transformer().state_dict()
    published = {prefix + key: tensor.contiguous() for key, tensor in export_flux(ours, TINY).items()}
    save_file(published, tmp_path / "flux.safetensors")
    loaded = load_flux(tmp_path / "flux.safetensors", TINY).state_dict()
    assert loaded.keys() == ours.keys()
    assert all(torch.equal(loaded[name], ours[name]) for name in ours)


def test_slices_of_tensors_are_mapped_as_in_the_published_network(tmp_path: Path) -> None:
    """Queries, keys and values are thirds of one matrix, and the last modulation begins with the shift."""
    width, published = TINY.width, export_flux(new_transformer().state_dict(), TINY)
    published = {key: torch.zeros_like(tensor) for key, tensor in published.items()}
    published["double_blocks.0.txt_attn.qkv.weight"][2 * width :] = 3.0
    published["single_blocks.0.linear1.bias"][3 * width :] = 4.0
    published["final_layer.adaLN_modulation.1.bias"][:width] = 5.0  # the shift
    save_file(published, tmp_path / "flux.safetensors")
    ours = load_flux(tmp_path / "flux.safetensors", TINY).state_dict()
    assert (ours["transformer_blocks.0.attn.add_v_proj.weight"] == 3).all()
    assert (ours["transformer_blocks.0.attn.add_k_proj.weight"] == 0).all()
    assert (ours["single_transformer_blocks.0.proj_mlp.bias"] == 4).all()
    assert (ours["norm_out.linear.bias"][width:] == 5).all()
    assert (ours["norm_out.linear.bias"][:width] == 0).all()


@pytest.mark.parametrize(("key", "change", "message"), [
    ("double_blocks.0.img_attn.qkv.weight", lambda one: one[:-1], r"1 wrongly shaped: double_blocks\.0\.img_attn\.qkv\.weight is"),
    ("guidance_in.in_layer.bias", None, r"1 missing: guidance_in\.in_layer\.bias"),
    ("img_in.weight", lambda one: one[:, :-1], r"1 wrongly shaped: img_in\.weight is .*, not \(32, 16\)"),
])  # fmt: skip
def test_what_does_not_fit_is_refused_by_its_name(tmp_path: Path, key: str, change: Any, message: str) -> None:
    published = export_flux(new_transformer().state_dict(), TINY)
    tensor = published.pop(key)
    if change is not None:
        published[key] = change(tensor).contiguous()
    save_file({name: each.contiguous() for name, each in published.items()}, tmp_path / "flux.safetensors")
    with pytest.raises(ConfigError, match=message):
        load_flux(tmp_path / "flux.safetensors", TINY)


def test_more_blocks_than_the_config_has_are_refused(tmp_path: Path) -> None:
    larger = TINY.model_copy(update={"n_single_blocks": 3})
    save_file(export_flux(new_transformer(larger).state_dict(), larger), tmp_path / "flux.safetensors")
    with pytest.raises(ConfigError, match=r"unexpected: single_blocks\.2\.linear1\.bias"):
        load_flux(tmp_path / "flux.safetensors", TINY)
