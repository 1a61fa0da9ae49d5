"""The networks: classes that take the shape of the images, the number of classes, and arguments of their own."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cnnbench.models.all_cnn_c import AllCNNC
    from cnnbench.models.deepobs_3c3d import DeepOBS3c3d
    from cnnbench.models.ensemble import Ensemble
    from cnnbench.models.from_timm import timm_model
    from cnnbench.models.from_torchvision import torchvision_model
    from cnnbench.models.googlenet import GoogLeNet
    from cnnbench.models.plain_cnn import PlainCNN
    from cnnbench.models.resnet18 import ResNet18
    from cnnbench.models.resnet20 import ResNet20
    from cnnbench.models.speed_cnn import SpeedCNN
    from cnnbench.models.vgg16_bn import VGG16BN

__all__ = [
    "VGG16BN",
    "AllCNNC",
    "DeepOBS3c3d",
    "Ensemble",
    "GoogLeNet",
    "PlainCNN",
    "ResNet18",
    "ResNet20",
    "SpeedCNN",
    "timm_model",
    "torchvision_model",
]

_HOMES = {
    "AllCNNC": "all_cnn_c",
    "DeepOBS3c3d": "deepobs_3c3d",
    "Ensemble": "ensemble",
    "GoogLeNet": "googlenet",
    "PlainCNN": "plain_cnn",
    "ResNet18": "resnet18",
    "ResNet20": "resnet20",
    "SpeedCNN": "speed_cnn",
    "VGG16BN": "vgg16_bn",
    "timm_model": "from_timm",
    "torchvision_model": "from_torchvision",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:  # imported when somebody asks for it: some import torchvision, which takes a second
        return getattr(import_module(f"cnnbench.models.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'cnnbench.models' has no attribute {name!r}")
