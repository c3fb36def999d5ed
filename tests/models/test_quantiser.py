import math

import pytest
import torch
from torch.nn import functional

from alchemist_core.models.config import TokenizerConfig, published_tokenizer
from alchemist_core.models.quantiser import ResidualQuantiser, share_smoothers
from alchemist_core.models.tokenizer import Tokenizer
from tests.models.given_models import lively_tokenizer


@pytest.fixture(params=["patches", "convolutions"])
def quantiser(request: pytest.FixtureRequest) -> ResidualQuantiser:
    config = TokenizerConfig(resolution=8, n_codes=9) if request.param == "patches" else None
    return lively_tokenizer(config).quantiser


def features(quantiser: ResidualQuantiser) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(3, quantiser.codebook.embedding_dim, 4, 4, generator=generator)


def quantise_slowly(quantiser: ResidualQuantiser, image_DHW: torch.Tensor) -> tuple[list[int], torch.Tensor]:
    """One image in float64, cell by cell: codes, and the grid that they add up to."""
    codebook, rest_DHW, codes = quantiser.codebook.weight.double(), image_DHW.double(), []
    for scale, side in enumerate(quantiser.scales):
        width = 4 // side
        drawn_DHW = torch.zeros(len(image_DHW), side, side, dtype=torch.float64)
        for row in range(side):
            for column in range(side):
                cells = rest_DHW[:, row * width : (row + 1) * width, column * width : (column + 1) * width]
                mean_D = cells.sum((1, 2)) / width**2
                distances = [float(((mean_D - code_D) ** 2).sum()) for code_D in codebook]
                codes.append(distances.index(min(distances)))
                drawn_DHW[:, row, column] = codebook[codes[-1]]
        grown_DHW = functional.interpolate(drawn_DHW[None], (4, 4), mode="bicubic")[0] if side < 4 else drawn_DHW
        if quantiser.smoothers:
            smoother = quantiser.smoothers[quantiser.smoother_of[scale]]
            smooth_DHW = functional.conv2d(
                grown_DHW[None], smoother.weight.double(), smoother.bias.double(), padding=1
            )[0]
            grown_DHW = 0.5 * grown_DHW + 0.5 * smooth_DHW
        rest_DHW = rest_DHW - grown_DHW
    return codes, image_DHW.double() - rest_DHW


def test_codes_and_grid_are_those_of_the_slow_way(quantiser: ResidualQuantiser) -> None:
    feature_BDHW = features(quantiser)
    code_BS, _ = quantiser.quantise(feature_BDHW)
    *_, grid_BDHW = quantiser.grow(code_BS)
    for index in range(3):
        codes, grid_DHW = quantise_slowly(quantiser, feature_BDHW[index])
        assert code_BS[index].tolist() == codes
        torch.testing.assert_close(grid_BDHW[index].double(), grid_DHW, rtol=1e-5, atol=1e-5)


def test_the_input_of_a_scale_is_the_grid_of_the_coarser_ones_at_its_side(quantiser: ResidualQuantiser) -> None:
    code_BS, _ = quantiser.quantise(features(quantiser))
    input_BSD, grids = quantiser.inputs(code_BS), list(quantiser.grow(code_BS))
    assert input_BSD[:, 0].abs().sum() == 0
    torch.testing.assert_close(input_BSD[:, 1:5], quantiser.at_scale(1, grids[0]))
    torch.testing.assert_close(input_BSD[:, 5:], grids[1].flatten(2).transpose(1, 2))


def test_one_code_book_serves_every_published_resolution() -> None:
    with torch.device("meta"):
        shapes = [
            {name: weight.shape for name, weight in Tokenizer(published_tokenizer(side)).state_dict().items()}
            for side in (256, 512, 1024)
        ]
    assert shapes[0] == shapes[1] == shapes[2]


def test_scales_share_convolutions_as_published() -> None:
    # Scales 2 and 7 are midway between two ticks, so the published weights depend on the rounding.
    assert share_smoothers(10, 4) == [0, 0, 1, 1, 1, 2, 2, 3, 3, 3]
    assert share_smoothers(14, 4) == [0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3]
    ticks = (1 / 12, 13 / 36, 23 / 36, 11 / 12)
    for scale, smoother in enumerate(share_smoothers(10, 4)):
        distances = [abs(tick - scale / 9) for tick in ticks]
        assert math.isclose(distances[smoother], min(distances))
    assert share_smoothers(3, 2) == [0, 0, 1]
    assert share_smoothers(1, 4) == [0]
