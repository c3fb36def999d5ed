"""The paper's average is a value of its own, made of two stored ones, and refuses values of different images."""

from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from alchemist_core.errors import ConfigError
from alchemist_core.protocols.protocol import AverageProtocol, name_average, read_protocol
from alchemist_core.stages.evaluate import EvaluateConfig, EvaluateResult
from alchemist_core.stages.evaluate import run as evaluate
from alchemist_core.store.engine import open_store
from tests.metrics.given_metric import read_image_protocol
from tests.models.test_features import clip_folder

__all__ = ["clip_folder"]
IMAGES = "n_images = 12\nsampling = { guidance = 1.0, batch_size = 6 }\n"
FID = 'metric = "fid"\nextractor = "efficientnet_lite0"\nresolution = 32\n' + IMAGES
CLIP = 'metric = "clip_score"\nextractor = "clip"\nresolution = 32\n' + IMAGES
AVERAGE = 'metric = "average_score"\nclip_score = "my_clip"\nfid = "my_fid"\n'


def pinned(name: str, **changed: Any) -> dict[str, Any]:
    return {"name": name} | read_image_protocol(name).as_json() | changed


def test_only_the_published_extractors_give_the_average_its_bare_name() -> None:
    clip, fid = pinned("clip_score_mjhq"), pinned("fid_mjhq")
    assert name_average(clip, fid) == "average_score"
    assert name_average(clip, pinned("clean_fid_mjhq")) == "average_score_inception_v3_clean"


@pytest.mark.parametrize(("field", "value"), [
    ("n_images", 29999), ("first_seed", 1), ("prompts_sha256", "0" * 64), ("sampler", "flow"),
])  # fmt: skip
def test_other_images_are_refused_by_the_field_that_differs(field: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=rf"^{field} is .*, but protocol clip_score_mjhq has "):
        name_average(pinned("clip_score_mjhq"), pinned("fid_mjhq", **{field: value}))


def test_another_metric_is_no_ingredient() -> None:
    with pytest.raises(ConfigError, match=r"fid = kid_offline is a protocol of metric kid\. Give one of metric fid"):
        name_average(pinned("clip_score_mjhq"), pinned("kid_offline"))


def test_a_field_that_is_none_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text(AVERAGE.replace("fid =", "fids ="))
    with pytest.raises(ConfigError, match="fids"):
        read_protocol(str(tmp_path / "mine.toml")).check(AverageProtocol)


@pytest.mark.slow
@pytest.mark.db
@pytest.mark.e2e
@pytest.mark.usefixtures("trained_arms")
def test_the_average_is_stored_with_what_it_is_made_of(tmp_path: Path, clip_folder: Path) -> None:
    def measure(name: str, protocol: str, **given: Any) -> EvaluateResult:
        path = tmp_path / f"{name}.toml"
        path.write_text(protocol)
        return evaluate(EvaluateConfig(subset="s", protocol=str(path), **given))

    with pytest.raises(
        ConfigError, match="No model has a value under the evaluation protocol my_clip: run alchemist evaluate"
    ):
        measure("average", AVERAGE)
    fid, clip = measure("my_fid", FID), measure("my_clip", CLIP, weights=clip_folder)
    average = measure("average", AVERAGE)
    title = "average_score_efficientnet_lite0"
    assert (average.metric, average.n_measured) == (title, 2)
    rows = "SELECT model_id, metric, value FROM alchemist.evaluations WHERE protocol_id = :protocol"
    with open_store().connect() as connection:
        stored = connection.execute(text(rows), {"protocol": average.protocol_id}).all()
    values = {(row.model_id, row.metric): row.value for row in stored}
    assert len(values) == 6
    for model_id in {row.model_id for row in stored}:
        parts = [values[model_id, f"{part}_of_average"] for part in ("clip_score", "fid_efficientnet_lite0")]
        assert values[model_id, title] == pytest.approx(parts[0] / parts[1], rel=1e-12)
    of_fid = [value for (_, metric), value in values.items() if metric.startswith("fid")]
    assert sum(of_fid) / 2 == pytest.approx(sum(fid.means.values()) / 2, abs=1e-5)
    assert clip.metric == "clip_score"
    assert measure("average", AVERAGE).n_reused == 2
    measure("other_fid", FID.replace("guidance = 1.0", "guidance = 2.0"))
    with pytest.raises(ConfigError, match=r"^sampling\.guidance is 2\.0, but protocol my_clip has 1\.0"):
        measure("other", AVERAGE.replace("my_fid", "other_fid"))
    measure("third_fid", FID.replace("resolution = 32", "resolution = 48"))
    with pytest.raises(ConfigError, match=r"fid\.resolution is 48, but protocol average, as first used, has 32"):
        measure("average", AVERAGE.replace("my_fid", "third_fid"))
