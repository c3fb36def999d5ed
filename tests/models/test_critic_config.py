"""The record of a critic is read from its file alone."""

from pathlib import Path

import pytest

from alchemist_core.errors import ConfigError
from alchemist_core.models.critic_config import read_critic_record


@pytest.mark.parametrize("beginning", [b"PK\x03\x04\x00\x00\x08\x08", b"\x89PNG\r\n\x1a\n", b"\xff" * 8, b""])
def test_a_file_of_another_format_is_no_critic(tmp_path: Path, beginning: bytes) -> None:
    """The first eight bytes of a critic are a length; those of a torch file would be 578 petabytes."""
    path = tmp_path / "head.pth"
    path.write_bytes(beginning + bytes(100))
    with pytest.raises(
        ConfigError, match=r"head\.pth is not a critic that alchemist scorer train wrote: .*Train one with"
    ):
        read_critic_record(path)
