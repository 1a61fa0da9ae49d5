"""Several networks as one larger model (document 1, 5.2)."""

from typing import Any

import torch
from torch import Tensor, nn

from cnnbench.config.targets import build, check
from cnnbench.errors import ConfigError


class Ensemble(nn.Module):
    """Trained as one: its output, and so its loss, is that of the mean of its members' logits.

    Args:
        image_shape: channels, height and width of the images.
        classes: how many outputs.
        members: the members' configs, each as in the `model` group; on the command line the names of its options.

    Raises:
        ConfigError: there are no members, or one of them can't be built.
    """

    def __init__(self, image_shape: tuple[int, int, int], classes: int, members: list[dict[str, Any]]) -> None:
        super().__init__()
        if not isinstance(members, list) or not members or not all(isinstance(spec, dict) for spec in members):
            raise ConfigError(f"model.members={members}: must be a list of models, such as [document_cnn,resnet20].")
        for spec in members:
            check("model.members", spec, ("image_shape", "classes"), nn.Module, "a torch.nn.Module")
        self.members = nn.ModuleList(build("model.members", spec, image_shape, classes) for spec in members)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (n, classes)."""
        return torch.stack([member(images) for member in self.members]).mean(0)
