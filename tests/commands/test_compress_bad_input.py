"""What a user gets wrong with ``bitdial compress`` and ``decompress``: one sentence, and nothing is written."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bitdial import files as whole_files
from bitdial.errors import BitdialError
from bitdial.recipes.saved_model import SavedModel
from tests.commands.pictures import bitdial, files, write
from tests.disks import mounted

COMPRESS = [
    ("", "expected INPUT and OUTPUT, got nothing; `bitdial compress --help` has an example"),
    ("a.png", "expected INPUT and OUTPUT, got 'a.png' alone"),
    ("$EMPTY out.bd", "expected a path, got an empty word; is a variable of the shell empty?"),
    ("empty out", "expected pictures in empty, got none; name a folder that has some"),
    ("bd out", "expected pictures in bd, got none"),
    ("text.png out.bd", "cannot read the image text.png (cannot identify image file"),
    ("no.png out.bd", "expected pictures at 'no.png', got nothing"),
    ("aa.png out.bd", "expected pictures at 'aa.png', got nothing; did you mean 'a.png'?"),
    ("-b.png out.bd", "unknown flag -b.png; the names of files that begin so come after a --"),
    ("*.jpg out", "expected pictures at '*.jpg', got nothing; check the path"),
    ("pipe out.bd", "INPUT must be a file or a folder, got pipe, which is neither"),
    ("bd/a.bd out.bd", "bd/a.bd is compressed already; `bitdial decompress` makes a picture of it"),
    ("a.png a.jpg", "OUTPUT must end in .bd, or be a folder (a new one with a / at its end), got 'a.jpg'"),
    ("a.png new", "OUTPUT must end in .bd, or be a folder (a new one with a / at its end), got 'new'"),
    ("a.png in/a.jpg in/b.png", "OUTPUT, the last word, must be a folder for several pictures, got the file in/b.png"),
    ("a.png in/a.jpg x.bd", "OUTPUT, the last word, must be a folder for several pictures, got the name of a file"),
    ("in in/out", "OUTPUT must not be in INPUT, got in/out in in; name another folder"),
    ("in in", "OUTPUT must not be in INPUT, got in in in"),
    ("in linked/out", "OUTPUT must not be in INPUT, got linked/out in in"),
    ("a.png ./a.png out", "INPUT must name every file once, got a.png twice; leave one out"),
    ("in in/a.jpg out", "INPUT must name every file once, got in/a.jpg twice"),
    ("a.png in/a.jpg out", "a.png and in/a.jpg would both become out/a.bd; rename one of them, or compress them into"),
    ("twin out", "twin/a.jpg and twin/a.png would both become out/a.bd"),
    ("a.png text.png/x/out.bd", "OUTPUT needs the folder text.png/x, got a file at text.png"),
    ("a.png folder.bd/", "expected nothing in the way, got folder.bd/a.bd (a folder)", "--force"),
    ("a.png out.bd", "--jobs: expected a value greater than or equal to 1, got 0", "--jobs", "0"),
    ("a.png out.bd", "--jobs: expected a whole number or none, got 'two'", "--jobs", "two"),
    ("a.png out.bd", "unknown flag --modell; did you mean '--model'?", "--modell", "x"),
    ("a.png out.bd", "--model: expected a path", "--model"),
    ("a.png out.bd", "expected a trained network at runs/no, got nothing", "--model", "runs/no"),
    ("a.png out.bd", "a.png is not a trained network, or it is damaged", "--model", "a.png"),
    ("a.png out.bd", "in is not the folder of a run: it has no config.yaml", "--model", "in"),
    ("a.png out.bd", "cyclic.pt is a network that `bitdial train cyclic` trained, expected", "--model", "cyclic.pt"),
    ("a.png out.bd", "a.png must have at most 100 pixels, got 24 x 20", "--max_pixels", "100"),
]  # fmt: skip
DECOMPRESS = [
    ("a.png out.png", "a.png must be a picture that bitdial compressed, got another kind of file"),
    ("in out", "expected .bd files in in, got none; name a folder that has some"),
    ("bd/a.bd out.jpg", "OUTPUT must end in .png or .bmp or .pgm or .ppm or .tif or .tiff or .webp, or be a folder"),
    ("bd/a.bd out.png", "--preview: expected a value greater than or equal to 1, got 0", "--preview", "0"),
    ("bd/a.bd out.png", "--preview: expected at most 1, the coding steps of runs/compress-2/models", "--preview", "5"),
    ("bd/a.bd out.png", "bd/a.bd must be decoded by the model that wrote it", "--model", "runs/compress-1"),
    ("lost.bd out.png", "lost.bd: expected the codec 00000000000000000000000000000000 under runs/, got no run that"),
    ("bd/a.bd bd/a.bd", "OUTPUT must end in .png or"),
    ("bd/a.bd out.png", "bd/a.bd must hold at most 100 pixels, got 24 x 20", "--max_pixels", "100"),
]


@pytest.fixture
def full_place(place: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    from bitdial.compression.coding.container import File
    from bitdial.compression.coding.container import write as file_bytes

    for name in ("a.png", "in/a.jpg", "in/b.png", "twin/a.png", "twin/a.jpg"):
        write(name)
    for name in ("empty", "folder.bd/a.bd"):
        Path(name).mkdir(parents=True)
    os.symlink("in", "linked")
    os.mkfifo("pipe")
    for name in ("text.png", "-b.png"):
        Path(name).write_text("no picture")
    Path("lost.bd").write_bytes(file_bytes(File("0" * 32, 1, 1, "RGB", (b"",), 0)))
    described = SavedModel(recipe="cyclic", arm="cpt", seed=0, model="tiny_cnn", num_classes=2, in_channels=3)
    described = described.model_copy(update={"image_size": 8})
    described.save(described.build(), Path("cyclic.pt"))
    bitdial(capsys, "compress", "a.png", "bd/")
    return place


@pytest.mark.parametrize("command", ["compress", "decompress"])
def test_one_sentence_each(command: str, full_place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    os.remove("pipe")  # which cannot be read below
    before = files(".")
    os.mkfifo("pipe")
    for words, expected, *flags in COMPRESS if command == "compress" else DECOMPRESS:
        given = ["" if word == "$EMPTY" else word for word in words.split()]
        done = bitdial(capsys, command, *given, *flags)
        assert (done.status, done.err.count("\n")) == (2, 1), done
        assert done.err.startswith(f"bitdial: {expected}"), words
    os.remove("pipe")
    assert files(".") == before


def test_without_any_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    write("a.png")
    done = bitdial(capsys, "compress", "a.png", "a.bd")
    assert done.err.startswith(
        "bitdial: expected a run of `bitdial train compress` under runs/, got none that is finished"
    )


@pytest.fixture
def small_disk(place: Path) -> Iterator[Path]:
    """A few kilobytes of disk; skipped where the system does not let us mount one."""
    with mounted(place / "disk", "8k") as folder:
        yield folder


@pytest.mark.parametrize("command", ["compress", "decompress"])
def test_no_space_left(command: str, small_disk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in "abcd":
        write(f"in/{name}.png")
    assert bitdial(capsys, "compress", "in", "bd", "--jobs", "1").status == 0
    source, ending = ("in", "bd") if command == "compress" else ("bd", "png")
    done = bitdial(capsys, command, source, "disk", "--jobs", "1")
    assert (done.status, done.err.count("\n")) == (2, 1)
    count = len(files("disk"))
    assert 1 <= count < 4
    assert f" cannot be written: {os.strerror(errno.ENOSPC)}; give it room or another OUTPUT: {count} of 4" in done.err
    assert all(name.endswith(ending) for name in files("disk"))
    subprocess.run(["mount", "-o", "remount,size=1m", small_disk], check=True)
    again = bitdial(capsys, command, source, "disk", "--jobs", "1")
    assert again.status == 0
    assert f"{command}ed before.\n" in again.out
    assert len(files("disk")) == 4


def test_a_folder_that_cannot_be_written(
    place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write("in/a.png")
    write("in/b.png")
    with monkeypatch.context() as patch:
        patch.setattr(os, "access", lambda path, mode: False)  # as for anybody but root
        done = bitdial(capsys, "compress", "in", "out")
    assert done.err == "bitdial: OUTPUT must be in a folder that can be written, got ., which cannot\n"

    def refused(*_: Any, **__: Any) -> Any:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(whole_files.tempfile, "mkstemp", refused)
    done = bitdial(capsys, "compress", "in", "out", "--jobs", "1")
    assert done.err.startswith("bitdial: out/a.bd cannot be written: Read-only file system; give it room or another")
    assert (done.status, files("out")) == (2, {})


def test_a_name_that_is_too_long_for_one_does_not_stop_the_others(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(f"in/{'a' * 250}.png")
    write("in/b.png")
    done = bitdial(capsys, "compress", "in", "out", "--jobs", "1")
    assert done.status == 2
    assert "aaa.bd cannot be written: File name too long\n" in done.err
    assert sorted(files("out")) == ["b.bd"]


def test_memory_that_runs_out_costs_one_picture(
    place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from bitdial.commands import picture_work

    write("in/a.png")
    write("in/b.png")

    def read(path: Path, **limits: Any) -> Any:
        if path.name == "a.png":
            raise MemoryError
        return whole(path, **limits)

    whole = picture_work.read_picture
    monkeypatch.setattr(picture_work, "read_picture", read)
    done = bitdial(capsys, "compress", "in", "out", "--jobs", "1")
    assert "in/a.png needs more memory than there is; try fewer --jobs, or scale it down" in done.err
    assert (done.status, sorted(files("out"))) == (2, ["b.bd"])


def test_a_codec_that_changes_meanwhile(runs: Path) -> None:
    from bitdial.commands.picture_work import codec

    with pytest.raises(BitdialError, match="must hold the codec 0000, got "):
        codec(runs / "compress-1", "0000")


def test_without_constriction(place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    write("in/a.png")
    write("in/b.png")
    monkeypatch.setitem(sys.modules, "constriction", None)
    done = bitdial(capsys, "compress", "in", "out", "--jobs", "1")
    assert (done.status, done.err.count("\n"), files("out")) == (2, 1, {})
    assert "pip install 'bitdial[compression]'" in done.err
