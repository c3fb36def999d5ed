"""The keys and shapes of the published state dicts, written from their description and not from our code."""

Shapes = dict[str, tuple[int, ...]]


def conv(name: str, n_in: int, n_out: int, side: int = 3) -> Shapes:
    return {f"{name}.weight": (n_out, n_in, side, side), f"{name}.bias": (n_out,)}


def norm(name: str, width: int) -> Shapes:
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def linear(name: str, n_in: int, n_out: int) -> Shapes:
    return {f"{name}.weight": (n_out, n_in), f"{name}.bias": (n_out,)}


def block(name: str, n_in: int, n_out: int) -> Shapes:
    shapes = norm(f"{name}.norm1", n_in) | conv(f"{name}.conv1", n_in, n_out)
    shapes |= norm(f"{name}.norm2", n_out) | conv(f"{name}.conv2", n_out, n_out)
    return shapes | (conv(f"{name}.nin_shortcut", n_in, n_out, 1) if n_in != n_out else {})


def attention(name: str, width: int) -> Shapes:
    return (
        norm(f"{name}.norm", width)
        | conv(f"{name}.qkv", width, 3 * width, 1)
        | conv(f"{name}.proj_out", width, width, 1)
    )


def middle(name: str, width: int) -> Shapes:
    shapes = block(f"{name}.block_1", width, width) | block(f"{name}.block_2", width, width)
    return shapes | attention(f"{name}.attn_1", width)


def tokenizer_keys() -> Shapes:
    """`vae_ch160v4096z32`."""
    shapes: Shapes = {"quantize.ema_vocab_hit_SV": (10, 4096), "quantize.embedding.weight": (4096, 32)}
    for index in range(4):
        shapes |= conv(f"quantize.quant_resi.qresi_ls.{index}", 32, 32)
    return shapes | conv("quant_conv", 32, 32) | conv("post_quant_conv", 32, 32) | encoder_keys() | decoder_keys()


def encoder_keys() -> Shapes:
    shapes = conv("encoder.conv_in", 3, 160)
    for level, (n_in, n_out) in enumerate(((160, 160), (160, 160), (160, 320), (320, 320), (320, 640))):
        shapes |= block(f"encoder.down.{level}.block.0", n_in, n_out)
        shapes |= block(f"encoder.down.{level}.block.1", n_out, n_out)
        if level < 4:
            shapes |= conv(f"encoder.down.{level}.downsample.conv", n_out, n_out)
    for index in range(2):
        shapes |= attention(f"encoder.down.4.attn.{index}", 640)
    return shapes | middle("encoder.mid", 640) | norm("encoder.norm_out", 640) | conv("encoder.conv_out", 640, 32)


def decoder_keys() -> Shapes:
    shapes = conv("decoder.conv_in", 32, 640) | middle("decoder.mid", 640)
    for level, (n_in, n_out) in enumerate(((160, 160), (320, 160), (320, 320), (640, 320), (640, 640))):
        shapes |= block(f"decoder.up.{level}.block.0", n_in, n_out)
        for index in (1, 2):
            shapes |= block(f"decoder.up.{level}.block.{index}", n_out, n_out)
        if level:
            shapes |= conv(f"decoder.up.{level}.upsample.conv", n_out, n_out)
    for index in range(3):
        shapes |= attention(f"decoder.up.4.attn.{index}", 640)
    return shapes | norm("decoder.norm_out", 160) | conv("decoder.conv_out", 160, 3)


def trunk_keys(depth: int, text_dim: int = 1024, n_scales: int = 10) -> Shapes:
    width = 64 * depth
    shapes: Shapes = {
        "pos_start": (1, 1, width),
        "lvl_embed.weight": (n_scales, width),
        "class_emb.weight": (1001, width),
    }
    shapes |= linear("word_embed", 32, width) | linear("encoder_proj", text_dim, width)
    for index in range(depth):
        name = f"blocks.{index}"
        shapes |= {f"{name}.attn.mat_qkv.weight": (3 * width, width), f"{name}.cross_attn.mat_q.weight": (width, width)}
        shapes |= {f"{name}.cross_attn.mat_kv.weight": (2 * width, text_dim)}
        for part in ("attn", "cross_attn"):
            shapes |= {f"{name}.{part}.{bias}": (width,) for bias in ("q_bias", "v_bias", "zero_k_bias")}
            shapes |= {f"{name}.{part}.scale_mul_1H11": (1, depth, 1, 1)} | linear(f"{name}.{part}.proj", width, width)
        shapes |= linear(f"{name}.ffn.fc1", width, 4 * width) | linear(f"{name}.ffn.fc2", 4 * width, width)
    return shapes


def star_keys(depth: int) -> Shapes:
    return trunk_keys(depth) | linear("head_logits", 64 * depth, 4096)


def rater_keys(depth: int) -> Shapes:
    width = 64 * depth
    heads = linear("head_instance.0", width, 64) | linear("head_instance.2", 64, 1)
    return trunk_keys(depth) | heads | linear("head_batch.fc.0", 2 * width, 64) | linear("head_batch.fc.2", 64, 1)
