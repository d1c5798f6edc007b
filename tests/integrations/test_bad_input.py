"""What is refused, and what the sentence says."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import bitdial.integrations
from bitdial.errors import BitdialError
from bitdial.integrations.cycling import CyclesPrecision
from bitdial.recipes.cyclic import CyclicPrecisionConfig
from tests.integrations.tiny import CYCLE, SCALED, Loader, network


def python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_importing_the_room_imports_no_trainer() -> None:
    code = (
        "import bitdial.integrations as i, sys; dir(i); print({'lightning', 'transformers', 'torch'} & {*sys.modules})"
    )
    assert python(code) == "set()"


@pytest.mark.parametrize(
    ("package", "room", "name", "command"),
    [
        ("transformers", "huggingface", "CyclicPrecisionTrainerCallback", "pip install 'bitdial[text]'"),
        ("lightning.pytorch", "lightning", "CyclicPrecisionCallback", "pip install 'lightning>=2.6.4,<2.7'"),
    ],
)
def test_missing_package_is_one_sentence_with_the_command(
    package: str, room: str, name: str, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)  # as if it were not installed
    monkeypatch.delitem(sys.modules, f"bitdial.integrations.{room}", raising=False)
    with pytest.raises(BitdialError) as caught:
        getattr(bitdial.integrations, name)
    assert isinstance(caught.value, ImportError)
    assert str(caught.value) == f"{name} needs the package {package.split('.')[0]}; run: {command}"


def test_mistyped_name_suggests_the_right_one() -> None:
    with pytest.raises(AttributeError, match="did you mean 'CyclicPrecisionCallback'"):
        bitdial.integrations.CyclicPrecisonCallback  # noqa: B018


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"config": {"cycle_length": 6}}, "config must be a CyclicPrecisionConfig, got dict; write Cyclic"),
        ({"config": network()}, "config must be a CyclicPrecisionConfig, got Sequential"),
        ({"config": CyclicPrecisionConfig}, "config must be a CyclicPrecisionConfig, got ModelMetaclass"),
        ({"module": network()}, "module must be the name of a part of the model, got Sequential"),
        ({"target_bits": 0}, r"bits must be in \[1, 32\], got 0 for target_bits"),
        ({"target_bits": float("nan")}, r"bits must be in \[1, 32\], got nan for target_bits"),
        ({"target_bits": "8"}, r"bits must be a number in \[1, 32\], got '8' for target_bits"),
    ],
)
def test_arguments(arguments: dict[str, Any], sentence: str) -> None:
    with pytest.raises(BitdialError, match=sentence):
        CyclesPrecision(**arguments)


@pytest.mark.parametrize(
    ("model", "module", "sentence"),
    [
        (
            nn.Linear(2, 2),
            "",
            r"the model must have quantized layers, got none in Linear; call bitdial.quantize\(model\)",
        ),
        (network(), "encoder.1", 'module "encoder.1" must have quantized layers, got none in ReLU'),
        (network(), "encodr", "module must be a part of Sequential, got 'encodr'; did you mean 'encoder'"),
        (network(), "xyz", "got 'xyz'; parts with quantized layers are: encoder, encoder.0, encoder.2, head"),
        (nn.Sequential(), "xyz", "parts with quantized layers are: none"),
    ],
)
def test_models(model: nn.Module, module: str, sentence: str) -> None:
    with pytest.raises(BitdialError, match=sentence):
        CyclesPrecision(CYCLE, module=module)._start(model)


def test_gradient_bits_without_gradient_quantization() -> None:
    with pytest.raises(BitdialError, match="must stay at 32 bits, got 8"):
        CyclesPrecision(CyclicPrecisionConfig(gradient_bits=8))._start(network())


@pytest.mark.parametrize("name", ["bits", "mean_bits", "lr_scale"])
def test_asked_before_training(name: str) -> None:
    with pytest.raises(BitdialError, match="has no dial before training starts; pass it to the Trainer"):
        getattr(CyclesPrecision(CYCLE), name)


@pytest.mark.filterwarnings("ignore::UserWarning")
class TestInLightning:
    @staticmethod
    def fit(*callbacks: Any, net: nn.Module | None = None) -> None:
        from tests.integrations.test_lightning import Module, trainer

        trainer(*callbacks, steps=2).fit(Module(net or network()), Loader())

    def test_unquantized_model(self) -> None:
        with pytest.raises(BitdialError, match="the model must have quantized layers, got none in Module"):
            self.fit(bitdial.integrations.CyclicPrecisionCallback(CYCLE), net=nn.Linear(4, 3))

    def test_two_callbacks_of_one_part(self) -> None:
        both = [bitdial.integrations.CyclicPrecisionCallback(CYCLE) for _ in range(2)]
        with pytest.raises(RuntimeError, match="state_key"):  # Lightning's own check
            self.fit(*both)

    def test_two_callbacks_that_share_layers(self) -> None:
        both = [bitdial.integrations.CyclicPrecisionCallback(CYCLE, module=part) for part in ("net", "net.head")]
        with pytest.raises(BitdialError, match=r'different layers, got module="net\.head" and module="net"'):
            self.fit(*both)

    @pytest.mark.parametrize(
        "state",
        [
            {},
            {"iteration": 3},
            {"iteration": -1, "config": {}},
            {"iteration": "3", "config": {}},
            {"iteration": 3, "config": 7},
        ],
    )
    def test_foreign_state(self, state: dict[str, Any]) -> None:
        callback = bitdial.integrations.CyclicPrecisionCallback(CYCLE)
        with pytest.raises(BitdialError, match="must have an iteration of 0 or more and a config, got"):
            callback.load_state_dict(state)

    def test_changed_config_is_warned_of(self) -> None:
        state = bitdial.integrations.CyclicPrecisionCallback(CYCLE).state_dict()
        changed = bitdial.integrations.CyclicPrecisionCallback(CyclicPrecisionConfig(cycle_length=9))
        with pytest.warns(UserWarning, match=r"bit_width_pattern .* -> .*, cycle_length 6 -> 9\): from step 0 on"):
            changed.load_state_dict(state)


class TestInHuggingFace:
    @staticmethod
    def callback(*arguments: Any, **options: Any) -> Any:
        for package in ("transformers", "accelerate"):
            pytest.importorskip(package, reason=f"needs {package}: pip install 'bitdial[text]'")
        return bitdial.integrations.CyclicPrecisionTrainerCallback(*arguments, **options)

    def test_unquantized_model(self, tmp_path: Path) -> None:
        callback = self.callback(CYCLE)
        from tests.integrations.test_huggingface import Model, trainer

        model = Model()
        model.net = nn.Linear(4, 3)
        with pytest.raises(BitdialError, match="the model must have quantized layers, got none in Model"):
            trainer(tmp_path, callback, model=model).train()

    def test_two_callbacks_that_share_layers(self, tmp_path: Path) -> None:
        both = [self.callback(CYCLE), self.callback(SCALED, module="net.head")]
        from tests.integrations.test_huggingface import trainer

        with pytest.raises(BitdialError, match=r'different layers, got module="net.head" and the whole model'):
            trainer(tmp_path, *both).train()

    def test_the_class_instead_of_a_callback_takes_the_defaults(self, tmp_path: Path) -> None:
        kind = type(self.callback())
        from tests.integrations.test_huggingface import trainer

        coach = trainer(tmp_path, kind, max_steps=1)
        coach.train()
        assert coach.model.seen == [8]
        assert torch.isfinite(next(coach.model.parameters())).all()
