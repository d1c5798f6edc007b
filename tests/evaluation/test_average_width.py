import pytest
import torch
from torch import nn

from bitdial.errors import BitdialError
from bitdial.evaluation import get_average_bitwidth
from bitdial.layers import BitDial, quantize

X = torch.zeros(2, 3, 6, 6)


def network(skip=("<last>",), **more):
    net = nn.Sequential(
        nn.Conv2d(3, 4, 3),
        nn.BatchNorm2d(4),
        nn.Conv2d(4, 8, 3),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 5),
    )
    net = quantize(net, skip=skip, **more)
    BitDial(net).set(weights=[2, 8], activations=[4, 6])
    return net


PARAMETERS = (4 * 3 * 9, 8 * 4 * 9, 5 * 8)
MACS = (4 * 3 * 9 * 16, 8 * 4 * 9 * 4, 5 * 8)


def mean(factors, widths):
    return sum(f * w for f, w in zip(factors, widths, strict=True)) / sum(factors)


def test_layers_count_alike_and_by_their_weights():
    assert get_average_bitwidth(network()) == 5
    assert get_average_bitwidth(network(), part="activations") == 5
    assert isinstance(get_average_bitwidth(network()), float)


def test_weighings_by_hand():
    net = network()
    assert get_average_bitwidth(net, weighted_by="parameters") == pytest.approx(mean(PARAMETERS[:2], (2, 8)))
    macs = get_average_bitwidth(net, weighted_by="macs", example_input=X)
    assert macs == pytest.approx(mean(MACS[:2], (2, 8)))
    assert get_average_bitwidth(net, weighted_by="macs", part="activations", example_input=X) == pytest.approx(
        mean(MACS[:2], (4, 6))
    )


@pytest.mark.parametrize(
    ("weighted_by", "factors"), [("layers", (1, 1, 1)), ("parameters", PARAMETERS), ("macs", MACS)]
)
def test_layers_left_in_float_count_with_32_bits_on_request(weighted_by, factors):
    found = get_average_bitwidth(network(), weighted_by=weighted_by, include_float=True, example_input=X)
    assert found == pytest.approx(mean(factors, (2, 8, 32)))


def test_ternary_weights_read_their_own_width():
    net = network(quantizer="twn")
    assert get_average_bitwidth(net) == pytest.approx(1.585, abs=1e-3)
    assert get_average_bitwidth(net, part="activations") == 5


def test_a_shared_layer_counts_once_and_wrappers_do_not_count():
    layer = nn.Linear(4, 4)
    net = quantize(nn.Sequential(layer, nn.Linear(4, 4), layer), weights=2, skip=())
    BitDial(net).set(weights=[2, 8])
    assert get_average_bitwidth(net) == 5
    assert get_average_bitwidth(nn.DataParallel(net)) == 5


def test_random_state_and_the_model_stay_as_they_are():
    net, before = network(), torch.get_rng_state()
    modes, dial = [m.training for m in net.modules()], BitDial(net).state_dict()
    get_average_bitwidth(net, weighted_by="macs", example_input=X)
    assert torch.equal(torch.get_rng_state(), before)
    assert [m.training for m in net.modules()] == modes
    assert BitDial(net).state_dict() == dial


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        ({"weighted_by": "mac"}, "weighted_by must be one of .*did you mean 'macs'"),
        ({"weighted_by": None}, "weighted_by must be one of"),
        ({"weighted_by": 3}, "weighted_by must be one of"),
        ({"weighted_by": ["macs"]}, "weighted_by must be one of"),
        ({"part": "gradients"}, "part must be one of"),
        ({"part": ""}, "part must be one of"),
        ({"weighted_by": "macs"}, "needs an example_input"),
        ({"weighted_by": "macs", "example_input": torch.zeros(0, 3, 6, 6)}, "batch of at least one"),
        ({"weighted_by": "macs", "example_input": "x"}, "must hold a tensor"),
        ({"model": nn.Linear(2, 2)}, "quantized layers"),
        ({"model": None}, "must be a torch.nn.Module"),
    ],
)
def test_bad_input_is_one_sentence(bad, says):
    with pytest.raises(BitdialError, match=says) as error:
        get_average_bitwidth(**({"model": network()} | bad))
    assert "\n" not in str(error.value)
