"""Widths are never averaged, whatever averages a model; they travel with its state all the same."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_avg_fn, get_ema_multi_avg_fn, get_swa_avg_fn
from torch.optim.swa_utils import get_swa_multi_avg_fn as swa

from bitdial import BitDial, quantize
from bitdial.errors import BitdialError
from bitdial.layers.widths import SQUARES
from bitdial.training import WeightAverage

AVERAGE = "the state holds an average of widths"


def net(bits: float = 8) -> nn.Module:
    return quantize(nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 2)), bits, bits, bits, skip=())


def timm(name: str, **options: object) -> Callable[[nn.Module], nn.Module]:
    return lambda model: getattr(pytest.importorskip("timm.utils.model_ema"), name)(model, decay=0.6, **options)


class OverBuffers(nn.Module):
    """Somebody's own average."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.module = copy.deepcopy(model)

    def update(self, model: nn.Module) -> None:
        pairs = ((self.module.parameters(), model.parameters()), (self.module.buffers(), model.buffers()))
        for mine, theirs in pairs:
            for average, value in zip(mine, theirs, strict=True):
                average.data.copy_((average * 0.6 + value * 0.4).detach())


class OverState(OverBuffers):
    def update(self, model: nn.Module) -> None:
        state = model.state_dict()
        for name, value in self.module.state_dict().items():
            value.copy_(value * 0.6 + state[name] * 0.4)


AVERAGES = {
    "torch, ema": lambda model: AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.6), use_buffers=True),
    "torch, ema one by one": lambda model: AveragedModel(model, avg_fn=get_ema_avg_fn(0.6), use_buffers=True),
    "torch, swa": lambda model: AveragedModel(model, avg_fn=get_swa_avg_fn(), use_buffers=True),
    "torch, weights alone": lambda model: AveragedModel(model, multi_avg_fn=swa()),
    "timm 1": timm("ModelEma"),
    "timm 2": timm("ModelEmaV2"),
    "timm 3": timm("ModelEmaV3"),
    "timm 3 one by one": timm("ModelEmaV3", foreach=False),
    "own, over buffers": OverBuffers,
    "own, over the state": OverState,
}


@pytest.mark.parametrize("kind", AVERAGES)
def test_an_average_over_buffers_leaves_the_widths_of_both_models(kind: str) -> None:
    model = net(8)
    average = AVERAGES[kind](model)
    update = getattr(average, "update_parameters", None) or average.update
    inner = average.ema if kind == "timm 1" else average.module
    before = inner[0].weight.clone()
    for bits in (4, 6, 4):
        BitDial(model).set(bits, gradients=bits)
        with torch.no_grad():
            model[0].weight.add_(1)
        update(model)
    assert BitDial(inner).state_dict() == BitDial(net(8)).state_dict()
    assert BitDial(model).state_dict() == BitDial(net(4)).state_dict()
    assert not torch.equal(inner[0].weight, before)  # it did average
    BitDial(inner).load_state_dict(BitDial(model).state_dict())  # what the documentation advises
    assert BitDial(inner).weights == [4, 4]


def test_the_average_of_a_run_follows_the_widths_of_the_trained_model() -> None:
    model = net(8)
    average = WeightAverage(model, decay=0.6)
    BitDial(model).set(4, gradients=3)
    average.update(model)
    assert BitDial(average.module).state_dict() == BitDial(model).state_dict()


def blend(*states: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: torch.stack([state[name].float() for state in states]).mean(0) for name in states[0]}


@pytest.mark.parametrize("assign", [False, True])
def test_averaged_states_leave_the_widths_that_a_model_has(assign: bool) -> None:
    clients = [net(bits) for bits in (8, 4, 4)]
    served = blend(*(client.state_dict() for client in clients))
    for client, bits in zip(clients, (8, 4, 4), strict=True):
        with pytest.warns(UserWarning, match=AVERAGE):
            client.load_state_dict(served, assign=assign)
        assert BitDial(client).state_dict() == BitDial(net(bits)).state_dict()
    assert torch.equal(clients[0][0].weight, clients[1][0].weight)


@pytest.mark.parametrize("bits", [4, 4.7, 1.585, 32])
def test_averaged_states_of_one_width_say_nothing(bits: float) -> None:
    model = net(bits)
    state = model.state_dict()
    for _ in range(200):
        state = {name: 0.99 * state[name] + (1 - 0.99) * value for name, value in model.state_dict().items()}
    model.load_state_dict(state)
    assert BitDial(model).weights == BitDial(net(bits)).weights


def test_a_sum_of_states_is_no_width_either() -> None:
    model, other = net(8), net(6)
    summed = {name: value + other.state_dict()[name] for name, value in model.state_dict().items()}
    with pytest.warns(UserWarning, match=AVERAGE):
        model.load_state_dict(summed)
    assert BitDial(model).weights == [8, 8]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("bits", [2, 4.5, 8, 32])
def test_a_state_brings_its_widths_in_any_dtype(dtype: torch.dtype, bits: float) -> None:
    state = {name: value.to(dtype) for name, value in net(bits).state_dict().items()}
    model = net(3)
    model.load_state_dict(state)
    assert BitDial(model).weights == [bits, bits] == BitDial(model).activations


def test_a_state_of_an_earlier_version_is_read_and_checked() -> None:
    state = {name: value for name, value in net(5).state_dict().items() if not name.endswith(SQUARES)}
    model = net(8)
    model.load_state_dict(state)
    assert BitDial(model).weights == [5, 5]
    state["2.activation_bits"] = torch.tensor(0.5)
    with pytest.raises(BitdialError, match=r"0\.5 for 2\.activation_bits"):
        model.load_state_dict(state)


def test_a_loaded_state_is_not_written_by_later_turns() -> None:
    model = net(8)
    state = model.state_dict()
    BitDial(model).set(4)
    assert state["0.weight_bits"].item() == 8


def test_widths_are_replaced_for_a_functional_call() -> None:
    model, x = net(32).eval(), torch.randn(3, 4)
    narrow = copy.deepcopy(model)
    BitDial(narrow).set(2)
    assert torch.equal(torch.func.functional_call(model, narrow.state_dict(), x), narrow(x))
    assert BitDial(model).weights == [32, 32]


def test_widths_come_to_the_device_of_the_input() -> None:
    layer = net(8)[0]._replicate_for_data_parallel()  # knows of parameters and buffers only, as do others
    assert not layer.weight_bits.is_meta
    layer.widths_to(torch.device("meta"))
    assert {layer.weight_bits.device.type, layer.gradient_bits.device.type} == {"meta"}


def test_widths_go_through_distributed_checkpoints() -> None:
    from torch.distributed.checkpoint.state_dict import get_model_state_dict, set_model_state_dict

    state, model = get_model_state_dict(net(5)), net(8)
    set_model_state_dict(model, state)
    assert BitDial(model).weights == [5, 5]


def test_a_dial_turns_what_was_made_in_inference_mode() -> None:
    with torch.inference_mode():
        model = net(8)
        BitDial(model).set(5)
        model(torch.randn(3, 4))
    BitDial(model).set(4, gradients=4)
    assert BitDial(model).weights == [4, 4]
    with torch.inference_mode():
        model.double()
        model[0].widths_to(torch.device("cpu"))
    BitDial(model).set(3)
    assert BitDial(model).weights == [3, 3]


def test_a_turn_on_the_meta_device_is_kept_for_later() -> None:
    model = net(8).to("meta")
    BitDial(model).set(5, gradients=6)
    model.to_empty(device="cpu")
    assert BitDial(model).state_dict() == BitDial(net_at(5, 6)).state_dict()


def net_at(bits: float, gradients: float) -> nn.Module:
    model = net(bits)
    BitDial(model).set(gradients=gradients)
    return model


@pytest.mark.parametrize(
    ("entry", "value", "sentence"),
    [
        (
            "0.weight_bits",
            torch.tensor([1.0, 2.0]),
            r"0\.weight_bits of a state must be a tensor of 1 number, got shape",
        ),
        ("0.weight_bits", torch.empty(0), r"of 1 number, got shape \(0,\)"),
        ("0.weight_bits", torch.tensor(8.0, device="meta"), r"got shape \(\) on meta"),
        ("0.weight_bits", 8, "got 8; load what"),
        ("0.weight_bits", "8", "got '8'"),
        ("0.weight_bits", torch.tensor(float("nan")), r"got nan for 0\.weight_bits"),
        (f"2.{SQUARES}", None, rf"2\.{SQUARES} of a state must be a tensor of 3 numbers, got None"),
        (f"2.{SQUARES}", torch.ones(4), r"of 3 numbers, got shape \(4,\)"),
    ],
)
def test_entries_that_are_no_widths_are_refused(entry: str, value: object, sentence: str) -> None:
    with pytest.raises(BitdialError, match=sentence):
        net(8).load_state_dict({**net(8).state_dict(), entry: value})


def test_widths_may_be_whole_numbers() -> None:
    state = {name: value.long() if "bits" in name else value for name, value in net(5).state_dict().items()}
    model = net(8)
    model.load_state_dict(state)
    assert BitDial(model).weights == [5, 5]
