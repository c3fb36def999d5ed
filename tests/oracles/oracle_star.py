"""A slow oracle of STAR, written from its description: float64, one head and one token at a time, complex numbers for rotations.

Weights are passed by name; nothing else is shared with the product.
"""

import math

import torch

Weights = dict[str, torch.Tensor]


def logits(
    weights: Weights, depth: int, n_heads: int, scales: tuple[int, ...], *, inputs: torch.Tensor, words: torch.Tensor,
    pooled: torch.Tensor,
) -> torch.Tensor:  # fmt: skip
    """Logits of one sample: inputs (S, D), words (T, C) without padding, pooled (C)."""
    level, places = [], []
    for number, side in enumerate(scales):
        for row in range(side):
            for column in range(side):
                level.append(number)
                step = 64 / (side - 1) if side > 1 else 0.0
                places.append((column * step, row * step))
    hidden = []
    for s in range(len(level)):
        if level[s] == 0:
            token = weights["trunk.text_in.weight"] @ pooled + weights["trunk.text_in.bias"]
            token = token + weights["trunk.first_in"][0, s]
        else:
            token = weights["trunk.token_in.weight"] @ inputs[s] + weights["trunk.token_in.bias"]
        hidden.append(token + weights["trunk.level_in.weight"][level[s]])
    for index in range(depth):
        hidden = _block(weights, f"trunk.blocks.{index}.", n_heads, hidden, level=level, places=places, words=words)
    return torch.stack([weights["head.weight"] @ _norm(token) + weights["head.bias"] for token in hidden])


def _block(weights, prefix, n_heads, hidden, *, level, places, words):
    name, width = prefix + "self_attention.", len(hidden[0])
    matrix = weights[name + "query_key_value.weight"]
    zero = torch.zeros(width, dtype=torch.float64)
    biases = (weights[name + "query_key_value.query_bias"], zero, weights[name + "query_key_value.value_bias"])
    three = [[matrix[p * width : (p + 1) * width] @ _norm(t) + biases[p] for t in hidden] for p in range(3)]
    mixed = []
    for s in range(len(hidden)):
        seen = [r for r in range(len(hidden)) if level[r] <= level[s]]
        mixed.append(
            _heads(
                weights[name + "log_sharpness_H"], n_heads, three[0][s], [three[1][r] for r in seen],
                [three[2][r] for r in seen], here=places[s], there=[places[r] for r in seen],
            )
        )  # fmt: skip
    hidden = [
        h + weights[name + "out.weight"] @ m + weights[name + "out.bias"] for h, m in zip(hidden, mixed, strict=True)
    ]

    name = prefix + "cross_attention."
    matrix = weights[name + "key_value.weight"]
    keys = [matrix[:width] @ word for word in words]
    values = [matrix[width:] @ word + weights[name + "key_value.value_bias"] for word in words]
    after = []
    for h in hidden:
        query = weights[name + "query.weight"] @ _norm(h) + weights[name + "query.bias"]
        m = _heads(weights[name + "log_sharpness_H"], n_heads, query, keys, values)
        after.append(h + weights[name + "out.weight"] @ m + weights[name + "out.bias"])

    fed = []
    for h in after:
        inner = weights[prefix + "feed_in.weight"] @ _norm(h) + weights[prefix + "feed_in.bias"]
        inner = 0.5 * inner * (1 + torch.tanh(math.sqrt(2 / math.pi) * (inner + 0.044715 * inner**3)))
        fed.append(h + weights[prefix + "feed_out.weight"] @ inner + weights[prefix + "feed_out.bias"])
    return fed


def _heads(log_sharpness, n_heads, query, keys, values, *, here=None, there=None):
    dim = len(query) // n_heads
    out = []
    for head in range(n_heads):
        part = slice(head * dim, (head + 1) * dim)
        sharpness = torch.exp(torch.minimum(log_sharpness[head], torch.tensor(math.log(100.0), dtype=torch.float64)))
        asked = query[part] / query[part].norm()
        scores = []
        for number, key in enumerate(keys):
            told = key[part] / key[part].norm()
            if here is None:
                scores.append(sharpness * (asked * told).sum())
            else:
                scores.append(sharpness * (_turned(asked, here) * _turned(told, there[number]).conj()).sum().real)
        share = torch.softmax(torch.stack(scores), 0)
        out.append(sum(share[number] * value[part] for number, value in enumerate(values)))
    return torch.cat(out)


def _turned(vector, place):
    pairs = torch.complex(vector[0::2], vector[1::2])
    n_each = len(pairs) // 2
    angles = [place[axis] * 10000 ** (-4 * k / len(vector)) for axis in (0, 1) for k in range(n_each)]
    return pairs * torch.exp(1j * torch.tensor(angles, dtype=torch.float64))


def _norm(token):
    return (token - token.mean()) / torch.sqrt(token.var(unbiased=False) + 1e-6)
