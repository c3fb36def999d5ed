"""What worker processes know of their parent: they decode images that strangers made, and need none of its secrets."""

import hashlib
import io
from pathlib import Path

import pytest

from alchemist_core.errors import DataError
from alchemist_core.settings import VARIABLES
from alchemist_core.shards import s3
from alchemist_core.shards.decoding import DecodedPart, DecodeTask, InlineDecoders, ProcessDecoders
from alchemist_core.shards.pictures import PictureTask, PictureWorkers
from alchemist_core.shards.reading import ShardContent, read_shards
from alchemist_core.shards.storage import list_shards
from alchemist_core.shards.workers import Workers
from tests.object_store import BUCKET
from tests.shards.conftest import draw_image, make_record, make_tar
from tests.shards.deadly import EnvironmentTask

SIDE = 8
# What a command on a worker of Airflow has in its environment.
SECRETS = {
    "AIRFLOW__CORE__FERNET_KEY", "AIRFLOW__API_AUTH__JWT_SECRET", "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN", "PGPASSWORD", "HF_TOKEN",
    *(name for name, about in VARIABLES.items() if about.is_secret or name.endswith("_FILE")),
}  # fmt: skip
ACCOUNT = {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SHARED_CREDENTIALS_FILE", "ALCHEMIST_S3_ENDPOINT_URL"}
NEEDED = {"ALCHEMIST_DECODE_LIMIT_S", "PATH", "LD_LIBRARY_PATH", "PYTHONPATH", "LC_ALL", "OMP_WAIT_POLICY"}


def variables_of_a_worker(*, uses_s3: bool) -> dict[str, str]:
    with Workers(1, module=EnvironmentTask.__module__, uses_s3=uses_s3) as workers:
        workers.submit(EnvironmentTask(), 0)
        while not (done := list(workers.wait())):
            pass
    assert done[0].error is None
    found: dict[str, str] = done[0].result
    return found


@pytest.mark.parametrize("uses_s3", [False, True], ids=["files", "object store"])
def test_a_worker_has_no_secret_of_its_parent_but_the_account_of_the_store_it_reads(
    monkeypatch: pytest.MonkeyPatch, uses_s3: bool
) -> None:
    for name in (*SECRETS, *ACCOUNT):
        monkeypatch.setenv(name, "hunter2")
    for name in NEEDED - {"PATH", "LC_ALL"}:
        monkeypatch.setenv(name, "3")
    monkeypatch.setenv("LC_ALL", "C.UTF-8")
    found = variables_of_a_worker(uses_s3=uses_s3)
    assert {name for name, value in found.items() if "hunter2" in value} == (ACCOUNT if uses_s3 else set())
    assert found.keys() >= NEEDED


def picture_in(folder: str | Path) -> tuple[str, bytes]:
    """Put an image into a folder or a bucket, and return its address and its bytes."""
    data = draw_image(kind="TIFF")
    if isinstance(folder, Path):
        (folder / "one").write_bytes(data)
    else:
        s3._client().put_object(Bucket=BUCKET, Key="one", Body=data)
    return f"{folder}/one", data


def decode_task(uri: str, data: bytes) -> DecodeTask:
    return DecodeTask(uri, [(0, len(data))], [hashlib.sha256(data).digest()], SIDE, [False])


def decoded(decoders: ProcessDecoders | InlineDecoders, task: DecodeTask) -> DecodedPart:
    decoders.submit(task, 0)
    while not decoders.is_idle():
        for part in decoders.wait():
            return part
    raise AssertionError("nothing came back")


def test_a_worker_without_the_account_reads_no_object_store(object_store: str) -> None:
    task = decode_task(*picture_in(object_store))
    for uses_s3 in (False, True):
        decoders = ProcessDecoders(1, SIDE, uses_s3=uses_s3)
        part = decoded(decoders, task)
        decoders.close()
        assert isinstance(part.error, DataError) is not uses_s3
        assert not part.decoded.faults


def test_a_costly_image_of_an_object_store_is_decoded_apart_after_one_of_a_folder(
    object_store: str, tmp_path: Path
) -> None:
    """A TIFF counts as costly."""
    decoders = InlineDecoders(SIDE)
    for folder in (tmp_path, object_store, tmp_path):
        part = decoded(decoders, decode_task(*picture_in(folder)))
        assert (part.error, part.decoded.faults) == (None, {})
    decoders.close()


def test_a_picture_of_an_object_store_is_made_after_one_of_a_folder(object_store: str, tmp_path: Path) -> None:
    workers, made = PictureWorkers(1), set()
    for folder in (tmp_path, object_store, tmp_path):
        uri, data = picture_in(folder)
        made.add(workers.encode(PictureTask(uri, (0, len(data)), hashlib.sha256(data).digest(), 16, 10.0)))
    workers.close()
    assert len(made) == 1


def test_workers_read_the_shards_of_an_object_store(object_store: str) -> None:
    tar = make_tar(entry for number in range(3) for entry in make_record(f"r{number}", number))
    s3._client().upload_fileobj(io.BytesIO(tar), BUCKET, "a.tar")
    (content,) = read_shards(list_shards(object_store), n_workers=1)
    assert isinstance(content, ShardContent), content
    assert len(content.samples) == 3
