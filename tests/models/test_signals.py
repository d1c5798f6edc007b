"""Networks for recordings: shapes, a stem in float for each sensor, and what is missing counts nowhere."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import bitdial
from bitdial.errors import BitdialError
from bitdial.evaluation.equal_cost import ledger_of
from bitdial.layers import QuantizedLayer, reestimate_batch_norm, skipped_layers
from bitdial.models import SIGNAL_NETWORKS, SignalNetwork, build_model, build_signal_model
from bitdial.models.signals import Shapes

VEHICLES: Shapes = {"audio": (2, 10, 1600), "seismic": (2, 10, 20)}
BODY: Shapes = {"motion": (6, 7, 256), "orientation": (4, 7, 256)}
SMALL: Shapes = {"audio": (2, 4, 40), "seismic": (2, 4, 10)}


def batch(shapes: Shapes, count: int = 4) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    found = {name: torch.rand(count, *shape, generator=generator) for name, shape in shapes.items()}
    return {**found, "present": torch.ones(count, len(shapes), dtype=torch.bool)}


def small(name: str = "signal_cnn", shapes: Shapes = SMALL) -> SignalNetwork:
    torch.manual_seed(0)
    return build_signal_model(name, num_classes=3, shapes=shapes)


@pytest.mark.parametrize("name", SIGNAL_NETWORKS)
@pytest.mark.parametrize("shapes", [VEHICLES, BODY, {"rfft": (2, 10, 801)}, {"one": (1, 1, 1)}])
def test_every_shape_trains(name: str, shapes: Shapes) -> None:
    model = build_signal_model(name, num_classes=7, shapes=shapes)
    logits = model(batch(shapes))
    assert logits.shape == (4, 7)
    logits.sum().backward()
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in model.parameters())


def test_the_large_network_is_a_resnet18_per_modality() -> None:
    model = small("resnet18", VEHICLES)
    convolutions = [module for module in model.encoders[0].modules() if isinstance(module, nn.Conv2d)]
    assert len(convolutions) == 20
    assert [type(module) for module in model.classifier] == [nn.Linear, nn.ReLU, nn.Linear]
    assert model.classifier.hidden.out_features == 256
    assert model.encoders[0].conv1.kernel_size == (7, 7)
    assert model.encoders[1].conv1.kernel_size == (3, 3)


@pytest.mark.parametrize(("name", "stem"), [("signal_cnn", "encoders.{}.conv1"), ("resnet18", "encoders.{}.conv1")])
def test_the_stem_of_each_modality_stays_in_float(name: str, stem: str) -> None:
    model = bitdial.quantize(small(name), 4, 4)
    skipped = skipped_layers(model)
    assert [each for each, why in skipped.items() if why == "skipped as <first>"] == [stem.format(0), stem.format(1)]
    assert [each for each, why in skipped.items() if why == "skipped as <last>"] == list(skipped)[-1:]
    assert len([m for m in model.modules() if isinstance(m, QuantizedLayer)]) > 4
    whole = bitdial.quantize(small(name), 4, 4, skip=())
    assert not skipped_layers(whole)


@pytest.mark.parametrize("name", SIGNAL_NETWORKS)
@pytest.mark.parametrize("training", [True, False])
def test_the_values_of_a_missing_modality_are_not_looked_at(name: str, training: bool) -> None:
    inputs = batch(SMALL, 6)
    inputs["present"][1, 0] = inputs["present"][4, 1] = False
    outputs = []
    for value in (0.0, 1e6, torch.nan):
        model = small(name).train(training)
        spoiled = {each: x.clone() for each, x in inputs.items()}
        spoiled["audio"][1] = spoiled["seismic"][4] = value
        logits = model(spoiled)
        logits.sum().backward()
        gradients = [p.grad.clone() for p in model.parameters() if p.grad is not None]
        outputs.append([logits.detach(), *gradients, *(b.clone() for b in model.buffers())])
    for others in outputs[1:]:
        for one, other in zip(outputs[0], others, strict=True):
            assert torch.equal(one, other)


def test_fusion_is_the_mean_over_what_is_there() -> None:
    model, inputs = small().eval(), batch(SMALL)
    features = [encoder(inputs[name]) for name, encoder in zip(model.names, model.encoders, strict=True)]
    inputs["present"][0, 1] = inputs["present"][1, 0] = False
    inputs["present"][2] = False
    expected = torch.stack([features[0][0], features[1][1], torch.zeros(64), (features[0][3] + features[1][3]) / 2])
    torch.testing.assert_close(model(inputs), model.classifier(expected))
    del inputs["present"]
    torch.testing.assert_close(model(inputs), model.classifier((features[0] + features[1]) / 2))


def test_a_batch_without_a_modality_and_an_empty_one() -> None:
    model, inputs = small().eval(), batch(SMALL)
    inputs["present"][:, 1] = False
    assert bool(model(inputs).isfinite().all())
    assert model({name: x[:0] for name, x in inputs.items()}).shape == (0, 3)


def test_silence_and_level() -> None:
    model, inputs = small().eval(), batch(SMALL)
    loud = {name: x if name == "present" else 0.5 + 100 * (x - 0.5) for name, x in inputs.items()}
    torch.testing.assert_close(model(loud), model(inputs), rtol=1e-3, atol=1e-4)
    silent = {name: x if name == "present" else torch.full_like(x, 0.5) for name, x in inputs.items()}
    assert bool(model(silent).isfinite().all())


def test_the_ledger_and_batch_norm_know_batches_of_mappings() -> None:
    model = bitdial.quantize(small(), 4, 4)
    batches = [(batch(SMALL), torch.tensor([0, 1, 2, 0]))]
    ledger = ledger_of(model, batches)
    assert ledger.rows[0].macs == 10 * 4 * 16 * 2 * 9  # 40 samples by fours, 4 intervals, 16 channels
    assert not ledger.uncounted
    assert reestimate_batch_norm(model, batches) == 1


def test_names() -> None:
    with pytest.raises(BitdialError, match=r"a network for recordings \(signal_cnn, resnet18\), got 'resnet20'"):
        build_signal_model("resnet20", num_classes=3, shapes=SMALL)
    with pytest.raises(BitdialError, match="signal_cnn is a network for recordings, such as --dataset vehicles"):
        build_model("signal_cnn", num_classes=3, in_channels=1, image_size=8)
    with pytest.raises(BitdialError, match="width must be a whole number from 1"):
        build_signal_model("signal_cnn", num_classes=3, shapes=SMALL, width=0)


def test_one_compiled_graph_whatever_is_missing() -> None:
    model = small().eval()
    graphs = 0

    def counted(module: torch.fx.GraphModule, _: list[Tensor]) -> torch.fx.GraphModule:
        nonlocal graphs
        graphs += 1
        return module

    compiled = torch.compile(model, backend=counted)
    for gone in ([], [1], [0, 2]):
        inputs = batch(SMALL)
        inputs["present"][gone, 1] = False
        torch.testing.assert_close(compiled(inputs), model(inputs))
    assert graphs == 1
