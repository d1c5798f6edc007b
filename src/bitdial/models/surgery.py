"""What is changed in a network that someone else built: its stem, its head, its in-place activations."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn
from torch.func import functional_call

from bitdial.errors import BitdialError

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
    """Return the model if it turns such images into such logits, tried on shapes alone (no arithmetic, no randomness).

    Raises:
        BitdialError: It cannot take the images, or gives something else than `[B, num_classes]`.
    """
    was_training = model.training
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
        model.train(was_training)
    if not isinstance(logits, torch.Tensor) or logits.shape != (2, num_classes):
        got = list(logits.shape) if isinstance(logits, torch.Tensor) else type(logits).__name__
        raise BitdialError(f"{name} must give logits [2, {num_classes}] for two images, got {got}; it is no classifier")
    return model


def guarded(name: str, build: Callable[[], nn.Module]) -> nn.Module:
    """Call a foreign builder and turn its complaint into one sentence.

    Raises:
        BitdialError: Whatever the builder raised for its arguments or for a failed download.
    """
    try:
        return build()
    except BitdialError:
        raise
    except (*_MISFIT, OSError, KeyError) as error:
        reason = " ".join(str(error).split())[:300]
        raise BitdialError(
            f"cannot build {name}: {reason}; check options and image_size, and for a download the network"
        ) from error
