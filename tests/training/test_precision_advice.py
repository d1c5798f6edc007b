"""Advice on mixed precision: what the rules of thumb decide, which settings follow, and what is refused."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from torch import nn

from bitdial.errors import BitdialError
from bitdial.training import preserved_random_state
from bitdial.training.mixed_precision import (
    MixedPrecisionConfig,
    advised_settings,
    create_mixed_precision_config,
    mixed_precision_context,
    optimize_mixed_precision_settings,
    should_use_mixed_precision,
)
from bitdial.training.mixed_precision.advice import MACS_PER_VALUE, share_of_products

PLENTY = 64.0
LITTLE = 8.0


def linear_of(parameters: int) -> nn.Module:
    """A layer of about so many weights that takes no memory."""
    return nn.Linear(1000, parameters // 1000, bias=False, device="meta")


def device_with(monkeypatch: pytest.MonkeyPatch, *, bfloat16: bool, float16: bool) -> None:
    """Pretend that the device has these formats."""
    monkeypatch.setattr("bitdial.training.step.formats.good_at_bfloat16", lambda _: bfloat16)
    monkeypatch.setattr("bitdial.training.step.formats.good_at_float16", lambda _: float16)


@pytest.fixture
def able(monkeypatch: pytest.MonkeyPatch) -> None:
    """A device with bfloat16."""
    device_with(monkeypatch, bfloat16=True, float16=False)


class Norms(nn.Module):
    """Most weights of it are no products: a norm over large inputs, then a small layer."""

    def __init__(self, size: int = 1_000_000) -> None:
        super().__init__()
        self.norm = nn.LayerNorm((2, size // 2), device="meta")
        self.layer = nn.Linear(100, 10, device="meta")


class TestDecision:
    @pytest.mark.parametrize(
        ("parameters", "batch", "memory", "points"),
        [
            (5_000_000, 32, LITTLE, 5),
            (5_000_000, 32, PLENTY, 4),
            (5_000_000, 5, PLENTY, 3),
            (5_000_000, 2, PLENTY, 2),
            (1_000_000, 5, PLENTY, 1),  # more than a million, not one
            (500_000, 8, PLENTY, 2),
            (500_000, 7, PLENTY, 1),
            (500_000, 7, 15.9, 2),
            (500_000, 7, 16.0, 1),
            (500_000, 4, PLENTY, 1),
            (500_000, 3, PLENTY, 0),
            (100_000, 8, PLENTY, 2),  # fewer than 100 thousand, not that many
            (99_000, 8, LITTLE, 0),
            (10_000, 1, PLENTY, -3),
        ],
    )
    def test_table_of_points(self, able: None, parameters: int, batch: int, memory: float, points: int) -> None:
        decision = should_use_mixed_precision(linear_of(parameters), batch, memory)
        assert decision.points == points
        assert bool(decision) is decision.use is (points >= 2)

    def test_table_in_the_documentation_is_that_of_the_code(self) -> None:
        text = should_use_mixed_precision.__doc__ or ""
        for row in ("1 million parameters | +2", "thousand parameters | -3", "8 or more | +1", "below 4 | -1"):
            assert row in text
        assert "less than 16 GB of memory | +1" in text

    def test_reasons_are_sentences_that_name_what_was_found(self, able: None) -> None:
        decision = should_use_mixed_precision(linear_of(5_000_000), 2, LITTLE)
        reasons = [*decision.reasons_for, *decision.reasons_against]
        assert all(not reason[0].islower() and reason.endswith(".") for reason in reasons)
        assert "5.0 million parameters" in reasons[0]
        assert "8.0 GB" in reasons[1]
        assert decision.reasons_against == ("A batch of 2 leaves the device waiting (below 4).",)

    def test_a_small_network_is_counted_in_parameters(self, able: None) -> None:
        scale = advised_settings(nn.Linear(10, 10), 64, PLENTY)[1]
        assert scale.reason.startswith("110 parameters, below 10 million")

    def test_text_says_what_and_why(self, able: None) -> None:
        yes = str(should_use_mixed_precision(linear_of(5_000_000), 64, PLENTY))
        assert yes.startswith("Use mixed precision (bfloat16).\nFor: It has 5.0 million parameters")
        assert "Against" not in yes
        no = str(should_use_mixed_precision(linear_of(10_000), 1, PLENTY))
        assert no.startswith("Stay in float32.\n")
        assert "Against: It has only 10,000 parameters" in no

    def test_a_device_without_narrow_formats_gains_nothing(self, monkeypatch: pytest.MonkeyPatch) -> None:
        device_with(monkeypatch, bfloat16=False, float16=False)
        decision = should_use_mixed_precision(linear_of(500_000_000), 512, LITTLE)
        assert decision.points == 5
        assert not decision
        assert "neither bfloat16 nor float16" in decision.reasons_against[0]

    @pytest.mark.parametrize(
        ("bfloat16", "float16", "name"),
        [(True, True, "bfloat16"), (True, False, "bfloat16"), (False, True, "float16")],
    )
    def test_it_names_the_format_of_the_device(
        self, monkeypatch: pytest.MonkeyPatch, bfloat16: bool, float16: bool, name: str
    ) -> None:
        device_with(monkeypatch, bfloat16=bfloat16, float16=float16)
        decision = should_use_mixed_precision(linear_of(5_000_000), 64)
        assert decision
        assert f"({name})" in str(decision)

    def test_mostly_other_work_speaks_against(self, able: None) -> None:
        decision = should_use_mixed_precision(Norms(), 64, PLENTY)
        assert decision.product_share < 0.01
        assert decision.points == 2
        assert decision.reasons_against == (
            "Only 0% of its weights are convolutions and matrix products; the rest does not become faster.",
        )

    def test_memory_is_asked_for_when_it_is_not_given(self, able: None) -> None:
        decision = should_use_mixed_precision(linear_of(5_000_000), 64, device="cpu")
        total = psutil.virtual_memory().total / 2**30
        assert 0 < decision.available_memory <= total

    def test_memory_of_a_gpu_is_what_is_free_on_it(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (3 * 2**30, 80 * 2**30))
        monkeypatch.setattr("bitdial.training.mixed_precision.advice.device_of", lambda *_: torch.device("cuda"))
        assert should_use_mixed_precision(linear_of(5_000_000), 64).available_memory == 3.0

    def test_it_leaves_the_model_and_the_random_state_as_they_are(self, able: None) -> None:
        model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout())
        before, state = copy.deepcopy(model.state_dict()), torch.get_rng_state()
        should_use_mixed_precision(model, 8, example_input=torch.zeros(2, 3, 8, 8))
        assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
        assert torch.equal(torch.get_rng_state(), state)
        assert all(module.training and not module._forward_hooks for module in model.modules())
        assert all(parameter.grad is None and parameter.requires_grad for parameter in model.parameters())


class TestShareOfProducts:
    def test_by_weights(self) -> None:
        model = nn.Sequential(nn.Linear(10, 10, bias=False), nn.BatchNorm1d(10))
        assert share_of_products(model) == pytest.approx(100 / 120)

    def test_look_up_tables_are_no_work(self) -> None:
        model = nn.ModuleDict({"table": nn.Embedding(1000, 10), "layer": nn.Linear(10, 10, bias=False)})
        assert share_of_products(model) == 1.0
        model["layer"].weight = model["table"].weight  # tied: one matrix, looked up and multiplied
        assert share_of_products(model) == 0.0

    @pytest.mark.parametrize("examples", [1, 4])
    def test_by_operations(self, examples: int) -> None:
        model = nn.Sequential(nn.Linear(32, 16), nn.ReLU(), nn.Linear(16, 8), nn.Sigmoid())
        macs, values = 32 * 16 + 16 * 8, 16 + 8
        expected = macs / (macs + MACS_PER_VALUE * values)
        assert share_of_products(model, torch.zeros(examples, 32)) == pytest.approx(expected)

    def test_wide_convolutions_outweigh_depthwise_ones(self) -> None:
        def block(groups: int) -> nn.Module:
            return nn.Sequential(nn.Conv2d(64, 64, 3, padding=1, groups=groups), nn.BatchNorm2d(64), nn.ReLU())

        example = torch.zeros(1, 64, 8, 8)
        assert share_of_products(block(1), example) > 0.8
        assert share_of_products(block(64), example) < 0.1

    def test_named_and_several_inputs(self) -> None:
        class Two(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.a, self.b, self.act = nn.Linear(8, 8), nn.Linear(4, 8), nn.ReLU()

            def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
                return self.act(self.a(x) + self.b(y))

        x, y = torch.zeros(3, 8), torch.zeros(3, 4)
        expected = 96 / (96 + MACS_PER_VALUE * 8)
        assert share_of_products(Two(), (x, y)) == pytest.approx(expected)
        assert share_of_products(Two(), {"x": x, "y": y}) == pytest.approx(expected)


SETTINGS = [  # parameters, init_scale, growth_factor, memory_efficient
    (10_000, 2**16, 2.0, False),
    (9_999_000, 2**16, 2.0, False),
    (10_000_000, 2**18, 2.0, True),
    (100_000_000, 2**18, 2.0, True),
    (100_001_000, 2**20, 1.5, True),
    (2_000_000_000, 2**20, 1.5, True),
]
DEVICES = [  # native formats -> the one that is set on a processor, and on a GPU
    (True, True, torch.bfloat16, torch.bfloat16),
    (True, False, torch.bfloat16, torch.bfloat16),
    (False, True, torch.float16, torch.float16),
    (False, False, torch.bfloat16, torch.float16),
]


class TestSettings:
    @pytest.mark.parametrize(("parameters", "scale", "growth", "efficient"), SETTINGS)
    @pytest.mark.parametrize(("bfloat16", "float16", "on_cpu", "on_gpu"), DEVICES)
    def test_table(
        self,
        monkeypatch: pytest.MonkeyPatch,
        parameters: int,
        scale: int,
        growth: float,
        efficient: bool,
        bfloat16: bool,
        float16: bool,
        on_cpu: torch.dtype,
        on_gpu: torch.dtype,
    ) -> None:
        device_with(monkeypatch, bfloat16=bfloat16, float16=float16)
        for kind, dtype in (("cpu", on_cpu), ("cuda", on_gpu)):
            monkeypatch.setattr(
                "bitdial.training.mixed_precision.advice.device_of", lambda *_, kind=kind: torch.device(kind)
            )
            config = optimize_mixed_precision_settings(linear_of(parameters), 32, LITTLE)
            assert config == MixedPrecisionConfig(
                dtype=dtype, init_scale=scale, growth_factor=growth, memory_efficient=efficient
            )

    @pytest.mark.parametrize(("parameters", "says"), [(5_000, "below 10"), (2 * 10**7, "10 to"), (10**9, "over 100")])
    def test_every_setting_has_a_reason(self, able: None, parameters: int, says: str) -> None:
        advised = {each.name: each for each in advised_settings(linear_of(parameters), 32)}
        assert advised.keys() == {"dtype", "init_scale", "growth_factor", "memory_efficient"}
        assert all(len(each.reason.split()) > 3 for each in advised.values())
        assert says in advised["init_scale"].reason
        assert "of use in float16 only" in advised["init_scale"].reason

    def test_reason_of_a_format_that_is_not_native(self, monkeypatch: pytest.MonkeyPatch) -> None:
        device_with(monkeypatch, bfloat16=False, float16=False)
        advised = {each.name: each for each in advised_settings(linear_of(5_000), 32, device="cpu")}
        assert advised["dtype"].reason == "bfloat16 is not native, yet least slow on cpu"

    def test_enabled_also_where_the_decision_is_no(self, able: None) -> None:
        model = linear_of(5_000)
        assert not should_use_mixed_precision(model, 1)
        assert optimize_mixed_precision_settings(model, 1).enabled


class Lazy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.LazyLinear(4)


MODEL = nn.Linear(4, 4)
BAD: list[tuple[tuple[Any, ...], dict[str, Any], str]] = [
    (("resnet18", 8), {}, "model must be a torch.nn.Module, got str"),
    ((nn.Linear, 8), {}, "model must be a torch.nn.Module, got type"),
    ((nn.ReLU(), 8), {}, "model must have parameters, got ReLU"),
    ((MODEL, 0), {}, "batch_size must be a whole number from 1 up, got 0"),
    ((MODEL, -1), {}, "batch_size must be a whole number from 1 up, got -1"),
    ((MODEL, 8.0), {}, "got 8.0"),
    ((MODEL, True), {}, "got True"),
    ((MODEL, "8"), {}, "got '8'"),
    ((MODEL, None), {}, "got None"),
    ((MODEL, 8, 0), {}, "available_memory must be a number of GB above 0, got 0"),
    ((MODEL, 8, -2.0), {}, "got -2.0"),
    ((MODEL, 8, float("nan")), {}, "got nan"),
    ((MODEL, 8, float("inf")), {}, "got inf"),
    ((MODEL, 8, "16GB"), {}, "got '16GB'"),
    ((MODEL, 8, True), {}, "got True"),
    ((MODEL, 8), {"device": "gpu"}, "device must be a device's name, got 'gpu'"),
    ((MODEL, 8), {"device": object()}, "device must be a device's name"),
    ((MODEL, 8), {"device": "cuda:99"}, "device must be one that is here, got cuda:99"),
]


@pytest.mark.parametrize(("arguments", "named", "says"), BAD, ids=[says for _, _, says in BAD])
@pytest.mark.parametrize("function", [should_use_mixed_precision, optimize_mixed_precision_settings])
def test_bad_arguments(function: Any, arguments: tuple[Any, ...], named: dict[str, Any], says: str) -> None:
    with pytest.raises(BitdialError) as caught:
        function(*arguments, **named)
    assert says in str(caught.value)


@pytest.mark.filterwarnings("ignore:Lazy modules")
def test_layers_without_shapes() -> None:
    with pytest.raises(BitdialError, match="got lazy layers without; run one batch"):
        should_use_mixed_precision(Lazy(), 8)


@pytest.mark.parametrize(
    ("example", "says"),
    [(torch.zeros(2, 5), "cannot take the example_input"), ("text", "example_input"), (torch.zeros(0, 4), "batch")],
)
def test_bad_examples(example: Any, says: str) -> None:
    model = nn.Linear(4, 4)
    with pytest.raises(BitdialError, match=says):
        should_use_mixed_precision(model, 8, example_input=example)
    assert not model._forward_hooks


class TestCreating:
    def test_defaults_are_those_of_the_settings(self) -> None:
        assert create_mixed_precision_config() == MixedPrecisionConfig()

    def test_arguments_arrive(self) -> None:
        config = create_mixed_precision_config(False, "bfloat16", 2.0**10, False)
        assert config == MixedPrecisionConfig(
            enabled=False, dtype=torch.bfloat16, init_scale=2.0**10, memory_efficient=False
        )

    @pytest.mark.parametrize(
        ("named", "says"),
        [
            ({"dtype": "float17"}, "dtype must be one of float32, bfloat16, float16, float8, got 'float17'"),
            ({"dtype": torch.int8}, "dtype must be one of"),
            ({"dtype": None}, "dtype must be one of"),
            ({"init_scale": 0}, "init_scale must be greater than 0, got 0"),
            ({"init_scale": -1.0}, "init_scale must be greater than 0, got -1.0"),
            ({"init_scale": float("nan")}, "init_scale must be"),
            ({"init_scale": float("inf")}, "init_scale must be a finite number"),
            ({"init_scale": "large"}, "init_scale must be a valid number"),
            ({"init_scale": 0.5}, "min_scale must be at most init_scale"),
            ({"enabled": "perhaps"}, "enabled must be a valid boolean"),
            ({"memory_efficient": 7}, "memory_efficient must be a valid boolean"),
        ],
    )
    def test_bad_values(self, named: dict[str, Any], says: str) -> None:
        with pytest.raises(BitdialError) as caught:
            create_mixed_precision_config(**named)
        assert says in str(caught.value)
        assert "\n" not in str(caught.value)


class TestContext:
    @pytest.mark.parametrize("dtype", [torch.float16, "float16", "bfloat16", "bf16-mixed"])
    def test_products_are_narrow_inside_and_not_after(self, dtype: Any) -> None:
        layer, x = nn.Linear(4, 4), torch.ones(2, 4)
        with mixed_precision_context(dtype=dtype, device="cpu"):
            assert layer(x).dtype == (torch.float16 if dtype in (torch.float16, "float16") else torch.bfloat16)
        assert layer(x).dtype == torch.float32

    def test_default_is_float16(self) -> None:
        with mixed_precision_context(device="cpu"):
            assert nn.Linear(4, 4)(torch.ones(2, 4)).dtype == torch.float16

    @pytest.mark.parametrize("named", [{"enabled": False}, {"dtype": "float32"}])
    def test_float32_also_inside_another(self, named: dict[str, Any]) -> None:
        with mixed_precision_context(dtype="bfloat16", device="cpu"), mixed_precision_context(device="cpu", **named):
            assert nn.Linear(4, 4)(torch.ones(2, 4)).dtype == torch.float32

    def test_left_by_an_error(self) -> None:
        with pytest.raises(KeyError), mixed_precision_context(device="cpu"):
            raise KeyError
        assert not torch.is_autocast_enabled("cpu")

    @pytest.mark.parametrize(
        ("named", "says"),
        [
            ({"dtype": "float8"}, "float32, bfloat16 or float16 in a context, got float8"),
            ({"dtype": "float61"}, "did you mean 'float16'"),
            ({"dtype": torch.float64}, "dtype must be one of"),
            ({"dtype": 16.5}, "dtype must be one of"),
            ({"device": "cdua"}, "device must be a device's name, got 'cdua'"),
            ({"device": 3.5}, "device must be a device's name, got 3.5"),
            ({"device": "meta"}, "device must be one with autocast, got meta"),
            ({"device": "meta", "enabled": False}, "device must be one with autocast"),
        ],
    )
    def test_bad_arguments(self, named: dict[str, Any], says: str) -> None:
        with pytest.raises(BitdialError) as caught:
            mixed_precision_context(**named)
        assert says in str(caught.value)

    @pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
    def test_a_gpu_that_is_not_there(self) -> None:
        with pytest.raises(BitdialError, match="got cuda on a machine without a GPU"):
            mixed_precision_context(device="cuda")


def test_every_example_of_the_page_runs() -> None:
    page = Path(__file__).parents[2] / "docs" / "mixed_precision_advice.md"
    blocks = page.read_text(encoding="utf-8").split("```python\n")[1:]
    assert len(blocks) >= 3
    names: dict[str, Any] = {}
    with preserved_random_state():
        for block in blocks:
            exec(block.split("```")[0], names)
    assert names["result"]["speedup"] == names["result"].speedup > 0
    assert isinstance(names["config"], MixedPrecisionConfig)
    assert names["output"].dtype == torch.bfloat16
