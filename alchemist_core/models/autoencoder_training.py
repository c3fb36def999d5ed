"""Training a small convolutional tokenizer: reconstruct, commit to the codes, pass gradients straight through them.

Meant for the small configuration on a CPU: no adversary and no perceptual loss, which the published weights had.

Letters: N images · B images of a step · S tokens over all scales · M tokens of a step · D features · V codebook size · C H W pixels.
"""

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn import functional

from alchemist_core.models.autoencoder import Autoencoder
from alchemist_core.models.codebook_fitting import draw_rows, fit_codebook
from alchemist_core.models.config import AutoencoderConfig
from alchemist_core.models.quantiser import ResidualQuantiser

# Without codes the autoencoder first learns to draw at all; then k-means fits the codes to what it has learnt.
_PLAIN_RATIO, _N_ROUNDS, _N_FITTED = 0.5, 8, 1000
# Steps within which a code must be used once; the last tenth of the training restarts none, so that all of them settle.
_PATIENCE, _SETTLING_RATIO = 25, 0.1


def train_autoencoder(
    coder: Autoencoder,
    quantiser: ResidualQuantiser,
    pixels_NCHW: Float[Tensor, "N 3 H W"],
    config: AutoencoderConfig,
    *,
    generator: np.random.Generator,
) -> None:
    """Train both in place; the same first weights and generator give the same bytes."""
    weights = [*coder.parameters(), *quantiser.parameters()]
    optimizer = torch.optim.AdamW(weights, config.learning_rate, (0.9, 0.95), weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, config.learning_rate, config.n_steps, pct_start=0.05)
    n_used_V = torch.zeros(quantiser.codebook.num_embeddings, dtype=torch.int64)
    first = int(_PLAIN_RATIO * config.n_steps)
    for step in range(config.n_steps):
        pixels_BCHW = pixels_NCHW[torch.from_numpy(generator.integers(0, len(pixels_NCHW), config.batch_size))]
        if step < first:
            loss = functional.mse_loss(coder.decode(coder.encode(pixels_BCHW)), pixels_BCHW)
        else:
            if step == first:
                fitted_NDHW = _features(coder, pixels_NCHW[:_N_FITTED], config.batch_size)
                fit_codebook(quantiser, fitted_NDHW, n_rounds=_N_ROUNDS, generator=generator)
            feature_BDHW = coder.encode(pixels_BCHW)
            code_BS, residual_BSD = _quantise(quantiser, feature_BDHW)
            n_used_V += torch.bincount(code_BS.flatten(), minlength=len(n_used_V))
            loss = tokenizer_loss(coder, quantiser, pixels_BCHW, feature_BDHW, code_BS, commitment=config.commitment)
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
        schedule.step()
        if first < step < (1 - _SETTLING_RATIO) * config.n_steps and step % _PATIENCE == 0:
            restart_unused(quantiser, n_used_V, residual_BSD.flatten(0, 1), generator)
            n_used_V.zero_()


def tokenizer_loss(
    coder: Autoencoder,
    quantiser: ResidualQuantiser,
    pixels_BCHW: Float[Tensor, "B 3 H W"],
    feature_BDHW: Float[Tensor, "B D h w"],
    code_BS: Int64[Tensor, "B S"],
    *,
    commitment: float,
) -> Float[Tensor, ""]:
    """Add the error of the drawn pixels to the distance of features and codes, averaged over the scales.

    Source: van den Oord et al. 2017, Eq. 3, after every scale as in VAR.
    """
    grids = list(quantiser.grow(code_BS))
    distance = sum(
        functional.mse_loss(grid_BDHW, feature_BDHW.detach())
        + commitment * functional.mse_loss(grid_BDHW.detach(), feature_BDHW)
        for grid_BDHW in grids
    ) / len(grids)
    # Straight through: the decoder sees the codes, the encoder gets the gradient as if there were none.
    passed_BDHW = feature_BDHW + (grids[-1] - feature_BDHW).detach()
    return functional.mse_loss(coder.decode(passed_BDHW), pixels_BCHW) + distance


@torch.no_grad()
def _features(coder: Autoencoder, pixels_NCHW: Tensor, batch_size: int) -> Tensor:
    return torch.cat([coder.encode(pixels_BCHW) for pixels_BCHW in torch.split(pixels_NCHW, batch_size)])


@torch.no_grad()
def _quantise(quantiser: ResidualQuantiser, feature_BDHW: Tensor) -> tuple[Tensor, Tensor]:
    return quantiser.quantise(feature_BDHW)


@torch.no_grad()
def restart_unused(
    quantiser: ResidualQuantiser, n_used_V: Tensor, residual_MD: Tensor, generator: np.random.Generator
) -> None:
    """Move every code that nothing used to a residual drawn anew."""
    codebook_VD = quantiser.codebook.weight
    fresh_VD = draw_rows(residual_MD, len(codebook_VD), generator)
    codebook_VD.copy_(torch.where((n_used_V > 0)[:, None], codebook_VD, fresh_VD))
