"""A graph of TensorFlow.js gives in torch what TensorFlow's own rules say, written out slowly; what is not known is refused by its name."""

import json
from base64 import b64encode
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from alchemist_core.errors import ConfigError
from alchemist_core.metrics.tfjs_graph import TfjsGraph

RNG = np.random.default_rng(0)
HALF = RNG.normal(size=(3, 3, 2, 4)).astype(np.float16)


def word(text: str) -> dict[str, str]:
    return {"s": b64encode(text.encode()).decode()}


def convolution(
    operation: str, *, stride: int = 1, padding: str = "SAME", fused: tuple[str, ...] = ()
) -> dict[str, Any]:
    return {
        "op": operation,
        "attr": {
            "strides": {"list": {"i": ["1", str(stride), str(stride), "1"]}}, "padding": word(padding),
            "dilations": {"list": {"i": ["1", "1", "1", "1"]}}, "data_format": word("NHWC"),
            "fused_ops": {"list": {"s": [word(name)["s"] for name in fused]}},
        },
    }  # fmt: skip


def save(folder: Path, weights: dict[str, np.ndarray], *nodes: dict[str, Any]) -> Path:
    """Write a model as TensorFlow.js does; floats of 16 bits are what it calls quantised."""
    specs = [
        {"name": name, "shape": list(array.shape), "dtype": "int32" if array.dtype == np.int32 else "float32"}
        | ({"quantization": {"dtype": "float16"}} if array.dtype == np.float16 else {})
        for name, array in weights.items()
    ]
    (folder / "net.bin").write_bytes(b"".join(array.tobytes() for array in weights.values()))
    constants = [{"name": name, "op": "Const"} for name in weights]
    model = {
        "modelTopology": {"node": [*constants, {"name": "x", "op": "Placeholder"}, *nodes]},
        "weightsManifest": [{"paths": ["net.bin"], "weights": specs}],
    }
    (folder / "net.json").write_text(json.dumps(model))
    return folder / "net.json"


def run(topology: Path, pixels_HWC: np.ndarray) -> np.ndarray:
    (found,) = TfjsGraph(topology, ("y",)).run(torch.from_numpy(pixels_HWC).permute(2, 0, 1)[None])
    return found[0].permute(1, 2, 0).numpy()


def slow_convolution(pixels_HWC: np.ndarray, kernel_HWIO: np.ndarray, *, stride: int, padding: str) -> np.ndarray:
    """Every output by its own loop; SAME puts the odd pixel of padding at the end."""
    height, width, _ = pixels_HWC.shape
    window_h, window_w = kernel_HWIO.shape[:2]
    starts, sizes = [], []
    for side, window in ((height, window_h), (width, window_w)):
        size = -(-side // stride) if padding == "SAME" else (side - window) // stride + 1
        pad = max((size - 1) * stride + window - side, 0) if padding == "SAME" else 0
        starts.append(-(pad // 2))
        sizes.append(size)
    out = np.zeros((*sizes, kernel_HWIO.shape[3]))
    for row, column in np.ndindex(*sizes):
        for dy, dx in np.ndindex(window_h, window_w):
            y, x = row * stride + starts[0] + dy, column * stride + starts[1] + dx
            if 0 <= y < height and 0 <= x < width:
                out[row, column] += pixels_HWC[y, x].astype(np.float64) @ kernel_HWIO[dy, dx].astype(np.float64)
    return out


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("padding", ["SAME", "VALID"])
@pytest.mark.parametrize("side", [7, 8])
def test_a_convolution_is_padded_as_tensorflow_pads(tmp_path: Path, stride: int, padding: str, side: int) -> None:
    pixels, bias = RNG.normal(size=(side, side + 3, 2)).astype(np.float32), np.array([1, -9, 0, 2], np.float32)
    node = convolution("_FusedConv2D", stride=stride, padding=padding, fused=("BiasAdd", "Relu"))
    topology = save(tmp_path, {"k": HALF, "b": bias}, node | {"name": "y", "input": ["x", "k", "b"]})
    expected = np.maximum(slow_convolution(pixels, HALF, stride=stride, padding=padding) + bias, 0)
    np.testing.assert_allclose(run(topology, pixels), expected, atol=1e-5)
    assert (expected[..., 1] == 0).any()


def test_a_depthwise_convolution_keeps_channels_apart(tmp_path: Path) -> None:
    pixels, kernel = RNG.normal(size=(5, 6, 2)).astype(np.float32), HALF[..., :1]
    topology = save(tmp_path, {"k": kernel}, convolution("DepthwiseConv2dNative") | {"name": "y", "input": ["x", "k"]})
    found = run(topology, pixels)
    for channel in range(2):
        own = slow_convolution(
            pixels[..., channel : channel + 1], kernel[:, :, channel : channel + 1], stride=1, padding="SAME"
        )
        np.testing.assert_allclose(found[..., channel : channel + 1], own, atol=1e-5)


def test_doubling_follows_the_older_rule(tmp_path: Path) -> None:
    pixels = np.arange(6, dtype=np.float32).reshape(2, 3, 1)
    resize = {"name": "y", "op": "ResizeBilinear", "input": ["x", "size"], "attr": {"align_corners": {"b": False}}}
    topology = save(tmp_path, {"size": np.array([4, 6], np.int32)}, resize)
    expected = [[0, 0.5, 1, 1.5, 2, 2], [1.5, 2, 2.5, 3, 3.5, 3.5], [3, 3.5, 4, 4.5, 5, 5], [3, 3.5, 4, 4.5, 5, 5]]
    assert run(topology, pixels)[..., 0].tolist() == expected


def test_the_other_operations_are_theirs(tmp_path: Path) -> None:
    """Squeeze and excite, hard swish and a join, as MobileNetV3 has them."""
    pixels = RNG.normal(size=(4, 4, 2)).astype(np.float32) * 4
    weights = {"axes": np.array([1, 2], np.int32), "three": np.float32(3).reshape(()), "last": np.int32(3).reshape(())}
    nodes = [
        {"name": "m", "op": "Mean", "input": ["x", "axes"]},
        {"name": "s", "op": "Sigmoid", "input": ["m"]},
        {"name": "p", "op": "Mul", "input": ["x", "s"]},
        {"name": "a", "op": "Add", "input": ["p", "three"]},
        {"name": "r", "op": "Relu6", "input": ["a"]},
        {"name": "q", "op": "Relu", "input": ["x"]},
        {"name": "c", "op": "ConcatV2", "input": ["r", "q", "last"]},
        {"name": "y", "op": "Identity", "input": ["c"]},
    ]
    scaled = pixels / (1 + np.exp(-pixels.mean((0, 1))))
    expected = np.concatenate([np.clip(scaled + 3, 0, 6), np.maximum(pixels, 0)], -1)
    np.testing.assert_allclose(run(save(tmp_path, weights, *reversed(nodes)), pixels), expected, atol=1e-5)


AXES = {"axes": np.array([0, 1], np.int32), "vector": np.zeros(2, np.float32)}
LEFT_OUT = [
    ({"name": "y", "op": "Softmax", "input": ["x"]}, r"^y is a Softmax, which is not known here; known are Add"),
    ({"name": "y", "op": "Mean", "input": ["x", "axes"]}, r"^y is a Mean of a kind that is not known here"),
    ({"name": "y", "op": "Add", "input": ["x", "vector"]}, r"^y is a Add of a kind"),
    ({"name": "z", "op": "Relu", "input": ["x"]}, r"has no y; give the model that has"),
    (
        convolution("_FusedConv2D", fused=("BiasAdd", "Elu")) | {"name": "y", "input": ["x", "vector"]},
        r"^y is a _FusedConv2D of a kind",
    ),
]


@pytest.mark.parametrize(("node", "said"), LEFT_OUT)
def test_what_is_not_known_is_refused(tmp_path: Path, node: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        TfjsGraph(save(tmp_path, AXES, node), ("y",))


def test_files_that_are_no_model_are_refused(tmp_path: Path) -> None:
    topology = save(tmp_path, {"k": HALF}, convolution("Conv2D") | {"name": "y", "input": ["x", "k"]})
    (tmp_path / "net.bin").write_bytes(HALF.tobytes() + b"12")
    with pytest.raises(ConfigError, match="146 bytes of weights, 144 are named"):
        TfjsGraph(topology, ("y",))
    (tmp_path / "net.bin").unlink()
    for text in (topology.read_text(), "{}", "no JSON"):
        topology.write_text(text)
        with pytest.raises(ConfigError, match=r"net\.json is no graph model of TensorFlow\.js"):
            TfjsGraph(topology, ("y",))
