"""A new metric is one class and one protocol file: a package can install both, and nothing else changes."""

import re
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from alchemist_core.errors import ConfigError
from alchemist_core.metrics.catalogue import find_metric
from alchemist_core.metrics.image_sets import ImageSet
from alchemist_core.models.extractors import find_weights
from alchemist_core.protocols.protocol import ImageProtocol, ProtocolFile, read_protocol
from tests.metrics.given_metric import metric_of

CHECKOUT = Path(__file__).parents[2]
PROTOCOL = """
metric = "precision"
extractor = "efficientnet_lite0"
resolution = 32
n_images = 8
"""


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ProtocolFile:
    """The protocol of the tutorial's metric, whose package is installed."""
    page = (CHECKOUT / "docs/tutorials/new-metric.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"^```python\n# my_metrics\.py\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    assert code in (CHECKOUT / "alchemist_core/metrics/README.md").read_text(encoding="utf-8")
    (tmp_path / "precision_plugin.py").write_text(code)
    info = tmp_path / "precision_plugin-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: precision-plugin\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[alchemist.metrics]\nprecision = precision_plugin:Precision\n")
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "precision.toml").write_text(PROTOCOL)
    return read_protocol(str(tmp_path / "precision.toml"))


def test_an_installed_package_adds_a_metric(file: ProtocolFile) -> None:
    rng = np.random.default_rng(0)
    references = rng.integers(0, 256, (12, 32, 32, 3), np.uint8)
    blank = np.zeros_like(references)[:4]
    metric = metric_of(file.check(ImageProtocol), find_weights("efficientnet_lite0", None), [references])
    assert (type(metric).__name__, metric.title) == ("Precision", "precision_efficientnet_lite0")
    images = np.concatenate([references[:4], blank])
    assert metric.measure_images([ImageSet(images, [""] * 8, [0] * 8)]) == {metric.title: 0.5}


def test_the_memory_of_the_tutorials_metric_does_not_grow_with_references_times_references_times_features(
    file: ProtocolFile,
) -> None:
    metric = metric_of(file.check(ImageProtocol))
    metric.references = np.random.default_rng(0).random((300, 1280), np.float32)
    tracemalloc.start()
    assert metric.compare(metric.references[:50]) == {metric.title: 1.0}
    _, most_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most_bytes < 20e6


def test_without_the_package_its_metric_is_refused_by_the_known_names() -> None:
    with pytest.raises(ConfigError, match=r"names metric 'precision'. Allowed: average_score, clip_score, fid, "):
        find_metric(ProtocolFile("mine", {"metric": "precision"}))
