"""How strongly each sample pulls at a model: the norm of its own gradient, for many samples at once. Knows no ranks and no training.

Letters: B samples in a batch.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from alchemist_core.loops.pairs import Batch
from alchemist_core.models.text import TextFeatures
from alchemist_core.models.tokenizer import ImageTokens

# Every sample of a chunk has a gradient of the model's own size.
_MOST_GRADIENT_BYTES = 2**28


def gradient_norms(model: nn.Module, batch: Batch) -> Float[Tensor, " B"]:
    """Give the Euclidean norm of the gradient of each sample's loss by all weights of a generator.

    The cost is that of one backward a sample, and memory for the gradients of a chunk: at most 256 MiB, or one sample.

    Args:
        model: Gives the loss of each sample, in nats a token.
        batch: Samples.
    """
    weights = {name: weight.detach() for name, weight in model.named_parameters()}
    tensors_B = (*_fields(batch.tokens), *_fields(batch.text))
    n_at_once = max(1, _MOST_GRADIENT_BYTES // (4 * sum(weight.numel() for weight in weights.values())))
    norms = vmap(_norm_of_one(model), in_dims=(None, *(0 for _ in tensors_B)), chunk_size=n_at_once)
    # The fused kernels of attention have no rule for many samples with a gradient each.
    with sdpa_kernel(SDPBackend.MATH):
        norm_B: Tensor = norms(weights, *tensors_B)
    return norm_B


def _norm_of_one(model: nn.Module) -> Callable[..., Tensor]:
    def loss(weights: dict[str, Tensor], *sample: Tensor) -> Tensor:
        code_BS, input_BSD, token_BTD, mask_BT, pooled_BD = (tensor.unsqueeze(0) for tensor in sample)
        given = ImageTokens(code_BS, input_BSD), TextFeatures(token_BTD, mask_BT, pooled_BD)
        loss_B: Tensor = functional_call(model, weights, given)
        return loss_B.sum()

    def norm(weights: dict[str, Tensor], *sample: Tensor) -> Tensor:
        gradients: dict[str, Tensor] = grad(loss)(weights, *sample)
        return torch.stack([gradient.square().sum() for gradient in gradients.values()]).sum().sqrt()

    return norm


def _fields(tensors: ImageTokens | TextFeatures) -> tuple[Tensor, ...]:
    return tuple(getattr(tensors, name) for name in tensors.__dataclass_fields__)
