"""Hashes of files, at once and in the background."""

import hashlib

import pytest

from vggfeat.errors import VggfeatError
from vggfeat.system.hashes import digests, digests_ahead


def test_hashes_ahead_are_those_of_the_file(tmp_path):
    path = tmp_path / "net.pth"
    path.write_bytes(bytes(range(256)) * 9000)
    found = digests_ahead(path, "sha256", "md5").result(60)
    assert found == digests(path, "sha256", "md5")
    assert found["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()


def test_an_error_of_hashing_ahead_comes_with_the_result(tmp_path):
    with pytest.raises(VggfeatError, match="net.pth: cannot be read: No such file or directory"):
        digests_ahead(tmp_path / "net.pth", "sha256").result(60)
