"""FLUX at tiny size: a transformer with random weights and its folder of encoders, in the published layout."""

import string
from pathlib import Path
from typing import Any

import torch
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer, PreTrainedTokenizerFast, T5Config, T5EncoderModel

from alchemist_core.models.flux import make_transformer
from alchemist_core.models.flux_config import FluxConfig

TINY = FluxConfig(
    n_double_blocks=1, n_single_blocks=2, n_heads=2, head_dim=16, token_dim=16, text_dim=24, pooled_dim=20,
    rope_dims=(4, 6, 6), resolution=16, n_text_tokens=12, weight_dtype="fp32", gradient_checkpointing=False,
)  # fmt: skip
START, END = "<|startoftext|>", "<|endoftext|>"


def new_transformer(config: FluxConfig = TINY) -> Any:
    torch.manual_seed(0)
    return make_transformer(config)


def write_flux_parts(folder: Path, config: FluxConfig = TINY) -> Path:
    """Write VAE, CLIP and T5 with random weights, and their tokenizers, in diffusers' layout."""
    from diffusers import AutoencoderKL

    torch.manual_seed(1)
    AutoencoderKL(
        in_channels=3, out_channels=3, down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2, block_out_channels=(8, 8), layers_per_block=1, norm_num_groups=4,
        latent_channels=config.token_dim // 4, scaling_factor=0.3611, shift_factor=0.1159, use_quant_conv=False,
        use_post_quant_conv=False,
    ).save_pretrained(folder / "vae")  # fmt: skip
    letters = [*string.ascii_lowercase, *(letter + "</w>" for letter in string.ascii_lowercase)]
    vocabulary = {token: number for number, token in enumerate([START, END, *letters])}
    CLIPTokenizer(vocab=vocabulary, merges=[], model_max_length=77).save_pretrained(folder / "tokenizer")
    CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(vocabulary), hidden_size=config.pooled_dim, intermediate_size=32, num_hidden_layers=2,
            num_attention_heads=2, bos_token_id=0, eos_token_id=1, pad_token_id=1,
        )
    ).save_pretrained(folder / "text_encoder")  # fmt: skip
    _word_tokenizer().save_pretrained(folder / "tokenizer_2")
    T5EncoderModel(
        T5Config(vocab_size=64, d_model=config.text_dim, d_kv=8, d_ff=32, num_layers=2, num_heads=2)
    ).save_pretrained(folder / "text_encoder_2")
    return folder


def _word_tokenizer() -> PreTrainedTokenizerFast:
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = (
        "a red green blue white box at the top left bottom right small large circle square ring cross of above below"
    )
    vocabulary = {word: number for number, word in enumerate(["<pad>", "</s>", "<unk>", *words.split()])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>")
