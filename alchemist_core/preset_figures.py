"""Parameters, memory and arithmetic of the presets. Written by `make figures`, which counts them; do not edit."""

from typing import Any

FIGURES: dict[str, dict[str, dict[str, Any]]] = {
    "train_rater": {
        "tiny": {
            "config_hash": "499e78591e5fcae3",
            "parameters": {"proxy": 173960, "rater": 190666, "tokenizer": 6144},
            "peak_bytes": 89190844,
            "bf16_flops": 0,
            "fp32_flops": 6461045606400.0,
        },
        "gpu24": {
            "config_hash": "36f3eb62a5ef26fd",
            "parameters": {"proxy": 40442496, "rater": 38439810, "tokenizer": 108948355, "text encoder": 340387840},
            "peak_bytes": 11237930036,
            "bf16_flops": 9.85150464396e17,
            "fp32_flops": 3.722733166592e17,
        },
        "gpu80": {
            "config_hash": "42f909d725af2e34",
            "parameters": {"proxy": 273909248, "rater": 38439810, "tokenizer": 108948355, "text encoder": 340387840},
            "peak_bytes": 24136306740,
            "bf16_flops": 1.81574144635264e19,
            "fp32_flops": 6.701130579968e17,
        },
        "paper": {
            "config_hash": "09aa830069c959bd",
            "parameters": {"proxy": 273909248, "rater": 38439810, "tokenizer": 108948355, "text encoder": 340387840},
            "peak_bytes": 19273440760,
            "bf16_flops": 7.81295469796016e19,
            "fp32_flops": 9.1645503307776e18,
        },
    },
    "train_downstream": {
        "tiny": {
            "config_hash": "0fcfe1b71343d9f0",
            "parameters": {"model": 173960, "tokenizer": 6144},
            "peak_bytes": 23785981,
            "bf16_flops": 0,
            "fp32_flops": 2345158656000.0,
        },
        "gpu24": {
            "config_hash": "a021f17fddd9ad92",
            "parameters": {"model": 40442496, "tokenizer": 108948355, "text encoder": 340387840},
            "peak_bytes": 16646315068,
            "bf16_flops": 1.6049233287184384e18,
            "fp32_flops": 6.666225736661074e17,
        },
        "gpu80": {
            "config_hash": "87cdab623567a0cb",
            "parameters": {"model": 273909248, "tokenizer": 108948355, "text encoder": 340387840},
            "peak_bytes": 56240257852,
            "bf16_flops": 1.1039147549582688e19,
            "fp32_flops": 6.666225736661074e17,
        },
        "paper": {
            "config_hash": "a0dbc0cf8c0ccabc",
            "parameters": {"model": 273909248, "tokenizer": 108948355, "text encoder": 340387840},
            "peak_bytes": 32555273628,
            "bf16_flops": 9.935345836942269e19,
            "fp32_flops": 1.0522125679714107e19,
        },
        "flux_mini": {
            "config_hash": "6995c63f9dabf1be",
            "parameters": {"model": 3186080832, "text encoder": 4885371136},
            "peak_bytes": 20140117344,
            "bf16_flops": 2.3578200182784e19,
            "fp32_flops": 0,
        },
    },
}
