"""Crops to train on: a function of seed, epoch and batch, from pictures of any size; whole ones to measure with."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from bitdial.compression.photographs import CropLoader, Photographs, WholePictures, random_crop, split_off
from bitdial.errors import BitdialError


def picture(height: int, width: int, seed: int = 0) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    return torch.randint(256, (3, height, width), dtype=torch.uint8, generator=draw)


def in_memory(count: int = 5, side: int = 40) -> Photographs:
    return Photographs(tuple(f"p{i}" for i in range(count)), tuple(picture(side, side + i, i) for i in range(count)))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "deep").mkdir()
    for name, seed in (("b.png", 1), ("a.PNG", 2), ("deep/c.png", 3), (".hidden.png", 4)):
        Image.fromarray(picture(20, 30, seed).permute(1, 2, 0).numpy()).save(tmp_path / name, "PNG")
    (tmp_path / "notes.txt").write_text("not a picture")
    return tmp_path


class TestFolder:
    def test_holds_the_pictures_of_all_folders_by_name(self, folder: Path) -> None:
        found = Photographs.of_folder(folder)
        assert found.names == ("a.PNG", "b.png", "deep/c.png")
        assert [each.shape for each in found] == [(3, 20, 30)] * 3
        assert torch.equal(found[1], picture(20, 30, 1))

    def test_a_text_with_the_ending_of_a_picture_is_named(self, folder: Path) -> None:
        (folder / "deep" / "wrong.png").write_text("hello")
        with pytest.raises(BitdialError, match=r"cannot read the image .*deep/wrong\.png"):
            Photographs.of_folder(folder)

    @pytest.mark.parametrize(
        ("name", "told"), [("nothing", "got nothing"), ("notes.txt", "got a file"), ("empty", "got none")]
    )
    def test_a_folder_without_pictures_is_refused(self, folder: Path, name: str, told: str) -> None:
        (folder / "empty").mkdir()
        with pytest.raises(BitdialError, match=told):
            Photographs.of_folder(folder / name)

    def test_marks_tell_changes_of_content(self, folder: Path) -> None:
        before = Photographs.of_folder(folder).marks()
        Image.fromarray(np.zeros((20, 30, 3), np.uint8)).save(folder / "b.png")
        after = Photographs.of_folder(folder).marks()
        assert before["a.PNG"] == after["a.PNG"]
        assert before["b.png"] != after["b.png"]
        assert in_memory().marks() != in_memory(side=41).marks()


class TestCrop:
    def test_is_a_part_of_the_picture_mirrored_or_not(self) -> None:
        pixels = torch.arange(3 * 10 * 12, dtype=torch.int16).reshape(3, 10, 12)
        seen = set()
        for seed in range(60):
            crop = random_crop(pixels, 8, torch.Generator().manual_seed(seed))
            assert crop.shape == (3, 8, 8)
            steps = (int(crop[0, 1, 0] - crop[0, 0, 0]), int(crop[0, 0, 1] - crop[0, 0, 0]))
            assert steps in [(12, 1), (-12, 1), (12, -1), (-12, -1)]
            seen.add((*steps, int(crop.min())))
        assert {each[:2] for each in seen} == {(12, 1), (-12, 1), (12, -1), (-12, -1)}
        assert {each[2] for each in seen} == {12 * top + left for top in range(3) for left in range(5)}

    @pytest.mark.parametrize("size", [(1, 1), (1, 9), (3, 64), (5, 2)])
    def test_a_smaller_picture_is_continued_by_reflection(self, size: tuple[int, int]) -> None:
        pixels = picture(*size)
        for seed in range(8):
            crop = random_crop(pixels, 64, torch.Generator().manual_seed(seed))
            assert crop.shape == (3, 64, 64)
            rows, columns = size
            if columns < 64 and columns > 1:
                period = 2 * columns - 2
                assert torch.equal(crop[:, :, period : 2 * period], crop[:, :, :period])
            if rows == 1:
                assert torch.equal(crop[:, 0], crop[:, 17])


class TestLoader:
    def test_is_a_function_of_seed_epoch_and_batch(self) -> None:
        loader = CropLoader(in_memory(), 16, 2, crops=3, seed=4)
        whole = list(loader)
        assert len(whole) == len(loader) == 7
        assert {each.shape for each in whole} == {(2, 3, 16, 16)}
        assert all(map(torch.equal, loader, whole))
        loader.start_at(5)
        assert all(map(torch.equal, loader, whole[5:]))
        assert len(list(loader)) == 7
        loader.set_epoch(1)
        assert not any(map(torch.equal, loader, whole))
        assert not any(map(torch.equal, CropLoader(in_memory(), 16, 2, crops=3, seed=5), whole))

    def test_takes_every_picture_equally_often(self) -> None:
        pictures = Photographs(tuple("abcd"), tuple(torch.full((3, 20, 20), i, dtype=torch.uint8) for i in range(4)))
        seen = torch.cat([255 * batch[:, 0, 0, 0] for batch in CropLoader(pictures, 16, 2, crops=3)])
        assert torch.equal(seen.round().long().bincount(), torch.full((4,), 3))

    def test_draws_nothing_from_torch(self) -> None:
        before = torch.get_rng_state()
        list(CropLoader(in_memory(), 16, 2))
        assert torch.equal(torch.get_rng_state(), before)

    def test_workers_make_the_same_batches(self, folder: Path) -> None:
        alone = list(CropLoader(Photographs.of_folder(folder), 16, 1, crops=2))
        assert all(map(torch.equal, CropLoader(Photographs.of_folder(folder), 16, 1, crops=2, workers=1), alone))

    def test_processes_share_the_pictures_of_a_batch(self) -> None:
        pictures = Photographs(tuple("abcd"), tuple(torch.full((3, 20, 20), i, dtype=torch.uint8) for i in range(4)))
        whole = [batch[:, 0, 0, 0] for batch in CropLoader(pictures, 16, 4)]
        parts = [[b[:, 0, 0, 0] for b in CropLoader(pictures, 16, 2, rank=rank, world_size=2)] for rank in range(2)]
        assert all(torch.equal(torch.cat(both), one) for *both, one in zip(*parts, whole, strict=True))

    def test_a_place_behind_the_epoch_is_refused(self) -> None:
        with pytest.raises(BitdialError, match="cannot start at batch 9: the epoch has 2"):
            CropLoader(in_memory(), 16, 2).start_at(9)


def test_whole_pictures_are_cut_to_their_middle() -> None:
    first, second = WholePictures(Photographs(("a", "b"), (picture(30, 9), picture(7, 31))), most=10)
    assert (first.shape, second.shape) == ((1, 3, 10, 9), (1, 3, 7, 10))
    assert torch.equal(first[0], picture(30, 9)[:, 10:20].float() / 255)
    assert torch.equal(second[0], picture(7, 31)[:, :, 10:20].float() / 255)


def test_a_share_is_held_out_the_same_for_a_seed() -> None:
    train, test = split_off(in_memory(), 0.3, 0)
    assert (len(train), len(test)) == (3, 2)
    assert {*train.names, *test.names} == {*in_memory().names}
    assert split_off(in_memory(), 0.3, 0)[1].names == test.names
    assert len(split_off(in_memory(2), 0.9, 0)[0]) == len(split_off(in_memory(2), 0.01, 0)[1]) == 1
    with pytest.raises(BitdialError, match="at least two pictures"):
        split_off(in_memory(1), 0.1, 0)
