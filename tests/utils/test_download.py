"""Downloads: checked by their hash, announced, and written only if they are right."""

import hashlib
import logging
import socket

import pytest
from local_server import serve_folder

from gankd_jax.utils.download import download_file
from gankd_jax.utils.errors import UserError

CONTENT = b"published"
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def url(tmp_path):
    (tmp_path / "server").mkdir()
    (tmp_path / "server" / "file.bin").write_bytes(CONTENT)
    with serve_folder(tmp_path / "server") as address:
        yield f"{address}/file.bin"


def test_a_file_with_the_right_hash_is_written_and_announced(tmp_path, url, caplog):
    caplog.set_level(logging.INFO, logger="gankd_jax")
    target = tmp_path / "new" / "copy.bin"
    download_file(url, target, sha256=SHA256)
    assert target.read_bytes() == CONTENT
    assert caplog.messages == [f"downloading {url}"]


def test_a_file_with_another_hash_is_refused_and_not_written(tmp_path, url):
    expected = "0" * 64
    with pytest.raises(UserError, match=rf"{expected} but got {SHA256}") as caught:
        download_file(url, tmp_path / "copy.bin", sha256=expected)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "copy.bin").exists()


def test_a_missing_file_and_a_missing_server_are_one_line(tmp_path, url):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        closed = f"http://127.0.0.1:{unused.getsockname()[1]}/file.bin"
        for address in (f"{url}.gz", closed):
            with pytest.raises(UserError, match="cannot be downloaded") as caught:
                download_file(address, tmp_path / "copy.bin", sha256=SHA256)
            assert "\n" not in str(caught.value)
    assert not (tmp_path / "copy.bin").exists()
