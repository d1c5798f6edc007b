"""WHERE: quantized layers, the conversion of a model, the dial, batch-norm statistics per width, the cost ledger."""

from bitdial.layers.batch_norm import batch_norm_per_width as batch_norm_per_width
from bitdial.layers.batch_norm import reestimate_batch_norm as reestimate_batch_norm
from bitdial.layers.batch_norm import rest_idle_rows as rest_idle_rows
from bitdial.layers.convert import quantize as quantize
from bitdial.layers.convert import ranges_per_call as ranges_per_call
from bitdial.layers.convert import skipped_layers as skipped_layers
from bitdial.layers.dial import BitDial as BitDial
from bitdial.layers.dial import PrecisionScheduler as PrecisionScheduler
from bitdial.layers.ledger import BitOps as BitOps
from bitdial.layers.ledger import Ledger as Ledger
from bitdial.layers.ledger import LedgerRow as LedgerRow
from bitdial.layers.ledger import cost as cost
from bitdial.layers.quantized import QuantConv1d as QuantConv1d
from bitdial.layers.quantized import QuantConv2d as QuantConv2d
from bitdial.layers.quantized import QuantConvTranspose1d as QuantConvTranspose1d
from bitdial.layers.quantized import QuantConvTranspose2d as QuantConvTranspose2d
from bitdial.layers.quantized import QuantizedLayer as QuantizedLayer
from bitdial.layers.quantized import QuantLinear as QuantLinear
from bitdial.schedules import LayerSchedule as LayerSchedule
