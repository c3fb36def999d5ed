"""The rater of the scoring rule `pmi`: a proxy, and the captions with which it compares the own caption of each sample.

Letters: B samples in a batch · K other captions · T text tokens · D features.
"""

from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from alchemist_core.errors import DataError
from alchemist_core.models.text import TextFeatures
from alchemist_core.rating.pmi import mutual_information
from alchemist_core.rating.rater import SampleRater

# Captions are equal if their pooled features differ by no more than rounding: encoders round by the shape of a batch.
_ROUNDING = 1e-3
_FIELDS = ("token_KTD", "mask_KT", "pooled_KD")


class PmiRater(SampleRater):
    """A proxy and some captions of the validation dataset, the same for every sample, so that a score depends on its sample alone.

    A model returns the loss of each sample.
    """

    token_KTD: Tensor
    mask_KT: Tensor
    pooled_KD: Tensor

    def __init__(self, proxy: nn.Module, captions: TextFeatures) -> None:
        super().__init__()
        self.proxy = proxy
        self.compare_with(captions)

    def compare_with(self, captions: TextFeatures) -> None:
        """Set the other captions; they are part of the rater's weights."""
        for name, value in zip(_FIELDS, (captions.token_BTD, captions.mask_BT, captions.pooled_BD), strict=True):
            self.register_buffer(name, value)

    def score(self, tokens: Any, text: TextFeatures) -> Float[Tensor, " B"]:
        """Return how much lower each image's loss is under its own caption than under the others, in nats per token."""
        losses, is_other = [], []
        for place in range(len(self.token_KTD)):
            other = self._repeated(place, len(text.mask_BT))
            losses.append(self.proxy(tokens, other).float())
            is_other.append(~is_same_caption(text.pooled_BD, other.pooled_BD))
        return mutual_information(self.proxy(tokens, text).float(), losses, is_other)

    def _repeated(self, place: int, n: int) -> TextFeatures:
        """Return one of the other captions for each of `n` samples."""
        rows = (getattr(self, name)[place] for name in _FIELDS)
        return TextFeatures(*(row.expand(n, *row.shape) for row in rows))

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *args: Any) -> None:
        # How many captions there are, and how long the longest is, only the weights say.
        for name in _FIELDS:
            if (given := state_dict.get(prefix + name)) is not None:
                self.register_buffer(name, torch.empty_like(given))
        super()._load_from_state_dict(state_dict, prefix, *args)


def is_same_caption(pooled_BD: Float[Tensor, "B D"], other_BD: Float[Tensor, "B D"]) -> Bool[Tensor, " B"]:
    """Return where the features of two captions are those of one caption."""
    length_B: Tensor = torch.linalg.vector_norm(other_BD, dim=1)
    distance_B: Tensor = torch.linalg.vector_norm(pooled_BD - other_BD, dim=1)
    return distance_B <= _ROUNDING * length_B


def blank_captions(n: int, dim: int) -> TextFeatures:
    """Return placeholders for captions that are loaded later."""
    return TextFeatures(torch.zeros(n, 1, dim), torch.ones(n, 1, dtype=torch.bool), torch.zeros(n, dim))


def choose_captions(captions: TextFeatures, n: int) -> TextFeatures:
    """Return the first `n` different captions, without the padding that all share.

    Raises:
        DataError: All captions are equal.
    """
    chosen: list[int] = []
    for place in range(len(captions.mask_BT)):
        if len(chosen) == n:
            break
        known_CD = captions.pooled_BD[chosen]
        if not is_same_caption(captions.pooled_BD[place].expand_as(known_CD), known_CD).any():
            chosen.append(place)
    if len(chosen) < 2:
        raise DataError(
            "Rule pmi compares the caption of a sample with other captions, but the validation samples have only one. Give a validation "
            "dataset with different captions, or another --rule."
        )
    found = captions.rows(torch.tensor(chosen))
    n_tokens = int(found.mask_BT.any(0).nonzero().max()) + 1
    return TextFeatures(
        found.token_BTD[:, :n_tokens].contiguous(), found.mask_BT[:, :n_tokens].contiguous(), found.pooled_BD
    )
