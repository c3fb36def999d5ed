"""The worlds are what they are called: near-duplicates, dominating concepts, a validation dataset of other topics."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from alchemist_core.errors import DataError
from alchemist_core.local.scenes import SHAPES
from alchemist_core.statistics import area_under_curve
from tests.benchmarks.scenes_study import read_tars
from tests.benchmarks.worlds import (
    CONCEPTS,
    GOOD,
    NOT_NAMED,
    UNSEEN,
    Drawing,
    World,
    _render,
    make_world,
    read_drawings,
    read_looks,
    smaller,
    sort_drawings,
)

SVG = """<svg xmlns="http://www.w3.org/2000/svg" xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"
 xmlns:cc="http://web.resource.org/cc/" xmlns:dc="http://purl.org/dc/elements/1.1/" viewBox="0 0 9 9">
 <metadata><rdf:RDF><cc:Work><dc:title>{title}</dc:title><dc:subject><rdf:Bag>{tags}</rdf:Bag></dc:subject>
 <dc:publisher><cc:Agent><dc:title>A library</dc:title></cc:Agent></dc:publisher></cc:Work></rdf:RDF></metadata>
 <rect width="9" height="{height}" fill="#2a{colour:02x}40"/></svg>"""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Path, World]]:
    """Each drawn world once, of 240 samples."""
    known: dict[str, tuple[Path, World]] = {}

    def make(kind: str) -> tuple[Path, World]:
        if kind not in known:
            root, world = tmp_path_factory.mktemp(kind) / "w", smaller(World(kind, seed=3), 240)
            assert make_world(world, root) == {"train": 240, "validation": world.n_validation, "test": 30}
            known[kind] = root, world
        return known[kind]

    return make


def kinds(root: Path, split: str = "train") -> Counter[str]:
    table = pq.read_table(root / "truth.parquet").to_pydict()
    return Counter(kind for kind, part in zip(table["kind"], table["split"], strict=True) if part == split)


def concept_of(caption: str) -> tuple[str, str]:
    _, _, colour, shape, *_ = caption.split()
    return colour, shape


@pytest.mark.slow
def test_four_of_five_images_of_the_redundant_corpus_are_near_duplicates_of_another_one(made: Callable) -> None:
    root, _ = made("redundant")
    assert kinds(root) == {GOOD: 48, "copy": 192}
    samples, hashes = read_tars(root / "train", 8)
    assert len(set(hashes)) == 240
    pixel_ND = samples.image_NHWC.reshape(240, -1).astype(float)
    distance_NN = np.abs(pixel_ND[:, None] - pixel_ND).mean(axis=2) + 1e3 * np.eye(240)
    assert (distance_NN.min(axis=1) < 8).sum() > 180
    # A first image and a copy cannot be told apart by their pixels alone.
    table = pq.read_table(root / "truth.parquet").to_pydict()
    kind_of = dict(zip(table["pair_hash"], table["kind"], strict=True))
    is_first_N = np.array([kind_of[pair] == GOOD for pair in hashes])
    roughness_N = np.abs(np.diff(read_tars(root / "train", 32)[0].image_NHWC.astype(int), axis=1)).mean(axis=(1, 2, 3))
    assert 0.3 < area_under_curve(roughness_N[is_first_N], roughness_N[~is_first_N]) < 0.7


def test_validation_of_the_half_seen_corpus_shows_half_of_the_shapes_and_its_test_all(made: Callable) -> None:
    root, _ = made("half_seen")
    assert kinds(root) == {GOOD: 96, f"{GOOD}{UNSEEN}": 96, "wrong_caption": 24, f"wrong_caption{UNSEEN}": 24}
    samples, hashes = read_tars(root / "train", 8)
    table = pq.read_table(root / "truth.parquet").to_pydict()
    kind_of = dict(zip(table["pair_hash"], table["kind"], strict=True))
    shapes: dict[bool, set[str]] = {True: set(), False: set()}
    for caption, pair in zip(samples.captions, hashes, strict=True):
        shapes[kind_of[pair].endswith(UNSEEN)].add(concept_of(caption)[1])
    assert len(shapes[False]) == len(shapes[True]) == len(SHAPES) / 2
    assert shapes[False].isdisjoint(shapes[True])
    validation, test = (
        {concept_of(caption)[1] for caption in read_tars(root / part, 8)[0].captions} for part in ("validation", "test")
    )
    assert validation <= shapes[False]
    assert test & shapes[True]
    assert test & shapes[False]


def test_few_concepts_dominate_the_skewed_corpus_and_its_test_is_uniform(made: Callable) -> None:
    root, world = made("skewed")
    counts = Counter(map(concept_of, read_tars(root / "train", 8)[0].captions))
    assert sum(sorted(counts.values())[-5:]) > 0.6 * 240
    held_out = Counter(map(concept_of, read_tars(root / "test", 8)[0].captions))
    assert set(held_out.values()) == {1}
    assert kinds(root)[GOOD] <= len(CONCEPTS) * (world.n_train // 2 // len(CONCEPTS))


def test_the_shifted_validation_has_the_concepts_of_5_percent_of_the_corpus(made: Callable) -> None:
    root, _ = made("shifted")
    assert kinds(root) == {GOOD: 12, "other": 228}
    wanted = set(map(concept_of, read_tars(root / "validation", 8)[0].captions))
    assert len(wanted) == 4
    found = Counter(concept_of(caption) in wanted for caption in read_tars(root / "train", 8)[0].captions)
    assert found[True] == 12


def test_where_all_samples_are_alike_corpus_and_validation_show_the_same_concepts_and_all_are_good(
    made: Callable,
) -> None:
    root, world = made("alike")
    assert kinds(root) == {GOOD: 240}
    assert kinds(root, "validation") == {GOOD: world.n_validation}
    assert len(set(map(concept_of, read_tars(root / "train", 8)[0].captions))) > 40
    held_out = Counter(map(concept_of, read_tars(root / "test", 8)[0].captions))
    assert max(held_out.values()) > 1, "drawn as the corpus is, and not each concept equally often"


def test_a_world_is_a_function_of_its_seed_and_is_not_overwritten(made: Callable, tmp_path: Path) -> None:
    root, world = made("shifted")
    make_world(world, tmp_path / "again")
    for path in sorted(root.rglob("*.tar")):
        assert path.read_bytes() == (tmp_path / "again" / path.relative_to(root)).read_bytes()
    with pytest.raises(DataError, match="contains a corpus with parameters"):
        make_world(World("shifted", seed=4), root)


def test_the_validation_dataset_is_a_share_of_the_corpus() -> None:
    assert [World("skewed", 0, validation_share=share).n_validation for share in (0.01, 0.05)] == [120, 600]


def write_drawing(path: Path, title: str, tags: tuple[str, ...], number: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    listed = "".join(f"<rdf:li>{tag}</rdf:li>" for tag in tags)
    path.write_text(SVG.format(title=title, tags=listed, height=1 + number % 8, colour=number))


def test_validation_and_test_are_drawings_that_were_looked_at(tmp_path: Path) -> None:
    for number in range(40):
        write_drawing(
            tmp_path / "shapes" / f"d{number:02d}.svg", f"Green arrow {chr(65 + number)}", ("sign", "way"), number
        )
    for number in range(10):
        write_drawing(tmp_path / f"e{number}.svg", "Icons of a collection", (), 50 + number)
    (tmp_path / "broken.svg").write_text("<svg")
    write_drawing(tmp_path / "empty.svg", "", ("tag",), 90)
    found = list(read_drawings(tmp_path, without=frozenset({"shapes/d07", "e3"})))
    assert len(found) == 48
    assert found[-1].caption == "Green arrow h, sign, way"
    assert Drawing(Path("x"), "Blue sign", ("sign", "a", "b", "c", "d", "e")).caption == "Blue sign, a, b, c, d"
    pytest.importorskip("resvg_py")
    world = World("openclipart", seed=0, n_train=30, n_test=10, side=16)
    looks = {f"shapes/d{number:02d}": "good" if number < 20 else "wrong" for number in range(25)}
    parts = sort_drawings(world, tmp_path, looks=looks)
    assert {part: len(samples) for part, samples in parts.items()} == {"train": 30, "validation": 2, "test": 10}
    of_good = {drawing.caption for drawing in found if drawing.path.stem < "d20"}
    assert {sample.caption for sample in (*parts["validation"], *parts["test"])} <= of_good
    assert {sample.kind for sample in (*parts["validation"], *parts["test"])} == {GOOD}
    assert {"wrong", NOT_NAMED, GOOD} == {sample.kind for sample in parts["train"]}
    on_paper = tmp_path / "a4.svg"
    on_paper.write_text((tmp_path / "e1.svg").read_text().replace("viewBox", 'width="210mm" height="297mm" viewBox'))
    assert _render(on_paper, 16) is not None, "a size in millimetres is a size"
    with pytest.raises(DataError, match="looked at and found good"):
        sort_drawings(World("openclipart", seed=0, validation_share=0.9), tmp_path, looks=looks)


def test_two_looks_agree_about_most_drawings() -> None:
    looks = Counter(read_looks().values())
    assert looks.total() == 1_200
    assert looks["good"] >= 750, "enough for validation and test"
    assert looks["disputed"] < 120
