from bitdial.models.foreign import forbid_inplace as forbid_inplace
from bitdial.models.names import check_signal_name as check_signal_name
from bitdial.models.registry import MODELS as MODELS
from bitdial.models.registry import build_model as build_model
from bitdial.models.registry import check_name as check_name
from bitdial.models.signals import SIGNAL_NETWORKS as SIGNAL_NETWORKS
from bitdial.models.signals import SignalNetwork as SignalNetwork
from bitdial.models.signals import build_signal_model as build_signal_model
