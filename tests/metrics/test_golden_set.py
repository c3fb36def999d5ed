"""Images in the repository give the expected numbers, under protocols that refuse any changed field by name."""

import json
import shutil
from pathlib import Path

import pytest

from alchemist_core.errors import ConfigError, DataError
from alchemist_core.protocols.protocol import refuse_differences
from tests.metrics import golden_set
from tests.metrics.golden_set import GOLDEN, PROTOCOLS, measure, read_golden

NUMBERS = json.loads((GOLDEN / "numbers.json").read_text())


@pytest.mark.parametrize("name", PROTOCOLS)
def test_the_golden_images_give_the_golden_numbers(name: str) -> None:
    # Networks round differently on other processors; answers about shapes do not.
    assert measure(name) == pytest.approx(NUMBERS[name], rel=1e-3 if name != "scenes" else 0)


def test_the_golden_set_is_small() -> None:
    assert sum(path.stat().st_size for path in GOLDEN.rglob("*") if path.is_file()) < 200_000


@pytest.mark.parametrize("name", PROTOCOLS)
def test_every_field_of_a_golden_protocol_is_refused_by_its_name(name: str) -> None:
    fields = read_golden(name).as_json()
    for field, value in fields.items():
        with pytest.raises(ConfigError, match=rf"^{field} is 'another', but") as caught:
            refuse_differences(fields, fields | {field: "another"}, whose="the golden protocol")
        assert f"has {value!r}." in str(caught.value)


@pytest.mark.parametrize(("field", "other"), [
    ("prompts_sha256", "0" * 64), ("weights_sha256", "0" * 64), ("reference_sha256", "0" * 64),
])  # fmt: skip
def test_a_golden_protocol_with_another_hash_is_not_measured(
    field: str, other: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(GOLDEN, tmp_path / "golden")
    monkeypatch.setattr(golden_set, "GOLDEN", tmp_path / "golden")
    path = tmp_path / "golden" / "kid.toml"
    before = getattr(read_golden("kid"), field)
    path.write_text(path.read_text().replace(before, other))
    with pytest.raises(ConfigError, match=rf"^{field} is '{before}'"):
        measure("kid")


def test_a_changed_golden_image_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(GOLDEN, tmp_path / "golden")
    monkeypatch.setattr(golden_set, "GOLDEN", tmp_path / "golden")
    tar = tmp_path / "golden" / "images" / "000000.tar"
    data = bytearray(tar.read_bytes())
    data[600] ^= 1
    tar.write_bytes(data)
    with pytest.raises(DataError, match="was changed after it was written"):
        measure("scenes")
