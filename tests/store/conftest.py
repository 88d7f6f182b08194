"""What the tests of reading and writing share."""

from pathlib import Path

import pytest


@pytest.fixture
def write(tmp_path):
    """Write bytes or text under a name and say where."""

    def write_file(name: str, content: bytes | str) -> Path:
        path = tmp_path / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    return write_file
