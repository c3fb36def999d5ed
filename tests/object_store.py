"""An S3-compatible store in this process, with the settings that point to it."""

import os
from collections.abc import Iterator

import pytest
from moto.server import ThreadedMotoServer

from alchemist_core.settings import load_settings
from alchemist_core.shards import s3

BUCKET = "crawls"


@pytest.fixture(scope="session")
def endpoint() -> Iterator[str]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def object_store(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of an empty bucket, which is deleted afterwards."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("ALCHEMIST_S3_ENDPOINT_URL", endpoint)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    load_settings.cache_clear()
    client = s3._client()
    client.create_bucket(Bucket=BUCKET)
    yield f"s3://{BUCKET}"
    for entry in client.list_objects_v2(Bucket=BUCKET).get("Contents", []):
        client.delete_object(Bucket=BUCKET, Key=entry["Key"])
    client.delete_bucket(Bucket=BUCKET)
    client.close()
    s3._make_client.cache_clear()
    load_settings.cache_clear()
