"""Codecs that are trained: `[B, 3, H, W]` to latents and back, with the bits of every coding step."""

from bitdial.compression.models.codec import Coded as Coded
from bitdial.compression.models.codec import CodingStep as CodingStep
from bitdial.compression.models.codec import CompressionModel as CompressionModel
from bitdial.compression.models.codec import Latents as Latents
from bitdial.compression.models.hpcm import HPCM as HPCM
from bitdial.compression.models.hyperprior import FactorizedPrior as FactorizedPrior
from bitdial.compression.models.hyperprior import MeanScaleHyperprior as MeanScaleHyperprior
from bitdial.compression.models.hyperprior import ScaleHyperprior as ScaleHyperprior
from bitdial.compression.models.registry import MODELS as MODELS
from bitdial.compression.models.registry import CodecOptions as CodecOptions
from bitdial.compression.models.registry import build_codec_model as build_codec_model
