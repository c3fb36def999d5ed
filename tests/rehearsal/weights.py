"""Random weights in the published layouts: files that a run takes for the publishers' own.

The shapes are those of `tests.models.published.published_keys`, which were written from the publications. Values are small, so that
networks of many blocks give finite losses.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from tests.models.published.published_keys import Shapes, star_keys, tokenizer_keys

CLIP_WORDS = 49_408
"""Size of CLIP's vocabulary."""


def write_weights(folder: Path, name: str, write: Callable[[Path], None]) -> Path:
    """Write weights once; a file or folder that is there is complete."""
    path = folder / name
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        torch.manual_seed(0)
        unfinished = path.with_name(f".{path.name}")
        write(unfinished)
        unfinished.rename(path)
    return path


def random_tensors(shapes: Shapes) -> dict[str, Tensor]:
    """Return a tensor for each shape: norms' weights are 1, biases 0, the others normal with the deviation of a Kaiming start."""
    tensors = {}
    for key, shape in shapes.items():
        if key.endswith("bias") or "norm" in key:
            tensors[key] = torch.full(shape, float("norm" in key and key.endswith("weight")))
        else:
            fan_in = max(1, torch.Size(shape[1:]).numel())
            tensors[key] = torch.randn(shape) * min(0.05, fan_in**-0.5)
    return tensors


def write_tokenizer(path: Path) -> None:
    """Write VAR's image tokenizer `vae_ch160v4096z32.pth`."""
    torch.save(random_tensors(tokenizer_keys()), path)


def write_star(path: Path, *, depth: int) -> None:
    """Write STAR of a depth; 16 is STAR-0.3B."""
    save_file(random_tensors(star_keys(depth)), path)


def write_text_encoder(folder: Path) -> None:
    """Write a CLIP text encoder of the size of Stable Diffusion 2.1's, whose 1,024 features STAR's published weights read."""
    from transformers import CLIPTextConfig, CLIPTextModel

    config = CLIPTextConfig(
        vocab_size=CLIP_WORDS, hidden_size=1024, intermediate_size=4096, num_hidden_layers=23, num_attention_heads=16,
        hidden_act="gelu", projection_dim=512, bos_token_id=0, eos_token_id=1, pad_token_id=1,
    )  # fmt: skip
    CLIPTextModel(config).save_pretrained(folder)
    _clip_words().save_pretrained(folder)


def write_inception(path: Path) -> None:
    """Write InceptionV3 under the keys of torch-fidelity's file."""
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    class Unread(FeatureExtractorInceptionV3):
        """The network without its file: the constructor of the published class reads one."""

        def load_state_dict(self, *_args: object, **_kwargs: object) -> None:  # type: ignore[override]
            """Keep the random weights."""

    empty = path.with_name(f"{path.name}-empty")
    torch.save({}, empty)
    network = Unread("inception-v3-compat", ["2048"], feature_extractor_weights_path=str(empty))
    empty.unlink()
    torch.save(network.state_dict(), path)


def write_flux(path: Path, **blocks: int) -> None:
    """Write FLUX-mini in bf16 under the published keys, with fewer blocks."""
    from alchemist_core.models.flux import make_transformer
    from alchemist_core.models.flux_config import FluxConfig
    from alchemist_core.models.published.flux import export_flux

    config = FluxConfig(**blocks)  # type: ignore[arg-type]  # numbers of blocks
    published = export_flux(make_transformer(config).to(torch.bfloat16).state_dict(), config)
    save_file({key: tensor.contiguous() for key, tensor in published.items()}, path)


def write_flux_components(folder: Path) -> None:
    """Write FLUX.1's VAE and CLIP-L at their size, and T5-XXL's width with two layers, in diffusers' layout."""
    from diffusers import AutoencoderKL
    from transformers import CLIPTextConfig, CLIPTextModel, T5Config, T5EncoderModel

    AutoencoderKL(
        in_channels=3, out_channels=3, down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(128, 256, 512, 512), layers_per_block=2, latent_channels=16, sample_size=1024, scaling_factor=0.3611,
        shift_factor=0.1159, use_quant_conv=False, use_post_quant_conv=False,
    ).save_pretrained(folder / "vae")  # fmt: skip
    _clip_words().save_pretrained(folder / "tokenizer")
    CLIPTextModel(CLIPTextConfig(
        vocab_size=CLIP_WORDS, hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12, bos_token_id=0,
        eos_token_id=1, pad_token_id=1,
    )).to(torch.bfloat16).save_pretrained(folder / "text_encoder")  # fmt: skip
    _t5_words().save_pretrained(folder / "tokenizer_2")
    T5EncoderModel(T5Config(
        vocab_size=32_128, d_model=4096, d_kv=64, d_ff=10_240, num_layers=2, num_heads=64, feed_forward_proj="gated-gelu",
    )).to(torch.bfloat16).save_pretrained(folder / "text_encoder_2")  # fmt: skip


def _clip_words() -> Any:
    """Return CLIP's tokenizer over bytes, because the published list of words is not part of any package."""
    from transformers import CLIPTokenizer

    letters = sorted(_byte_letters())
    words = ["<|startoftext|>", "<|endoftext|>", *letters, *(f"{each}</w>" for each in letters)]
    return CLIPTokenizer(vocab={word: number for number, word in enumerate(words)}, merges=[], model_max_length=77)


def _t5_words() -> Any:
    """Return a tokenizer of single letters with T5's marks."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    marks = ["<pad>", "</s>", "<unk>"]
    words = {word: number for number, word in enumerate([*marks, *sorted(_byte_letters())])}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>")


def _byte_letters() -> list[str]:
    """Return the letters that CLIP's tokenizer writes for the 256 bytes."""
    own = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = (byte for byte in range(256) if byte not in own)
    return [*map(chr, own), *(chr(256 + number) for number, _ in enumerate(others))]
