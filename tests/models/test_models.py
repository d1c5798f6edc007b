"""The networks have the published sizes, fit the images, depend on torch's seed alone, and quantize safely."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from bitdial.errors import BitdialError
from bitdial.models import MODELS, build_model, check_name
from bitdial.models.foreign import replace_stem
from bitdial.models.networks import Subsample

# The deeper CIFAR forms are the same class; their parameter counts tell that the depth is right.
SHALLOW = [name for name in MODELS if name not in ("resnet32", "resnet44", "resnet56", "resnet74", "resnet110")]


def build(name: str, size: int = 32, channels: int = 3, classes: int = 10, **options: Any) -> nn.Module:
    return build_model(name, num_classes=classes, in_channels=channels, image_size=size, **options)


def parameters(model: nn.Module) -> int:
    return sum(each.numel() for each in model.parameters())


@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        # He et al. 2016, table 6: .27M, .46M, .66M, .85M, 1.7M. By hand, at depth 6n+2 with option A:
        # stem 27*16, stages 9*(16*16*2n + 16*32 + 32*32*(2n-1) + 32*64 + 64*64*(2n-1)), two per batch norm channel
        # (16*(2n+1) + 32*2n + 64*2n), classifier 650.
        *(
            (
                f"resnet{6 * n + 2}",
                {},
                432 + 9 * (512 * n + 512 + 1024 * (2 * n - 1) + 2048 + 4096 * (2 * n - 1)) + 2 * (224 * n + 16) + 650,
            )
            for n in (3, 5, 7, 9, 12, 18)
        ),
        # option B adds two 1x1 convolutions and their batch norms
        ("resnet20", {"shortcut": "B"}, 269_722 + 16 * 32 + 2 * 32 + 32 * 64 + 2 * 64),
        ("resnet18", {}, 11_173_962),  # the 11.17M of the CIFAR literature
        ("vgg_small", {}, 9 * (3 * 128 + 128 * 128 + 128 * 256 + 256**2 + 256 * 512 + 512**2) + 2 * 1792 + 81_930),
        ("mobilenetv2", {}, 2_236_682),  # torchvision's 3,504,872 less 990 classes of 1281
        ("mlp", {}, 3072 * 128 + 128 + 128 * 128 + 128 + 1290),
        ("tiny_cnn", {}, 9 * (3 * 16 + 16 * 32 + 32 * 32) + 2 * 80 + 330),
    ],
)
def test_parameter_counts(name: str, options: dict[str, Any], expected: int) -> None:
    assert parameters(build(name, **options)) == expected


def test_resnet20_is_the_paper_s_quarter_million() -> None:
    assert parameters(build("resnet20")) == 269_722


@pytest.mark.parametrize(
    ("name", "channels", "size", "classes"),
    [(name, 1, 8, 10) for name in SHALLOW]
    + [(name, 3, 32, 100) for name in ("resnet20", "vgg_small", "mlp", "tiny_cnn")]
    + [(name, 2, 27, 3) for name in ("resnet20", "vgg_small", "mlp", "tiny_cnn")],
)
def test_every_model_takes_small_images_and_trains_every_parameter(
    name: str, channels: int, size: int, classes: int
) -> None:
    torch.manual_seed(0)
    model = build(name, size, channels, classes)
    assert model.training
    logits = model(torch.randn(3, channels, size, size))
    assert logits.shape == (3, classes)
    nn.functional.cross_entropy(logits, torch.tensor([0, 1, 2])).backward()
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None, key
        assert bool(parameter.grad.isfinite().all()), key
        if parameter.ndim > 1:
            assert bool(parameter.grad.any()), key


@pytest.mark.parametrize(
    "name", ["resnet20", "resnet18", "vgg_small", "mobilenetv2", "mlp", "torchvision/squeezenet1_1"]
)
def test_weights_depend_on_torch_s_seed_alone(name: str) -> None:
    states = []
    for seed, other in ((1, 1), (1, 2), (2, 2)):
        torch.manual_seed(seed)
        random.seed(other)
        np.random.seed(other)
        states.append(build(name, 48).state_dict())
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
    assert not all(torch.equal(states[0][key], states[2][key]) for key in states[0])


class InputsStayWhole(TorchFunctionMode):
    """Remembers the input of every convolution and linear layer, to see later whether something wrote to it."""

    def __init__(self) -> None:
        super().__init__()
        self.inputs: list[tuple[torch.Tensor, int]] = []

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function in (torch.conv2d, torch.nn.functional.linear):
            self.inputs.append((args[0], args[0]._version))
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    "name",
    [*SHALLOW, "torchvision/resnet18", "torchvision/densenet121", "torchvision/shufflenet_v2_x0_5",
     "torchvision/mobilenet_v3_small", "torchvision/vgg11_bn", "torchvision/efficientnet_b0", "timm/resnet10t"],
)  # fmt: skip
def test_no_layer_s_input_is_overwritten(name: str) -> None:
    if name.startswith("timm"):
        pytest.importorskip("timm")
    with torch.device("meta"):  # in-place writes are counted there too, and nothing is computed
        model = build(name)
        with InputsStayWhole() as watch, torch.no_grad():
            model(torch.empty(2, 3, 32, 32))
    layers = sum(isinstance(each, nn.Conv2d | nn.Linear) for each in model.modules())
    assert len(watch.inputs) >= layers > 0
    assert all(tensor._version == version for tensor, version in watch.inputs)
    assert not any(getattr(module, "inplace", False) for module in model.modules())


def test_the_watch_sees_an_overwritten_input() -> None:
    with torch.device("meta"), InputsStayWhole() as watch, torch.no_grad():
        conv, relu = nn.Conv2d(3, 3, 1), nn.ReLU(inplace=True)
        x = torch.empty(1, 3, 4, 4)
        conv(x)
        relu(x)
    assert watch.inputs[0][0]._version != watch.inputs[0][1]


def test_option_a_shortcut_takes_every_second_pixel_and_pads_channels_on_both_sides() -> None:
    x = torch.arange(2 * 4 * 4.0).reshape(1, 2, 4, 4)
    out = Subsample(2)(x)
    assert out.shape == (1, 4, 2, 2)
    assert torch.equal(out[:, 1:3], x[:, :, ::2, ::2])
    assert not out[:, [0, 3]].any()


def test_resnet18_has_the_cifar_stem_up_to_64_and_the_imagenet_stem_beyond() -> None:
    small, large = build("resnet18", 64), build("resnet18", 65, channels=1)
    assert (small.conv1.kernel_size, small.conv1.stride) == ((3, 3), (1, 1))
    assert isinstance(small.maxpool, nn.Identity)
    assert (large.conv1.kernel_size, large.conv1.stride, large.conv1.in_channels) == ((7, 7), (2, 2), 1)
    assert isinstance(large.maxpool, nn.MaxPool2d)


@pytest.mark.parametrize(("size", "last"), [(8, 2), (16, 4), (32, 4), (64, 8), (96, 3)])
def test_mobilenetv2_keeps_a_last_map_of_more_than_one_pixel(size: int, last: int) -> None:
    with torch.device("meta"):
        assert build("mobilenetv2", size).features(torch.zeros(2, 3, size, size)).shape[-1] == last


def test_stem_for_other_channels_keeps_the_rest_of_the_layer() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 5, stride=2, padding=2, bias=True))
    replace_stem(model, 4)
    conv = model[0]
    assert isinstance(conv, nn.Conv2d)
    assert (conv.in_channels, conv.stride, conv.padding, conv.bias is not None) == (4, (2, 2), (2, 2), True)


@pytest.mark.parametrize("name", ["shufflenet_v2_x0_5", "squeezenet1_1"])
def test_pretrained_networks_keep_their_weights_and_get_a_new_head(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision import models

    published = models.get_model(name).state_dict()
    monkeypatch.setattr(models.WeightsEnum, "get_state_dict", lambda *_, **__: published)
    model = build(f"torchvision/{name}", 64, classes=7, pretrained=True)
    kept = [key for key, value in model.state_dict().items() if torch.equal(value, published[key])]
    changed = set(model.state_dict()) - set(kept)
    assert len(kept) > 20
    assert changed
    assert len({key.rpartition(".")[0] for key in changed}) == 1  # one layer
    assert model(torch.randn(2, 3, 64, 64)).shape == (2, 7)


def test_pretrained_inception_loses_its_second_classifier(monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision import models

    class TwoHeads(nn.Sequential):
        def __init__(self) -> None:
            super().__init__(nn.Conv2d(3, 4, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 1000))
            self.aux_logits = True
            self.AuxLogits = nn.Linear(4, 1000)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            for layer in list(self)[:4]:
                x = layer(x)
            return (x, x) if self.training and self.aux_logits else x  # type: ignore[return-value]

    monkeypatch.setattr(models, "get_model", lambda *_, **__: TwoHeads())
    model = build("torchvision/inception_v3", pretrained=True)
    assert model.training
    assert model(torch.randn(2, 3, 32, 32)).shape == (2, 10)
    assert parameters(model) == 16 + 50


@pytest.mark.parametrize(
    ("name", "size", "channels"), [("torchvision/vit_b_16", 32, 1), ("timm/vit_tiny_patch16_224", 48, 1)]
)
def test_transformers_are_built_for_the_images_size(name: str, size: int, channels: int) -> None:
    if name.startswith("timm"):
        pytest.importorskip("timm")
    with torch.device("meta"):
        model = build(name, size, channels)
        assert model(torch.empty(2, channels, size, size)).shape == (2, 10)


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("ResNet20", {}, r"unknown model 'ResNet20'; known are resnet20, .*; did you mean 'resnet20'\?"),
        ("torchvision/resnet51", {}, r"torchvision has \d+ classifiers; did you mean 'torchvision/resnet50'\?"),
        ("torchvision/", {}, r"unknown model 'torchvision/'"),
        (
            "resnet20",
            {"shortcuts": "A"},
            r"unknown option 'shortcuts' of model 'resnet20'; it has shortcut, width; did",
        ),
        ("resnet18", {"n_layer": 3}, r"unknown option 'n_layer' of model 'resnet18'; it has none"),
        ("resnet20", {"shortcut": "C"}, r"shortcut must be 'A' .* got 'C'"),
        ("resnet20", {"width": 0}, r"width must be a whole number from 1 up, got 0"),
        ("mobilenetv2", {"width": 0}, r"width must be a multiplier above 0, got 0"),
        ("mobilenetv2", {"dropout": 1.0}, r"dropout must be in \[0, 1\), got 1.0"),
        ("mlp", {"depth": 0}, r"depth must be a whole number from 1 up, got 0"),
        ("vgg_small", {"size": 7}, r"vgg_small needs images of at least 8x8, got 7x7; resize"),
        ("resnet20", {"classes": 0}, r"num_classes must be a whole number from 1 up, got 0"),
        ("resnet20", {"channels": 1.5}, r"in_channels must be a whole number from 1 up, got 1.5"),
        ("resnet20", {"size": -1}, r"image_size must be a whole number from 1 up, got -1"),
        ("torchvision/alexnet", {}, r"torchvision/alexnet cannot take 3x32x32 images .*another image_size"),
        ("torchvision/resnet18", {"foo": 1}, r"cannot build torchvision/resnet18: .*'foo'; check options"),
        ("torchvision/resnet18", {"weights": "x"}, r"option 'weights' .* use pretrained=True"),
        ("torchvision/vit_b_16", {"size": 40}, r"cannot build torchvision/vit_b_16: .*indivisible"),
    ],
)
def test_mistakes_are_answered_by_one_sentence(name: str, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(BitdialError, match=message):
        build(name, **arguments)


@pytest.mark.parametrize("name", ["resnet21", "torchvision/resnet51", "torchvision/", "other/resnet18", ""])
def test_a_name_can_be_checked_before_anything_is_built(name: str) -> None:
    check_name("resnet20")
    check_name("torchvision/resnet50")
    with pytest.raises(BitdialError, match=f"unknown model '{name}'") as asked:
        check_name(name)
    with pytest.raises(BitdialError) as built:
        build(name)
    assert str(asked.value) == str(built.value)


def test_timm_names_and_options() -> None:
    pytest.importorskip("timm")
    with pytest.raises(
        BitdialError, match=r"unknown model 'timm/resnet10x'; timm has \d+ models; did you mean 'timm/re"
    ):
        build("timm/resnet10x")
    with pytest.raises(BitdialError, match=r"cannot build timm/resnet10t: .*'foo'"):
        build("timm/resnet10t", foo=1)


def test_without_timm_the_sentence_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "timm", None)
    with pytest.raises(BitdialError, match=r"needs the package timm; run: pip install 'bitdial\[timm\]'"):
        build("timm/resnet10t")


def test_a_network_that_is_no_classifier_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision import models

    monkeypatch.setattr(models, "get_model", lambda *_, **__: nn.Sequential(nn.Conv2d(3, 4, 1)))
    with pytest.raises(BitdialError, match=r"must give logits \[2, 10\] for two images, got \[2, 4, 32, 32\]"):
        build("torchvision/resnet18")
