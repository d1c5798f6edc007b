"""What is logged after each epoch, read back with TensorBoard's own reader."""

from __future__ import annotations

import csv
import shlex
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from bitdial.cli import main
from tests.recipes.ternary.tiny import stopped_before

SMALL = "--model mlp --batch_size 256 --warmup_steps 2 --bitwidth_options 2 4 8 --log_interval 3 --no_sensitivity"
TAGS = [
    f"{group}/{part}_{name}"
    for group, name in (("Bitwidth", "bitwidth"), ("Validation", "acc"), ("BitOps", "relative_bitops"))
    for part in ("mean", "std", "min", "max")
]
FIGURE = "Bitwidth_Analysis/bitwidth_vs_accuracy"


def train(flags: str) -> int:
    return main(["train", "joint", *shlex.split(f"{SMALL} {flags}")])


def events(run: Path) -> EventAccumulator:
    found = EventAccumulator(str(run), size_guidance={"scalars": 0, "images": 0})
    found.Reload()
    return found


def rows(run: Path) -> list[dict[str, str]]:
    with (run / "metrics.csv").open() as file:
        return [row for row in csv.DictReader(file) if row["Validation/mean_acc"]]


@pytest.mark.parametrize(
    ("length", "validated", "drawn"),
    [
        ("--epochs 7", [5, 10, 15, 20, 25, 30, 35], [25, 35]),
        ("--steps 12", [5, 10, 12], [12]),
        pytest.param("--steps 3", [3], [3], marks=pytest.mark.slow),
        pytest.param("--epochs 5", [5, 10, 15, 20, 25], [25], marks=pytest.mark.slow),
    ],
)
def test_scalars_and_columns_of_every_epoch_and_a_figure_every_fifth_and_at_the_end(
    length: str, validated: list[int], drawn: list[int], tmp_path: Path
) -> None:
    assert train(f"{length} --run_dir {tmp_path / 'run'}") == 0
    found, logged = events(tmp_path / "run"), rows(tmp_path / "run")
    assert [int(row["step"]) for row in logged] == validated
    for tag in TAGS:
        scalars = found.Scalars(tag)
        assert [(each.step, each.value) for each in scalars] == [
            (int(row["step"]), pytest.approx(float(row[tag]), rel=1e-6)) for row in logged
        ]
    assert [each.step for each in found.Images(FIGURE)] == drawn
    assert all(each.width > 300 and len(each.encoded_image_string) > 5000 for each in found.Images(FIGURE))
    for row in logged:
        assert 2 <= float(row["Bitwidth/min_bitwidth"]) <= float(row["Bitwidth/mean_bitwidth"]) <= 8
        assert float(row["Validation/mean_acc"]) == float(row["val_accuracy"])
        assert 0 < float(row["BitOps/mean_relative_bitops"]) < 1


def test_after_a_resume_every_epoch_is_there_once(tmp_path: Path) -> None:
    with stopped_before(13):
        assert train(f"--epochs 6 --run_dir {tmp_path / 'run'}") == 130
    assert main(["train", "joint", "--resume", str(tmp_path / "run")]) == 0
    found = events(tmp_path / "run")
    assert [each.step for each in found.Scalars("Validation/mean_acc")] == [5, 10, 15, 20, 25, 30]
    assert [each.step for each in found.Images(FIGURE)] == [25, 30]


def test_each_seed_has_events_of_its_own(tmp_path: Path) -> None:
    assert train(f"--steps 5 --seeds 2 --run_dir {tmp_path / 'run'}") == 0
    values = [
        [each.value for each in events(tmp_path / "run" / "tensorboard" / f"joint-{seed}").Scalars(TAGS[0])]
        for seed in (0, 1)
    ]
    assert [len(each) for each in values] == [1, 1]
    assert values[0] != values[1]


@pytest.mark.parametrize(
    ("flags", "count", "bits"),
    [
        ("--validation_function fixed_bitwidth --validation_bits 4", 1, 4),
        ("--validation_function fixed_bitwidth", 1, 2),
        ("--validation_function simple --training_method vanilla_single_precision_training", 1, 8),
        ("--num_bitwidths 7 --validation_batch_norm average", 7, None),
    ],
)
def test_validation_functions(flags: str, count: int, bits: float | None, tmp_path: Path) -> None:
    from bitdial.recipes.joint.results import JointResults

    assert train(f"{flags} --steps 5 --run_dir {tmp_path / 'run'}") == 0
    network = JointResults.load(tmp_path / "run" / "results.json").networks[0]
    assert network.validation is not None
    assert len(network.validation.configurations) == count
    assert network.validation.reestimated == ("fixed" in flags)
    if bits is not None:
        assert network.validation.bits.mean == bits


@pytest.mark.parametrize(
    ("flags", "said"), [("", "10% of the training data"), ("--validation_fraction 0", "test data")]
)
def test_the_report_says_what_validation_looked_at_and_took(flags: str, said: str, tmp_path: Path) -> None:
    assert train(f"{flags} --steps 5 --run_dir {tmp_path / 'run'}") == 0
    page = " ".join((tmp_path / "run" / "report.html").read_text().split())
    assert f"looks at {'the ' if 'test' in said else ''}{said}" in page
    assert "% of training." in page
