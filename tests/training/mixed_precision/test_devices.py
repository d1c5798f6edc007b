"""Several devices: two processes decide alike, whatever only one of them sees; DataParallel; compiled networks."""

from __future__ import annotations

import copy
import socket
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from torch import distributed, multiprocessing, nn
from torch.nn.parallel import DistributedDataParallel

from bitdial.errors import BitdialError
from bitdial.layers.names import unwrapped
from bitdial.training import make_fabric
from bitdial.training.mixed_precision import AdaptiveMixedPrecisionTrainer, MixedPrecisionConfig, MixedPrecisionTrainer
from tests.training.mixed_precision.by_hand import batches, same_state, small_net, train_by_hand
from tests.training.mixed_precision.faults import Fault, FaultyForward, Scaled

PARAMETERS = {name for name, _ in small_net().named_parameters()}


def sgd(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)


def as_by_hand(rank: int, dtype: torch.dtype, accumulation: int) -> bool:
    """Whether the weights are those of the hand-written loop over DistributedDataParallel, bit for bit."""
    mine, theirs = DistributedDataParallel(small_net()), DistributedDataParallel(small_net())
    data = batches(12, seed=10 + rank)
    options = {"init_scale": 2.0**22, "growth_interval": 5}
    torch.manual_seed(rank)
    train_by_hand(theirs, sgd(theirs), data, dtype, accumulation=accumulation, scaler_options=options)
    trainer = MixedPrecisionTrainer(MixedPrecisionConfig(dtype=dtype, accumulation_steps=accumulation, **options))
    optimizer = sgd(mine)
    torch.manual_seed(rank)
    for x, y in data:
        trainer.train_step(mine, optimizer, nn.CrossEntropyLoss(), x, y)
    different = same_state(mine.module, theirs.module)
    if accumulation > 1:  # by hand gradients are exchanged with every batch: another order of the same sums
        close = [
            torch.allclose(a, b, rtol=1e-4, atol=1e-6)
            for a, b in zip(mine.parameters(), theirs.parameters(), strict=True)
        ]
        return all(close)
    return different == []


def sees_trouble(rank: int, kind: str) -> dict[str, Any]:
    """Trouble in the second process only."""
    model = DistributedDataParallel(small_net())
    trainer = AdaptiveMixedPrecisionTrainer(MixedPrecisionConfig(init_scale=1024.0, overflow_patience=4))
    optimizer, before = sgd(model), copy.deepcopy(model.module)
    criterion = Scaled(1e30, at={2} if rank == 1 and kind == "overflow" else ())
    outcomes = []
    for index, (x, y) in enumerate(batches(3, seed=rank)):
        if rank == 1 and kind == "not finite" and index == 1:
            x = x * float("nan")
        outcomes.append(trainer.train_step(model, optimizer, criterion, x, y))
    assert not PARAMETERS.isdisjoint(same_state(model.module, before))
    return {
        "stepped": [outcome.stepped for outcome in outcomes],
        "scale": outcomes[-1].scale,
        "weight": model.module.head.weight.detach().clone(),
        "summary": {
            name: trainer.get_performance_summary()[name] for name in ("not_finite_steps", "precision", "scaler_info")
        },
    }


def exchanges(rank: int, *, fabric: bool = False) -> int:
    """How often the processes exchange gradients in 8 batches of which 4 make a step."""
    plain = small_net()
    model, calls = DistributedDataParallel(plain), 0

    def count(state, bucket):  # PyTorch looks at annotations, and wants types, not their names
        nonlocal calls
        calls += 1
        work = distributed.all_reduce(bucket.buffer() / 2, async_op=True)
        assert work is not None
        return work.get_future().then(lambda future: future.value()[0])

    model.register_comm_hook(None, count)
    trainer = MixedPrecisionTrainer(MixedPrecisionConfig(dtype="bfloat16", accumulation_steps=4))
    optimizer = sgd(model)
    called: nn.Module = model
    if fabric:
        from lightning.fabric.wrappers import _FabricModule

        called = _FabricModule(model, make_fabric(accelerator="cpu").strategy, original_module=plain)
        assert unwrapped(called) is plain
    for x, y in batches(8, seed=rank):
        trainer.train_step(called, optimizer, nn.CrossEntropyLoss(), x, y)
    return calls


def without_memory() -> str:
    """Both run out of memory: neither may try again alone."""
    model = DistributedDataParallel(nn.Sequential(nn.Flatten(), FaultyForward(Fault({1})), nn.Linear(64, 4)))
    try:
        MixedPrecisionTrainer().train_step(model, sgd(model), nn.CrossEntropyLoss(), *batches(1)[0])
    except BitdialError as error:
        return str(error)
    return "nothing"


def sharded(rank: int) -> bool:
    """Whether a network whose weights are in shards trains in bfloat16 as a whole one does, skips included."""
    from torch.distributed.fsdp import fully_shard

    data = batches(4)
    data[2] = (data[2][0] * float("nan"), data[2][1])
    torch.manual_seed(0)
    whole = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 4))
    shards = copy.deepcopy(whole)
    mesh = distributed.device_mesh.init_device_mesh("cpu", (2,))
    fully_shard(shards, mesh=mesh)
    stepped = []
    for model in (whole, shards):
        trainer = MixedPrecisionTrainer(MixedPrecisionConfig(dtype="bfloat16"))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
        stepped.append([trainer.train_step(model, optimizer, nn.CrossEntropyLoss(), x, y).stepped for x, y in data])
    assert stepped == [[True, True, False, True]] * 2, stepped
    pairs = zip(whole.parameters(), shards.parameters(), strict=True)
    return all(torch.allclose(a, b.full_tensor(), rtol=1e-3, atol=1e-5) for a, b in pairs)  # type: ignore[attr-defined]


def left_over(rank: int, dtype: torch.dtype) -> dict[str, Any]:
    """An epoch of six batches, four to a step: when the last one came, nobody knew that it was the last."""
    mine, theirs = DistributedDataParallel(small_net()), DistributedDataParallel(small_net())
    for model in (mine, theirs):
        model.module.drop.p = 0.0
    data, optimizer = batches(6, seed=rank), sgd(theirs)
    train_by_hand(theirs, optimizer, data[:4], dtype, accumulation=4, scaler_options={"init_scale": 1024.0})
    train_by_hand(theirs, optimizer, data[4:], dtype, accumulation=2, scaler_options={"init_scale": 1024.0})
    trainer, optimizer = (
        MixedPrecisionTrainer(MixedPrecisionConfig(dtype=dtype, accumulation_steps=4, init_scale=1024.0)),
        sgd(mine),
    )
    for x, y in data:
        trainer.train_step(mine, optimizer, nn.CrossEntropyLoss(), x, y)
    applied = trainer.finish_step()
    pairs = zip(mine.parameters(), theirs.parameters(), strict=True)
    return {
        "applied": applied,
        "as by hand": all(torch.allclose(a, b, rtol=1e-3, atol=1e-5) for a, b in pairs),
        "weight": mine.module.head.weight.detach().clone(),
        "statistics": int(mine.module.norm.num_batches_tracked),
    }


def trouble_in_shards(rank: int) -> dict[str, Any]:
    """NaN in the second process only: in search of it both must do the same, for every pass is a conversation."""
    from torch.distributed.fsdp import fully_shard

    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 4))
    fully_shard(model, mesh=distributed.device_mesh.init_device_mesh("cpu", (2,)))
    trainer = MixedPrecisionTrainer(MixedPrecisionConfig(dtype="bfloat16"))
    said: list[str] = []
    trainer.control.tell = said.append
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    stepped = []
    for index, (x, y) in enumerate(batches(3, seed=rank)):
        bad = x * float("nan") if index == 1 and rank == 1 else x
        stepped.append(trainer.train_step(model, optimizer, nn.CrossEntropyLoss(), bad, y).stepped)
    return {"stepped": stepped, "said": said}


def in_each_process(rank: int, port: int, folder: str) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group(
        "gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2, timeout=timedelta(seconds=60)
    )
    found = {
        "as by hand": [
            as_by_hand(rank, dtype, accumulation)
            for dtype in (torch.float16, torch.bfloat16)
            for accumulation in (1, 4)
        ],
        "overflow": sees_trouble(rank, "overflow"),
        "not finite": sees_trouble(rank, "not finite"),
        "exchanges": exchanges(rank),
        "memory": without_memory(),
        "exchanges under fabric": exchanges(rank, fabric=True),
        "left over": [left_over(rank, dtype) for dtype in (torch.float16, torch.bfloat16, torch.float32)],
        "sharded": sharded(rank),
        "trouble in shards": trouble_in_shards(rank),
    }
    torch.save(found, Path(folder) / f"{rank}.pt")
    distributed.barrier()
    distributed.destroy_process_group()


def test_two_processes(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    multiprocessing.spawn(in_each_process, args=(port, str(tmp_path)), nprocs=2)  # type: ignore[no-untyped-call]
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1))
    for found in (first, second):
        assert found["as by hand"] == [True] * 4
        assert found["overflow"]["stepped"] == found["not finite"]["stepped"] == [True, False, True]
        assert found["overflow"]["scale"] == 512.0
        assert found["not finite"]["scale"] == 1024.0
        assert found["not finite"]["summary"]["not_finite_steps"] == 1
        assert found["exchanges"] == found["exchanges under fabric"] == 2
        for left in found["left over"]:
            assert left["applied"]
            assert left["as by hand"]
            assert left["statistics"] == 6
        assert found["trouble in shards"]["stepped"] == [True, False, True]
        assert "first seen in the model's input" in found["trouble in shards"]["said"][0]
        assert "2 processes cannot retry a step alone" in found["memory"]
        assert found["sharded"]
    for mine, theirs in zip(first["left over"], second["left over"], strict=True):
        assert torch.equal(mine["weight"], theirs["weight"])
    for kind in ("overflow", "not finite"):
        assert torch.equal(first[kind]["weight"], second[kind]["weight"])
        assert first[kind]["summary"] == second[kind]["summary"]


def test_data_parallel() -> None:
    """On a machine without GPUs it calls the network itself; the trainer must see through it all the same."""
    model, other = small_net(), small_net()
    for net, plain in ((nn.DataParallel(model), model), (other, other)):
        trainer, optimizer = MixedPrecisionTrainer(), sgd(plain)
        torch.manual_seed(2)
        for x, y in batches(3):
            trainer.train_step(net, optimizer, nn.CrossEntropyLoss(), x, y)
        assert trainer.get_performance_summary()["performance"]["applied_steps"] == 3
    assert same_state(model, other) == []


def test_the_name_of_a_bad_layer_under_fabric() -> None:
    model = small_net()
    fabric, optimizer = make_fabric(accelerator="cpu"), sgd(model)
    wrapped, wrapped_optimizer = fabric.setup(model, optimizer)
    trainer = MixedPrecisionTrainer(MixedPrecisionConfig(dtype="bfloat16"))
    said: list[str] = []
    trainer.control.tell = said.append
    with torch.no_grad():
        model.body.bias[0] = float("inf")
    assert trainer.train_step(wrapped, wrapped_optimizer, nn.CrossEntropyLoss(), *batches(1)[0]).skipped
    assert "the parameter 'body.bias', which is not finite itself" in said[0]


def test_compiled_network_and_the_name_of_its_bad_layer() -> None:
    model = small_net()
    compiled = torch.compile(model, backend="eager")
    trainer, optimizer = MixedPrecisionTrainer(MixedPrecisionConfig(dtype="bfloat16")), sgd(model)
    assert trainer.train_step(compiled, optimizer, nn.CrossEntropyLoss(), *batches(1)[0]).stepped
    with torch.no_grad():
        model.body.bias[0] = float("inf")
    said: list[str] = []
    trainer.control.tell = said.append
    assert trainer.train_step(compiled, optimizer, nn.CrossEntropyLoss(), *batches(1)[0]).skipped
    assert "the parameter 'body.bias', which is not finite itself" in said[0]
