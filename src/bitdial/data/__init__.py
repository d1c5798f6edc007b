"""Image datasets, and loaders whose every batch is a pure function of (seed, epoch, batch)."""

from bitdial.data.augment import Augmentation as Augmentation
from bitdial.data.augment import BatchTransform as BatchTransform
from bitdial.data.augment import HorizontalFlip as HorizontalFlip
from bitdial.data.augment import Normalise as Normalise
from bitdial.data.augment import RandomCrop as RandomCrop
from bitdial.data.augment import RandomErasing as RandomErasing
from bitdial.data.augment import TorchvisionTransform as TorchvisionTransform
from bitdial.data.dataset import ImageDataset as ImageDataset
from bitdial.data.dataset import ImageSplit as ImageSplit
from bitdial.data.dataset import Split as Split
from bitdial.data.fingerprint import Fingerprint as Fingerprint
from bitdial.data.images import FolderSplit as FolderSplit
from bitdial.data.loader import BatchLoader as BatchLoader
from bitdial.data.loader import make_loader as make_loader
from bitdial.data.pipeline import AUGMENTATIONS as AUGMENTATIONS
from bitdial.data.pipeline import AugmentationOptions as AugmentationOptions
from bitdial.data.pipeline import build_augmentation as build_augmentation
from bitdial.data.pipeline import standard as standard
from bitdial.data.registry import DATASETS as DATASETS
from bitdial.data.registry import load_dataset as load_dataset
from bitdial.data.strong import AutomaticPolicy as AutomaticPolicy
from bitdial.data.strong import MixOneOf as MixOneOf
from bitdial.data.tensors import dataset_from_tensors as dataset_from_tensors
