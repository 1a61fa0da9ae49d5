"""Which architecture does a run train? The search in front of it, of either kind, and what is kept of it."""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import OmegaConf
from torch import Tensor, nn

from cnnbench.config.schema import Config, Stop
from cnnbench.config.targets import Spec
from cnnbench.data.augmentation import Augmentation
from cnnbench.data.datamodule import ImageData, statistics
from cnnbench.data.images import ImageSet
from cnnbench.errors import CheckpointError, Diverged
from cnnbench.runtime import files
from cnnbench.runtime.randomness import Stream, derived_seed
from cnnbench.search.joint import Joint
from cnnbench.search.space import Choice, Cost, Layer, derived, searched, words
from cnnbench.search.supernet import Architecture, SuperNetwork
from cnnbench.training import checkpoints, parts, regularizers
from cnnbench.training.module import Classifier, Epoch
from cnnbench.training.training import State, Surroundings, Training

Found = dict[str, Any]
"""A `records.Search` as plain values, as a checkpoint can hold them."""


def search(
    config: Config, images: ImageSet, data: ImageData, surroundings: Surroundings, keep: Callable[[Found], None]
) -> Found:
    """Searches, resumes an earlier search, or finds it done.

    Leaves `conf/model/searched.yaml` in the run's folder: the model for `--config-dir FOLDER/conf model=searched`.

    Args:
        config: of the run.
        images: all images.
        data: split and batches.
        surroundings: the run's folder, screen and signals.
        keep: gets what is found so far, after each epoch.

    Raises:
        Diverged: the loss of the super-network, or of all random architectures, became infinite or undefined.
        Interrupted: a signal was received.
    """
    kind = _Joint if config.search.method == "joint" else _Random
    searching = kind(config, images, data, surroundings, keep)
    state = searching.resume()
    if searching.found["model"] is None:
        searching.run(state)
    found = searching.found
    keep(found)
    surroundings.screen.say(
        f"{surroundings.folder.name}: found {found['architecture']} ({found['image_passes']:,} image passes)"
    )
    return found


class _Search:
    """What both kinds of search share: the space, its costs, trainings, and the files."""

    config: Config
    data: ImageData
    surroundings: Surroundings
    keep: Callable[[Found], None]
    layers: list[Layer]
    classes: int
    model: Spec
    """The model's config with the regularizer's part."""
    costs: Cost
    cost_of_start: float
    epoch: Epoch
    mean: list[float]
    deviation: list[float]
    augment: Augmentation | None
    found: Found

    def __init__(
        self,
        config: Config,
        images: ImageSet,
        data: ImageData,
        surroundings: Surroundings,
        keep: Callable[[Found], None],
    ) -> None:
        self.config, self.data, self.surroundings, self.keep = config, data, surroundings, keep
        self.layers = searched(config.model, config.search, data.image_shape)
        self.classes = len(images.classes)
        self.model = regularizers.put_in(config.regularizer, config.model)
        self.costs = Cost(self.model, data.image_shape, self.classes, self.layers)
        self.cost_of_start = self.costs.of([layer.start for layer in self.layers])[config.search.cost]
        self.epoch = parts.epoch_of(config, data)
        self.mean, self.deviation = statistics(images.train, data.split.train, config.data.normalize)
        self.augment = parts.make_augmentation(config, len(images.train), self.mean)
        self.found = {
            "method": config.search.method,
            "history": [],
            "image_passes": 0,
            "seconds": 0.0,
            "entropy": None,
            "start": words(config.model, self.layers),
            "architecture": words(config.model, self.layers),
            "model": None,
        }

    @property
    def path(self) -> Path:
        """The file of what has been found, and of the state of the training under way."""
        return self.surroundings.folder / "search.ckpt"

    def resume(self) -> State | None:
        """Takes over what an earlier process had found. Returns the state of the training that it had under way."""
        if not self.path.exists():
            return None
        try:
            saved = checkpoints.read(self.path)
            state = State.of(saved["training"]) if saved["training"] else None
        except CheckpointError as error:
            self.surroundings.screen.say(f"warning: {error}; the search starts anew")
            return None
        self.found = saved["found"]
        return state

    def save(self, training: State | None) -> None:
        """Writes what has been found so far, and the state of the training under way."""
        checkpoints.write(self.path, {"found": self.found, "training": training and vars(training)})
        self.keep(self.found)

    def end(self, choices: list[Choice]) -> None:
        """Writes down what was found."""
        model = derived(self.config.model, self.layers, choices)
        self.found |= {"architecture": words(model, self.layers), "model": model}
        text = f"# Found by search={self.found['method']}: {self.found['architecture']}\n"
        text += OmegaConf.to_yaml(OmegaConf.create(model))
        place = self.surroundings.folder / "conf" / "model"
        place.mkdir(parents=True, exist_ok=True)
        files.write_whole(place / "searched.yaml", lambda file: file.write(text.encode()))
        self.save(None)

    def train(
        self,
        module: Classifier,
        epochs: int,
        state: State | None,
        epoch_ended: Callable[[State], None],
        epochs_done: int = 0,
    ) -> None:
        """Trains for so many epochs, or for those that are left of a state.

        Args:
            module: what is trained.
            epochs: in all.
            state: where an earlier process stopped, or None.
            epoch_ended: keeps the state after each epoch.
            epochs_done: of earlier trainings, for the screen.
        """
        config = replace(self.config, epochs=epochs, stop=Stop())
        surroundings = replace(self.surroundings, epochs_done=epochs_done)
        Training(config, module, self.data, surroundings, state, self.save, epoch_ended).train()

    def parts_of(self, network: nn.Module, epochs: int) -> tuple[Any, ...]:
        """What a `Classifier` of this network is made of."""
        config = replace(self.config, epochs=epochs)
        model = parts.with_pixels(config, network, self.mean, self.deviation)
        return model, parts.make_recipe(config, self.epoch), self.epoch, self.augment, config.seed


class _Joint(_Search):
    """One super-network, trained once."""

    def run(self, state: State | None) -> None:
        config, settings, epochs = self.config, self.config.search, self.config.search_epochs
        torch.manual_seed(derived_seed(config.seed, Stream.SEARCH))
        architecture = Architecture(self.layers, settings.margin)
        network = SuperNetwork(self.model, self.data.image_shape, self.classes, self.layers, architecture)

        def cost() -> Tensor:
            expected = self.costs(architecture.all_probabilities())[settings.cost]
            return settings.cost_weight * (expected / self.cost_of_start).log()

        module = Joint(
            *self.parts_of(network, epochs),
            architecture=architecture,
            search=settings,
            held_out=self.data.held_out,
            cost=cost if settings.cost_weight else None,
        )

        def epoch_ended(state: State) -> None:
            row = module.history[-1]
            passes = self.epoch.images * settings.passes
            with torch.no_grad():
                chances = architecture.all_probabilities()
            self.found["history"].append(
                {key: row[key] for key in ("epoch", "train_loss", "train_acc", "val_loss", "val_acc", "seconds")}
                | {
                    "image_passes": passes,
                    "entropy": architecture.entropy(),
                    "parameters": float(self.costs(chances)["parameters"]),
                    "probabilities": {
                        layer.name: {
                            key: dict(zip(map(str, layer.candidates[key]), found.tolist(), strict=True))
                            for key, found in of_layer.items()
                            if len(found) > 1
                        }
                        for layer, of_layer in zip(self.layers, chances, strict=True)
                    },
                }
            )
            self.found["image_passes"] += passes
            self.found["seconds"] += row["seconds"]
            self.found["entropy"] = architecture.entropy()
            self.save(state)

        if len(self.found["history"]) < epochs:
            try:
                self.train(module, epochs, state, epoch_ended)
            except Diverged as error:
                raise Diverged(f"in the search {error}") from None
        elif state:  # the process was killed between the last epoch and the end
            module.load_state_dict(state.lightning["state_dict"])
        self.end(architecture.chosen())


class _Random(_Search):
    """Architectures drawn uniformly, each one once; the one with the lowest validation loss, and cost, is taken.

    The loss is that of an architecture's best epoch, the penalty that of the joint search. One that diverges has its
    row and is not taken.
    """

    def run(self, state: State | None) -> None:
        trials, epochs = self.config.trials
        drawn = self._drawn(trials)
        for number in range(len(self.found["history"]), len(drawn)):
            self._try(number, drawn[number], epochs, state)
            state = None
        scores = [row["score"] for row in self.found["history"]]
        best = min((score for score in scores if score is not None), default=None)
        if best is None:
            raise Diverged(f"the loss of all {trials} random architectures became infinite or undefined")
        self.end(drawn[scores.index(best)])

    def _drawn(self, count: int) -> list[list[Choice]]:
        """So many different architectures, or all that there are."""
        lists = [(layer, key, values) for layer in self.layers for key, values in layer.candidates.items()]
        rng = np.random.default_rng(derived_seed(self.config.seed, Stream.SEARCH))
        there = math.prod(len(values) for _, _, values in lists)
        drawn: dict[tuple[int, ...], list[Choice]] = {}
        while len(drawn) < min(count, there):
            picked = tuple(int(rng.integers(len(values))) for _, _, values in lists)
            choices: dict[int, Choice] = {layer.index: {} for layer in self.layers}
            for (layer, key, values), position in zip(lists, picked, strict=True):
                choices[layer.index][key] = values[position]
            drawn[picked] = list(choices.values())
        return list(drawn.values())

    def _try(self, number: int, choices: list[Choice], epochs: int, state: State | None) -> None:
        torch.manual_seed(derived_seed(self.config.seed, Stream.SEARCH, number))
        model = derived(self.config.model, self.layers, choices)
        network = parts.make_model(replace(self.config, model=model), self.data.image_shape, self.classes)
        module = Classifier(*self.parts_of(network, epochs))
        diverged = False
        try:
            self.train(module, epochs, state, self.save, epochs_done=number * epochs)
        except Diverged:
            diverged = True
        history, costs, score = module.history, self.costs.of(choices), None
        if not diverged:
            relative = math.log(costs[self.config.search.cost] / self.cost_of_start)
            score = min(row["val_loss"] for row in history) + self.config.search.cost_weight * relative
        row = {
            "trial": number + 1,
            "architecture": words(model, self.layers),
            "parameters": costs["parameters"],
            "val_loss": min((row["val_loss"] for row in history), default=None),
            "val_acc": max((row["val_acc"] for row in history), default=None),
            "score": score,
            "image_passes": (len(history) + diverged) * self.epoch.images,
            "seconds": sum(row["seconds"] for row in history),
        }
        self.found["history"].append(row)
        for key in ("image_passes", "seconds"):
            self.found[key] += row[key]
        self.save(None)
