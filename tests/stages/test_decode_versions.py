"""Raters of different decode versions never share a decode, and training again returns a rater from before the versions."""

import io
import tarfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from sqlalchemy import Engine, text

from alchemist_core.cli.rater import CertifyConfig, PromoteConfig, certify, promote
from alchemist_core.errors import CheckFailedError
from alchemist_core.files import artifact_path, folder_sha256
from alchemist_core.models.config import TokenizerConfig
from alchemist_core.models.tokenizer import Tokenizer
from alchemist_core.shards import decoding
from alchemist_core.shards.tar_writer import write_tar
from alchemist_core.stages import score as scoring_stage
from alchemist_core.stages.ingest import IngestConfig
from alchemist_core.stages.ingest import run as ingest
from alchemist_core.stages.score import ScoreConfig
from alchemist_core.stages.score import run as score
from alchemist_core.stages.train_rater import TrainRaterConfig, _find, _identity
from alchemist_core.stages.train_rater import run as train_rater
from alchemist_core.store.engine import open_store
from alchemist_core.store.raters import RaterRow, find_rater, register_rater
from alchemist_core.training import sample_reading
from alchemist_core.training.pinning import pin
from tests.given import sha256
from tests.trained_store import PARTS


def rater_of(rater_id: int, side: int, **training: object) -> RaterRow:
    """A rater whose folder holds a tokenizer of a resolution, which is all that grouping reads."""
    folder = artifact_path(f"raters/{rater_id}")
    folder.mkdir(parents=True)
    Tokenizer(TokenizerConfig(resolution=side, n_codes=2)).save(folder / "tokenizer.safetensors")
    config = {"training": {"resolution": side} | training}
    return RaterRow(
        rater_id, str(rater_id), "alignment", "candidate", f"raters/{rater_id}", folder_sha256(folder), {}, config
    )


def scorer_of(rater_id: int, side: int | None) -> RaterRow:
    config = {"image_side": side, "use": "captions", "name": str(rater_id)}
    return RaterRow(rater_id, str(rater_id), "scorer", "candidate", "scorers/x", b"", {}, config, kind="scorer")


def test_a_pass_holds_raters_of_one_side_and_one_decode() -> None:
    raters = [
        rater_of(1, 256), rater_of(2, 256, decode_version=2), rater_of(3, 128), rater_of(4, 128, decode_version=2),
        rater_of(5, 256, decode_version=2), scorer_of(6, 256), scorer_of(7, 128), scorer_of(8, None),
    ]  # fmt: skip
    passes = [[rater.rater_id for rater in group] for group in scoring_stage._passes(raters)]
    # Up to 128 pixels both versions have the same pixels, so they share a decode.
    assert passes == [[1, 6], [2, 5], [3, 4, 7], [8]]


@pytest.mark.db
def test_a_training_that_is_repeated_returns_its_rater_from_before_the_versions(engine: Engine) -> None:
    given = TrainRaterConfig.model_validate({"dataset": "t", "validation": "v", "training": {"resolution": 256}})
    pinned, members = given.model_copy(update={"training": pin(given.training)}), {"dataset": "a", "validation": "b"}
    identity = _identity(pinned, members)
    assert _find(engine, identity, given, pinned, members) is None
    for name, config in (("old", given), ("new", pinned)):
        register_rater(
            engine, name=name, rule="alignment", config=config.as_json(), identity_hash=_identity(config, members),
            checkpoint_uri=f"raters/{name}", checkpoint_sha256=sha256(name), acceptance_report={}, run_id=None,
        )  # fmt: skip
        found = _find(engine, identity, given, pinned, members)
        assert found is not None
        assert found.name == name


def as_jpegs(source: Path, target: Path, side: int) -> None:
    """Write the images of tars again, enlarged, as JPEGs."""
    for path in sorted(source.rglob("*.tar")):
        entries = []
        with tarfile.open(path) as tar:
            for member in tar:
                data = tar.extractfile(member).read()  # type: ignore[union-attr]
                stem, dot, ext = member.name.partition(".")
                if ext == "png":
                    buffer = io.BytesIO()
                    large = Image.open(io.BytesIO(data)).convert("RGB").resize((side, side), Image.Resampling.NEAREST)
                    large.save(buffer, "JPEG", quality=80)
                    ext, data = "jpg", buffer.getvalue()
                entries.append((stem + dot + ext, data))
        (out := target / path.relative_to(source)).parent.mkdir(parents=True, exist_ok=True)
        write_tar(out, entries)


@pytest.mark.slow
@pytest.mark.db
@pytest.mark.e2e
@pytest.mark.usefixtures("database_url")
def test_a_new_rater_is_trained_checked_and_scored_by_the_second_version(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[str, Any]] = []

    def note(module: Any, name: str) -> None:
        original: Callable[..., Any] = getattr(module, name)

        def noting(data: bytes, side: int, version: int = 0, **options: Any) -> Any:
            seen.append((name, (side, version)))
            return original(data, side, version, **options)

        monkeypatch.setattr(module, name, noting)

    note(sample_reading, "decode_image")
    note(decoding, "decode_views")
    monkeypatch.setenv("ALCHEMIST_DECODE_WORKERS", "0")
    as_jpegs(corpus, tmp_path / "jpegs", 320)
    for name, part, role in PARTS:
        root = str(tmp_path / "jpegs" / part)
        ingest(IngestConfig.model_validate({"dataset": name, "root": root, "role": role}))
    seen.clear()
    training = {"resolution": 144, "proxy_warmup_steps": 1, "max_train_steps": 1, "batch_size": 32, "codebook_size": 16}
    name = train_rater(
        TrainRaterConfig.model_validate({"dataset": "scenes", "validation": "v", "training": training})
    ).rater
    with suppress(CheckFailedError):
        certify(CertifyConfig(max_samples=64))
    promote(PromoteConfig(without_acceptance="two steps, for a test"))
    score(ScoreConfig(dataset="scenes"))
    assert {where for where, _ in seen} == {"decode_image", "decode_views"}
    assert {what for _, what in seen} == {(144, 2)}
    rater = find_rater(open_store(), name)
    assert rater is not None
    assert rater.config["training"]["decode_version"] == 2
    with open_store().connect() as connection:
        version = text("SELECT config #>> '{training,decode_version}' FROM alchemist.raters")
        assert connection.execute(version).scalar_one() == "2"
