"""Low-rank adapters on the linear layers of a generator's blocks, by peft. What they are trained on is not known here."""

from pathlib import Path

from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from safetensors.torch import load_file, save_file

from alchemist_core.models.star import Star

TARGETS = r"trunk\.blocks\..*\.(query_key_value|query|key_value|out|feed_in|feed_out)"


def add_lora(star: Star, rank: int) -> PeftModel:
    """Freeze a generator and put trainable adapters of one rank on its blocks; at first they change nothing.

    Source: Hu et al. 2021.
    """
    model: PeftModel = get_peft_model(star, LoraConfig(r=rank, lora_alpha=rank, target_modules=TARGETS))
    return model


def save_lora(model: PeftModel, path: Path) -> None:
    """Write the adapters alone."""
    save_file({name: tensor.contiguous() for name, tensor in get_peft_model_state_dict(model).items()}, path)


def load_lora(star: Star, path: Path, rank: int) -> PeftModel:
    """Put adapters that `save_lora` wrote on the generator they were trained for."""
    model = add_lora(star, rank)
    set_peft_model_state_dict(model, load_file(path))
    return model


def merge_lora(model: PeftModel) -> Star:
    """Fold the adapters into the weights: a plain generator of the same output."""
    star: Star = model.merge_and_unload()
    return star
