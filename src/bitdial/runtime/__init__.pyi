from .loading import OnnxNetwork as OnnxNetwork
from .loading import load as load
from .network import Chosen as Chosen
from .network import Network as Network
