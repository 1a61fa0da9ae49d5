"""Checks of a config that searches an architecture, before anything runs."""

from dataclasses import replace

import torch
from torch import nn
from torch.optim import Optimizer

from cnnbench.config.schema import Config
from cnnbench.config.targets import build, check
from cnnbench.data.datamodule import ImageData
from cnnbench.data.images import ImageSet
from cnnbench.errors import ConfigError
from cnnbench.search.space import largest, searched
from cnnbench.training import optimizers, transfer
from cnnbench.training.parts import batch_size, epoch_of, make_model, make_optimizer, make_schedule


def check_search(config: Config, images: ImageSet) -> None:
    """Checks that the candidates fit the images, and that the rest of the config suits a search.

    Raises:
        ConfigError: it can't be searched; one line that names the key.
    """
    search = config.search
    data = ImageData(images, config.data, batch_size(config), config.seed)
    word = f"search={search.method}"
    if config.data.val == "test":
        raise ConfigError(f"data.val=test: {word} would train the architecture on the test set. Allowed: split.")
    if config.hardware.processes > 1:
        raise ConfigError(f"hardware.devices={config.hardware.devices}: {word} is done by one process. Allowed: 1.")
    for key in transfer.KEYS:
        if config.model.get(key):
            raise ConfigError(f"model.{key}={config.model[key]}: {word} trains networks with new weights only.")
    layers = searched(config.model, search, data.image_shape)
    spec, own = search.optimizer, "search.optimizer"
    if "lr" in spec:
        raise ConfigError(f"{own}.lr={spec['lr']}: give it as search.lr.")
    check(own, spec | {"lr": search.lr}, ("params",), Optimizer, "a torch.optim.optimizer.Optimizer")
    made = build(own, spec | {"lr": search.lr}, [nn.Parameter(torch.zeros(1))])
    if made is None or optimizers.averages(made):
        raise ConfigError(f"{own}._target_={spec.get('_target_')}: must step parameters, without averaging them.")
    with torch.device("meta"):
        network = make_model(replace(config, model=largest(config.model, layers)), data.image_shape, 2)
    _, epochs = config.trials if search.method == "random" else (0, config.search_epochs)
    make_schedule(replace(config, epochs=epochs), epoch_of(config, data), make_optimizer(config, network))
