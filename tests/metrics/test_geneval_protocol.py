"""GenEval's scores are stored under a protocol; a changed field is refused and named."""

import json
import tomllib
from pathlib import Path

import pytest
from sqlalchemy import text

from alchemist_core.cli.geneval import DrawConfig, JudgeConfig, JudgeResult, draw, judge
from alchemist_core.errors import ConfigError, DataError
from alchemist_core.metrics.geneval import (
    PUBLISHED,
    Geneval,
    load_judges,
    note_generation,
    read_generation,
    write_images,
)
from alchemist_core.models.config import SamplingConfig
from alchemist_core.protocols.protocol import SHIPPED, ProtocolFile, texts_sha256
from alchemist_core.stages.evaluate import EvaluateConfig
from alchemist_core.stages.evaluate import run as evaluate
from alchemist_core.store.engine import open_store
from tests.metrics.given_metric import read_image_protocol
from tests.models.test_features import clip_folder, some_images
from tests.random_detector import save_random_detector

__all__ = ["clip_folder"]
PROMPTS = [
    {"tag": "colors", "prompt": "a red cup", "include": [{"class": "cup", "count": 1, "color": "red"}]},
    {"tag": "counting", "prompt": "two dogs", "include": [{"class": "dog", "count": 2}]},
]
PROTOCOL = """
metric = "geneval"
extractor = "mask2former"
resolution = 16
n_images = 4
images_per_prompt = 2
thresholds = { threshold = 0.3, counting_threshold = 0.9 }
sampling = { guidance = 1.0, batch_size = 4 }
"""
# What is changed, and the field that the refusal names.
CHANGES = [
    ("n_images = 4", "n_images = 5", "n_images"),
    ("images_per_prompt = 2", "images_per_prompt = 3", "images_per_prompt"),
    ("guidance = 1.0", "guidance = 2.0", "sampling.guidance"),
    ("n_images = 4", "n_images = 4\nfirst_seed = 7", "first_seed"),
    *(("n_images = 4", f'n_images = 4\n{name} = "{"0" * 64}"', name)
      for name in ("prompts_sha256", "weights_sha256", "namer_sha256", "classes_sha256")),
    ("threshold = 0.3,", "threshold = 0.4,", "thresholds.threshold"),
]  # fmt: skip


@pytest.fixture(scope="module")
def detector_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_random_detector(tmp_path_factory.mktemp("mask2former"))


def test_the_shipped_protocol_pins_the_published_rules() -> None:
    protocol = read_image_protocol("geneval")
    assert protocol.thresholds == PUBLISHED._asdict()
    assert protocol.n_images == 553 * 4
    assert protocol.title == "geneval"


def test_the_shipped_protocol_pins_the_official_prompts(pytestconfig: pytest.Config) -> None:
    official = pytestconfig.rootpath.parent / "shared" / "data" / "geneval"
    if not official.is_dir():
        pytest.skip("GenEval's own files are not beside the checkout")
    protocol = read_image_protocol("geneval")
    lines = (official / "evaluation_metadata.jsonl").read_text().splitlines()
    names = [name for line in (official / "object_names.txt").read_text().split("\n") if (name := line.strip())]
    assert protocol.prompts_sha256 == texts_sha256([json.dumps(json.loads(line), sort_keys=True) for line in lines])
    assert len(lines) * 4 == protocol.n_images
    assert protocol.classes_sha256 == texts_sha256(names)


def make_metric(folder: Path, detector: Path, clip: Path, protocol: str = PROTOCOL) -> Geneval:
    """GenEval of two noisy images of each prompt, as `alchemist geneval draw` leaves them."""
    sampling = SamplingConfig.model_validate({"guidance_scale": 1.0, "batch_size": 4})
    note_generation(folder, {"model": "m", "n_images": 2, "first_seed": 0, "sampling": sampling.hashed_json()})
    for number, prompt in enumerate(PROMPTS):
        write_images(folder, number, prompt, some_images(2, 16, seed=number))
    (folder / "names.txt").write_text("cup\n\ndog \n")
    judges = load_judges(detector, clip, folder / "names.txt")
    return Geneval(ProtocolFile("mine", tomllib.loads(protocol)), folder, judges, (detector, clip), lambda *_: None)


def test_the_images_of_a_folder_are_pinned_and_measured(
    detector_folder: Path, clip_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("alchemist_core.metrics.detectors._SHORT_SIDE", 96)
    metric = make_metric(tmp_path, detector_folder, clip_folder)
    assert (metric.title, metric.sampler, metric.protocol_name, metric.uses_device) == ("geneval", "star", "mine", True)
    pinned = metric.pin()
    assert (pinned["n_images"], pinned["images_per_prompt"], pinned["first_seed"]) == (4, 2, 0)
    assert pinned["prompts_sha256"] == texts_sha256([json.dumps(prompt, sort_keys=True) for prompt in PROMPTS])
    assert pinned["classes_sha256"] == texts_sha256(["cup", "dog"])
    assert pinned["weights_sha256"] != pinned["namer_sha256"]
    measured = metric.measure(None)  # type: ignore[arg-type]  # the images are those of the folder, whichever model is named
    assert measured.n == 4
    assert measured.values.keys() == {"geneval", "geneval_colors", "geneval_counting"}
    shares = {one.metadata["tag"]: 0.0 for one in metric.results}
    for one in metric.results:
        shares[one.metadata["tag"]] += one.is_correct / 2
    assert measured.values == {
        "geneval": sum(shares.values()) / 2, "geneval_colors": shares["colors"], "geneval_counting": shares["counting"],
    }  # fmt: skip


def test_images_under_other_conditions_than_the_protocol_s_are_refused_by_the_field(
    detector_folder: Path, clip_folder: Path, tmp_path: Path
) -> None:
    for before, after, field in CHANGES:
        if not field.startswith("thresholds"):
            with pytest.raises(ConfigError, match=rf"^{field} is .* but .* has "):
                make_metric(tmp_path, detector_folder, clip_folder, PROTOCOL.replace(before, after)).pin()
    with pytest.raises(DataError, match=r"have 16 x 16 px \(.*\), but the protocol has resolution 32"):
        make_metric(
            tmp_path, detector_folder, clip_folder, PROTOCOL.replace("resolution = 16", "resolution = 32")
        ).pin()
    with pytest.raises(ConfigError, match="is of metric fid: use alchemist evaluate --protocol mine"):
        make_metric(tmp_path, detector_folder, clip_folder, 'metric = "fid"')
    (tmp_path / "drawn.json").unlink()
    with pytest.raises(DataError, match=r"drawn\.json is missing"):
        read_generation(tmp_path)


@pytest.mark.slow
@pytest.mark.db
@pytest.mark.e2e
def test_scores_are_stored_and_every_changed_field_is_refused_by_its_name(
    trained_arms: list[str], detector_folder: Path, clip_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("alchemist_core.metrics.detectors._SHORT_SIDE", 96)
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps(one) + "\n" for one in PROMPTS))
    (tmp_path / "names.txt").write_text("cup\ndog\n")
    drawing = {
        "model": trained_arms[0], "prompts": tmp_path / "prompts.jsonl", "out": tmp_path / "images", "images_per_prompt": 2,
        "sampling": {"guidance_scale": 1.0, "batch_size": 4},
    }  # fmt: skip

    def judge_under(protocol: str, name: str = "mine", images: str = "images") -> JudgeResult:
        path = tmp_path / f"{name}.toml"
        path.write_text(protocol)
        return judge(JudgeConfig(
            images=tmp_path / images, detector=detector_folder, clip=clip_folder, class_names=tmp_path / "names.txt",
            out=tmp_path / "results.jsonl", protocol=str(path),
        ))  # fmt: skip

    assert draw(DrawConfig.model_validate(drawing)).n_drawn == 2
    with pytest.raises(ConfigError, match=r"images that were generated with --first-seed 0, not 9"):
        draw(DrawConfig.model_validate(drawing | {"first_seed": 9}))
    report = judge_under(PROTOCOL)
    assert judge_under(PROTOCOL) == report
    with open_store().connect() as connection:
        rows = connection.execute(text("SELECT metric, value, n, run_id FROM alchemist.evaluations")).all()
    assert {row.metric for row in rows} == {"geneval", "geneval_colors", "geneval_counting"}
    assert {row.metric: row.value for row in rows}["geneval"] == report.scores["overall"]
    assert {row.n for row in rows} == {4}
    assert len({row.run_id for row in rows} - {None}) == 1
    for before, after, field in CHANGES:
        with pytest.raises(ConfigError, match=rf"^{field} is .* but .* has "):
            judge_under(PROTOCOL.replace(before, after))
    with pytest.raises(DataError, match=r"have 16 x 16 px \(.*\), but the protocol has resolution 32"):
        judge_under(PROTOCOL.replace("resolution = 16", "resolution = 32"))
    (tmp_path / "images" / "drawn.json").unlink()
    with pytest.raises(DataError, match=r"drawn\.json is missing"):
        judge_under(PROTOCOL)
    with pytest.raises(ConfigError, match="alchemist geneval judge --protocol"):
        evaluate(EvaluateConfig(subset="s", protocol="geneval"))
    with pytest.raises(ConfigError, match="is of metric fid"):
        judge_under((SHIPPED / "fid_mjhq.toml").read_text(), "fid")
