"""What every group of options is: declared once, inherited with other defaults, cut into parts."""

from __future__ import annotations

import pytest
from pydantic import Field, ValidationError

from bitdial.options import Config, part
from bitdial.recipes.cyclic import CyclicConfig
from bitdial.recipes.ternary import TernaryConfig
from bitdial.training import LoopConfig, MixedPrecisionConfig, OptimizerConfig


class Base(Config):
    """A part."""

    rate: float = Field(0.5, gt=0)
    """A rate."""
    count: int = 3
    """A count."""


class Other(Base):
    """A part with other defaults."""

    defaults = {"rate": 0.25}


class Below(Other):
    """Another."""

    defaults = {"count": 4}


def test_another_default_is_the_subclass_s_alone() -> None:
    assert (Base().rate, Other().rate, Below().rate) == (0.5, 0.25, 0.25)
    assert (Base().count, Other().count, Below().count) == (3, 3, 4)


def test_bounds_and_words_of_the_field_stay() -> None:
    assert Other.model_fields["rate"].description == "A rate."
    with pytest.raises(ValidationError, match="greater than 0"):
        Other(rate=0)
    made = Other()
    with pytest.raises(ValidationError, match="greater than 0"):
        made.rate = -1
    assert made.rate == 0.25


def test_a_default_that_its_field_refuses_is_refused() -> None:
    class Wrong(Base):
        defaults = {"rate": -1.0}

    with pytest.raises(ValidationError, match="greater than 0"):
        Wrong()


def test_a_default_for_no_field_cannot_be_declared() -> None:
    with pytest.raises(KeyError, match="rte"):

        class Wrong(Base):
            defaults = {"rte": 1.0}


def test_a_part_is_cut_out_of_the_whole_by_name_and_by_alias() -> None:
    options = TernaryConfig(lr=0.02, momentum=0.5, nesterov=True, max_grad_norm=2.0, steps=7)
    optimizer = part(options, OptimizerConfig, nesterov=False)
    assert (optimizer.learning_rate, optimizer.momentum, optimizer.nesterov) == (0.02, 0.5, False)
    loop = part(options, LoopConfig)
    assert (loop.max_grad_norm, loop.steps, loop.epochs, loop.log_interval) == (2.0, 7, None, 100)


def test_no_field_of_a_component_is_declared_again_by_a_recipe() -> None:
    for component in (OptimizerConfig, LoopConfig, MixedPrecisionConfig):
        inherited = {name for base in component.__mro__[1:] for name in getattr(base, "model_fields", ())}
        for recipe in (CyclicConfig, TernaryConfig):
            own = recipe.__annotations__.keys()
            assert not own & inherited, (component, recipe)
