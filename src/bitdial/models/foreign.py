"""Networks that someone else built, and what is changed in them: stem, head, in-place activations.

Any classifier of torchvision and of timm as it is, under `torchvision/NAME` and `timm/NAME`; timm is optional.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.func import functional_call

from bitdial.errors import BitdialError, suggest

# What a network raises when the images do not fit it.
_MISFIT = (RuntimeError, ValueError, AssertionError, TypeError, IndexError, NotImplementedError)


def forbid_inplace(model: nn.Module) -> nn.Module:
    """Switch every activation to out-of-place and return the model.

    A quantized layer keeps its float input and rounds it again in the backward pass, so nothing may overwrite that
    input after the layer ran.
    """
    for module in model.modules():
        if getattr(module, "inplace", False) is True:
            module.inplace = False  # type: ignore[assignment]
    return model


def replace_stem(model: nn.Module, in_channels: int) -> None:
    """Give the first convolution `in_channels` input channels; its weights are drawn anew when they change shape."""
    name, conv = next((name, each) for name, each in model.named_modules() if isinstance(each, nn.Conv2d))
    if conv.in_channels == in_channels:
        return
    fresh = nn.Conv2d(
        in_channels,
        conv.out_channels,
        conv.kernel_size,  # type: ignore[arg-type]
        conv.stride,  # type: ignore[arg-type]
        conv.padding,  # type: ignore[arg-type]
        conv.dilation,  # type: ignore[arg-type]
        bias=conv.bias is not None,
    )
    nn.init.kaiming_normal_(fresh.weight, mode="fan_out", nonlinearity="relu")
    model.set_submodule(name, fresh)


def replace_head(model: nn.Module, num_classes: int) -> None:
    """Give the last linear layer (or 1x1 convolution that serves as one) `num_classes` outputs, drawn anew."""
    name, head = [
        (name, each)
        for name, each in model.named_modules()
        if isinstance(each, nn.Linear | nn.Conv2d) and (isinstance(each, nn.Linear) or each.kernel_size == (1, 1))
    ][-1]
    if isinstance(head, nn.Linear):
        fresh: nn.Module = nn.Linear(head.in_features, num_classes, bias=head.bias is not None)
    else:
        fresh = nn.Conv2d(head.in_channels, num_classes, 1, bias=head.bias is not None)
    model.set_submodule(name, fresh)


def check_fit(name: str, model: nn.Module, num_classes: int, in_channels: int, image_size: int) -> nn.Module:
    """Return the model if it turns such images into such logits; tried on shapes alone, without arithmetic."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    state = {key: value.to("meta") for key, value in (*model.named_parameters(), *model.named_buffers())}
    images = torch.empty(2, in_channels, image_size, image_size, device="meta")
    try:
        with torch.no_grad():
            logits = functional_call(model, state, (images,))
    except _MISFIT as error:
        reason = " ".join(str(error).split())[:160]
        raise BitdialError(
            f"{name} cannot take {in_channels}x{image_size}x{image_size} images ({reason}); give another image_size, "
            "or choose a network for small images such as resnet20"
        ) from error
    finally:
        for module, mode in modes:
            module.training = mode
    if not isinstance(logits, torch.Tensor) or logits.shape != (2, num_classes):
        got = list(logits.shape) if isinstance(logits, torch.Tensor) else type(logits).__name__
        raise BitdialError(f"{name} must give logits [2, {num_classes}] for two images, got {got}; it is no classifier")
    return model


def guarded(name: str, build: Callable[[], nn.Module]) -> nn.Module:
    """Call a foreign builder and turn its complaint, of its arguments or of a failed download, into one sentence."""
    try:
        return build()
    except BitdialError:
        raise
    except (*_MISFIT, OSError, KeyError) as error:
        reason = " ".join(str(error).split())[:300]
        raise BitdialError(
            f"cannot build {name}: {reason}; check options and image_size, and for a download the network"
        ) from error


def check_torchvision_name(name: str) -> str:
    """Return `torchvision/NAME`, or refuse a name that torchvision does not have."""
    from torchvision import models

    known = [f"torchvision/{each}" for each in models.list_models(module=models)]
    label = f"torchvision/{name}"
    if label not in known:
        raise BitdialError(f"unknown model {label!r}; torchvision has {len(known)} classifiers{suggest(label, known)}")
    return label


def torchvision_model(
    name: str, num_classes: int, in_channels: int, image_size: int, *, pretrained: bool = False, **options: Any
) -> nn.Module:
    """Build `torchvision.models.NAME` unchanged but for first layer, classifier and in-place activations.

    `pretrained` starts from torchvision's best ImageNet weights (downloaded); the classifier is drawn anew unless there
    are 1000 classes. The image size is passed on to the networks that are built for one size; `options` are further
    arguments of the network's class.
    """
    from torchvision import models

    label = check_torchvision_name(name)
    for reserved in ("weights", "progress", "num_classes"):
        if reserved in options:
            raise BitdialError(f"option {reserved!r} of {label} is set by bitdial; use pretrained=True for weights")
    arguments: dict[str, Any] = {"weights": "DEFAULT" if pretrained else None, **options}
    if not pretrained:
        arguments["num_classes"] = num_classes
    if name in ("googlenet", "inception_v3") and not pretrained:
        # Their second classifier makes the output a tuple in training; the initialisation is their default said aloud,
        # without which torchvision warns.
        arguments = {"aux_logits": False, "init_weights": True, **arguments}
    if name.startswith("vit_") and not pretrained:
        arguments.setdefault("image_size", image_size)
    if name == "maxvit_t":
        arguments.setdefault("input_size", (image_size, image_size))
    model = guarded(label, lambda: models.get_model(name, **arguments))
    if pretrained:
        _drop_auxiliary(model)
        if num_classes != 1000:
            replace_head(model, num_classes)
    replace_stem(model, in_channels)
    return check_fit(label, forbid_inplace(model), num_classes, in_channels, image_size)


def timm_of(name: str) -> Any:
    """Return the package timm, or refuse a name that it does not have."""
    label = f"timm/{name}"
    try:
        timm = importlib.import_module("timm")
    except ImportError as error:
        raise BitdialError(f"{label} needs the package timm; run: pip install 'bitdial[timm]'") from error
    if not timm.is_model(name):
        known = [f"timm/{each}" for each in timm.list_models()]
        raise BitdialError(f"unknown model {label!r}; timm has {len(known)} models{suggest(label, known)}")
    return timm


def timm_model(name: str, num_classes: int, in_channels: int, image_size: int, **options: Any) -> nn.Module:
    """Build `timm.create_model(NAME, **options)` with its activations out of place.

    The image size is passed on to the networks that are built for one size.
    """
    label, timm = f"timm/{name}", timm_of(name)
    arguments: dict[str, Any] = {"num_classes": num_classes, "in_chans": in_channels, **options}
    config = timm.models.get_pretrained_cfg(name)
    if config is not None and config.fixed_input_size:
        arguments.setdefault("img_size", image_size)
    model = guarded(label, lambda: timm.create_model(name, **arguments))
    return check_fit(label, forbid_inplace(model), num_classes, in_channels, image_size)


def _drop_auxiliary(model: nn.Module) -> None:
    """Remove the second classifier that pretrained Inception keeps."""
    if getattr(model, "aux_logits", False):
        model.aux_logits = False  # type: ignore[assignment]
        for name in [name for name, _ in model.named_children() if name.lower().startswith("aux")]:
            setattr(model, name, None)


LIBRARIES: dict[str, tuple[Callable[[str], object], Callable[..., nn.Module]]] = {
    "torchvision": (check_torchvision_name, torchvision_model),
    "timm": (timm_of, timm_model),
}
"""Library -> what refuses a name that it does not have, and what builds a network of it."""
