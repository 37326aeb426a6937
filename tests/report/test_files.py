"""What a full disk leaves of a picture."""

import errno

import pytest

from thespis.report.files import whole


def test_nothing_is_left_half_written(tmp_path):
    file = tmp_path / "index.html"
    assert whole(file, lambda aside: aside.write_text("whole")) == file

    def full(aside):
        aside.write_text("ha")
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        whole(file, full)
    assert [p.name for p in tmp_path.iterdir()] == ["index.html"]
    assert file.read_text() == "whole"
