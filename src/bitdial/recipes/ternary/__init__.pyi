from bitdial.recipes.saved_model import SavedModel as SavedModel
from bitdial.recipes.saved_model import load_saved as load_saved
from bitdial.recipes.saved_model import load_saved as load_trained  # noqa: F401  (the name that scripts know)
from bitdial.recipes.ternary.options import PRESETS as PRESETS
from bitdial.recipes.ternary.options import TernaryConfig as TernaryConfig
from bitdial.recipes.ternary.recipe import TERNARY as TERNARY
from bitdial.recipes.ternary.recipe import share_of_zeros as share_of_zeros
from bitdial.recipes.ternary.results import NetworkResult as NetworkResult
from bitdial.recipes.ternary.results import TernaryResults as TernaryResults
