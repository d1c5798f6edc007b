"""What options and help know by name is what is registered."""

from __future__ import annotations

from bitdial import names
from bitdial.compression.models import MODELS as CODECS
from bitdial.data import DATASETS, RECORDINGS
from bitdial.models import MODELS, SIGNAL_NETWORKS
from bitdial.models.foreign import LIBRARIES
from bitdial.models.names import LIBRARIES as LIBRARY_NAMES
from bitdial.numerics import ACTIVATION_QUANTIZERS, QUANTIZERS, TERNARY_BITS


def test_networks() -> None:
    assert names.NETWORKS == MODELS
    assert tuple(SIGNAL_NETWORKS) == names.SIGNAL_NETWORKS
    assert tuple(CODECS) == names.CODECS
    assert tuple(LIBRARIES) == LIBRARY_NAMES


def test_data_sets() -> None:
    assert names.DATASETS == DATASETS
    assert names.RECORDINGS == RECORDINGS


def test_quantizers() -> None:
    assert tuple(QUANTIZERS) == names.QUANTIZERS
    assert tuple(ACTIVATION_QUANTIZERS) == names.ACTIVATION_QUANTIZERS
    assert {name for name, each in QUANTIZERS.items() if each.fixed_bits == TERNARY_BITS} == {*names.TERNARY}
    assert {name for name, each in QUANTIZERS.items() if each.fixed_bits is not None} == {*names.ONE_WIDTH}
