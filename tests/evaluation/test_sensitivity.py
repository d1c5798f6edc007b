"""Sensitivity of layers and the search for mixed widths, on networks of which it is known what matters."""

from __future__ import annotations

import math
import random
from itertools import combinations, product

import numpy as np
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from torch import nn

from bitdial.errors import BitdialError
from bitdial.evaluation import knapsack, layer_sensitivity, plot_layer_sensitivity, search_widths, sweep
from bitdial.evaluation.knapsack import best_choice, falling
from bitdial.evaluation.sensitivity import LayerSensitivity
from bitdial.layers import BitDial, cost, quantize
from bitdial.training import Classification


class Carrier(nn.Module):
    """Three branches, of which one carries everything: the label is read off fine differences of its input."""

    def __init__(self):
        super().__init__()
        self.idle, self.carrier, self.late = nn.Linear(4, 3), nn.Linear(4, 3, bias=False), nn.Linear(4, 3)
        with torch.no_grad():
            for layer in (self.idle, self.late):
                layer.weight.mul_(1e-3)
                layer.bias.zero_()
            self.carrier.weight.copy_(torch.eye(3, 4) * 40)

    def forward(self, x):
        return self.idle(x) + self.carrier(x) + self.late(x)


def data(count=2, size=64):
    inputs = torch.rand(count, size, 4, generator=torch.Generator().manual_seed(0))
    return [(x, x[:, :3].argmax(1)) for x in inputs]


@pytest.fixture
def model():
    torch.manual_seed(0)
    return quantize(Carrier(), skip=())


def state(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


@pytest.mark.parametrize("measure", ["accuracy", "loss"])
def test_the_layer_that_carries_everything_is_first(model, measure):
    found = layer_sensitivity(model, data(), low=2, high=8, measure=measure)
    assert found[0].layer == "carrier"
    assert {each.layer for each in found} == {"idle", "carrier", "late"}
    assert found[0].accuracy_drop > 0.1
    assert all(abs(each.accuracy_drop) < 0.02 for each in found[1:])
    key = "accuracy_drop" if measure == "accuracy" else "loss_rise"
    assert [getattr(each, key) for each in found] == sorted((getattr(each, key) for each in found), reverse=True)
    assert (found[0].low, found[0].high, found[0].weights) == (2, 8, 12)


def test_is_what_a_sweep_with_that_layer_alone_finds(model):
    found = {each.layer: each for each in layer_sensitivity(model, data(), low=3, high=6, reestimate=False)}
    whole, alone = sweep(model, data(), [[6, 6, 6], [6, 3, 6]], reestimate=False)
    assert found["carrier"].accuracy_drop == whole.accuracy - alone.accuracy
    assert found["carrier"].loss_rise == alone.loss - whole.loss


def test_a_layer_whose_loss_is_no_number_is_most_sensitive(model):
    class Broken(Classification):
        def score(self, model, batch):
            sums, count = super().score(model, batch)
            broken = BitDial(model).weights[2] == 2
            return {**sums, "loss": sums["loss"] * (math.nan if broken else 1)}, count

    found = layer_sensitivity(model, data(), task=Broken())
    assert (found[0].layer, found[0].loss_rise) == ("late", math.inf)


@pytest.mark.parametrize("stumbles", [False, True])
@pytest.mark.parametrize("function", ["sensitivity", "search"])
def test_leaves_everything_as_it_was(model, function, stumbles):
    class Stumbling(Classification):
        def score(self, model, batch):
            if stumbles and BitDial(model).weights[1] == 2:
                raise RuntimeError("stumbled")
            random.random()
            torch.rand(1)
            return super().score(model, batch)

    BitDial(model).set([3, 4, 5])
    model.train()
    before, states = state(model), (torch.get_rng_state(), random.getstate())

    def act():
        if function == "sensitivity":
            layer_sensitivity(model, data(), task=Stumbling())
        else:
            search_widths(model, data(), budget=1000, task=Stumbling())

    if stumbles:
        with pytest.raises(RuntimeError, match="stumbled"):
            act()
    else:
        act()
    after = state(model)
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert model.training
    assert torch.equal(torch.get_rng_state(), states[0])
    assert random.getstate() == states[1]


@pytest.mark.parametrize("seed", range(20))
def test_the_choice_is_that_of_trying_all(seed):
    generator = np.random.default_rng(seed)
    costs = np.cumsum(generator.integers(0, 6, (5, 3)), axis=1).astype(float)
    rises = generator.integers(0, 4, (5, 3)).astype(float)
    least = costs.min(axis=1).sum()
    budget = least + generator.uniform(0, costs.max(axis=1).sum() - least)

    def total(table, columns):
        return sum(table[layer, column] for layer, column in enumerate(columns))

    fitting = [each for each in product(range(3), repeat=5) if total(costs, each) <= budget]
    best = min(fitting, key=lambda each: (total(rises, each), total(costs, each)))
    found = best_choice(costs, rises, budget)
    assert total(costs, found) <= budget
    assert total(rises, found) == total(rises, best)
    assert total(costs, found) == total(costs, best)


def test_where_choices_are_too_many_to_keep_it_stays_within_the_budget_and_near_the_best(monkeypatch):
    generator = np.random.default_rng(0)
    costs = np.cumsum(generator.uniform(0, 5, (12, 3)), axis=1)
    rises = np.cumsum(generator.uniform(0, 5, (12, 3))[:, ::-1], axis=1)[:, ::-1]
    budget = 0.6 * costs.max(axis=1).sum()

    def total(table, columns):
        return sum(table[layer, column] for layer, column in enumerate(columns))

    best = best_choice(costs, rises, budget)
    monkeypatch.setattr(knapsack, "FRONT", 200)
    rough = best_choice(costs, rises, budget)
    assert total(costs, rough) <= budget * (1 + 1e-9)
    assert total(rises, best) <= total(rises, rough) <= 1.1 * total(rises, best)


@pytest.mark.parametrize("spare", [0.0, 0.5, 3.0])
def test_a_rough_search_keeps_to_a_tight_budget(monkeypatch, spare):
    generator = np.random.default_rng(0)
    costs = np.cumsum(generator.uniform(0, 5, (12, 3)), axis=1)
    rises = np.cumsum(generator.uniform(0, 5, (12, 3))[:, ::-1], axis=1)[:, ::-1]
    monkeypatch.setattr(knapsack, "FRONT", 2)
    budget = costs.min(axis=1).sum() + spare
    found = best_choice(costs, rises, budget)
    assert costs[np.arange(12), found].sum() <= budget * (1 + 1e-9)


def test_rises_that_are_noise_are_put_in_order():
    rises = np.array([[-0.1, 0.2, 0.0], [0.3, 0.1, 0.0], [math.inf, -0.5, 0.0]])
    assert falling(rises).tolist() == [[0.2, 0.2, 0.0], [0.3, 0.1, 0.0], [math.inf, 0.0, 0.0]]


def test_what_costs_no_accuracy_is_not_narrowed_where_the_budget_allows(model):
    with torch.no_grad():
        model.idle.weight.zero_()
        model.late.weight.zero_()
    assert search_widths(model, data(), budget=1e6).mixed.widths == (8, 8, 8)


def test_a_layer_that_seems_better_when_it_is_narrow_is_not_narrowed_for_that(model):
    class Flattering(Classification):
        def score(self, model, batch):
            sums, count = super().score(model, batch)
            return {**sums, "loss": sums["loss"] - float(BitDial(model).weights[2] == 2)}, count

    assert search_widths(model, data(), budget=1e6, task=Flattering()).mixed.widths[2] == 8


@pytest.mark.parametrize("measure", ["size", "bitops"])
def test_mixed_widths_keep_bits_for_the_layer_that_carries_everything(model, measure):
    ledger = cost(model, data()[0][0])
    budget = ledger.size_bytes(4) if measure == "size" else ledger.step_bitops([2, 8, 2], [2, 8, 2]).forward
    found = search_widths(model, data(), budget=budget, measure=measure, options=[2, 4, 8])
    assert found.layers == ("idle", "carrier", "late")
    widths = dict(zip(found.layers, found.mixed.widths, strict=True))
    assert widths["carrier"] == max(widths.values()) > min(widths.values())
    assert found.mixed.cost <= budget
    assert found.uniform.cost <= budget
    assert set(found.uniform.widths) == {4}
    (score,) = sweep(model, data(), [found.mixed.widths])
    assert (found.mixed.accuracy, found.mixed.loss) == (score.accuracy, score.loss)
    choice = list(found.mixed.widths)
    exact = ledger.size_bytes(choice) if measure == "size" else ledger.step_bitops(choice, choice).forward
    assert found.mixed.cost == exact
    assert found.difference.mean == pytest.approx(found.mixed.accuracy - found.uniform.accuracy)
    assert found.difference.n == 2
    assert found.mixed_is_better == (found.difference.low > 0)
    assert (" on average beat uniform" in found.sentence) == found.mixed_is_better
    assert found.chosen is (found.mixed if found.mixed_is_better else found.uniform)


def test_mixed_widths_win_where_one_layer_needs_bits_and_one_needs_none(model):
    ledger = cost(model, data()[0][0])
    found = search_widths(model, data(8), budget=ledger.size_bytes([2, 8, 2]), options=[2, 4, 8])
    assert found.mixed.widths == (2, 8, 2)
    assert found.mixed_is_better
    assert found.sentence.startswith("Mixed widths of 4.00 bits on average beat uniform 4 bits")


def test_a_lead_that_chance_explains_is_none(model):
    class Lucky(Classification):
        """The first batch is all right where one layer is narrower than another."""

        def score(self, model, batch):
            sums, count = super().score(model, batch)
            mixed = len(set(BitDial(model).weights)) > 1
            lucky = mixed and torch.equal(batch[0], data(4)[0][0])
            return {**sums, "accuracy": torch.tensor(count // 2 + (10 if lucky else 0))}, count

    ledger = cost(model, data()[0][0])
    found = search_widths(model, data(4), budget=ledger.size_bytes([2, 8, 2]), task=Lucky())
    assert found.mixed.accuracy > found.uniform.accuracy
    assert not found.mixed_is_better
    assert found.chosen is found.uniform
    assert found.sentence.startswith(
        "Mixed widths lead uniform 4 bits by no more than chance explains (+3.91 points, 95%"
    )


def test_one_batch_has_no_interval_and_is_said_so(model):
    ledger = cost(model, data()[0][0])
    found = search_widths(model, data(1), budget=ledger.size_bytes([2, 8, 2]))
    assert found.mixed_is_better
    assert "one batch: no interval" in found.sentence


def test_a_task_without_accuracy_is_decided_by_the_loss(model):
    class LossAlone(Classification):
        def score(self, model, batch):
            sums, count = super().score(model, batch)
            return {"loss": sums["loss"]}, count

    ledger = cost(model, data()[0][0])
    found = search_widths(model, data(), budget=ledger.size_bytes([2, 8, 2]), task=LossAlone())
    assert found.difference is None
    assert found.mixed_is_better == (found.mixed.loss < found.uniform.loss)
    assert "loss" in found.sentence


def test_a_budget_for_all_at_the_widest_changes_nothing_that_costs_accuracy(model):
    found = search_widths(model, data(), budget=1e9, options=[8])
    assert found.mixed.widths == found.uniform.widths == (8, 8, 8)
    assert found.sentence.startswith("The search found nothing better under this budget than uniform 8 bits")


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        ({"low": 8, "high": 8}, "low must be below high, got low=8 and high=8"),
        ({"low": 8, "high": 2}, "low must be below high"),
        ({"low": 0}, "in \\[1, 32\\], got 0"),
        ({"high": 64}, "in \\[1, 32\\], got 64"),
        ({"low": "2"}, "must be a number"),
        ({"low": math.nan}, "in \\[1, 32\\]"),
        ({"measure": "acuracy"}, "measure must be one of accuracy, loss, got 'acuracy'; did you mean 'accuracy'"),
        ({"measure": None}, "measure must be one of"),
        ({"device": "abacus"}, "device must be one that torch knows"),
        ({"loader": (batch for batch in data())}, "pass list\\(loader\\)"),
        ({"loader": []}, "at least one batch"),
        ({"loader": 3}, "iterable of batches"),
        ({"loss_fn": 3}, "loss_fn must be callable"),
        ({"model": nn.Linear(4, 3)}, "quantized layers"),
        ({"model": None}, "torch.nn.Module"),
    ],
)
def test_bad_input_to_sensitivity_is_one_sentence(model, bad, says):
    with pytest.raises(BitdialError, match=says) as error:
        layer_sensitivity(**({"model": model, "loader": data()} | bad))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        ({"budget": 0}, "budget must be a number of bytes above 0, got 0"),
        ({"budget": -5}, "budget must be a number"),
        ({"budget": math.nan}, "budget must be a number"),
        ({"budget": "1 kB"}, "budget must be a number"),
        ({"budget": None}, "budget must be a number"),
        ({"budget": 0, "measure": "bitops"}, "budget must be a number of BitOps"),
        ({"budget": 1}, "budget must be at least [0-9]+ bytes, what all layers at 2 bits take, got 1 bytes; raise it"),
        ({"budget": 1, "measure": "bitops"}, "budget must be at least .* BitOps, what all layers at 2 bits take"),
        ({"measure": "bytes"}, "measure must be one of size, bitops"),
        ({"measure": None}, "measure must be one of size, bitops"),
        ({"options": []}, "options must be a list of at least one width"),
        ({"options": "248"}, "options must be a list"),
        ({"options": [0, 4]}, "in \\[1, 32\\], got 0"),
        ({"loader": (batch for batch in data())}, "pass list\\(loader\\)"),
        ({"loader": []}, "at least one batch"),
        ({"loader": 3}, "iterable of batches"),
        ({"loader": [{"x": 1}]}, "ledger must be given where a batch does not begin with a tensor"),
        ({"ledger": 3}, "ledger must be that of this model"),
        ({"ledger": cost(nn.Linear(2, 2), torch.zeros(1, 2))}, "ledger must be that of this model"),
        ({"device": "abacus"}, "device must be one that torch knows"),
        ({"model": nn.Linear(4, 3)}, "quantized layers"),
    ],
)
def test_bad_input_to_the_search_is_one_sentence(model, bad, says):
    with pytest.raises(BitdialError, match=says) as error:
        search_widths(**({"model": model, "loader": data(), "budget": 1000} | bad))
    assert "\n" not in str(error.value)


def records(count, name="layer{}.conv"):
    drops = np.linspace(0.3, -0.01, count)
    return [
        LayerSensitivity(layer=name.format(i), accuracy_drop=d, loss_rise=3 * d, low=2, high=8, weights=10)
        for i, d in enumerate(drops)
    ]


@pytest.mark.parametrize(
    "found",
    [
        records(60, "model.backbone.stages.{}.blocks.layer_with_a_long_name.attention.projection"),
        records(60, "model.a_very_long_name_before_the_number_{}_and_a_very_long_name_behind_it.weight"),
        records(1),
        records(3, "$x_{{${}"),
        [each.model_copy(update={"accuracy_drop": math.nan}) for each in records(2)],
    ],
    ids=["sixty", "different in the middle", "one", "difficult names", "not finite"],
)
def test_no_name_covers_another_and_all_is_inside(found):
    figure = plot_layer_sensitivity(found, "W" * 100)
    figure.draw_without_rendering()
    renderer = FigureCanvasAgg(figure).get_renderer()
    (axes,) = figure.axes
    texts = [*axes.get_yticklabels(), axes.xaxis.label, figure._suptitle, *figure.legends]
    extents = [text.get_window_extent(renderer) for text in texts]
    assert not any(one.overlaps(other) for one, other in combinations(extents, 2))
    assert all(figure.bbox.x0 <= box.x0 and box.x1 <= figure.bbox.x1 and figure.bbox.y0 <= box.y0 for box in extents)
    assert len({label.get_text() for label in axes.get_yticklabels()}) == len(found)
    assert axes.get_window_extent(renderer).width > 0.35 * figure.bbox.width


def test_bars_show_the_measure_in_the_order_given():
    found = records(3)
    bars = plot_layer_sensitivity(found).axes[0].patches
    assert [bar.get_width() for bar in bars] == [pytest.approx(100 * each.accuracy_drop) for each in found]
    bars = plot_layer_sensitivity(found, measure="loss").axes[0].patches
    assert [bar.get_width() for bar in bars] == [pytest.approx(each.loss_rise) for each in found]


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        (([],), "must be what layer_sensitivity gave"),
        ((None,), "must be what layer_sensitivity gave"),
        (([1, 2],), "must be what layer_sensitivity gave"),
        (("ab",), "must be what layer_sensitivity gave"),
        ((iter(records(2)),), "must be what layer_sensitivity gave"),
        ((records(2), 3), "title must be a text"),
    ],
)
def test_bad_input_to_the_figure_is_one_sentence(bad, says):
    with pytest.raises(BitdialError, match=says):
        plot_layer_sensitivity(*bad)
    with pytest.raises(BitdialError, match="measure must be one of"):
        plot_layer_sensitivity(records(2), measure="size")
