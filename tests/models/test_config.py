import pytest
from pydantic import ValidationError

from alchemist_core.models.config import (
    SCALES,
    AutoencoderConfig,
    StarConfig,
    TokenizerConfig,
    count_tokens,
    published_star,
    published_tokenizer,
    tokenizer_tiny,
)


def test_the_published_schedules_have_the_published_numbers_of_tokens() -> None:
    assert {resolution: count_tokens(scales) for resolution, scales in SCALES.items()} == {
        256: 680,
        512: 2240,
        1024: 9451,
    }


def test_width_and_heads_follow_the_depth_unless_given() -> None:
    assert (StarConfig(depth=8).width, StarConfig(depth=8).n_heads) == (512, 8)
    assert (StarConfig(depth=8, width=64, n_heads=2).width, StarConfig(depth=8, width=64, n_heads=2).n_heads) == (64, 2)
    assert published_star(24, 512).n_tokens == 2240


def test_a_config_written_as_json_comes_back() -> None:
    for config in (published_star(16), StarConfig(width=32), published_tokenizer(512), tokenizer_tiny()):
        assert type(config).model_validate_json(config.model_dump_json()) == config


@pytest.mark.parametrize(("width", "n_heads"), [(33, 2), (36, 6), (8, 4)])
def test_a_model_whose_heads_do_not_divide_its_width_in_fours_is_refused(width: int, n_heads: int) -> None:
    with pytest.raises(ValidationError, match=r"must be a multiple of 4 \* n_heads"):
        StarConfig(width=width, n_heads=n_heads)


def test_a_depth_out_of_bounds_is_refused_as_itself() -> None:
    with pytest.raises(ValidationError, match="depth"):
        StarConfig(depth=0)


def test_an_autoencoder_that_misses_the_grid_is_refused() -> None:
    with pytest.raises(ValidationError, match="it must shrink 4 times"):
        TokenizerConfig(resolution=16, scales=(1, 2, 4), autoencoder=AutoencoderConfig())


def test_groups_that_do_not_divide_a_width_are_refused() -> None:
    with pytest.raises(ValidationError, match="must be a multiple of n_groups 32"):
        AutoencoderConfig(width=40)


@pytest.mark.parametrize("resolution", [16, 32, 64])
def test_the_tiny_tokenizer_has_as_many_tokens_as_the_patches(resolution: int) -> None:
    assert tokenizer_tiny(resolution).n_tokens == TokenizerConfig(resolution=resolution).n_tokens == 21
