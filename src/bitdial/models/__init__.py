"""Networks by name, all of them safe to quantize: no layer's input is overwritten after the layer ran."""

from bitdial.models.foreign import forbid_inplace as forbid_inplace
from bitdial.models.registry import MODELS as MODELS
from bitdial.models.registry import build_model as build_model
from bitdial.models.registry import check_name as check_name
