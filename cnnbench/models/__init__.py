"""Which network? A model is a class that takes the image's shape, the number of classes, and its own arguments."""

from cnnbench.models.plain_cnn import PlainCNN

__all__ = ["PlainCNN"]
