"""Checks of a config that searches for an architecture, before anything runs."""

from dataclasses import replace

import torch
from torch import nn
from torch.optim import Optimizer

from cnnbench.config.schema import Config
from cnnbench.config.targets import build, check
from cnnbench.data.datamodule import ImageData
from cnnbench.data.images import ImageSet
from cnnbench.errors import ConfigError
from cnnbench.search.space import largest, left_out, searched
from cnnbench.training import averaging, initialisation, optimizers
from cnnbench.training.parts import batch_size, epoch_of, make_model, make_optimizer, make_schedule


def check_search(config: Config, images: ImageSet) -> list[str]:
    """Checks that there are candidates that fit the images, and that the rest of the config fits a search.

    Returns:
        Warnings: which candidates are left out.

    Raises:
        ConfigError: the search can't be run; one line that names the key.
    """
    search = config.search
    data = ImageData(images, config.data, batch_size(config), config.seed)
    option = f"search={search.method}"
    if config.data.val == "test":
        raise ConfigError(f"data.val=test: {option} would train the architecture on the test set. Allowed: split.")
    if config.hardware.processes > 1:
        raise ConfigError(f"hardware.devices={config.hardware.devices}: {option} runs in one process. Allowed: 1.")
    for key in initialisation.KEYS:
        if config.model.get(key):
            raise ConfigError(f"model.{key}={config.model[key]}: {option} only trains networks with new weights.")
    if search.method == "joint" and optimizers.tried(config.optimizer).closure:
        raise ConfigError(
            f"optimizer._target_={config.optimizer['_target_']}: evaluates the loss several times a step, which "
            f"search=joint can't repeat. search=random can."
        )
    layers = searched(config.model, search, data.image_shape)
    spec, group = search.optimizer, "search.optimizer"
    if "lr" in spec:
        raise ConfigError(f"{group}.lr={spec['lr']}: give it as search.lr.")
    check(group, spec | {"lr": search.lr}, ("params",), Optimizer, "a torch.optim.optimizer.Optimizer")
    optimizer = build(group, spec | {"lr": search.lr}, [nn.Parameter(torch.zeros(1))])
    if optimizer is None or averaging.averages(optimizer):
        raise ConfigError(f"{group}._target_={spec.get('_target_')}: must step parameters without averaging them.")
    with torch.device("meta"):
        network = make_model(replace(config, model=largest(config.model, layers)), data.image_shape, 2)
    _, epochs = config.trials if search.method == "random" else (0, config.search_epochs)
    make_schedule(replace(config, epochs=epochs), epoch_of(config, data), make_optimizer(config, network))
    without = left_out(search, layers)
    height, width = data.image_shape[1:]
    return [f"{option}: images of {height}x{width} are too small for {', '.join(without)}."] if without else []
