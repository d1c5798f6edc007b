"""A run goes on with the data that it began with: what has changed since is told, and refused unless it is accepted."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Subset, TensorDataset
from torchvision import transforms
from torchvision.datasets import ImageFolder

import bitdial
from bitdial.cli import main
from bitdial.data import Fingerprint, Split, load_dataset
from bitdial.errors import BitdialError
from bitdial.recipes.joint.options import JointConfig
from bitdial.recipes.joint.recipe import JOINT
from bitdial.recipes.same_data import settle
from bitdial.recipes.saved_model import read_saved
from bitdial.recipes.start import open_run
from bitdial.recipes.ternary.options import TernaryConfig
from bitdial.recipes.work import ImageWork, OwnWork, work_of
from bitdial.training import RunFolder

FLAG = "--accept_changed_data"
SHORT = {
    "joint": "--steps 2 --warmup_steps 0 --bitwidth_options 4 32",
    "cyclic": "--steps 4 --num_static_iterations 2 --warmup_steps 1 --cyclic.cycle_length 5 "
    "--model_options.bit_widths 4 8 --static.test_configurations '{4bit: 4}'",
    "ternary": "--warmup_epochs 0 --validation_fraction .2",
}
LESS = {"joint": "", "cyclic": "", "ternary": "--epochs 1"}
MORE = {"joint": "--seeds 2", "cyclic": "--seeds 2", "ternary": "--epochs 2"}


def noise(seed: int, size: int = 8) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8))


def write(folder: Path, count: int, seed: int) -> None:
    folder.mkdir(parents=True)
    for number in range(count):
        noise(seed + number).save(folder / f"{number:03}.png")


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Two classes of noise in folders, undivided."""
    root = tmp_path / "pictures"
    write(root / "cat", 20, 0)
    write(root / "dog", 25, 100)
    return root


@pytest.fixture
def divided(tmp_path: Path) -> Path:
    """The same, divided by the user."""
    root = tmp_path / "divided"
    for part, count, seed in (("train", 10, 0), ("val", 4, 500)):
        write(root / part / "cat", count, seed)
        write(root / part / "dog", count, seed + 100)
    return root


def work(path: Path, kind: str = "folder", **options: Any) -> ImageWork:
    config = TernaryConfig if options else JointConfig  # the one holds validation images out
    made = work_of(config(model="tiny_cnn", dataset=kind, data_path=path, batch_size=8, **options))
    assert isinstance(made, ImageWork)
    return made


def begun(made: Any, folder: Path) -> RunFolder:
    """A run's folder as it is left by the beginning of a run."""
    folder.mkdir(exist_ok=True)
    (folder / "config.yaml").write_text("recipe: joint\n")
    run = RunFolder.open(folder)
    settle(made, None, accept=False)[1].write(run.data)
    return run


def names(made: ImageWork) -> dict[str, list[str]]:
    return {part: list(each) for part, each in made.identify().parts.items() if isinstance(each, dict)}


def train(recipe: str, words: str) -> int:
    import shlex

    return main(["train", recipe, *shlex.split(words)])


@pytest.mark.parametrize("recipe", SHORT)
def test_every_recipe_refuses_changed_data_and_goes_on_with_its_own_division(
    recipe: str, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    begin = f"--model tiny_cnn --batch_size 16 --dataset folder --data_path {pictures} {SHORT[recipe]}"
    run, whole = tmp_path / "run", tmp_path / "whole"
    assert train(recipe, f"{begin} {LESS[recipe]} --run_dir {run}") == 0
    assert train(recipe, f"{begin} {MORE[recipe]} --run_dir {whole}") == 0
    noise(999).save(pictures / "cat" / "0000.png")  # first of all, so that every number moves
    capsys.readouterr()
    resume = f"--resume {run} {MORE[recipe]}"
    assert train(recipe, resume) == 2
    assert f"{run} began with, got other data: 1 file added (cat/0000.png)" in capsys.readouterr().err
    if recipe != "ternary":
        assert main(["evaluate", str(run), "--bits", "4"]) == 2
        assert f"1 file added (cat/0000.png). Put it back as it was, or give {FLAG}" in capsys.readouterr().err
        assert main(["evaluate", str(run), "--bits", "4", FLAG]) == 0
        assert "what came later is left out" in capsys.readouterr().out.replace("\n", " ")
    assert train(recipe, f"{resume} {FLAG}") == 0
    one, other = (json.loads((folder / "results.json").read_text()) for folder in (run, whole))
    assert one["notes"][-1].startswith("The data has changed since the run began (1 file added (cat/0000.png))")
    assert one["notes"][:-1] == other["notes"]
    assert "The data has changed since the run began" in (run / "report.html").read_text()
    if recipe != "ternary":  # of which a longer run has another learning rate
        assert scores(one) == scores(other)
    assert train(recipe, resume) == 0  # accepted once


def scores(results: dict[str, Any]) -> list[Any]:
    return [arm["scores"] for arm in results.get("networks", results.get("arms"))]


def test_an_added_image_changes_no_bit_of_what_follows(pictures: Path, tmp_path: Path) -> None:
    made = work(pictures, validation_fraction=0.2)
    run = begun(made, tmp_path / "run")
    for number in range(3):
        noise(900 + number).save(pictures / "cat" / f"0{number}.png")
    today = work(pictures, validation_fraction=0.2)
    assert names(today)["test"] != names(made)["test"]  # so that the rest of this test says something
    with pytest.raises(BitdialError, match=r"3 files added \(cat/00.png, cat/01.png, cat/02.png\)"):
        settle(today, run, accept=False)
    kept, data = settle(today, run, accept=True)
    assert names(kept) == names(made)
    assert sorted(data.left_out) == ["cat/00.png", "cat/01.png", "cat/02.png"]
    assert (kept.dataset.mean, kept.dataset.std) == (made.dataset.mean, made.dataset.std)
    for part in ("train", "test", "validation"):
        for (x, y), (x_before, y_before) in zip(
            getattr(kept.loaders(3), part), getattr(made.loaders(3), part), strict=True
        ):
            assert torch.equal(x, x_before)
            assert torch.equal(y, y_before)
    data.write(run.data)
    again, data = settle(today, run, accept=False)  # accepted once
    assert names(again) == names(made)
    assert len(data.changes) == 1


def test_unchanged_data_is_not_touched(pictures: Path, tmp_path: Path) -> None:
    made = work(pictures)
    run = begun(made, tmp_path / "run")
    moved = pictures.rename(tmp_path / "elsewhere")
    today = work(moved)
    kept, data = settle(today, run, accept=False)
    assert kept is today
    assert data == made.identify()


def _remove(root: Path) -> None:
    (root / "dog" / "003.png").unlink()


def _change(root: Path) -> None:
    noise(77).save(root / "dog" / "003.png")


def _change_without_a_trace_in_the_size(root: Path) -> None:
    content = bytearray((root / "dog" / "003.png").read_bytes())
    content[-1] ^= 1
    (root / "dog" / "003.png").write_bytes(content)


def _rename(root: Path) -> None:
    (root / "cat").rename(root / "zebra")


def _renumber(root: Path) -> None:
    for number in reversed(range(20)):
        (root / "cat" / f"{number:03}.png").rename(root / "cat" / f"{number + 1:03}.png")


def _new_class(root: Path) -> None:
    write(root / "ant", 5, 700)


def _lose_class(root: Path) -> None:
    write(root / "emu", 5, 700)
    shutil.rmtree(root / "dog")


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (_remove, r"1 file removed \(dog/003.png\)"),
        (_change, r"1 file changed \(dog/003.png\)"),
        (_change_without_a_trace_in_the_size, r"1 file changed \(dog/003.png\)"),
        (_rename, r"the class 'cat' is called 'zebra'\. Put"),
        (_renumber, r"1 file added \(cat/020.png\); 1 file removed \(cat/000.png\); 19 files changed"),
        (_new_class, r"the class 'ant' is new; 5 files added \(ant/000.png, ant/001.png, ant/002.png, ...\)"),
    ],
)
def test_changes_of_folders(pictures: Path, tmp_path: Path, spoil: Callable[[Path], None], told: str) -> None:
    made = work(pictures)
    run = begun(made, tmp_path / "run")
    spoil(pictures)
    today = work(pictures)
    with pytest.raises(BitdialError, match=told):
        settle(today, run, accept=False)
    kept, _ = settle(today, run, accept=True)
    before = names(made)
    renamed = {part: [name.replace("zebra/", "cat/") for name in each] for part, each in names(kept).items()}
    for part, each in renamed.items():
        assert each == [name for name in before[part] if name in each]
    assert (kept.dataset.num_classes, kept.dataset.mean) == (2, made.dataset.mean)
    content = {part: {mark for _, mark in each.values()} for part, each in made.identify().parts.items()}  # type: ignore[union-attr]
    now = {part: {mark for _, mark in each.values()} for part, each in kept.identify().parts.items()}  # type: ignore[union-attr]
    assert not content["train"] & now["test"]
    assert not content["test"] & now["train"]
    numbers = {name.split("/")[0]: number for name, (number, _) in kept.identify().examples().items()}
    expected = {"cat": 0, "zebra": 0, "dog": 1}
    assert numbers == {name: expected[name] for name in numbers}


def test_a_single_class_is_not_enough_to_go_on(pictures: Path, tmp_path: Path) -> None:
    run = begun(work(pictures), tmp_path / "run")
    _lose_class(pictures)
    today = work(pictures)
    told = "the class 'dog' is gone; the class 'emu' is new; 5 files added .*; 25 files removed"
    with pytest.raises(BitdialError, match=told):
        settle(today, run, accept=False)
    with pytest.raises(BitdialError, match="at least two classes in folder to train on, got only those of 'cat'"):
        settle(today, run, accept=True)


@pytest.mark.parametrize("spoil", [_remove, _new_class, lambda root: shutil.rmtree(root / "cow"), _rename])
def test_what_was_accepted_is_not_asked_again(pictures: Path, tmp_path: Path, spoil: Callable[[Path], None]) -> None:
    write(pictures / "cow", 5, 900)
    run = begun(work(pictures), tmp_path / "run")
    spoil(pictures)
    accepted = settle(work(pictures), run, accept=True)[1]
    accepted.write(run.data)
    assert settle(work(pictures), run, accept=False)[1] == accepted


def test_a_class_that_is_lost_is_told_of(pictures: Path, tmp_path: Path) -> None:
    write(pictures / "cow", 5, 900)
    run = begun(work(pictures), tmp_path / "run")
    shutil.rmtree(pictures / "cow")
    kept, data = settle(work(pictures), run, accept=True)
    assert data.told()[:2] == [f"Classes without an image to {what} on: cow (1 of 3)." for what in ("train", "test")]
    assert kept.dataset.num_classes == 3


def test_images_of_another_size_are_refused_before_anything_is_written(pictures: Path, tmp_path: Path) -> None:
    made = work(pictures)
    run = begun(made, tmp_path / "run")
    for name in made.identify().examples():
        noise(3, size=9).save(pictures / name)
    today = work(pictures)
    with pytest.raises(BitdialError, match="images of 3x9x9 instead of 3x8x8; 45 files changed"):
        settle(today, run, accept=False)
    with pytest.raises(BitdialError, match="expected images of 3x8x8, which the network was built for, got 3x9x9"):
        settle(today, run, accept=True)


def test_folders_that_the_user_divided(divided: Path, tmp_path: Path) -> None:
    made = work(divided)
    run = begun(made, tmp_path / "run")
    shutil.copy(divided / "train" / "cat" / "001.png", divided / "val" / "cat" / "new.png")
    for part in ("train", "val"):
        (divided / part / "cat").rename(divided / part / "zebra")
    with pytest.raises(BitdialError, match=r"'cat' is called 'zebra'; 1 file added \(val/cat/new.png\)"):
        settle(work(divided), run, accept=False)
    kept, data = settle(work(divided), run, accept=True)
    assert data.left_out == ["val/zebra/new.png"]
    assert data.class_names == ["zebra", "dog"]
    assert kept.dataset.test.labels.tolist() == made.dataset.test.labels.tolist()


def test_a_folder_on_disk_is_known_by_names_and_sizes_alone(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = JointConfig(model="tiny_cnn", dataset="folder", data_path=pictures)
    run = begun(work_of(options, data=load_dataset("folder", pictures, memory_limit=0)), tmp_path / "run")
    (pictures / "dog" / "003.png").write_bytes((pictures / "dog" / "003.png").read_bytes() + b"x")
    noise(900).save(pictures / "cat" / "00.png")

    def today() -> Any:
        with monkeypatch.context() as patch:
            patch.setattr(Path, "read_bytes", None)
            return work_of(options, data=load_dataset("folder", pictures, memory_limit=0))

    with pytest.raises(BitdialError, match=r"1 file added .*1 file changed \(dog/003.png\)"):
        settle(today(), run, accept=False)
    kept, _ = settle(today(), run, accept=True)
    assert kept.dataset.train.files == tuple(
        (name, str((pictures / name).stat().st_size)) for name, _ in kept.dataset.train.files
    )
    assert len(next(iter(kept.loaders(0).test))[1]) == 9


def arrays(count: int = 60) -> tuple[np.ndarray, np.ndarray]:
    x = np.random.default_rng(0).integers(0, 256, (count, 1, 8, 8), dtype=np.uint8)
    return x, np.arange(count) % 3


def test_arrays_are_known_by_content(tmp_path: Path) -> None:
    path = tmp_path / "d.npz"
    x, y = arrays()
    np.savez(path, x=x[:50], y=y[:50])
    made = work(path, "npz")
    run = begun(made, tmp_path / "run")
    mixed = np.random.default_rng(1).permutation(60)
    x_now, y_now = x[mixed], y[mixed]
    x_now[mixed == 7] ^= 1  # another image
    y_now[mixed == 8] = 0  # it was 2
    np.savez(path, x=x_now, y=y_now)
    with pytest.raises(BitdialError, match=r"11 examples added; 1 example removed; 1 example labelled anew"):
        settle(work(path, "npz"), run, accept=False)
    kept, data = settle(work(path, "npz"), run, accept=True)
    before = names(made)
    assert names(kept) == {part: [n for n in each if n in data.examples()] for part, each in before.items()}
    assert sum(map(len, names(kept).values())) == 49
    assert len(data.left_out) == 11


def test_equal_images_are_told_apart_by_their_number(tmp_path: Path) -> None:
    x, y = arrays(30)
    np.savez(tmp_path / "d.npz", x=np.concatenate([x, x]), y=np.concatenate([y, y]))
    made = work(tmp_path / "d.npz", "npz")
    run = begun(made, tmp_path / "run")
    assert len(made.identify().examples()) == 60
    assert settle(work(tmp_path / "d.npz", "npz"), run, accept=False)[1] == made.identify()


@pytest.mark.parametrize("name", ["digits", "fashion-mnist"])
def test_published_sets(name: str, tmp_path: Path) -> None:
    from bitdial.data.published import DEBIAN_FASHION_MNIST

    if name == "fashion-mnist" and not DEBIAN_FASHION_MNIST.is_dir():
        pytest.skip("package dataset-fashion-mnist is not installed")
    options = JointConfig(model="tiny_cnn", dataset=name)
    made = work_of(options)
    run = begun(made, tmp_path / "run")
    again = work_of(options)
    assert settle(again, run, accept=False)[0] is again
    stored = json.loads(run.data.read_text())
    first = next(iter(stored["parts"]["test"]))
    del stored["parts"]["test"][first]  # as if it had been another set
    Fingerprint.model_validate(stored).write(run.data)
    with pytest.raises(BitdialError, match="1 example added"):
        settle(again, run, accept=False)


class Numbers(Dataset[tuple[Tensor, int]]):
    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return torch.full((8,), float(index)), index % 2


def pair(count: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    return torch.randn(count, 8, generator=torch.Generator().manual_seed(seed)), torch.arange(count) % 2


X, Y = pair(10)


@pytest.mark.parametrize(
    ("before", "now", "told"),
    [
        ((X[:9], Y[:9]), (X, Y), r"1 example added"),
        (pair(40), pair(40, seed=1), r"40 examples added; 40 examples removed"),
        ((X, Y), (X, 1 - Y), r"10 examples changed"),
        (TensorDataset(X, Y), TensorDataset(X[:9], Y[:9]), r"1 example removed"),
        (DataLoader(TensorDataset(X, Y), 5), DataLoader(TensorDataset(X, 1 - Y), 5), r"10 examples changed"),
        (Numbers(12), Numbers(13), r"a part train of length 13 instead of length 12"),
        (Subset(Numbers(12), [0, 1, 2]), Subset(Numbers(12), [1, 2, 3]), r"1 example added; 1 example removed"),
        (Subset(TensorDataset(X, Y), [0, 1]), Subset(TensorDataset(X, Y), [2, 1]), r"1 example added; 1 example rem"),
    ],
)
def test_data_of_a_script(before: Any, now: Any, told: str, tmp_path: Path) -> None:
    def made(train: Any) -> OwnWork:
        brought = work_of(JointConfig(batch_size=4), nn.Linear(8, 2), (train, pair(8, seed=9)))
        assert isinstance(brought, OwnWork)
        return brought

    run = begun(made(before), tmp_path / "run")
    settle(made(before), run, accept=False)
    with pytest.raises(BitdialError, match=told):
        settle(made(now), run, accept=False)
    _, data = settle(made(now), run, accept=True)
    assert "it is used as it is given now" in data.changes[0]
    data.write(run.data)
    settle(made(now), run, accept=False)


def test_the_type_of_whole_labels_is_no_change(tmp_path: Path) -> None:
    run = begun(work_of(JointConfig(), nn.Linear(8, 2), ((X, Y), (X, Y))), tmp_path / "run")
    settle(work_of(JointConfig(), nn.Linear(8, 2), ((X, Y.to(torch.uint8)), (X, Y.int()))), run, accept=False)


def test_folders_of_torchvision(pictures: Path, tmp_path: Path) -> None:
    def made() -> Any:
        whole = ImageFolder(pictures, transforms.ToTensor())
        return work_of(JointConfig(), nn.Linear(8, 2), (Subset(whole, range(30)), Subset(whole, range(30, len(whole)))))

    run = begun(made(), tmp_path / "run")
    settle(made(), run, accept=False)
    noise(900).save(pictures / "cat" / "0000.png")
    told = r"2 files added \(train:cat/0000.png, test:dog/009.png\); 1 file removed \(train:dog/009.png\)"
    with pytest.raises(BitdialError, match=told):
        settle(made(), run, accept=False)


def test_a_script_that_moves_examples_from_test_to_training(tmp_path: Path) -> None:
    run = begun(work_of(JointConfig(), nn.Linear(8, 2), ((X[:6], Y[:6]), (X[6:], Y[6:]))), tmp_path / "run")
    with pytest.raises(BitdialError, match="1 example added; 1 example removed"):
        settle(work_of(JointConfig(), nn.Linear(8, 2), ((X[:7], Y[:7]), (X[7:], Y[7:]))), run, accept=False)


def test_batches_that_nobody_can_count_are_said_to_be_unchecked(tmp_path: Path) -> None:
    class Batches:
        def __iter__(self) -> Any:
            yield X, Y

    made = work_of(JointConfig(), nn.Linear(8, 2), (Batches(), pair(8)))
    _, data = settle(made, None, accept=False)
    assert data.told() == ["The data of the part train comes from the script: whether it changes cannot be checked."]


def test_tensors_in_python(tmp_path: Path) -> None:
    x, y = torch.randint(0, 256, (40, 1, 8, 8), dtype=torch.uint8), torch.arange(40) % 2
    how: dict[str, Any] = {"model": "tiny_cnn", "steps": 2, "warmup_steps": 0, "bitwidth_options": [4, 32]}
    bitdial.run("joint", data=((x[:30], y[:30]), (x[30:], y[30:])), run_dir=tmp_path / "run", **how)
    changed = ((x[:31], y[:31]), (x[31:], y[31:]))
    more: dict[str, Any] = {"resume": tmp_path / "run", "seeds": 2}
    # The same examples, divided otherwise: the run keeps to its own division.
    bitdial.run("joint", data=changed, **more)
    stored = Fingerprint.read(tmp_path / "run" / "data.json")
    assert [len(part) for part in stored.parts.values() if isinstance(part, dict)] == [26, 4, 10]
    with pytest.raises(BitdialError, match="1 example removed"):
        bitdial.run("joint", data=((x[1:31], y[1:31]), (x[31:], y[31:])), **{**more, "seeds": 3})
    results = bitdial.run("joint", data=((x[1:31], y[1:31]), (x[31:], y[31:])), accept_changed_data=True,
                          **{**more, "seeds": 3})  # fmt: skip
    assert "1 example removed" in results.notes[-1]


def test_model_file_and_run_say_which_data_they_are_of(pictures: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    begin = f"--model tiny_cnn --dataset folder --data_path {pictures} {SHORT['joint']}"
    assert train("joint", f"{begin} --run_dir {run}") == 0
    described = read_saved(run / "models" / "joint-seed0.pt")[0]
    assert described.examples == Fingerprint.read(run / "data.json").short()
    assert [each["examples"] for each in described.examples.values()] == [32, 4, 9]
    _rename(pictures)
    bitdial.load(run, arm="joint")  # measures nothing
    # As a version wrote it that kept no fingerprints.
    (run / "data.json").unlink()
    assert main(["evaluate", str(run), "--bits", "4"]) == 0
    assert train("joint", f"--resume {run} --seeds 2") == 0
    told = "does not say which data it began with: whether that has changed cannot be checked."
    assert told in json.loads((run / "results.json").read_text())["notes"][-1]
    opened = open_run(JOINT, RunFolder.open(run))
    assert opened.data is not None
    assert told in opened.data.told()[-1]


def test_a_damaged_record_is_a_sentence(pictures: Path, tmp_path: Path) -> None:
    run = begun(work(pictures), tmp_path / "run")
    run.data.write_text('{"parts":')
    with pytest.raises(BitdialError, match=r"data\.json must say which data .* remove it to go on unchecked"):
        settle(work(pictures), run, accept=False)


@pytest.mark.parametrize(
    "change",
    [
        {"mean": [], "std": []},
        {"mean": [0.5]},
        {"std": [0.0, 0.0, 0.0]},
        {"class_names": ["dog", "cat"]},
        {"parts": {}},
        {"notes": ["all is well"]},
        {"crc32": 0},
    ],
)
def test_an_edited_record_is_a_sentence(pictures: Path, tmp_path: Path, change: dict[str, Any]) -> None:
    run = begun(work(pictures), tmp_path / "run")
    run.data.write_text(json.dumps(json.loads(run.data.read_text()) | change))
    for accept in (False, True):
        with pytest.raises(BitdialError, match="got a file that was edited or damaged; put the file back"):
            settle(work(pictures), run, accept=accept)


def test_a_record_of_a_later_version_is_a_sentence(pictures: Path, tmp_path: Path) -> None:
    run = begun(work(pictures), tmp_path / "run")
    run.data.write_text(json.dumps(json.loads(run.data.read_text()) | {"schema_version": 2, "new": 3}))
    with pytest.raises(BitdialError, match="must have schema_version 1, got 2; go on with the version of bitdial"):
        settle(work(pictures), run, accept=True)


def test_names_that_are_not_utf_8(pictures: Path, tmp_path: Path) -> None:
    (pictures / "cat" / "003.png").rename(Path(os.fsdecode(os.fsencode(pictures / "cat") + b"/\xff.png")))
    brought = work_of(JointConfig(), nn.Linear(8, 2), (ImageFolder(pictures), pair(8)))
    begun(brought, tmp_path / "brought")
    made = work(pictures)
    run = begun(made, tmp_path / "run")
    assert r"cat/\xff.png" in made.identify().examples()
    assert Fingerprint.read(run.data).parts == made.identify().parts
    assert settle(work(pictures), run, accept=False)[1] == made.identify()


def test_what_is_left_must_be_enough(pictures: Path, tmp_path: Path) -> None:
    made = work(pictures)
    run = begun(made, tmp_path / "run")
    for name in names(made)["test"]:
        (pictures / name).unlink()
    with pytest.raises(BitdialError, match="nothing is left of the 9 examples of the part 'test'"):
        settle(work(pictures), run, accept=True)
    x, y = arrays()
    np.savez(tmp_path / "d.npz", x=x, y=y)
    run = begun(work(tmp_path / "d.npz", "npz"), tmp_path / "run2")
    y[4] = 3
    np.savez(tmp_path / "d.npz", x=x, y=y)
    with pytest.raises(BitdialError, match=r"1 examples of the part .* does not know \(it knows 0, 1, 2\)"):
        settle(work(tmp_path / "d.npz", "npz"), run, accept=True)


def test_a_state_from_elsewhere_that_saw_other_data_is_told_of(pictures: Path, tmp_path: Path) -> None:
    begin = f"--model tiny_cnn --batch_size 16 --dataset folder --data_path {pictures} {SHORT['ternary']}"
    first, second, third = (tmp_path / name for name in ("first", "second", "third"))
    assert train("ternary", f"{begin} --epochs 1 --run_dir {first}") == 0
    checkpoint = shutil.copy(next((first / "checkpoints").glob("*.pt")), tmp_path / "state.pt")
    assert train("ternary", f"{begin} --epochs 2 --resume {checkpoint} --run_dir {second}") == 0
    noise(900).save(pictures / "cat" / "0000.png")
    assert train("ternary", f"{begin} --epochs 2 --resume {checkpoint} --run_dir {third}") == 0
    told = [json.loads((run / "results.json").read_text())["notes"][-1] for run in (second, third)]
    assert ["trained on other data" in each for each in told] == [False, True]


def test_a_teacher_knows_no_test_image(pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    begin = f"--model tiny_cnn --batch_size 16 --dataset folder --data_path {pictures} {SHORT['ternary']} --epochs 1"
    teacher, student = tmp_path / "teacher", f"{begin} --teacher {tmp_path / 'teacher'}"
    assert train("ternary", f"{begin} --quantizer none --run_dir {teacher}") == 0
    assert train("ternary", f"{student} --run_dir {tmp_path / 'a'}") == 0
    noise(900).save(pictures / "cat" / "0000.png")
    assert train("ternary", f"{student} --run_dir {tmp_path / 'b'}") == 2
    assert "of them as its data was divided otherwise" in capsys.readouterr().err
    (pictures / "cat" / "0000.png").unlink()
    _rename(pictures)
    assert train("ternary", f"{student} --run_dir {tmp_path / 'b'}") == 2
    assert "must number the classes alike, got cat, dog and dog, zebra" in capsys.readouterr().err


def test_one_class_is_refused_by_name(pictures: Path, tmp_path: Path) -> None:
    shutil.rmtree(pictures / "dog")
    with pytest.raises(BitdialError, match=r"at least two classes in folder .* got only those of 'cat'"):
        work(pictures)
    x = torch.zeros(20, 1, 8, 8)
    with pytest.raises(BitdialError, match="at least two classes in tensors of a script"):
        work_of(JointConfig(model="tiny_cnn"), data=((x, torch.zeros(20)), (x, torch.zeros(20))))


def test_a_subset_keeps_the_names_of_its_files(pictures: Path) -> None:
    split = load_dataset("folder", pictures).train
    assert isinstance(split, Split)
    assert split.files is not None
    assert split.subset(torch.tensor([3, 1])).files == (split.files[3], split.files[1])
