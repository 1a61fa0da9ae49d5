"""Readers of images, archives, the datamodule and augmentation."""
