"""The native kernels give the values of the PyTorch operators, and anything wrong with them leaves those in charge."""

from __future__ import annotations

import math
import multiprocessing
import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
from torch import Tensor, nn

from bitdial.layers import QuantConv2d, QuantLinear
from bitdial.numerics import QUANTIZERS, grid, native
from bitdial.numerics.fitted import rotated
from bitdial.numerics.grid import min_max_numbers, read_grid, snap, snap_shared, snap_to_own_range
from bitdial.numerics.native import Kernels, build, kernels
from bitdial.numerics.steps import Codes, steps_gradient, to_steps
from bitdial.numerics.weights import bent, magnitude, uniform_weight

needs_kernels = pytest.mark.skipif(kernels() is None, reason=f"no native kernels here: {native.unavailable()}")

SIZES = [1, 7, 1001, 32_767, 32_768, 32_769]  # more than 32768 values go to several threads
WIDTHS = [1.0, 1.58, 2.0, 3.3, 4.0, 8.0, 16.0, 24.0]
KINDS: dict[str, Callable[[Tensor], Tensor]] = {
    "both signs": lambda x: x,
    "relu": torch.relu,
    "negative": lambda x: -x.abs() - 100,
    "subnormal": lambda x: x * 1e-40,
    "huge": lambda x: x * 1e30,
    "constant": lambda x: torch.full_like(x, 3.0),
    "zeros": torch.zeros_like,
}
GRIDS = [
    Codes(-8.0, 7.0, 0.0, -8.0, 7.0),
    Codes(0.0, 15.0, 0.0, 0.0, 15.0, 0.0, 0.0),
    Codes(-1.5, 1.5, 0.5, -1.98, 1.98),
    Codes(-0.5, 0.5, 0.5, -0.5, 0.5, 1.0, 0.0),
]
LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "contiguous": lambda x: x,
    "channels_last": lambda x: x.to(memory_format=torch.channels_last),
    "one channel": lambda x: x[:, :1].to(memory_format=torch.channels_last),
    "transposed": lambda x: x.transpose(0, 3),
    "sliced": lambda x: x[:, ::2, 1:, ::3],
    "expanded": lambda x: x[:1].expand(3, -1, -1, -1),
    "offset": lambda x: x.flatten()[3:],
}


def values(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def without_kernels() -> Any:
    return patch.object(grid, "kernels", lambda: None)


def layout(x: Tensor) -> list[int]:
    return [stride for stride, size in zip(x.stride(), x.shape, strict=True) if size > 1]


def same(first: Any, second: Any) -> bool:
    if isinstance(first, Tensor):
        return layout(first) == layout(second) and torch.equal(first.isnan(), second.isnan()) and torch.equal(
            first.nan_to_num(), second.nan_to_num()
        )  # fmt: skip
    if isinstance(first, tuple | list):
        return len(first) == len(second) and all(map(same, first, second))
    return first == second or (first != first and second != second)


def agree(function: Callable[[], Any]) -> None:
    """Call with and without the kernels."""

    fast = function()
    if isinstance(fast, Tensor):
        fast = fast.clone()  # what `snap_shared` returns is valid until the next call
    with without_kernels():
        assert same(fast, function())


def check_snap(x: Tensor, bits: float, clip: bool) -> None:
    low, high = min_max_numbers(x[x.isfinite()])
    low, high = (low / 2, high / 2) if clip else (low, high)
    on = read_grid(low, high, bits)
    assert on is not None
    agree(lambda: snap_shared(x, on, clip=clip))
    agree(lambda: snap(x, torch.tensor(low), torch.tensor(high), torch.tensor(bits), clip=clip))


def check_rows(w: Tensor, bits: float) -> None:
    for per_channel in (True, False):
        agree(
            lambda per=per_channel: snap_to_own_range(w, torch.tensor(bits), lambda: magnitude(w, per), per_channel=per)
        )


def check_weights(w: Tensor, bits: float, turn: float = 1.0) -> None:
    """Every fused quantizer of weights: values, and gradients by the weight and by its scales, each times `turn`."""
    upstream = values(*w.shape) if w.is_contiguous() else torch.empty_like(w).copy_(values(*w.shape))

    def run(name: str, per_channel: bool) -> list[Tensor]:
        leaf, width = w.clone().requires_grad_(), torch.tensor(bits)
        make = QUANTIZERS[name].make_weight
        learned = make(values(*w.shape), per_channel) if make else None
        for parameter in learned.parameters() if learned else ():
            parameter.data *= turn
        out = learned(leaf, width) if learned else QUANTIZERS[name].weight(leaf, width, per_channel)
        out.backward(upstream)
        return (
            [out.detach(), leaf.grad, *(p.grad for p in learned.parameters())] if learned else [out.detach(), leaf.grad]
        )

    for name in QUANTIZERS:
        for per_channel in (True, False):
            agree(lambda name=name, per_channel=per_channel: run(name, per_channel))


def check_steps(w: Tensor, steps: Tensor) -> None:
    gradient = values(*w.shape)
    for codes in GRIDS:
        agree(lambda codes=codes: to_steps(w, steps, codes))
        for strict in (True, False):
            with torch.no_grad():
                agree(lambda c=codes, s=strict: steps_gradient(w, gradient, steps, c, strict=s, scale=0.3))


@pytest.fixture(params=[1, 2])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@needs_kernels
@pytest.mark.parametrize("size", SIZES)
def test_every_kernel_gives_the_values_of_the_operators(size: int, threads: int) -> None:
    for change in KINDS.values():
        x = change(values(size))
        agree(lambda x=x: min_max_numbers(x))
        for bits in WIDTHS if size < 2000 else (2.0, 8.0):
            check_snap(x, bits, clip=False)
            check_snap(x, bits, clip=True)
            check_rows(x.view(7, -1) if size % 7 == 0 else x, bits)
        check_weights(x.view(7, -1) if size % 7 == 0 else x, 3.0)


@needs_kernels
@pytest.mark.parametrize("shape", [(3, 40_001), (70, 501), (1, 1), (64, 3, 3, 3)])
@pytest.mark.parametrize("turn", [1.0, -1.0, 0.0, 1e-40, 1e30, math.nan])
def test_every_quantizer_of_weights_whatever_its_scales(shape: tuple[int, ...], turn: float, threads: int) -> None:
    w = values(*shape) * 0.1
    w[0, :1] = 0.0
    w[-1] = 0.0
    for bits in (1.0, 4.0, 32.0) if turn == 1.0 else (4.0,):
        check_weights(w, bits, turn)
    for steps in (torch.linspace(0.01, 0.2, shape[0]) * turn, torch.tensor([0.1]) * turn):
        check_steps(w, steps)


@needs_kernels
@pytest.mark.parametrize("name", QUANTIZERS)
@pytest.mark.parametrize("per_channel", [True, False])
def test_the_number_of_threads_does_not_show(name: str, per_channel: bool) -> None:
    before, results = torch.get_num_threads(), []
    w, upstream = values(5, 130_001) * 0.1, values(5, 130_001).flip(0)
    for count in (1, 2, 3, 7):
        torch.set_num_threads(count)
        leaf, make = w.clone().requires_grad_(), QUANTIZERS[name].make_weight
        learned = make(w, per_channel) if make else None
        out = (
            learned(leaf, torch.tensor(3.0))
            if learned
            else QUANTIZERS[name].weight(leaf, torch.tensor(3.0), per_channel)
        )
        out.backward(upstream)
        results.append(
            [out.detach(), leaf.grad, *(p.grad for p in learned.parameters())] if learned else [out, leaf.grad]
        )
    torch.set_num_threads(before)
    assert all(same(results[0], other) for other in results[1:])


def test_the_tangent_is_that_of_pytorch() -> None:
    x = torch.cat([torch.linspace(-20, 20, 400_001), torch.tensor([1e-42, 1e-20, 3e38, math.inf, -math.inf, -0.0])])
    torch.testing.assert_close(bent(x), x.double().tanh().float(), rtol=1e-6, atol=0.0)
    assert torch.equal(bent(x), -bent(-x))
    assert bent(x).abs().max() == 1.0
    assert bent(torch.tensor([math.nan])).isnan().all()


@needs_kernels
@pytest.mark.parametrize("kind", LAYOUTS)
def test_whatever_the_layout(kind: str) -> None:
    for shape in ((4, 6, 5, 7), (3, 16, 27, 28)):
        x = LAYOUTS[kind](values(*shape))
        agree(lambda x=x: min_max_numbers(x))
        for bits in (2.0, 8.0):
            check_snap(x, bits, clip=True)
            check_snap(x, bits, clip=False)
            check_rows(x, bits)
        check_weights(x, 2.0)


@needs_kernels
@pytest.mark.parametrize("odd", [math.nan, -math.nan, math.inf, -math.inf, -0.0, 1e-45, 3.4e38])
@pytest.mark.parametrize("place", [0, 17, -1])
def test_odd_values_anywhere(odd: float, place: int) -> None:
    for size in (32, 33, 1000):
        x = values(size)
        x[place] = odd
        agree(lambda x=x: min_max_numbers(x))
        rows = x.view(8, -1) if size % 8 == 0 else x
        check_weights(rows, 3.0)
        check_steps(rows, torch.tensor([0.1]))
        for bits in (1.0, 4.0, 8.0):
            check_rows(rows, bits)
            for clip in (False, True) if not math.isinf(odd) else (True,):
                check_snap(x, bits, clip)


@needs_kernels
def test_a_range_shows_what_is_not_finite() -> None:
    for sign in (1, -1):  # the two kinds of NaN lie at opposite ends of float32's bit patterns
        low, high = min_max_numbers(torch.tensor([0.0, 1.0, sign * math.nan, 2.0]))
        assert math.isnan(low)
        assert math.isnan(high)
    assert min_max_numbers(torch.tensor([1.0, math.inf, -2.0])) == (-2.0, math.inf)


class Elsewhere(Tensor):
    """A tensor whose values lie in another one, as those of a DTensor do: its own memory does not exist."""

    inner: Tensor

    @staticmethod
    def __new__(cls, inner: Tensor) -> Elsewhere:
        made = Tensor._make_wrapper_subclass(cls, inner.shape, dtype=inner.dtype)  # type: ignore[attr-defined]
        made.inner = inner
        return made  # type: ignore[no-any-return]

    @classmethod
    def __torch_dispatch__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        inner = [a.inner if isinstance(a, Elsewhere) else a for a in args]
        return function(*inner, **{k: v.inner if isinstance(v, Elsewhere) else v for k, v in (kwargs or {}).items()})


@needs_kernels
def test_memory_that_does_not_hold_the_values_is_left_to_pytorch() -> None:
    layer, x = QuantLinear(8, 4, weights=3, activations=4), values(5, 8)
    torch.testing.assert_close(layer(Elsewhere(x)), layer(x))
    torch.testing.assert_close(layer(torch._neg_view(x)), layer(-x))  # type: ignore[no-untyped-call]
    assert torch.equal(uniform_weight(torch._neg_view(x), torch.tensor(2.0)), uniform_weight(-x, torch.tensor(2.0)))


class Net(nn.Module):
    def __init__(self, **quantization: Any) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = QuantConv2d(3, 16, 3, padding=1, **quantization)
        self.second = QuantConv2d(16, 16, 3, groups=4, bias=False, padding="same", **quantization)
        self.last = QuantLinear(16, 5, **quantization)

    def forward(self, x: Tensor) -> Tensor:
        x = self.second(torch.relu(self.first(x)))
        return self.last(x.relu().mean((2, 3)))


def trained(x: Tensor, **quantization: Any) -> list[Tensor]:
    """Outputs and gradients of two steps and of an evaluation, and the state after them."""
    net, results = Net(**quantization), []
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    for training in (True, True, False):
        net.train(training)
        optimizer.zero_grad()
        leaf = (x if training else x * 2).clone().requires_grad_()  # twice as large: evaluation clips
        out = net(leaf)
        (out * out).sum().backward()
        results += [out.detach(), leaf.grad, *(p.grad.clone() for p in net.parameters() if p.grad is not None)]
        optimizer.step()
    return results + list(net.state_dict().values())


@needs_kernels
@pytest.mark.parametrize("bits", [1, 2.5, 8])
@pytest.mark.parametrize("quantizer", QUANTIZERS)
def test_whole_layers_train_to_the_same_bits(bits: float, quantizer: str, threads: int) -> None:
    quantization = {"weights": bits, "activations": bits, "gradients": 8, "quantizer": quantizer}
    x = values(4, 3, 23, 23) if threads > 1 else values(2, 3, 9, 9).to(memory_format=torch.channels_last)
    fast = trained(x, **quantization)
    with without_kernels():
        plain = trained(x, **quantization)
    assert all(map(torch.equal, fast, plain))
    assert fast[0].abs().sum() > 0


ROTATED = [((64, 128, 3, 3), 1, 128), ((5, 96, 7, 7), 1, 32), ((2, 8, 200, 5), 1, 8), ((3, 96), 1, 32),
           ((4, 10, 256), 2, 128), ((130, 6), 1, 2), ((1, 2), 1, 2), ((4, 1, 64), 0, 4)]  # fmt: skip


@needs_kernels
@pytest.mark.parametrize(("shape", "dim", "size"), ROTATED)
@pytest.mark.parametrize("memory", [torch.contiguous_format, torch.channels_last])
def test_rotations(shape: tuple[int, ...], dim: int, size: int, memory: torch.memory_format, threads: int) -> None:
    x = values(*shape) if len(shape) != 4 else values(*shape).contiguous(memory_format=memory)
    agree(lambda: rotated(x, dim, size))
    matrix = rotated(torch.eye(size, dtype=torch.float64), 1, size)  # a product with the matrix itself
    torch.testing.assert_close(matrix @ matrix, torch.eye(size, dtype=torch.float64))
    blocks = x.double().movedim(dim, -1)
    plain = (blocks.reshape(-1, size) @ matrix).view(blocks.shape).movedim(-1, dim)
    torch.testing.assert_close(rotated(x, dim, size), plain.float())
    leaf, upstream = x.clone().requires_grad_(), values(*shape)
    rotated(leaf, dim, size).backward(upstream)
    assert torch.equal(leaf.grad, rotated(upstream, dim, size))


# What can go wrong with compiling, keeping, loading and running.


@pytest.mark.skipif(not shutil.which("gcc") or sys.platform != "linux", reason="no gcc on a Linux here")
def test_where_there_is_a_compiler_there_are_kernels() -> None:
    """A mistake in their source must not pass for a machine that has none."""
    assert native.unavailable() is None or "BITDIAL_NATIVE" in native.unavailable()


@pytest.fixture
def fresh(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """A cache folder of its own, and nothing known yet; yields where the kernels will be."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("BITDIAL_NATIVE", raising=False)
    forget()
    yield tmp_path / "cache" / "bitdial" / "kernels"
    monkeypatch.undo()
    forget()


def forget() -> None:
    native._found.cache_clear()
    native.kernels.cache_clear()


def refused() -> str:
    """Why there are no kernels, having seen that a layer trains without them."""
    assert kernels() is None
    layer, x = QuantLinear(8, 4, weights=2, activations=2), values(16, 8)
    layer(x).sum().backward()
    assert layer.weight.grad is not None
    assert layer.weight.grad.abs().sum() > 0
    reason = native.unavailable()
    assert reason is not None
    return reason


@needs_kernels
def test_compiled_once_and_kept_for_the_user_alone(fresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = build.library()
    assert [*fresh.iterdir()] == [first]
    assert stat.S_IMODE(first.stat().st_mode) == stat.S_IMODE(fresh.stat().st_mode) == 0o700
    monkeypatch.setenv("CC", "/bin/false")
    assert build.library() == first
    assert isinstance(kernels(), Kernels)
    assert native.unavailable() is None


@needs_kernels
def test_no_other_openmp_runtime_is_loaded(fresh: Path) -> None:
    def runtimes() -> set[str]:
        mapped = {line.split()[-1] for line in Path("/proc/self/maps").read_text().splitlines() if "omp" in line}
        return {path for path in mapped if Path(path).name.startswith(("libgomp", "libomp", "libiomp"))}

    before = runtimes()  # other packages, loaded by other tests, may bring one of their own
    assert kernels() is not None
    assert before
    assert runtimes() == before
    assert b"libgomp.so" not in build.library().read_bytes()


def test_switched_off(fresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BITDIAL_NATIVE", "0")
    assert refused() == "they are switched off: BITDIAL_NATIVE is 0"
    assert not fresh.exists()


def test_switched_off_for_a_process() -> None:
    code = "from bitdial.numerics.native import kernels, unavailable; print(kernels(), unavailable())"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"BITDIAL_NATIVE": "0"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "None they are switched off: BITDIAL_NATIVE is 0"


def test_no_compiler(fresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CC", raising=False)
    assert refused() == "there is no C compiler (gcc, cc or clang)"


@pytest.mark.parametrize("compiler", ["/nowhere/cc", "no-such-compiler -std=c11", "/bin/false", " "])
def test_a_compiler_that_does_not_work(fresh: Path, monkeypatch: pytest.MonkeyPatch, compiler: str) -> None:
    monkeypatch.setenv("CC", compiler)
    assert refused()
    assert [*fresh.iterdir()] == []


@needs_kernels
def test_a_compile_error_is_told(fresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "_COMPILE", (*build._COMPILE, "-Drintf=+"))
    assert "error" in refused()


@needs_kernels
def test_a_compiler_that_hangs_is_given_up(fresh: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    slow = tmp_path / "slow"
    slow.write_text("#!/bin/sh\nexec sleep 60\n")
    slow.chmod(0o755)
    monkeypatch.setenv("CC", str(slow))
    monkeypatch.setattr(build, "_SECONDS", 0.2)
    assert "took more than" in refused()


@needs_kernels
def test_a_library_without_the_functions(fresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "_COMPILE", (*build._COMPILE, "-Dbitdial_snap=other"))
    assert "bitdial_snap" in refused()


@needs_kernels
@pytest.mark.parametrize("damage", ["emptied", "cut off", "one bit", "not a library"])
def test_a_damaged_library_is_compiled_again(fresh: Path, damage: str) -> None:
    path = build.library()
    whole = path.read_bytes()
    changed = bytearray(whole)
    changed[len(whole) // 2] ^= 1
    path.unlink()  # it may be loaded: a new file, as after a lost write
    path.write_bytes({"emptied": b"", "cut off": whole[:9000], "one bit": changed, "not a library": b"#!"}[damage])
    path.chmod(0o700)
    assert kernels() is not None
    assert build.library().read_bytes() == whole


@needs_kernels
def test_a_library_that_others_could_have_written_is_not_loaded(fresh: Path) -> None:
    path = build.library()
    path.chmod(0o777)
    assert stat.S_IMODE(build.library().stat().st_mode) == 0o700
    elsewhere = fresh.parent / path.name
    path.rename(elsewhere)
    path.symlink_to(elsewhere)
    assert not build.library().is_symlink()


@pytest.mark.parametrize("mode", [0o770, 0o707, 0o1777])
def test_a_cache_that_others_can_write_to_is_refused(fresh: Path, mode: int) -> None:
    fresh.mkdir(parents=True)
    fresh.chmod(mode)
    assert "only you can write to" in refused()


def test_a_cache_that_is_a_link_is_refused(fresh: Path, tmp_path: Path) -> None:
    target = tmp_path / "downloads"
    target.mkdir(mode=0o700)
    fresh.parent.mkdir(parents=True)
    fresh.symlink_to(target)
    assert "not a link" in refused()
    assert [*target.iterdir()] == []


@pytest.mark.parametrize(("mode", "good"), [(0o777, False), (0o757, False), (0o1777, True), (0o755, True)])
def test_no_folder_above_may_be_changed_by_others(fresh: Path, mode: int, good: bool) -> None:
    fresh.mkdir(parents=True, mode=0o700)
    fresh.parents[1].chmod(mode)
    if good:
        assert build._cache() == fresh
    else:
        assert f"{fresh.parents[1]} can be written by others" in refused()


def test_a_folder_above_that_a_group_can_write_to(fresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fresh.mkdir(parents=True, mode=0o700)
    status = os.stat_result((stat.S_IFDIR | 0o775, 0, 0, 2, 1000, 1000, 0, 0, 0, 0))
    monkeypatch.setattr(os, "getuid", lambda: 1000)
    assert not build._others_may_replace(status)  # the user's own group
    monkeypatch.setattr(os, "getuid", lambda: 1001)
    assert build._others_may_replace(status)


def test_a_cache_of_somebody_else_is_refused(fresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fresh.mkdir(parents=True, mode=0o700)
    uid = os.getuid()
    monkeypatch.setattr(os, "getuid", lambda: uid + 1)
    assert "yours" in refused()


def test_a_cache_that_cannot_be_made(fresh: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file where a folder should be")
    assert "Not a directory" in refused()
    forget()
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(
        Path, "home", lambda: (_ for _ in ()).throw(RuntimeError("Could not determine home directory."))
    )
    assert "home directory" in refused()


@pytest.mark.skipif(os.getuid() == 0, reason="root may write everywhere")
def test_a_cache_that_cannot_be_written(fresh: Path) -> None:
    fresh.mkdir(parents=True)
    fresh.chmod(0o500)
    assert "Permission denied" in refused()


@needs_kernels
def test_a_full_disk(fresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    assert "No space left" in refused()


def test_a_cache_folder_that_is_not_absolute_is_not_used(
    fresh: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    for value in (".cache", ""):
        monkeypatch.setenv("XDG_CACHE_HOME", value)
        assert build._cache() == tmp_path / ".cache" / "bitdial" / "kernels"


@needs_kernels
def test_several_processes_at_once(fresh: Path) -> None:
    context = multiprocessing.get_context("fork")
    together, paths = context.Barrier(3), context.SimpleQueue()

    def make() -> None:
        together.wait()
        paths.put(str(build.library()))

    workers = [context.Process(target=make) for _ in range(3)]
    for worker in workers:
        worker.start()
    made = {paths.get() for _ in workers}
    for worker in workers:
        worker.join()
    assert {str(path) for path in fresh.iterdir()} == made
    assert kernels() is not None


@needs_kernels
@pytest.mark.parametrize("name", [name for name in vars(Kernels) if not name.startswith("_")])
def test_a_kernel_that_gives_wrong_values_is_not_used(fresh: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    right = getattr(Kernels, name)

    def wrong(self: Kernels, x: Tensor, *rest: Any, **more: Any) -> Any:
        shifted = x.clone()
        shifted[-1] += 1
        return right(self, shifted, *rest, **more)

    monkeypatch.setattr(Kernels, name, wrong)
    assert refused() == "they gave wrong values when they were tried"


@needs_kernels
def test_tried_whatever_the_default_dtype_and_device_are(fresh: Path) -> None:
    try:
        torch.set_default_dtype(torch.float64)
        with torch.device("meta"), torch.inference_mode():
            assert kernels() is not None
    finally:
        torch.set_default_dtype(torch.float32)


@needs_kernels
def test_a_forked_worker_with_one_thread_does_not_hang() -> None:
    # As in a DataLoader's workers. With more threads, GNU's OpenMP hangs in a forked child, in PyTorch's operators too.
    x = values(1 << 18)
    expected = min_max_numbers(x)  # which wakes the threads here
    context = multiprocessing.get_context("fork")
    answers = context.SimpleQueue()

    def work() -> None:
        torch.set_num_threads(1)
        answers.put(min_max_numbers(x))

    worker = context.Process(target=work)
    worker.start()
    worker.join(timeout=60)
    hangs = worker.is_alive()
    worker.kill()
    assert not hangs
    assert answers.get() == expected
