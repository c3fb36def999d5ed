import io
import json
import os
from itertools import chain
from pathlib import Path

import pytest
from PIL import Image

from alchemist_core.errors import DataError, MissingDependencyError
from alchemist_core.shards.samples import Sample, read_samples
from alchemist_core.shards.storage import list_shards, open_shard, read_ranges
from tests.benchmarks.emoji_corpus import (
    build_emoji_corpus,
    chosen_packages,
    find_pictures,
    install_packages,
    split_of,
    write_pictures,
)

SVG = '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 72 72"><rect width="72" height="36" fill="#{:06x}"/></svg>'
N_CONCEPTS = 40


def save_picture(path: Path, colour: int, size: tuple[int, int] = (64, 64)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.new("RGBA", size, (0, 0, 0, 0))
    image.paste((colour % 256, colour // 256, 90, 255), (8, 8, 40, 40))
    image.save(path, lossless=True)


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four packages in npm's layout, with forty concepts each; the last concept has no image."""
    folder = tmp_path_factory.mktemp("packages")
    modules = folder / "node_modules"
    rows, drawings = [], []
    for number in range(N_CONCEPTS):
        code = f"{0x1F600 + number:X}"
        names = [f"face_{number}", f"smile-{number}"]
        rows.append({"name": f"FACE {number}", "unified": code, "image": f"{code.lower()}.png", "short_names": names})
        drawings.append(
            {"hexcode": code, "annotation": f"Face {number}", "tags": f"mood, smile {number}", "skintone": ""}
        )
        if number == N_CONCEPTS - 1:
            break
        save_picture(modules / "emoji-datasource-google/img/google/64" / f"{code.lower()}.png", number)
        save_picture(modules / "emoji-datasource-twitter/img/twitter/64" / f"{code.lower()}.png", 1000 + number)
        save_picture(modules / "@lobehub/fluent-emoji-3d/assets" / f"{code.lower()}.webp", 2000 + number, (256, 200))
        svg = modules / "openmoji/color/svg" / f"{code}.svg"
        svg.parent.mkdir(parents=True, exist_ok=True)
        svg.write_text(SVG.format(number + 1))
    drawings.append({"hexcode": "1F600-1F3FB", "annotation": "toned", "tags": "", "skintone": "1"})
    (modules / "openmoji/color/svg/1F600-1F3FB.svg").write_text(SVG.format(99))
    for vendor in ("google", "twitter"):
        (modules / f"emoji-datasource-{vendor}/emoji.json").write_text(json.dumps(rows))
    (modules / "openmoji/data").mkdir()
    (modules / "openmoji/data/openmoji.json").write_text(json.dumps(drawings))
    return folder


def write(packages: Path, out_root: Path, *, permissive_only: bool = True, seed: int = 0) -> dict[str, list[Sample]]:
    pictures = find_pictures(chosen_packages(permissive_only=permissive_only), packages)
    write_pictures(out_root, pictures, side=48, seed=seed)
    found: dict[str, list[Sample]] = {"train": [], "validation": []}
    for shard in list_shards(str(out_root)):
        with open_shard(shard.uri) as file:
            records = list(read_samples(file, shard.size_bytes))
        pairs = [record for record in records if isinstance(record, Sample)]
        assert len(pairs) == len(records)
        found[Path(shard.uri).parent.name] += pairs
    return found


def test_every_image_keeps_its_licence_and_its_caption_has_style_and_name(packages: Path, tmp_path: Path) -> None:
    pairs = list(chain(*write(packages, tmp_path, permissive_only=False).values()))
    licences = {json.loads(pair.metadata)["source"]: pair.attributes["licence"] for pair in pairs}
    assert licences == {
        "npm:emoji-datasource-google@16.0.0": "Apache-2.0",
        "npm:emoji-datasource-twitter@16.0.0": "CC-BY-4.0",
        "npm:@lobehub/fluent-emoji-3d@1.1.0": "MIT",
        "npm:openmoji@17.0.0": "CC-BY-SA-4.0",
    }
    captions = {pair.caption for pair in pairs}
    assert {"noto emoji of face 7, smile 7", "outlined drawing of face 7, mood, smile 7"} <= captions
    assert len(pairs) == 4 * (N_CONCEPTS - 1)


def test_only_permissive_licences_are_used_unless_asked(packages: Path, tmp_path: Path) -> None:
    pairs = list(chain(*write(packages, tmp_path).values()))
    assert {pair.attributes["licence"] for pair in pairs} == {"Apache-2.0", "CC-BY-4.0", "MIT"}


def test_no_concept_is_on_both_sides(packages: Path, tmp_path: Path) -> None:
    found = write(packages, tmp_path, permissive_only=False)
    train, validation = (
        {json.loads(pair.metadata)["concept"] for pair in found[split]} for split in ("train", "validation")
    )
    assert train
    assert validation
    assert not train & validation


def test_images_are_scaled_down_on_white(packages: Path, tmp_path: Path) -> None:
    write(packages, tmp_path)
    (shard, *_) = list_shards(str(tmp_path))
    with open_shard(shard.uri) as file:
        pairs = [pair for pair in read_samples(file, shard.size_bytes) if isinstance(pair, Sample)]
    assert {(pair.width, pair.height) for pair in pairs} == {(48, 48), (48, 38)}
    member = pairs[0].record.files[0]
    image = Image.open(io.BytesIO(read_ranges(shard.uri, [(member.offset, member.size)])[0]))
    assert image.mode == "RGB"
    assert image.getpixel((47, 37)) == (255, 255, 255)


def test_the_same_seed_gives_the_same_bytes(packages: Path, tmp_path: Path) -> None:
    for name, seed in (("one", 0), ("two", 0), ("three", 1)):
        write(packages, tmp_path / name, seed=seed)
    one, two, three = ((tmp_path / name / "train/000000.tar").read_bytes() for name in ("one", "two", "three"))
    assert one == two != three


def test_a_fifth_of_the_concepts_is_held_out() -> None:
    sides = [split_of(f"{number:X}", 0) for number in range(5000)]
    assert 0.18 < sides.count("validation") / len(sides) < 0.22


def test_without_npm_the_error_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path / "nowhere"))
    with pytest.raises(MissingDependencyError, match="npm"):
        build_emoji_corpus(tmp_path / "corpus")


def test_a_failing_npm_is_reported_with_its_last_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "npm"
    program.write_text("#!/bin/sh\necho 'npm error network unreachable' >&2\nexit 1\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    with pytest.raises(DataError, match="network unreachable"):
        install_packages(chosen_packages(permissive_only=True), tmp_path / "packages")


def test_a_finished_corpus_is_reused_without_npm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sources = " ".join(package.source for package in chosen_packages(permissive_only=True))
    (tmp_path / "emoji.json").write_text(json.dumps({"side": 96, "seed": 0, "packages": sources}))
    monkeypatch.setenv("PATH", str(tmp_path / "nowhere"))
    assert build_emoji_corpus(tmp_path) == {"train": 0, "validation": 0}
    with pytest.raises(DataError, match="Give another folder"):
        build_emoji_corpus(tmp_path, side=32)
