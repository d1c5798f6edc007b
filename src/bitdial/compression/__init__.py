"""Image compression: codecs that are trained, and the balance of their two losses."""

from bitdial.compression.balance.balanced import BalancedOptimizer as BalancedOptimizer
from bitdial.compression.balance.cautious import CautiousAdam as CautiousAdam
from bitdial.compression.balance.gamma import AdaptiveGammaScheduler as AdaptiveGammaScheduler
from bitdial.compression.balance.gamma import HPCMGammaScheduler as HPCMGammaScheduler
from bitdial.compression.balance.quadratic import QuadraticBalance as QuadraticBalance
from bitdial.compression.balance.quadratic import quadratic_weights as quadratic_weights
from bitdial.compression.balance.task_weights import TaskWeights as TaskWeights
from bitdial.compression.metrics import bd_psnr as bd_psnr
from bitdial.compression.metrics import bd_rate as bd_rate
from bitdial.compression.metrics import bpp as bpp
from bitdial.compression.metrics import ms_ssim as ms_ssim
from bitdial.compression.metrics import psnr as psnr
from bitdial.compression.models import HPCM as HPCM
from bitdial.compression.models import FactorizedPrior as FactorizedPrior
from bitdial.compression.models import MeanScaleHyperprior as MeanScaleHyperprior
from bitdial.compression.models import ScaleHyperprior as ScaleHyperprior
