"""Files that are either the old version or the new one."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from bitdial.files import write_atomically


def test_text_and_bytes_arrive_as_they_are_in_a_folder_that_is_made(tmp_path: Path) -> None:
    assert write_atomically(tmp_path / "new" / "a.txt", "prec\u00eds\n").read_bytes() == "prec\u00eds\n".encode()
    assert write_atomically(tmp_path / "new" / "b.bin", b"\x00\xff").read_bytes() == b"\x00\xff"


def test_a_failed_write_leaves_the_old_file_and_no_rubbish(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = write_atomically(tmp_path / "file.json", "old")

    def fail(*_: object) -> None:
        raise OSError("disk full")

    for step in ("fsync", "replace", "chmod"):
        with monkeypatch.context() as patch:
            patch.setattr(os, step, fail)
            with pytest.raises(OSError, match="disk full"):
                write_atomically(target, "new")
        assert target.read_text() == "old"
        assert list(tmp_path.iterdir()) == [target]


def test_the_file_is_as_open_to_others_as_any_new_file(tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    plain.touch()
    assert write_atomically(tmp_path / "ours", "x").stat().st_mode == plain.stat().st_mode


def test_a_path_that_is_not_utf_8_is_written_escaped(tmp_path: Path) -> None:
    odd = os.fsdecode(b"data-\xff")  # as a report holds the folder that a user named
    assert write_atomically(tmp_path / "report.html", f"<p>{odd}").read_text(encoding="utf-8") == r"<p>data-\udcff"
