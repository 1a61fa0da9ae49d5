"""Architecture searches, joint and random, that choose the model before a run trains it."""

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
from cnnbench.search.space import Choice, Cost, Layer, derived, describe, searched
from cnnbench.search.supernet import Architecture, SuperNetwork
from cnnbench.training import checkpoints, parts, regularizers
from cnnbench.training.epoch import Epoch
from cnnbench.training.module import Classifier
from cnnbench.training.training import State, Surroundings, Training

Result = dict[str, Any]
"""A `records.Search` as plain values, as a checkpoint can hold them."""


def search(
    config: Config, images: ImageSet, data: ImageData, surroundings: Surroundings, keep: Callable[[Result], None]
) -> Result:
    """Searches for an architecture, or resumes a search; one that has ended is not repeated.

    Writes `conf/model/searched.yaml` into the run's folder: the model for `--config-dir FOLDER/conf model=searched`.

    Args:
        config: of the run.
        images: all images.
        data: split and batches.
        surroundings: the run's folder, screen and signals.
        keep: takes the result so far, after each epoch.

    Raises:
        Diverged: the loss of the super-network, or of all random architectures, became infinite or undefined.
        Interrupted: a signal was received; the state has been saved.
    """
    kind = _Joint if config.search.method == "joint" else _Random
    searching = kind(config, images, data, surroundings, keep)
    state = searching.resume()
    if searching.result["model"] is None:
        searching.run(state)
    result = searching.result
    keep(result)
    surroundings.screen.say(
        f"{surroundings.folder.name}: found {result['architecture']} ({result['image_passes']:,} image passes)"
    )
    return result


class _Search:
    """The common part of both kinds of search: the space, its costs, trainings, and files."""

    config: Config
    data: ImageData
    surroundings: Surroundings
    keep: Callable[[Result], None]
    layers: list[Layer]
    """The searched layers."""
    classes: int
    """Number of classes."""
    model: Spec
    """The model's config with the regularizer's dropout and batch normalization."""
    costs: Cost
    cost_of_start: float
    """The cost of H_init."""
    epoch: Epoch
    mean: list[float]
    """Mean of the training images, per channel."""
    std: list[float]
    """Standard deviation of the training images, per channel."""
    augment: Augmentation | None
    result: Result
    """What the search has found so far."""

    def __init__(
        self,
        config: Config,
        images: ImageSet,
        data: ImageData,
        surroundings: Surroundings,
        keep: Callable[[Result], None],
    ) -> None:
        self.config, self.data, self.surroundings, self.keep = config, data, surroundings, keep
        self.layers = searched(config.model, config.search, data.image_shape)
        self.classes = len(images.classes)
        self.model = regularizers.put_in(config.regularizer, config.model)
        self.costs = Cost(self.model, data.image_shape, self.classes, self.layers)
        self.cost_of_start = self.costs.of([layer.start for layer in self.layers])[config.search.cost]
        self.epoch = parts.epoch_of(config, data)
        self.mean, self.std = statistics(images.train, data.split.train, config.data.normalize)
        self.augment = parts.make_augmentation(config, len(images.train), self.mean)
        self.result = {
            "method": config.search.method,
            "history": [],
            "image_passes": 0,
            "seconds": 0.0,
            "entropy": None,
            "start": describe(config.model, self.layers),
            "architecture": describe(config.model, self.layers),
            "model": None,
        }

    @property
    def path(self) -> Path:
        """The file that holds the result so far and the state of the current training."""
        return self.surroundings.folder / "search.ckpt"

    def resume(self) -> State | None:
        """Takes over the result of an earlier process; returns the state of the training that it was in, if any."""
        if not self.path.exists():
            return None
        try:
            saved = checkpoints.read(self.path)
            state = State.of(saved["training"]) if saved["training"] else None
        except CheckpointError as error:
            self.surroundings.screen.say(f"warning: {error}; the search starts again from the beginning")
            return None
        self.result = saved["found"]
        return state

    def save(self, training: State | None) -> None:
        """Writes the result so far and the state of the current training."""
        self.surroundings.check_owner()
        checkpoints.write(self.path, {"found": self.result, "training": training and vars(training)})
        self.keep(self.result)

    def end(self, choices: list[Choice]) -> None:
        """Ends the search with the chosen architecture, and writes its config."""
        model = derived(self.config.model, self.layers, choices)
        self.result |= {"architecture": describe(model, self.layers), "model": model}
        text = f"# Found by search={self.result['method']}: {self.result['architecture']}\n"
        text += OmegaConf.to_yaml(OmegaConf.create(model))
        folder = self.surroundings.folder / "conf" / "model"
        folder.mkdir(parents=True, exist_ok=True)
        files.write_whole(folder / "searched.yaml", lambda file: file.write(text.encode()))
        self.save(None)

    def train(
        self,
        module: Classifier,
        epochs: int,
        state: State | None,
        epoch_ended: Callable[[State], None],
        epochs_done: int = 0,
    ) -> None:
        """Trains a module for a number of epochs, or for those that are left of a state.

        Args:
            module: the network in training.
            epochs: number of epochs from the start.
            state: where an earlier process stopped, or None.
            epoch_ended: keeps the state after each epoch.
            epochs_done: epochs of the search's earlier trainings, for the screen.

        Raises:
            Diverged: the loss became infinite or undefined.
            Interrupted: a signal was received; the state has been saved.
        """
        config = replace(self.config, epochs=epochs, stop=Stop())
        surroundings = replace(self.surroundings, epochs_done=epochs_done)
        Training(config, module, self.data, surroundings, state, self.save, epoch_ended).train()

    def parts_of(self, network: nn.Module, epochs: int) -> tuple[Any, ...]:
        """The arguments for the `Classifier` of a network."""
        config = replace(self.config, epochs=epochs)
        model = parts.with_pixels(config, network, self.mean, self.std)
        recipe = parts.make_recipe(config, self.epoch, self.data.class_counts)
        return model, recipe, self.epoch, self.augment, config.seed


class _Joint(_Search):
    """The joint search: trains one super-network together with its architecture."""

    def run(self, state: State | None) -> None:
        """Searches from the beginning, or from the state of an earlier process."""
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
            self.result["history"].append(
                {key: row[key] for key in ("epoch", "train_loss", "train_acc", "val_loss", "val_acc", "seconds")}
                | {
                    "image_passes": passes,
                    "entropy": architecture.entropy(),
                    "parameters": float(self.costs(chances)["parameters"]),
                    "probabilities": {
                        layer.name: {
                            key: dict(zip(map(str, layer.candidates[key]), probabilities.tolist(), strict=True))
                            for key, probabilities in by_property.items()
                            if len(probabilities) > 1
                        }
                        for layer, by_property in zip(self.layers, chances, strict=True)
                    },
                }
            )
            self.result["image_passes"] += passes
            self.result["seconds"] += row["seconds"]
            self.result["entropy"] = architecture.entropy()
            self.save(state)

        if len(self.result["history"]) < epochs:
            try:
                self.train(module, epochs, state, epoch_ended)
            except Diverged as error:
                raise Diverged(f"in the search {error}") from None
        elif state:  # the process was killed after the last epoch, before `end` was saved
            module.load_state_dict(state.lightning["state_dict"])
        self.end(architecture.chosen())


class _Random(_Search):
    """The random search: draws architectures uniformly without repetition, and chooses the one with the lowest score.

    The score is the lowest validation loss of an architecture's epochs plus the joint search's penalty for its cost. An
    architecture that diverges has a row without a score.
    """

    def run(self, state: State | None) -> None:
        """Searches from the beginning, or from the state of an earlier process."""
        trials, epochs = self.config.trials
        drawn = self._drawn(trials)
        for number in range(len(self.result["history"]), len(drawn)):
            self._try(number, drawn[number], epochs, state)
            state = None
        scores = [row["score"] for row in self.result["history"]]
        best = min((score for score in scores if score is not None), default=None)
        if best is None:
            raise Diverged(f"the loss of all {trials} random architectures became infinite or undefined")
        self.end(drawn[scores.index(best)])

    def _drawn(self, count: int) -> list[list[Choice]]:
        """Draws `count` different architectures, or all if there are fewer."""
        lists = [(layer, key, values) for layer in self.layers for key, values in layer.candidates.items()]
        rng = np.random.default_rng(derived_seed(self.config.seed, Stream.SEARCH))
        combinations = math.prod(len(values) for _, _, values in lists)
        drawn: dict[tuple[int, ...], list[Choice]] = {}
        while len(drawn) < min(count, combinations):
            positions = tuple(int(rng.integers(len(values))) for _, _, values in lists)
            choices: dict[int, Choice] = {layer.index: {} for layer in self.layers}
            for (layer, key, values), position in zip(lists, positions, strict=True):
                choices[layer.index][key] = values[position]
            drawn[positions] = list(choices.values())
        return list(drawn.values())

    def _try(self, number: int, choices: list[Choice], epochs: int, state: State | None) -> None:
        """Trains one architecture, trial `number` from 0, and adds its row."""
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
            "architecture": describe(model, self.layers),
            "parameters": costs["parameters"],
            "val_loss": min((row["val_loss"] for row in history), default=None),
            "val_acc": max((row["val_acc"] for row in history), default=None),
            "score": score,
            "image_passes": (len(history) + diverged) * self.epoch.images,
            "seconds": sum(row["seconds"] for row in history),
        }
        self.result["history"].append(row)
        for key in ("image_passes", "seconds"):
            self.result[key] += row[key]
        self.save(None)
