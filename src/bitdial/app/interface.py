"""Mixed precision in three functions that take plain values and return JSON, as forms and other programs want it.

Nothing is raised for what a caller got wrong: the answer is then ``{"error": "what was expected, got, and to do"}``.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import wraps
from typing import TYPE_CHECKING, Any, ParamSpec

from pydantic import Field, field_validator

from bitdial.configuration import Config, load_config
from bitdial.errors import BitdialError, suggest

if TYPE_CHECKING:
    import torch
    from torch import nn

    from bitdial.data import ImageDataset
    from bitdial.training.mixed_precision import MixedPrecisionConfig

P = ParamSpec("P")

MODEL_TYPES = {"simple network": "mlp", "convolutional network": "tiny_cnn", "large model": "resnet18"}
"""What people call them -> the network."""
ALIASES = {
    "linear": "simple network",
    "mlp": "simple network",
    "conv": "convolutional network",
    "large": "large model",
}
DATA = "digits"
"""What they train on: it ships with a dependency, nothing is downloaded."""
ITERATIONS = 10
"""Timed steps in each format: enough for a verdict with quartiles, within some seconds."""
TYPICAL_BATCH = 64


def model_type_of(given: object) -> str:
    """The model type that a name means; capitals, hyphens and underscores do not count.

    Raises:
        BitdialError: there is none of that name; the text lists them.
    """
    plain = " ".join(str(given).lower().replace("_", " ").replace("-", " ").split())
    known = {**{name: name for name in MODEL_TYPES}, **ALIASES}
    if not isinstance(given, str) or plain not in known:
        raise BitdialError(
            f"expected one of {', '.join(MODEL_TYPES)} (or {', '.join(ALIASES)}), got {given!r:.60}"
            f"{suggest(plain, known) or '; choose one'}"
        )
    return known[plain]


class _Network(Config):
    """Which network, and how many examples a step takes."""

    model_type: str = "simple network"
    """What is trained."""
    batch_size: int = Field(TYPICAL_BATCH, ge=1, le=2**31 - 1)
    """Examples in one step."""

    @field_validator("model_type", mode="before")
    @classmethod
    def _known(cls, given: object) -> str:
        return model_type_of(given)

    @property
    def network(self) -> str:
        """Its name among the networks."""
        return MODEL_TYPES[self.model_type]


class _Training(_Network):
    """One training."""

    num_epochs: int = Field(1, ge=1, le=10_000)
    """Passes over the data."""
    learning_rate: float = Field(0.01, gt=0, le=1e6, allow_inf_nan=False)
    """Of stochastic gradient descent with momentum."""
    use_mixed_precision: bool = True
    """Compute in the narrow format that the device is better at."""
    adaptive: bool = True
    """Take a wider format where numbers overflow again and again."""


def _answer(function: Callable[P, Mapping[str, Any]]) -> Callable[P, str]:
    """Let a function return what it found as JSON, and what its caller got wrong too."""

    @wraps(function)
    def told(*args: P.args, **named: P.kwargs) -> str:
        try:
            found = function(*args, **named)
        except BitdialError as error:
            return json.dumps({"error": str(error).replace("argument: ", "", 1)})
        from bitdial.evaluation.results import to_json

        return to_json(found)

    return told


@_answer
def train_model_with_mixed_precision_interface(
    model_type: str = "simple network",
    num_epochs: int = 3,
    batch_size: int = 32,
    learning_rate: float = 0.01,
    use_mixed_precision: bool = True,
    adaptive: bool = True,
) -> Mapping[str, Any]:
    """Train a network on handwritten digits and say how it went.

    Args:
        model_type: "simple network" (also "linear", "mlp"), "convolutional network" ("conv") or "large model".
        num_epochs: passes over the data.
        batch_size: examples in one step.
        learning_rate: of stochastic gradient descent with momentum.
        use_mixed_precision: compute in the narrow format that the device is better at, instead of float32.
        adaptive: take a wider format where numbers overflow again and again.

    Returns:
        JSON: ``model_type, network, parameters, dataset, device, dtype``, the arguments, ``test_accuracy`` (a share),
        and what `bitdial.train_with_mixed_precision` returns: ``final_loss, total_training_time`` (seconds),
        ``epochs, scale_history, skipped_steps, summary``. What is not finite is null. ``{"error": ...}`` for an
        argument that does not do, and for a training that diverges.

    Example:
        >>> import json
        >>> json.loads(train_model_with_mixed_precision_interface("circular network"))["error"][:30]
        'model_type: expected one of si'
    """
    options = load_config(_Training, prog="bitdial app", values=locals().copy())
    import torch

    from bitdial.data import make_loader
    from bitdial.evaluation.sweep import evaluate_loss_accuracy
    from bitdial.training import preserved_random_state
    from bitdial.training.mixed_precision import MixedPrecisionConfig, train_with_mixed_precision
    from bitdial.training.step.formats import format_name, narrow_format

    data, device = _digits(), _device()
    if options.batch_size > len(data.train):
        raise BitdialError(
            f"batch_size: expected at most {len(data.train)}, the training images of {DATA}, got {options.batch_size}; "
            "lower it"
        )
    dtype = narrow_format(device) if options.use_mixed_precision else torch.float32
    settings: MixedPrecisionConfig = MixedPrecisionConfig(enabled=options.use_mixed_precision, dtype=dtype)
    with preserved_random_state():
        torch.manual_seed(0)
        network = _built(options.network, data).to(device)
        found = train_with_mixed_precision(
            network,
            make_loader(data.train, options.batch_size, train=True, augment="none", seed=0),
            torch.optim.SGD(network.parameters(), lr=options.learning_rate, momentum=0.9),
            torch.nn.functional.cross_entropy,
            num_epochs=options.num_epochs,
            config=settings,
            adaptive=options.adaptive,
        )
        _, accuracy = evaluate_loss_accuracy(network, make_loader(data.test, 256, train=False))
    return {
        **options.model_dump(),
        **_described(options.network, network, data),
        "device": str(device),
        "dtype": format_name(dtype),
        "test_accuracy": accuracy,
        **found,
    }


@_answer
def benchmark_mixed_precision_interface(
    model_type: str = "simple network", batch_size: int = TYPICAL_BATCH
) -> Mapping[str, Any]:
    """Measure training steps in float32 and in the narrow format that this device is better at, side by side.

    Args:
        model_type: as for `train_model_with_mixed_precision_interface`.
        batch_size: examples in one step.

    Returns:
        JSON: ``model_type, network, parameters, dataset`` (whose shape the random images have) and what
        `bitdial.benchmark_mixed_precision` finds: ``speedup``, ``verdict``, ``rows`` and more; or ``{"error": ...}``.
    """
    options = load_config(_Network, prog="bitdial app", values=locals().copy())
    import torch

    from bitdial.training.mixed_precision import benchmark_mixed_precision
    from bitdial.training.step.memory import is_out_of_memory

    data, device = _digits(), _device()
    network, side = _built(options.network, data), data.image_size
    try:
        images = torch.randn(options.batch_size, data.in_channels, side, side)
        labels = torch.randint(data.num_classes, (options.batch_size,))
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        raise BitdialError(f"memory ran out with a batch of {options.batch_size}; lower batch_size") from error
    found = benchmark_mixed_precision(network, (images, labels), ITERATIONS, device=device)
    return {"model_type": options.model_type, **_described(options.network, network, data), **found.to_dict()}


@_answer
def get_mixed_precision_recommendations() -> Mapping[str, Any]:
    """Say for each model type whether mixed precision would pay on this machine, with which settings, and why.

    Returns:
        JSON: ``machine`` (its processor, memory, accelerators and versions), ``device``, ``speeds`` (of products in
        each format, as timed, of float32's) and ``recommendations``: by model type the decision with its reasons for
        and against, and the settings with a reason each.
    """
    from dataclasses import asdict

    import torch

    from bitdial.evaluation import describe_machine
    from bitdial.machine import product_speeds
    from bitdial.training.mixed_precision import advised_settings, should_use_mixed_precision
    from bitdial.training.step.formats import format_name

    data, device = _digits(), _device()
    speeds = product_speeds(device.type)
    image = torch.zeros(1, data.in_channels, data.image_size, data.image_size)
    advice: dict[str, Any] = {}
    for model_type, name in MODEL_TYPES.items():
        network = _built(name, data)
        place: dict[str, Any] = {"batch_size": TYPICAL_BATCH, "device": device, "speeds": speeds}
        decision = should_use_mixed_precision(network, **place, example_input=image)
        settings = advised_settings(network, **place)
        advice[model_type] = {
            **_described(name, network, data),
            "batch_size": TYPICAL_BATCH,
            "use_mixed_precision": bool(decision),
            **asdict(decision),
            "dtype": format_name(decision.dtype),
            "settings": {
                each.name: format_name(each.value) if each.name == "dtype" else each.value for each in settings
            },
            "setting_reasons": {each.name: each.reason for each in settings},
        }
    return {
        "machine": describe_machine().model_dump(),
        "device": str(device),
        "speeds": speeds,
        "recommendations": advice,
    }


def _described(name: str, network: nn.Module, data: ImageDataset) -> dict[str, Any]:
    parameters = sum(each.numel() for each in network.parameters())
    return {"network": name, "parameters": parameters, "dataset": data.name}


def _digits() -> ImageDataset:
    from bitdial.data import load_dataset

    return load_dataset(DATA)


def _built(name: str, data: ImageDataset) -> nn.Module:
    from bitdial.models import build_model

    return build_model(name, num_classes=data.num_classes, in_channels=data.in_channels, image_size=data.image_size)


def _device() -> torch.device:
    import torch

    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
