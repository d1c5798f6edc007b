"""Ternary training: weights in {-1, 0, 1} x scale through a long run that can be stopped and resumed, then packed."""

from bitdial.recipes.ternary.config import TernaryConfig as TernaryConfig
from bitdial.recipes.ternary.network import Network as Network
from bitdial.recipes.ternary.network import TrainedNetwork as TrainedNetwork
from bitdial.recipes.ternary.network import load_trained as load_trained
from bitdial.recipes.ternary.network import share_of_zeros as share_of_zeros
from bitdial.recipes.ternary.results import NetworkResult as NetworkResult
from bitdial.recipes.ternary.results import TernaryResults as TernaryResults
from bitdial.recipes.ternary.scenarios import SCENARIOS as SCENARIOS
from bitdial.recipes.ternary.train import train_network as train_network
