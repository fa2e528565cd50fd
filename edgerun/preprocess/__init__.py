"""Pictures to input tensors."""

from edgerun.preprocess.picture import PicturePreprocess

__all__ = ["PicturePreprocess"]
