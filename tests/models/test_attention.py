import math

import torch

from alchemist_core.models.star import CrossAttention, SelfAttention, rotary_turns

TURNS = rotary_turns((1, 2), 8)[:, None].expand(-1, 4, -1)


def new_attention() -> SelfAttention:
    torch.manual_seed(0)
    return SelfAttention(16, 2)


def test_how_long_queries_and_keys_are_does_not_matter() -> None:
    attention, hidden_BSD = new_attention(), torch.randn(3, 5, 16)
    before = attention(hidden_BSD, TURNS, None)
    with torch.no_grad():
        attention.query_key_value.weight[:32] *= 7
    torch.testing.assert_close(attention(hidden_BSD, TURNS, None), before)


def test_a_head_is_four_times_a_cosine_at_first_and_never_sharper_than_a_hundred() -> None:
    attention, hidden_BSD = new_attention(), torch.randn(3, 5, 16)
    assert attention.log_sharpness_H.exp().tolist() == [4.0, 4.0]
    outs = []
    for sharpness in (100.0, 1e6):
        torch.nn.init.constant_(attention.log_sharpness_H, math.log(sharpness))
        outs.append(attention(hidden_BSD, TURNS, None))
    torch.testing.assert_close(*outs)


def test_keys_have_no_bias() -> None:
    names = dict(new_attention().named_parameters())
    assert names["query_key_value.query_bias"].shape == names["query_key_value.value_bias"].shape == (16,)
    assert "query_key_value.bias" not in names
    assert sum(weight.numel() for weight in names.values()) == 3 * 16 * 16 + 2 * 16 + 16 * 16 + 16 + 2


def test_places_matter_among_image_tokens_and_not_among_words() -> None:
    attention, hidden_BSD = new_attention(), torch.randn(1, 5, 16)
    order = torch.tensor([0, 2, 1, 4, 3])
    assert (
        attention(hidden_BSD[:, order], TURNS, None) - attention(hidden_BSD, TURNS, None)[:, order]
    ).abs().max() > 1e-3
    cross, text_BTD, bias = CrossAttention(16, 2, text_dim=6), torch.randn(1, 4, 6), torch.zeros(1, 1, 1, 4)
    torch.testing.assert_close(cross(hidden_BSD, text_BTD, bias), cross(hidden_BSD, text_BTD.flip(1), bias))


def test_an_all_zero_vector_gives_finite_values_and_gradients() -> None:
    attention, hidden_BSD = new_attention(), torch.zeros(1, 5, 16, requires_grad=True)
    torch.nn.init.zeros_(attention.query_key_value.query_bias)
    attention(hidden_BSD, TURNS, None).sum().backward()
    assert torch.isfinite(hidden_BSD.grad).all()
