"""Two processes with losses of their own keep one w, take one path, and skip together."""

from __future__ import annotations

from pathlib import Path

import torch

from tests.compression.balance.two_processes import WORLD, batches, in_each, losses_of, network, quadratic, train


def test_two_processes(tmp_path: Path) -> None:
    torch.multiprocessing.spawn(in_each, (str(tmp_path),), nprocs=WORLD)
    first, second = (torch.load(tmp_path / f"rank{rank}.pt", weights_only=True) for rank in range(WORLD))
    own = [losses_of(network(), batch).detach() for batch in batches(0)]
    assert float((own[0] - own[1]).abs().max()) > 1  # or the test would show nothing

    for name, skipped in (("whole", 0), ("with_nan", 1)):
        for one, other in zip(first[name]["w"], second[name]["w"], strict=True):
            assert torch.equal(one, other)
        assert torch.equal(first[name]["weight"], second[name]["weight"])
        assert torch.equal(first[name]["p"], second[name]["p"])
        assert first[name]["skipped"] == second[name]["skipped"] == skipped
    w = first["with_nan"]["w"]
    assert torch.equal(w[1], w[2])  # skipped by both, though one had a number
    assert not torch.equal(w[2], w[3])

    plain = network()  # both batches in one process: the same run
    alone = train(plain, plain, None)
    torch.testing.assert_close(first["whole"]["weight"], alone["weight"], rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(first["whole"]["w"][-1], alone["w"][-1], rtol=1e-8, atol=1e-12)

    plain = network()
    weight = quadratic(plain, plain, None)
    for name in ("quadratic", "quadratic_bare"):
        assert torch.equal(first[name], second[name])
        torch.testing.assert_close(first[name], weight, rtol=1e-10, atol=1e-12)

    assert first["bad_gradient"] == second["bad_gradient"] == 1
    assert first["noise"][0] == first["noise"][1]  # its own, which comes again
    assert second["noise"][1] not in first["noise"]
