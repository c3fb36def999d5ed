"""Training the image-text head on features of frozen encoders, and its AUC on held-out samples.

Letters: N samples · D C features of the two encoders · B samples of a step.
"""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn import functional

from alchemist_core.models.features import Features
from alchemist_core.models.image_text import Head
from alchemist_core.models.image_text_config import HeadTrainingConfig
from alchemist_core.statistics import area_under_curve
from alchemist_core.telemetry import OnProgress
from alchemist_core.training.launching import start_from_seed
from alchemist_core.training.samples import batch_index

SHARPNESS, SHARPEST = 20.0, 100.0
_N_OTHERS = 8
"""Number of other captions that each held-out image is compared with."""


def train_head(
    image_ND: Features, text_NC: Features, captions: Sequence[str], config: HeadTrainingConfig, on_progress: OnProgress
) -> Head:
    """Train by contrast: a sample's caption is the positive, the other captions of the step are negatives.

    Source: Radford et al. 2021, Fig. 3 (symmetric InfoNCE).
    Departs: samples of a step with equal captions are positives of each other.

    Args:
        image_ND: EfficientNet-lite0's features.
        text_NC: MiniLM's.
        captions: The captions, to find equal ones.
        config: Sizes, length and rates.
        on_progress: Called with the steps done, the steps planned, and a note.
    """
    start_from_seed(config.seed)
    images, texts = torch.from_numpy(image_ND), torch.from_numpy(text_NC)
    number_of = {caption: number for number, caption in enumerate(dict.fromkeys(captions))}
    caption_N = torch.tensor([number_of[caption] for caption in captions])
    head = Head(config.hidden, config.dim, config.dropout).train()
    log_sharpness = torch.nn.Parameter(torch.tensor(SHARPNESS).log())
    optimizer = torch.optim.AdamW(
        [*head.parameters(), log_sharpness], config.learning_rate, weight_decay=config.weight_decay
    )
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, config.max_train_steps)
    batch_size = min(config.batch_size, len(captions))
    for step in range(config.max_train_steps):
        index_B = batch_index(len(captions), step, batch_size=batch_size, seed=config.seed)
        image_BE, text_BE = head(images[index_B], texts[index_B])
        logit_BB = log_sharpness.exp().clamp(max=SHARPEST) * (image_BE @ text_BE.T)
        loss = contrast(logit_BB, caption_N[index_B])
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
        schedule.step()
        if (step + 1) % 100 == 0:
            on_progress(step + 1, config.max_train_steps, f"loss {loss.item():.3f}")
    return head.eval().requires_grad_(requires_grad=False)


@torch.inference_mode()
def heldout_auc(head: Head, image_ND: Features, text_NC: Features, captions: Sequence[str]) -> float:
    """Return the AUC of cosines: how often an image is nearer to its own caption than an image to another caption.

    Each image is compared with the captions of the next eight samples, except captions equal to its own.
    """
    image_NE, text_NE = head(torch.from_numpy(image_ND), torch.from_numpy(text_NC))
    own_N = (image_NE * text_NE).sum(1).numpy()
    others = []
    for turn in range(1, min(_N_OTHERS + 1, len(captions))):
        is_other = [one != other for one, other in zip(captions, [*captions[turn:], *captions[:turn]], strict=True)]
        others.append((image_NE * text_NE.roll(-turn, 0)).sum(1).numpy()[is_other])
    return area_under_curve(own_N, np.concatenate(others))


def contrast(logit_BB: Float[Tensor, "B B"], caption_B: Int64[Tensor, " B"]) -> Tensor:
    """Return the loss of a step: cross-entropy over rows and columns, equal captions being positives of each other."""
    is_same_BB = (caption_B[:, None] == caption_B).float()
    right_BB = is_same_BB / is_same_BB.sum(1, keepdim=True)
    return (functional.cross_entropy(logit_BB, right_BB) + functional.cross_entropy(logit_BB.T, right_BB)) / 2
