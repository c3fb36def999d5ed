"""LoRA adapters on the linear layers of a generator's blocks, by peft."""

from collections.abc import Mapping
from pathlib import Path

from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

STAR_TARGETS = r"trunk\.blocks\..*\.(query_key_value|query|key_value|out|feed_in|feed_out)"

FLUX_TARGETS = ["to_q", "to_k", "to_v", "to_out.0", "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out"]
"""The attention layers of both kinds of blocks, without the last layer of single blocks, which mixes attention and feed-forward."""


def add_lora(generator: nn.Module, rank: int, *, targets: str | list[str] = STAR_TARGETS) -> nn.Module:
    """Freeze a generator and add trainable adapters of one rank to its blocks; initially they have no effect.

    Source: Hu et al. 2021.
    """
    model: nn.Module = get_peft_model(
        generator,
        LoraConfig(r=rank, lora_alpha=rank, target_modules=targets),
    )
    return model


def adapter_weights(model: PeftModel) -> dict[str, Tensor]:
    """Return the adapters' weights."""
    return {name: tensor.contiguous() for name, tensor in get_peft_model_state_dict(model).items()}


def put_adapters(model: PeftModel, weights: Mapping[str, Tensor]) -> None:
    """Restore the adapters that `adapter_weights` returned."""
    set_peft_model_state_dict(model, dict(weights))


def save_lora(model: PeftModel, path: Path) -> None:
    """Write the adapters' weights."""
    save_file(adapter_weights(model), path)


def load_lora(generator: nn.Module, path: Path, rank: int, *, targets: str | list[str] = STAR_TARGETS) -> PeftModel:
    """Load adapters that `save_lora` wrote into the generator that they were trained for."""
    model = add_lora(generator, rank, targets=targets)
    put_adapters(model, load_file(path))
    return model


def merge_lora(model: PeftModel) -> nn.Module:
    """Merge the adapters into the weights; the output stays the same."""
    generator: nn.Module = model.merge_and_unload()
    return generator
