"""``bitdial compress`` and ``bitdial decompress``: what comes out, in whichever process, and what is said of it."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from bitdial.commands import picture_run, picture_work
from bitdial.compression.pictures import read_picture, shown
from bitdial.recipes.compress.codecs import load_codec
from tests.commands.pictures import bitdial, files, write


class TestExactness:
    def test_every_kind_of_picture(self, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
        write("photos/colour.png", 65, 40)
        write("photos/large.ppm", 130, 70)
        write("photos/grey.png", 33, 7, "L")
        write("photos/in/clear.png", mode="RGBA")
        write("photos/in/print.jpg", mode="CMYK")
        write("photos/in/deep.png", 20, 30, "I;16")
        write("photos/in/dot.bmp", 1, 1)
        done = bitdial(capsys, "compress", "photos", "small", "--jobs", "1")
        assert done.status == 0
        assert done.out.splitlines()[0] == f"The codec is that of {Path('runs/compress-2')}."
        assert "7 pictures: " in done.out
        assert "bits per pixel" in done.out
        assert sorted(done.err.splitlines()) == [
            "photos/in/clear.png: transparency was blended over white",
            "photos/in/deep.png: values deeper than 8 bits were reduced to 8",
            "photos/in/print.jpg: CMYK colours were converted to RGB",
        ]
        assert bitdial(capsys, "decompress", "small", "back", "--jobs", "2").status == 0  # two other processes
        codec = load_codec("runs/compress-2")
        for path in (path for path in Path("photos").rglob("*") if path.is_file()):
            given = read_picture(path)
            back = read_picture((Path("back") / path.relative_to("photos")).with_suffix(".png"))
            assert torch.equal(back.pixels, shown(codec.reconstruct(given.pixels), given.mode)), path
            assert back.mode == given.mode
        assert read_picture("back/colour.png").pixels.double().std() > 1  # or nothing would have been coded

    @pytest.mark.parametrize("ending", ["png", "webp", "tif", "bmp", "ppm"])
    def test_every_kind_of_output(self, ending: str, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
        write("a.png")
        assert bitdial(capsys, "compress", "a.png", "a.bd").status == 0
        assert bitdial(capsys, "decompress", "a.bd", f"back.{ending}").status == 0
        expected = load_codec("runs/compress-2").reconstruct(read_picture("a.png").pixels)
        assert torch.equal(read_picture(f"back.{ending}").pixels, expected)

    def test_preview(self, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
        write("a.png")
        bitdial(capsys, "compress", "a.png", "a.bd")
        assert bitdial(capsys, "decompress", "a.bd", "a1.png", "--preview", "1").status == 0
        expected = load_codec("runs/compress-2").decompress(Path("a.bd").read_bytes(), preview=1)
        assert torch.equal(read_picture("a1.png").pixels, expected.pixels)
        other = bitdial(capsys, "decompress", "a.bd", "a1.png")
        assert other.status == 2
        assert "a1.png (the same picture with other coding steps)" in other.err


class TestNames:
    def test_several_files_patterns_and_folders(self, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
        for name in ("a.png", "b[1].png", "c.d.png", "12.30 noon.png", "deep/x/e.png", "deep/.hidden.png"):
            write(name)
        (place / "deep/notes.txt").write_text("no picture")
        assert bitdial(capsys, "compress", "[ac]*.png", "b[1].png", "deep", "out", "--jobs", "1").status == 0
        assert sorted(files("out")) == ["a.bd", "b[1].bd", "c.d.bd", "deep/x/e.bd"]
        assert bitdial(capsys, "compress", "--force", "--model", "runs/compress-1", "a.png", "new/").status == 0
        assert bitdial(capsys, "compress", "12.30 noon.png", "new").status == 0
        assert sorted(files("new")) == ["12.30 noon.bd", "a.bd"]
        back = bitdial(capsys, "decompress", "new/*.bd", "back", "--jobs", "1")
        assert back.out.startswith("The codec is that of runs/compress-2/models/codec-seed0.pt.\nThe codec is that of")
        assert sorted(files("back")) == ["12.30 noon.png", "a.png"]

    def test_hostile_names(self, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
        names = ["a b.png", 'it\'s "q".png', "[x]*.png", "new\nline.png", "\x1b[31mred.png", "--force.png", "ü.png"]
        names.append(os.fsdecode(b"\xff.png"))
        for name in names:
            write(Path("in", name), mode="CMYK", format="TIFF")
        os.symlink("..", "in/loop")
        os.symlink("self.png", "in/self.png")
        os.chdir("in")
        done = bitdial(capsys, "compress", "--model", "../runs/compress-1", "--jobs", "1", "--", *names, "../out")
        os.chdir("..")
        assert done.status == 0
        assert sorted(files("out")) == sorted(name.replace(".png", ".bd") for name in names)
        assert "new\\nline.png: CMYK" in done.err
        assert "\\x1b[31mred.png: CMYK" in done.err
        assert "\\udcff.png: CMYK" in done.err
        whole = bitdial(capsys, "compress", "in", "whole", "--jobs", "1")
        assert whole.status == 2  # of the link to itself
        assert "1 of 9 pictures could not be compressed:\n  in/self.png cannot be read: Too many levels of" in whole.err
        assert len(files("whole")) == 8
        assert bitdial(capsys, "decompress", "whole", "back", "--jobs", "1").status == 0
        assert sorted(files("back")) == sorted(names)


class TestTakenUpAgain:
    def test_a_picture_that_cannot_be_read_does_not_stop_the_others(
        self, place: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        for name in "abc":
            write(f"in/{name}.png")
        Path("in/b.png").write_text("text")
        done = bitdial(capsys, "compress", "in", "out", "--jobs", "1")
        assert done.status == 2
        assert "1 of 3 pictures could not be compressed:\n  cannot read the image in/b.png (" in done.err
        Path("out/d.bd").write_bytes(Path("out/a.bd").read_bytes()[:-1])
        back = bitdial(capsys, "decompress", "out", "back", "--jobs", "1")
        assert back.status == 2
        assert "1 of 3 pictures could not be decompressed:\n  out/d.bd is damaged" in back.err
        assert sorted(files("back")) == ["a.png", "c.png"]

    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
    def test_interrupted(
        self, number: int, place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for name in "abcd":
            write(f"in/{name}.png")

        def until_c(*given: Any) -> Path:
            if Path(given[0]).name == "c.bd":
                os.kill(os.getpid(), number)
            return written(*given)

        written = picture_work.write_atomically
        with monkeypatch.context() as patch:
            patch.setattr(picture_work, "write_atomically", until_c)
            stopped = bitdial(capsys, "compress", "in", "out", "--jobs", "1")
        assert stopped.status == 130
        assert stopped.err == "bitdial: interrupted: 2 of 4 pictures done; the same command does the others\n"
        assert sorted(files("out")) == ["a.bd", "b.bd"]
        again = bitdial(capsys, "compress", "in", "out", "--jobs", "1")
        assert "\n2 pictures were compressed before.\n2 pictures: " in again.out
        bitdial(capsys, "compress", "in", "whole", "--jobs", "1")
        assert files("out") == files("whole")
        once_more = bitdial(capsys, "compress", "in", "out", "--jobs", "1")
        assert once_more.out.endswith("\n4 pictures were compressed before.\n")
        bitdial(capsys, "decompress", "out/a.bd", "back/", "--jobs", "1")
        rest = bitdial(capsys, "decompress", "out", "back", "--jobs", "1")
        assert "1 picture was decompressed before.\n3 pictures: " in rest.out

    def test_what_is_in_the_way_stays_without_force(self, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
        for name in "abcdef":
            write(f"in/{name}.png")
        bitdial(capsys, "compress", "in", "out", "--jobs", "1")
        before = os.stat("in/a.png").st_mtime
        os.utime("out/a.bd", (before - 9, before - 9))
        Path("out/b.bd").write_text("mine")
        Path("out/c.bd").write_bytes(Path("out/c.bd").read_bytes()[:-1])
        bitdial(capsys, "compress", "in/d.png", "out/d.bd", "--model", "runs/compress-1", "--force")
        there = files("out")
        done = bitdial(capsys, "compress", "in", "out", "--jobs", "1")
        assert done.status == 2
        assert (
            "got out/a.bd (older than its picture), out/b.bd (no whole compressed picture), "
            "out/c.bd (no whole compressed picture) and 1 more; choose another OUTPUT, or add --force" in done.err
        )
        assert files("out") == there
        forced = bitdial(capsys, "compress", "in", "out", "--jobs", "1", "--force")
        assert "\n2 pictures were compressed before.\n4 pictures: " in forced.out
        bitdial(capsys, "compress", "in", "whole", "--jobs", "1")
        assert files("out") == files("whole")
        Image.new("L", (3, 3)).save("mine.png")
        assert "mine.png (another file)" in bitdial(capsys, "decompress", "out/a.bd", "mine.png").err

    def test_a_killed_process_costs_its_picture_alone(
        self, place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for name in "abc":
            write(f"in/{name}.png")

        def killed(work: Any, tasks: Any, count: int, prepare: Any) -> Any:
            yield from ((task, None if task.job.source.stem == "b" else work(task)) for task in tasks)

        monkeypatch.setattr(picture_run, "in_processes", killed)
        done = bitdial(capsys, "compress", "in", "out", "--jobs", "1")
        assert done.status == 2
        assert "\n  in/b.png: its process was killed, as happens where memory runs out; try fewer --jobs\n" in done.err
        assert sorted(files("out")) == ["a.bd", "c.bd"]
