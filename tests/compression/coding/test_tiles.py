"""Pictures in tiles: without seams, with the same bytes in any process, and refused where a header lies about them."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from bitdial.compression.codec import Codec
from bitdial.compression.coding import tiles
from bitdial.compression.coding.container import DamagedFile, read, write
from bitdial.compression.models import HPCM, FactorizedPrior
from bitdial.errors import BitdialError
from tests.compression.coding.test_container import repaired
from tests.compression.test_codec import pixels
from tests.compression.test_models import build

pytest.importorskip("constriction")

some_models = pytest.mark.parametrize("name", ["factorized", "mean_scale", "hpcm"])
SIZES = [(130, 129), (193, 1), (1, 70), (64, 128), (1, 1)]
CASES = [(name, *size) for name in ("factorized", "mean_scale") for size in SIZES] + [("hpcm", 65, 70)]


@given(st.integers(1, 300), st.integers(1, 300), st.sampled_from([64, 128, 192]))
def test_tiles_cover_every_pixel_once(height: int, width: int, side: int) -> None:
    seen = torch.zeros(height, width, dtype=torch.int)
    for tile in tiles.tiles(height, width, side):
        assert 0 < tile.height <= side
        assert 0 < tile.width <= side
        seen[tile.top : tile.top + tile.height, tile.left : tile.left + tile.width] += 1
    assert bool((seen == 1).all())


@some_models
def test_a_transform_sees_as_far_as_said_and_no_farther(name: str) -> None:
    model = build(name).double().eval()
    x = torch.rand(1, 3, 16, 192, dtype=torch.float64, requires_grad=True)
    model.g_a(x)[..., 6].sum().backward()  # pixels 96 to 111
    assert x.grad is not None
    assert x.grad.sum((0, 1, 2)).nonzero()[[0, -1], 0].tolist() == [96 - tiles.reach(model.g_a), 111 + 15]
    y = torch.rand(1, model.g_s.branch[0].in_channels, 1, 12, dtype=torch.float64)  # type: ignore[union-attr, index]
    y.requires_grad_()
    model.g_s(y)[..., 96:112].sum().backward()
    assert y.grad is not None
    assert y.grad.sum((0, 1, 2)).nonzero()[[0, -1], 0].tolist() == [6 - tiles.reach(model.g_s), 7]


@some_models
def test_blocks_by_rows_give_the_same_under_the_same_names(name: str) -> None:
    model = build(name).double().eval()
    x = torch.rand(1, 3, 64, 1024, dtype=torch.float64)
    codec = Codec(model)
    with torch.no_grad():
        assert torch.allclose(codec.model.g_a(x), model.g_a(x), rtol=1e-12, atol=1e-12)
    assert list(codec.model.state_dict()) == list(model.state_dict())


def test_larger_transforms_see_farther() -> None:
    with torch.device("meta"):
        base, large = HPCM("base"), HPCM("large")
    assert [tiles.reach(each) for each in (base.g_a, base.g_s, large.g_a, large.g_s)] == [45, 3, 77, 5]
    assert tiles.reach(nn.Sequential()) == 0


@some_models
@pytest.mark.parametrize(("height", "width"), [(130, 129), (65, 40)])
def test_latents_and_pixels_of_tiles_are_those_of_the_whole(name: str, height: int, width: int) -> None:
    codec, given = Codec(build(name)), pixels(height, width)
    model, latents = codec.model, codec.model.analyse(given[None].double() / 255)
    for tile in tiles.tiles(height, width, 64):
        part = tiles.analyse(model, given, tile).y
        top, left = tile.top // 16, tile.left // 16
        expected = latents.y[..., top : top + part.shape[2], left : left + part.shape[3]]
        assert torch.allclose(part, expected, rtol=1e-12, atol=1e-12)
    whole = model.synthesise(latents.y, height, width)[0].clamp(0, 1) * 255
    found = tiles.synthesise(model, latents.y, height, width, 64)
    assert found.dtype == torch.uint8
    assert float((found - whole).abs().max()) <= 0.5 + 1e-9


@pytest.mark.parametrize(("name", "height", "width"), CASES)
def test_a_file_in_tiles_gives_what_the_network_makes_of_the_picture(name: str, height: int, width: int) -> None:
    codec, given = Codec(build(name), tile=64), pixels(height, width)
    coded = codec.code(given)
    data = coded.data()
    back = Codec(build(name), tile=128).decompress(data)  # the file says which tiles
    assert back.pixels.shape == given.shape
    assert torch.equal(back.pixels, coded.pixels())
    assert abs(len(data) - coded.estimated_size()) <= 0.002 * coded.estimated_size() + 64
    file = read(data)
    assert file.tile == 64
    assert len(file.chunks) == codec.model.steps + (name != "factorized")  # however many tiles


def test_what_is_coded_once_is_what_the_three_give() -> None:
    codec, given = Codec(build("mean_scale"), tile=64), pixels(70, 130)
    coded = codec.code(given)
    assert coded.data("L") == codec.compress(given, "L")
    assert codec.decompress(coded.data("L")).mode == "L"
    assert coded.estimated_size() == codec.estimated_size(given)
    assert torch.equal(coded.pixels(), codec.reconstruct(given))


def test_a_picture_of_one_tile_costs_nothing_more() -> None:
    files = [read(Codec(build("mean_scale"), tile=side).compress(pixels(64, 40))) for side in (64, 1024)]
    assert [file.tile for file in files] == [64, 1024]
    assert replace(files[0], tile=1024) == files[1]


SCRIPT = """
import sys
from pathlib import Path
import torch
torch.set_num_threads(2)
torch.backends.mkldnn.enabled = False
from bitdial.compression.codec import Codec
from tests.compression.test_models import build
from tests.compression.test_codec import pixels
for name in ("mean_scale", "hpcm"):
    codec = Codec(build(name), tile=64)
    data = Path(sys.argv[1], name + ".bd").read_bytes()
    assert codec.compress(pixels(40, 130)) == data
    Path(sys.argv[1], name + ".raw").write_bytes(codec.decompress(data).pixels.numpy().tobytes())
"""


@pytest.mark.slow
def test_another_process_with_more_threads_gives_the_same(tmp_path: Path) -> None:
    expected = {}
    for name in ("mean_scale", "hpcm"):
        coded = Codec(build(name), tile=64).code(pixels(40, 130))
        (tmp_path / f"{name}.bd").write_bytes(coded.data())
        expected[name] = coded.pixels().numpy().tobytes()
    paths = os.pathsep.join(filter(None, [str(Path(__file__).parents[3]), *sys.path]))
    subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path)], check=True, env={**os.environ, "PYTHONPATH": paths}, timeout=300
    )
    assert {name: (tmp_path / f"{name}.raw").read_bytes() for name in expected} == expected


def test_a_preview_of_tiles() -> None:
    codec, given = Codec(build("hpcm"), tile=64), pixels(40, 128)
    coded = codec.code(given)
    data, whole = coded.data(), coded.pixels().double()
    away = [(codec.decompress(data, preview=k).pixels.double() - whole).square().mean().item() for k in (2, 11)]
    assert away[0] > away[1] == 0
    cut = write(replace(read(data), chunks=read(data).chunks[:3]))  # z, and two steps of y, of every tile
    assert torch.equal(codec.decompress(cut, preview=2).pixels, codec.decompress(data, preview=2).pixels)
    for wrong in (cut, write(replace(read(data), chunks=(*read(data).chunks, b"")))):
        with pytest.raises(DamagedFile):
            codec.decompress(wrong)


def test_cut_and_flipped_files_are_refused() -> None:
    codec = Codec(build("mean_scale"), tile=64)
    data = codec.compress(pixels(65, 130))
    for place in range(0, len(data), 1 + len(data) // 150):
        for wrong in (data[:place], data[:place] + bytes([data[place] ^ 8]) + data[place + 1 :]):
            with pytest.raises(BitdialError):
                codec.decompress(wrong)


def lying(data: bytes, units: int) -> bytes:
    """The same file under a header that says another tile, in units of 64 pixels, and has a checksum that fits."""
    return repaired(data[:7] + bytes([units]) + data[8:])


@pytest.mark.parametrize("name", ["factorized", "mean_scale"])
def test_a_header_that_lies_about_the_tiles(name: str) -> None:
    codec, given = Codec(build(name), tile=64), pixels(130, 200)
    data = codec.compress(given)
    assert lying(data, 1) == data
    for units in (0, 17, 255):
        with pytest.raises(DamagedFile, match=f"damaged: its header says .* tiles of {64 * units};"):
            codec.decompress(lying(data, units))
    for units in (2, 3, 4, 16):
        with pytest.raises(DamagedFile, match="other entropy parameters"):
            codec.decompress(lying(data, units))
    small = codec.compress(given[:, :60, :60])
    assert torch.equal(codec.decompress(lying(small, 16)).pixels, codec.decompress(small).pixels)  # the same one tile


def test_progress_is_told_and_an_interrupt_leaves_nothing_half_done() -> None:
    codec, given, told = Codec(build("mean_scale"), tile=64), pixels(130, 70), []
    data = codec.compress(given, progress=lambda done, parts: told.append((done, parts)))
    assert told == [(i, 6) for i in range(1, 7)]
    told.clear()
    back = codec.decompress(data, progress=lambda done, parts: told.append((done, parts))).pixels
    assert told == [(i, 12) for i in range(1, 13)]

    def stop(done: int, parts: int) -> None:
        if done == parts // 2 + 1:
            raise KeyboardInterrupt

    for action in (codec.compress, codec.decompress):
        with pytest.raises(KeyboardInterrupt):
            action(given if action == codec.compress else data, progress=stop)  # type: ignore[operator]
    assert codec.compress(given) == data
    assert torch.equal(codec.decompress(data).pixels, back)


def test_pixels_of_all_tiles_count() -> None:
    codec = Codec(build("factorized"), tile=64)
    data = codec.compress(pixels(65, 70))
    with pytest.raises(BitdialError, match="at most 4549 pixels, got 70 x 65"):
        codec.decompress(data, max_pixels=65 * 70 - 1)
    assert codec.decompress(data, max_pixels=65 * 70).pixels.shape == (3, 65, 70)


class Wide(FactorizedPrior):
    """One that needs larger cells than tiles of 64 are."""

    multiple = 128


@pytest.mark.parametrize("tile", [0, -64, 1, 63, 96, 1025, 1088, 2**40, 64.0, True, None, "512", math.nan])
def test_tiles_that_files_have_no_place_for(tile: Any) -> None:
    with pytest.raises(BitdialError, match="tile must be") as caught:
        Codec(FactorizedPrior(8, 8), tile=tile)
    assert "\n" not in str(caught.value)
    with pytest.raises(BitdialError, match="tile must be a multiple of 128, got 64"):
        Codec(Wide(8, 8), tile=64)
    given: Tensor = pixels(100, 200)
    codec = Codec(Wide(8, 8), tile=128)
    assert torch.equal(codec.decompress(codec.compress(given)).pixels, codec.reconstruct(given))
