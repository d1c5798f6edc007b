"""How fast symbols are coded: ours and compressai.ans in one run, with the same tables, interleaved.

Run with ``OMP_NUM_THREADS=1 python -m benchmarks.entropy_coding [--compressai FOLDER]``; takes half a minute.
CompressAI cannot be installed beside numpy 2, but its coder can be loaded alone: ``pip download --no-deps
compressai==1.2.8`` and unzip the wheel into FOLDER, outside of this repository.

491,520 symbols (a picture of 1024 x 1536) with scales spread so that they cost about .55 bit each, in one step and in
the 11 steps of HPCM. From tensors to bytes and back to a tensor; tables are prepared beforehand for both. By the time
of the processor, as this machine may be shared; the best of several rounds.
"""

from __future__ import annotations

import argparse
import importlib.machinery
import importlib.util
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.machine import describe
from bitdial.compression.coding.coder import decode, encode
from bitdial.compression.coding.tables import Tables, estimate_bits, scale_levels, scale_tables

RESULTS = Path(__file__).parent / "results"
SYMBOLS = 491_520
LEVELS = (60, 128)
SPREAD = 0.87  # mean of log(scale / .12), for about .55 bit a symbol
Coder = tuple[Callable[[Tensor, Tensor], bytes], Callable[[bytes, Tensor], Tensor]]
STEPS = {1: [1.0], 11: [1 / 32] * 2 + [1 / 16] * 3 + [1 / 8] * 6}


def drawn(levels: int, seed: int = 0) -> tuple[Tensor, Tensor, Tables]:
    """Symbols that are distributed as their tables say, the indexes of those, and the tables."""
    generator = np.random.default_rng(seed)
    scales = scale_levels(levels)
    tables = scale_tables(scales)
    step = np.log(scales[1] / scales[0])
    indexes = np.minimum(levels - 1, generator.exponential(SPREAD / step, SYMBOLS)).astype(np.uint8)
    symbols = np.empty(SYMBOLS, np.int32)
    for table, (start, size) in enumerate(zip(tables.starts, tables.sizes, strict=True)):
        here, counts = indexes == table, tables.counts[start : start + size]
        symbols[here] = generator.choice(size, here.sum(), p=counts / counts.sum()) + tables.lowest[table]
    return torch.from_numpy(symbols), torch.from_numpy(indexes), tables


def ours(tables: Tables) -> Coder:
    """The coder of bitdial."""
    return (
        lambda symbols, indexes: encode(symbols, indexes, tables),
        lambda data, indexes: torch.from_numpy(decode(data, indexes, tables)),
    )


def compressais(tables: Tables, ans: Any) -> Coder:
    """compressai.ans as compressai.entropy_models calls it, but for the lists of tables, which it makes every time."""
    ends = tables.starts + tables.sizes
    parts = [tables.counts[start:end] for start, end in zip(tables.starts, ends, strict=True)]
    cumulated, lengths = [[0, *np.cumsum(part).tolist()] for part in parts], [len(part) + 1 for part in parts]
    given = cumulated, lengths, tables.lowest.tolist()
    encoder, decoder = ans.RansEncoder(), ans.RansDecoder()
    return (
        lambda symbols, indexes: encoder.encode_with_indexes(symbols.tolist(), indexes.tolist(), *given),
        lambda data, indexes: torch.tensor(
            decoder.decode_with_indexes(data, indexes.tolist(), *given), dtype=torch.int32
        ),
    )


def load_ans(folder: Path) -> Any:
    """The extension alone: the package itself asks for numpy 1."""
    for suffix in importlib.machinery.EXTENSION_SUFFIXES:
        if (path := folder / "compressai" / f"ans{suffix}").exists():
            spec = importlib.util.spec_from_file_location("ans", path)
            assert spec is not None
            assert spec.loader is not None
            module = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(module)
            return module
    raise SystemExit(f"{folder} must hold the unzipped wheel of compressai for this Python, got no compressai/ans*.so")


def measure(
    coders: dict[str, Coder], symbols: Tensor, indexes: Tensor, shares: list[float], rounds: int
) -> dict[str, Any]:
    """Millions of symbols a second and bytes of each coder, every one checked for what comes back."""
    lengths = [round(share * len(symbols)) for share in shares]
    parts = list(zip(symbols.split(lengths), indexes.split(lengths), strict=True))
    coded = {name: [coder[0](*part) for part in parts] for name, coder in coders.items()}
    best = {name: {"encode": float("inf"), "decode": float("inf")} for name in coders}
    for _ in range(rounds):
        for name, (write, read) in coders.items():
            pairs = list(zip(coded[name], indexes.split(lengths), strict=True))
            assert torch.equal(torch.cat([read(*pair) for pair in pairs]), symbols), name
            for way, action in (
                ("encode", lambda write=write: [write(*part) for part in parts]),
                ("decode", lambda read=read, pairs=pairs: [read(*pair) for pair in pairs]),
            ):
                best[name][way] = min(best[name][way], seconds(action))
    return {
        name: {
            **{way: round(len(symbols) / taken / 1e6, 2) for way, taken in ways.items()},
            "bytes": sum(map(len, coded[name])),
        }
        for name, ways in best.items()
    }


def seconds(action: Callable[[], object]) -> float:
    """Of the processor."""
    start = time.process_time()
    action()
    return time.process_time() - start


def table(results: dict[str, Any]) -> str:
    """The results in Markdown."""
    lines = [
        "| tables | steps | coder | encode (Msymbols/s) | decode (Msymbols/s) | bytes | to the estimate |",
        "|--:|--:|---|--:|--:|--:|--:|",
    ]
    for case in results["cases"]:
        for name, row in case["coders"].items():
            excess = row["bytes"] / case["estimated_bytes"] - 1
            lines.append(
                f"| {case['tables']} | {case['steps']} | {name} | {row['encode']:.1f} | {row['decode']:.1f} | "
                f"{row['bytes']:,} | {100 * excess:+.3f}% |"
            )
    bits = ", ".join(f"{case['bits']:.3f} ({case['tables']} tables)" for case in results["cases"] if case["steps"] == 1)
    facts = ", ".join(f"{key} {value}" for key, value in results["machine"].items())
    told = (
        f"{SYMBOLS:,} symbols of {bits} bit each; processor time, best of {results['rounds']}, coders interleaved in "
        "one run; from tensors to bytes and back."
    )
    return "\n".join([*lines, "", told, "", f"Machine: {facts}."])


def main() -> None:
    """Measure, print the table and write ``results/entropy_coding.json`` and ``.md``."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--compressai", type=Path, help="folder with the unzipped wheel")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--results", type=Path, default=RESULTS / "entropy_coding.md")
    options = parser.parse_args()
    module = load_ans(options.compressai) if options.compressai else None
    cases = []
    for levels in LEVELS:
        symbols, indexes, tables = drawn(levels)
        coders = {"bitdial": ours(tables)}
        if module is not None:
            coders["compressai.ans"] = compressais(tables, module)
        estimated = estimate_bits(symbols, indexes, tables)
        for steps, shares in STEPS.items():
            cases.append({
                "tables": levels, "steps": steps, "bits": estimated / SYMBOLS, "estimated_bytes": estimated / 8,
                "coders": measure(coders, symbols, indexes, shares, options.rounds),
            })  # fmt: skip
    facts = describe(packages=("numpy", "constriction"))
    results = {"benchmark": "entropy_coding", "machine": facts, "rounds": options.rounds, "cases": cases}
    options.results.with_suffix(".json").write_text(json.dumps(results, indent=2) + "\n")
    options.results.write_text(table(results) + "\n")
    print(table(results))


if __name__ == "__main__":
    main()
