"""Networks of torchvision and timm as they come: quantized, trained for a step, dialled, packed and loaded again.

Outputs are compared, not weights: what matters is what a user gets out of the file. All are built without pretrained
weights, and small where they can be.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torchvision.models import swin_transformer

from bitdial.export import load_packed, save_packed
from bitdial.layers import BitDial, QuantizedLayer, quantize

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # theirs

Maker = tuple[Callable[[], nn.Module], int]
"""What builds a network, and the side of the images that it takes."""


def of_torchvision(name: str, size: int = 64, **options: Any) -> Maker:
    return lambda: getattr(torchvision.models, name)(num_classes=10, **options), size


def of_timm(name: str, size: int = 64, **options: Any) -> Maker:
    def make() -> nn.Module:
        timm = pytest.importorskip("timm")
        return timm.create_model(name, num_classes=10, **options)  # type: ignore[no-any-return]

    return make, size


def segmentation(name: str) -> Maker:
    return lambda: getattr(torchvision.models.segmentation, name)(num_classes=4, weights_backbone=None), 64


def swin(**options: Any) -> Maker:
    return lambda: torchvision.models.SwinTransformer(
        [4] * 2, 8, [2, 2], [2, 4], [4] * 2, num_classes=10, **options
    ), 32


SWIN: dict[str, Any] = {
    "img_size": 64,
    "embed_dim": 24,
    "depths": (2, 2),
    "num_heads": (2, 4),
    "window_size": 4,
}
SMALL: dict[str, Any] = {"img_size": 64, "depth": 2}
NETWORKS: dict[str, Maker] = {
    **{
        name: of_torchvision(name)
        for name in (
            "resnet18",
            "resnext50_32x4d",
            "densenet121",
            "mobilenet_v2",
            "mobilenet_v3_small",
            "mnasnet0_5",
            "squeezenet1_1",
            "shufflenet_v2_x0_5",
            "efficientnet_b0",
            "regnet_x_400mf",
            "regnet_y_400mf",
            "convnext_tiny",
        )
    },
    "googlenet": of_torchvision("googlenet", init_weights=False, aux_logits=False),
    "inception_v3": of_torchvision("inception_v3", 80, init_weights=False, aux_logits=False),
    "vit": (lambda: torchvision.models.VisionTransformer(32, 8, 2, 2, 32, 64, num_classes=10), 32),
    "swin": swin(),
    "swin_v2": swin(block=swin_transformer.SwinTransformerBlockV2, downsample_layer=swin_transformer.PatchMergingV2),
    "maxvit": (lambda: torchvision.models.MaxVit((64, 64), 16, 2, [16, 32], [1, 1], 8, 0.0, num_classes=10), 64),
    "fcn": segmentation("fcn_resnet50"),
    "lraspp": segmentation("lraspp_mobilenet_v3_large"),
    **{
        f"timm {name}": of_timm(name)
        for name in (
            "poolformer_s12",
            "pvt_v2_b0",
            "mobilevit_xxs",
            "mobilevitv2_050",
            "edgenext_xx_small",
            "fastvit_t8",
            "ghostnet_050",
            "hardcorenas_a",
            "lcnet_035",
            "tinynet_e",
            "mobilenetv4_conv_small",
            "dla34",
            "hrnet_w18_small",
            "rexnet_100",
            "repvgg_a0",
            "res2net50_14w_8s",
            "skresnet18",
            "seresnet18",
            "focalnet_tiny_srf",
            "davit_tiny",
            "sequencer2d_s",
            "mambaout_femto",
            "starnet_s1",
            "repvit_m0_9",
            "caformer_s18",
            "efficientvit_b0",
            "shvit_s1",
            "swiftformer_xs",
            "resnetv2_50",
            "dm_nfnet_f0",
            "gernet_s",
            "inception_next_atto",
            "convnextv2_atto",
        )
    },
    "timm vit": of_timm("vit_tiny_patch16_224", **SMALL),
    "timm deit3": of_timm("deit3_small_patch16_224", **SMALL),
    "timm beit": of_timm("beit_base_patch16_224", **SMALL, embed_dim=96, num_heads=4),
    "timm eva02": of_timm("eva02_tiny_patch14_224", 56, img_size=56, depth=2),
    "timm swin": of_timm("swin_tiny_patch4_window7_224", **SWIN),
    "timm swinv2": of_timm("swinv2_tiny_window8_256", **SWIN),
    "timm swinv2_cr": of_timm("swinv2_cr_tiny_224", **SWIN),
    "timm cait": of_timm("cait_xxs24_224", **SMALL),
    "timm xcit": of_timm("xcit_nano_12_p16_224", **SMALL),
    "timm convit": of_timm("convit_tiny", img_size=64, depth=3, local_up_to_layer=1),
    "timm coat_lite": of_timm("coat_lite_tiny", img_size=64),
    "timm twins": of_timm("twins_svt_small", img_size=64, depths=(1, 1, 1, 1)),
    "timm coatnet": of_timm("coatnet_nano_rw_224", img_size=64),
    "timm hiera": of_timm("hiera_tiny_224", img_size=64),
    "timm gcvit": of_timm("gcvit_xxtiny", img_size=64),
    "timm nest": of_timm("nest_tiny", 128, img_size=128),
    "timm levit": of_timm("levit_128s", 224),
    "timm pit": of_timm("pit_ti_224", 224),
    "timm crossvit": of_timm("crossvit_tiny_240", 240),
    "timm tiny_vit": of_timm("tiny_vit_5m_224", 224),
    "timm efficientvit": of_timm("efficientvit_m0", img_size=64),
    "timm visformer": of_timm("visformer_tiny", img_size=64),
    "timm volo": of_timm("volo_d1_224", img_size=64),
    "timm botnet": of_timm("botnet26t_256", img_size=64),
    "timm lambda_resnet": of_timm("lambda_resnet26t", img_size=64),
}
READ = {"swin", "swin_v2", "timm beit", "timm eva02", "timm swinv2"}
"""Those that read the weights of some layers instead of calling them (others look at the device of one)."""


def fresh(name: str) -> nn.Module:
    torch.manual_seed(0)
    model = NETWORKS[name][0]()
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if not key.endswith("bias") and not parameter.any():  # a head or a norm of zeros would tell nothing
                parameter.normal_(std=0.1)
    return model


def output(model: nn.Module, x: Tensor) -> Tensor:
    found: Any = model(x)
    found = found["out"] if isinstance(found, dict) else found
    return found[0] if isinstance(found, tuple | list) else found


@pytest.mark.parametrize("name", NETWORKS)
def test_a_public_network_trains_turns_and_loads_back_alike(name: str, tmp_path: Path) -> None:
    size = NETWORKS[name][1]
    model = quantize(fresh(name), 4, 8).train()
    x = torch.randn(2, 3, size, size)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    before = {key: value.detach().clone() for key, value in model.named_parameters()}
    output(model, x).square().mean().backward()
    optimizer.step()
    layers = {key: m for key, m in model.named_modules() if isinstance(m, QuantizedLayer)}
    assert not [key for key, m in layers.items() if m.weight.grad is None]
    assert any(not torch.equal(value, before[key]) for key, value in model.named_parameters())
    read = [key for key, m in layers.items() if m.is_read]
    assert bool(read) == (name in READ)
    assert not [key for key, m in layers.items() if not m.range_batches and not m.is_read]  # none that does nothing
    model.eval()
    dial = BitDial(model)
    with torch.no_grad():
        dial.set(weights=32, activations=32)
        wide = output(model, x)
        dial.set(weights=3, activations=8)
        expected = output(model, x)
        assert expected.isfinite().all()
        assert not torch.equal(expected, wide)
        for key in (key for key in read if not layers[key].range_batches):  # it is never called, and yet it turns
            dial.set(weights=1, layers=key)
            assert not torch.equal(output(model, x), expected), key
            dial.set(weights=3, layers=key)
        file = save_packed(model, tmp_path / "net.safetensors")
        torch.manual_seed(1)
        loaded = load_packed(file, quantize(NETWORKS[name][0](), 8, 8)).eval()
        assert torch.equal(output(loaded, x), expected)
