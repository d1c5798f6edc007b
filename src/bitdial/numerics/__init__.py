"""HOW: number grids, rounding and quantizers.

Everything here takes its width as a 0-dim tensor, so that a compiled graph that was traced at one width serves every
other one. A plain reference stands beside each fast path (`bitdial.numerics.reference`).
"""

from bitdial.numerics.fitted import binary_weight as binary_weight
from bitdial.numerics.fitted import quest_values as quest_values
from bitdial.numerics.fitted import quest_weight as quest_weight
from bitdial.numerics.grid import min_max as min_max
from bitdial.numerics.grid import snap as snap
from bitdial.numerics.grid import snap_symmetric as snap_symmetric
from bitdial.numerics.learned_step import LsqActivation as LsqActivation
from bitdial.numerics.learned_step import LsqWeight as LsqWeight
from bitdial.numerics.learned_step import PactActivation as PactActivation
from bitdial.numerics.learned_step import SeqWeight as SeqWeight
from bitdial.numerics.learned_step import lsq_weight as lsq_weight
from bitdial.numerics.learned_step import seq_weight as seq_weight
from bitdial.numerics.learned_ternary import LearnedStepWeight as LearnedStepWeight
from bitdial.numerics.learned_ternary import LearnedWeight as LearnedWeight
from bitdial.numerics.learned_ternary import TrainedTernaryWeight as TrainedTernaryWeight
from bitdial.numerics.learned_ternary import learned_step_values as learned_step_values
from bitdial.numerics.learned_ternary import ternary_lsq_weight as ternary_lsq_weight
from bitdial.numerics.learned_ternary import ttq_values as ttq_values
from bitdial.numerics.learned_ternary import ttq_weight as ttq_weight
from bitdial.numerics.nested import nested_weight as nested_weight
from bitdial.numerics.packing import DamagedPacking as DamagedPacking
from bitdial.numerics.packing import pack_bits as pack_bits
from bitdial.numerics.packing import pack_trits as pack_trits
from bitdial.numerics.packing import pack_trits_2bit as pack_trits_2bit
from bitdial.numerics.packing import packed_length as packed_length
from bitdial.numerics.packing import unpack_bits as unpack_bits
from bitdial.numerics.packing import unpack_trits as unpack_trits
from bitdial.numerics.packing import unpack_trits_2bit as unpack_trits_2bit
from bitdial.numerics.quantizers import ACTIVATION_QUANTIZERS as ACTIVATION_QUANTIZERS
from bitdial.numerics.quantizers import GRANULARITIES as GRANULARITIES
from bitdial.numerics.quantizers import QUANTIZERS as QUANTIZERS
from bitdial.numerics.quantizers import ActivationQuantizer as ActivationQuantizer
from bitdial.numerics.quantizers import Quantizer as Quantizer
from bitdial.numerics.quantizers import get_activation_quantizer as get_activation_quantizer
from bitdial.numerics.quantizers import get_quantizer as get_quantizer
from bitdial.numerics.quantizers import register as register
from bitdial.numerics.quantizers import register_activations as register_activations
from bitdial.numerics.reference import UNQUANTIZED as UNQUANTIZED
from bitdial.numerics.reference import check_bits as check_bits
from bitdial.numerics.reference import levels as levels
from bitdial.numerics.rounding import fake_quantize as fake_quantize
from bitdial.numerics.rounding import quantize_gradient as quantize_gradient
from bitdial.numerics.rounding import stochastic_round as stochastic_round
from bitdial.numerics.weights import TERNARY_BITS as TERNARY_BITS
from bitdial.numerics.weights import absmean_weight as absmean_weight
from bitdial.numerics.weights import dorefa_weight as dorefa_weight
from bitdial.numerics.weights import twn_weight as twn_weight
from bitdial.numerics.weights import uniform_weight as uniform_weight
