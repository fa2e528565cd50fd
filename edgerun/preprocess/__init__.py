"""Pictures and windows of samples to input tensors."""

from edgerun.preprocess.features import MicroFeatures
from edgerun.preprocess.picture import PicturePreprocess
from edgerun.preprocess.signal import SignalPreprocess

__all__ = ["MicroFeatures", "PicturePreprocess", "SignalPreprocess"]
