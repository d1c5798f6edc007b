"""Image compression: codecs that are trained, and the balance of their two losses."""

from bitdial.compression.balanced import BalancedOptimizer as BalancedOptimizer
from bitdial.compression.cautious import CautiousAdam as CautiousAdam
from bitdial.compression.gamma import AdaptiveGammaScheduler as AdaptiveGammaScheduler
from bitdial.compression.gamma import HPCMGammaScheduler as HPCMGammaScheduler
from bitdial.compression.metrics import bd_psnr as bd_psnr
from bitdial.compression.metrics import bd_rate as bd_rate
from bitdial.compression.metrics import bpp as bpp
from bitdial.compression.metrics import ms_ssim as ms_ssim
from bitdial.compression.metrics import psnr as psnr
from bitdial.compression.models import HPCM as HPCM
from bitdial.compression.models import FactorizedPrior as FactorizedPrior
from bitdial.compression.models import MeanScaleHyperprior as MeanScaleHyperprior
from bitdial.compression.models import ScaleHyperprior as ScaleHyperprior
from bitdial.compression.quadratic import QuadraticBalance as QuadraticBalance
from bitdial.compression.quadratic import quadratic_weights as quadratic_weights
from bitdial.compression.task_weights import TaskWeights as TaskWeights
