"""HOW: number grids, rounding and quantizers.

Everything here takes its width as a 0-dim tensor, so that a compiled graph that was traced at one width serves every
other one. A plain reference stands beside each fast path (`bitdial.numerics.reference`).
"""

from bitdial.numerics.activations import fake_quantize as fake_quantize
from bitdial.numerics.grid import min_max as min_max
from bitdial.numerics.grid import snap as snap
from bitdial.numerics.grid import snap_symmetric as snap_symmetric
from bitdial.numerics.quantizers import GRANULARITIES as GRANULARITIES
from bitdial.numerics.quantizers import QUANTIZERS as QUANTIZERS
from bitdial.numerics.quantizers import Quantizer as Quantizer
from bitdial.numerics.quantizers import get_quantizer as get_quantizer
from bitdial.numerics.rounding import quantize_gradient as quantize_gradient
from bitdial.numerics.rounding import stochastic_round as stochastic_round
from bitdial.numerics.weights import dorefa_weight as dorefa_weight
from bitdial.numerics.weights import uniform_weight as uniform_weight
from bitdial.numerics.widths import UNQUANTIZED as UNQUANTIZED
from bitdial.numerics.widths import check_bits as check_bits
from bitdial.numerics.widths import levels as levels
