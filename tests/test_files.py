"""Files written completely or not at all."""

import errno
import hashlib
import os

import pytest

from suite.errors import ClaimError
from suite.files import atomic_path, locked_folder, replace_files, sha256, write_text


def test_sha256_is_that_of_the_contents_one_after_the_other(tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    first.write_bytes(b"ab")
    second.write_bytes(b"c" * 3_000_000)  # more than is read at once
    assert sha256(first) == hashlib.sha256(b"ab").hexdigest()
    assert sha256(first, second) == hashlib.sha256(b"ab" + b"c" * 3_000_000).hexdigest()


def test_a_failing_block_leaves_the_old_file_and_no_other(tmp_path):
    path = tmp_path / "new folder" / "01.json"
    write_text(path, "old")
    with pytest.raises(RuntimeError), atomic_path(path) as part:
        part.write_text("half")
        raise RuntimeError("stop")
    assert path.read_text() == "old"
    assert [file.name for file in path.parent.iterdir()] == ["01.json"]


def test_unwritable_output_is_one_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ClaimError, match="set CIRCUITS_OUT to a writable folder"):
        write_text(tmp_path / "file" / "01.json", "{}")


def test_a_full_disk_is_one_sentence_and_another_files_error_is_not_ours(tmp_path):
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    with pytest.raises(ClaimError, match="Cannot write .*No space left on device"):
        with atomic_path(tmp_path / "01.json"):
            raise full
    with pytest.raises(FileNotFoundError), atomic_path(tmp_path / "01.json"):
        (tmp_path / "an input").read_text()


def test_many_files_are_replaced_together_or_none_is(tmp_path):
    old, stale, blocked = tmp_path / "a" / "old", tmp_path / "a" / "stale", tmp_path / "b" / "new"
    write_text(old, "old")
    write_text(stale, "stale")
    (tmp_path / "b").write_text("no folder")
    with pytest.raises(ClaimError, match="Cannot write"):
        replace_files({old: b"new", blocked: b"new"}, remove=[stale])
    assert (old.read_text(), stale.read_text()) == ("old", "stale")
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == ["old", "stale"]
    (tmp_path / "b").unlink()
    replace_files({old: b"new", blocked: b"new"}, remove=[stale])
    assert (old.read_text(), blocked.read_text(), stale.exists()) == ("new", "new", False)


def test_a_locked_folder_is_refused_until_its_owner_is_gone(tmp_path):
    folder = tmp_path / "build" / "planted"
    with locked_folder(folder):
        with pytest.raises(ClaimError, match="Another run is using"), locked_folder(folder):
            pass
    with locked_folder(folder):
        pass
