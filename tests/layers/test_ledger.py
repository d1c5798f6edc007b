"""What the ledger adds up: BitOps, bits, bytes; the published savings of cyclic precision training."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from bitdial.errors import BitdialError
from bitdial.layers import BitOps, Ledger, LedgerRow
from bitdial.schedules import cpt


def row(name: str, macs: int, *, quantized: bool = True, first: bool = False, **more: Any) -> LedgerRow:
    width = (4.0, 3.0, 8.0) if quantized else (32.0, 32.0, 32.0)
    settings: dict[str, Any] = {
        "kind": "QuantLinear" if quantized else "Linear",
        "weights": 100,
        "parameters": 110,
        "scales": 10 if quantized else 1,
        "needs_input_gradient": not first,
        "weight_bits": width[0],
        "activation_bits": width[1],
        "gradient_bits": width[2],
    } | more
    return LedgerRow(name=name, macs=macs, quantized=quantized, **settings)


def ledger(count: Any = "layer") -> Ledger:
    rows = (
        row("stem", 1000, quantized=False, first=True),
        row("a", 200),
        row("b", 300),
        row("fc", 10, quantized=False),
    )
    return Ledger(rows, other_values=7, count=count)


def test_bitops_at_the_widths_of_the_ledger_by_hand() -> None:
    full = 32 * 32
    assert ledger().step_bitops() == BitOps(
        forward=1000 * full + 500 * 4 * 3 + 10 * full,
        input_gradient=500 * 4 * 8 + 10 * full,  # nobody needs the gradient of the stem's input
        weight_gradient=1000 * full + 500 * 3 * 8 + 10 * full,
    )


def test_bitops_at_given_widths_leave_unquantized_layers_at_32() -> None:
    full = 32 * 32
    ops = ledger().step_bitops(2, 2, 6)
    assert ops.forward == 1010 * full + 500 * 4
    assert ops.input_gradient == 10 * full + 500 * 12
    assert ops.total == ops.forward + ops.input_gradient + ops.weight_gradient
    each = ledger().step_bitops([2, 4], [1, 3], [32, 6])
    assert each.forward == 1010 * full + 200 * 2 * 1 + 300 * 4 * 3
    assert each.input_gradient == 10 * full + 200 * 2 * 32 + 300 * 4 * 6
    assert each.weight_gradient == 1010 * full + 200 * 1 * 32 + 300 * 3 * 6


def test_counting_as_cpt_takes_one_width_for_everything() -> None:
    assert ledger("cpt").step_bitops(2, 2, 6) == BitOps(1510 * 4, 1510 * 12, 1510 * 12)


def saving(low: int, high: int, gradients: int, counted: Ledger) -> float:
    """Change in percent, of a step on average over CPT's schedule, against a static run at `high`."""
    iterations = 64_000
    schedule = cpt(low, high, iterations, 32)
    steps = Counter(schedule(t) for t in range(iterations))
    cyclic = sum(n * counted.step_bitops(bits, bits, gradients).total for bits, n in steps.items()) / iterations
    return 100 * (cyclic / counted.step_bitops(high, high, gradients).total - 1)


def test_the_published_savings_of_cpt() -> None:
    # Fu et al., CPT, ICLR 2021: 3-8 bits forward with 8 backward, and 3-6 with 6.
    assert saving(3, 8, 8, ledger("cpt")) == pytest.approx(-36.67, abs=0.01)
    assert saving(3, 6, 6, ledger("cpt")) == pytest.approx(-30.04, abs=0.01)
    # Counted layer by layer, with the unquantized layers at 32, the saving of the same schedule is smaller.
    assert -36 < saving(3, 8, 8, ledger("layer")) < 0


def test_average_bits_are_weighted_by_macs() -> None:
    assert ledger().average_bits() == pytest.approx((1010 * 32 + 500 * 3.5) / 1510)
    assert ledger().average_bits(2) == pytest.approx((1010 * 32 + 500 * 2) / 1510)
    assert ledger().average_bits([2, 4]) == pytest.approx((1010 * 32 + 200 * 2 + 300 * 4) / 1510)
    assert ledger("cpt").average_bits(2) == 2


def test_bytes_by_hand() -> None:
    floats = 4 * 7 + 2 * 4 * 110  # other values, and the two unquantized layers
    biases, scales = 2 * 4 * 10, 2 * 4 * 10
    assert ledger().size_bytes() == floats + biases + scales + 2 * 50  # 100 weights of 4 bits
    assert ledger().size_bytes(3) == floats + biases + scales + 2 * 38  # 300 bits fill 38 bytes
    assert ledger().size_bytes([1, 8]) == floats + biases + scales + 13 + 100
    assert ledger().size_bytes(32) == 4 * 7 + 4 * 4 * 110  # a float model has no scales


def test_the_table_names_every_layer_and_calls_bitops_simulated() -> None:
    table = ledger().table()
    lines = table.splitlines()
    assert len(lines) == 6
    assert [line.split()[0] for line in lines[1:5]] == ["stem", "a", "b", "fc"]
    assert "4/3/8" in lines[2]
    assert "32/32/32" in lines[1]
    assert "simulated BitOps" in lines[-1]
    assert f"{ledger().size_bytes():,} bytes packed" in lines[-1]


@pytest.mark.parametrize(
    "bits",
    [0, -1, 33, float("nan"), "8", "44", b"44", True, [4], [4, 4, 4], [4, 0], [4, None], [[4], [4]], {}, object()],
)
def test_bad_widths_are_refused_in_a_sentence(bits: Any) -> None:
    for call in (
        lambda: ledger().step_bitops(bits),
        lambda: ledger().step_bitops(4, bits),
        lambda: ledger().step_bitops(4, 4, bits),
        lambda: ledger().average_bits(bits),
        lambda: ledger().size_bytes(bits),
        lambda: ledger("cpt").step_bitops(bits),
    ):
        with pytest.raises(
            BitdialError, match=r"^(bits must be|a list of bits must have one for each of the 2 layers)"
        ) as e:
            call()
        assert "\n" not in str(e.value)
