"""Which architecture does a run train? The search in front of it, of either kind, and what is kept of it."""

import math
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from omegaconf import OmegaConf
from pytorch_lightning.callbacks import Checkpoint
from torch import Tensor, nn

from cnnbench.config.schema import Config
from cnnbench.data.datamodule import SEARCH, ImageData, derived_seed, statistics
from cnnbench.data.images import ImageSet
from cnnbench.errors import CheckpointError, Diverged, Interrupted
from cnnbench.runtime import files
from cnnbench.runtime.progress import REFRESH, Screen
from cnnbench.search.joint import Joint
from cnnbench.search.space import Choice, Cost, derived, searched, words
from cnnbench.search.supernet import Architecture, SuperNetwork
from cnnbench.training import checkpoints, optimizers, parts, regularizers
from cnnbench.training.module import Classifier

State = dict[str, Any]
"""Of a training after an epoch, as `_Watch` puts it together."""

Found = dict[str, Any]
"""A `records.Search` as plain values, as a checkpoint can hold them."""


def search(
    config: Config,
    images: ImageSet,
    data: ImageData,
    folder: Path,
    screen: Screen,
    received: list[int],
    keep: Callable[[Found], None],
) -> Found:
    """Searches, or goes on where an earlier search was stopped, or finds it done.

    Leaves `conf/model/searched.yaml` in the run's folder: the model for `--config-dir FOLDER/conf model=searched`.

    Args:
        config: of the run.
        images: all images.
        data: split and batches.
        folder: the run's.
        screen: where it shows how it is getting on.
        received: signals, to be acted on between two steps.
        keep: gets what is found so far, after each epoch.

    Raises:
        Diverged: the loss of the super-network, or of all random architectures, became infinite or undefined.
        Interrupted: by a signal.
    """
    searching = (_Joint if config.search.method == "joint" else _Random)(config, images, data, folder, screen, received)
    state = searching.before()
    if searching.found["model"] is None:
        searching.run(state, keep)
    found = searching.found
    keep(found)
    screen.say(f"{folder.name}: found {found['architecture']} ({found['image_passes']:,} image passes)")
    return found


class _Search:
    """What both kinds of search share: the space, its costs, trainings that can be gone on with, and the files."""

    def __init__(
        self, config: Config, images: ImageSet, data: ImageData, folder: Path, screen: Screen, received: list[int]
    ) -> None:
        self.config, self.data, self.folder, self.screen, self.received = config, data, folder, screen, received
        self.layers = searched(config.model, config.search, data.image_shape)
        self.classes = len(images.classes)
        self.model = regularizers.put_in(config.regularizer, config.model)
        self.costs = Cost(self.model, data.image_shape, self.classes, self.layers)
        self.cost_of_start = self.costs.of([layer.start for layer in self.layers])[config.search.cost]
        self.epoch = parts.epoch_of(config, data)
        self.mean, self.deviation = statistics(images.train, data.split.train, config.data.normalize)
        self.augment = parts.make_augmentation(config, len(images.train), self.mean)
        self.found: Found = {
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
        """Holds what has been found, and the state of the training under way."""
        return self.folder / "search.ckpt"

    def before(self) -> State | None:
        """The state of the training that an earlier process had under way; takes over what it had found."""
        if not self.path.exists():
            return None
        try:
            kept = checkpoints.read(self.path)
        except CheckpointError as error:
            self.screen.say(f"warning: {error}; the search starts anew")
            return None
        self.found = kept["found"]
        state: State | None = kept["training"]
        return state

    def save(self, training: State | None, keep: Callable[[Found], None]) -> None:
        """Keeps what has been found so far."""
        checkpoints.write(self.path, {"found": self.found, "training": training})
        keep(self.found)

    def end(self, choices: list[Choice], keep: Callable[[Found], None]) -> None:
        """Writes down what was found."""
        model = derived(self.config.model, self.layers, choices)
        self.found |= {"architecture": words(model, self.layers), "model": model}
        text = f"# Found by search={self.found['method']}: {self.found['architecture']}\n"
        text += OmegaConf.to_yaml(OmegaConf.create(model))
        place = self.folder / "conf" / "model"
        place.mkdir(parents=True, exist_ok=True)
        files.write_whole(place / "searched.yaml", lambda file: file.write(text.encode()))
        self.save(None, keep)

    def train(
        self, module: Classifier, epochs: int, before: State | None, behind: int, after: Callable[[State], None]
    ) -> None:
        """Trains for so many epochs, the rest of them if there is a state from before; `after` each the state now.

        Args:
            module: what is trained.
            epochs: in all.
            before: the state after an epoch.
            behind: epochs of earlier trainings, for the screen.
            after: is called after each epoch.
        """
        if before:
            module.go_on(before["module"])
        watch = _Watch(self, module, before, behind, after)
        trainer = parts.make_trainer(replace(self.config, epochs=epochs), [watch], self.folder)
        progress: Any = trainer.fit_loop.epoch_progress.current
        progress.processed = progress.completed = len(module.history)
        trainer.fit(module, datamodule=self.data)

    def parts_of(self, network: nn.Module, epochs: int) -> tuple[Any, ...]:
        """What a `Classifier` of this network is made of."""
        config = replace(self.config, epochs=epochs)
        model = parts.with_pixels(config, network, self.mean, self.deviation)
        return model, parts.make_recipe(config, self.epoch), self.epoch, self.augment, config.seed


class _Joint(_Search):
    """One super-network, trained once."""

    def run(self, before: State | None, keep: Callable[[Found], None]) -> None:
        config, settings, epochs = self.config, self.config.search, self.config.search_epochs
        torch.manual_seed(derived_seed(config.seed, SEARCH))
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

        def after(state: State) -> None:
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
            self.save(state, keep)

        if len(self.found["history"]) < epochs:
            try:
                self.train(module, epochs, before, 0, after)
            except Diverged as error:
                raise Diverged(f"in the search {error}") from None
        elif before:
            architecture.load_state_dict(before["module"]["architecture"])
        self.end(architecture.chosen(), keep)


class _Random(_Search):
    """Architectures drawn uniformly, each one once; the one with the lowest validation loss, and cost, is taken.

    The loss is that of an architecture's best epoch, the penalty that of the joint search. One that diverges has its
    row and is not taken.
    """

    def run(self, before: State | None, keep: Callable[[Found], None]) -> None:
        trials, epochs = self.config.trials
        drawn = self._drawn(trials)
        for number in range(len(self.found["history"]), len(drawn)):
            self._try(number, drawn[number], epochs, before, keep)
            before = None
        scores = [row["score"] for row in self.found["history"]]
        best = min((score for score in scores if score is not None), default=None)
        if best is None:
            raise Diverged(f"the loss of all {trials} random architectures became infinite or undefined")
        self.end(drawn[scores.index(best)], keep)

    def _drawn(self, count: int) -> list[list[Choice]]:
        """So many different architectures, or all that there are."""
        lists = [(layer, key, values) for layer in self.layers for key, values in layer.candidates.items()]
        rng = np.random.default_rng(derived_seed(self.config.seed, SEARCH))
        there = math.prod(len(values) for _, _, values in lists)
        drawn: dict[tuple[int, ...], list[Choice]] = {}
        while len(drawn) < min(count, there):
            picked = tuple(int(rng.integers(len(values))) for _, _, values in lists)
            choices: dict[int, Choice] = {layer.index: {} for layer in self.layers}
            for (layer, key, values), position in zip(lists, picked, strict=True):
                choices[layer.index][key] = values[position]
            drawn[picked] = list(choices.values())
        return list(drawn.values())

    def _try(
        self, number: int, choices: list[Choice], epochs: int, before: State | None, keep: Callable[[Found], None]
    ) -> None:
        torch.manual_seed(derived_seed(self.config.seed, SEARCH, number))
        model = derived(self.config.model, self.layers, choices)
        network = parts.make_model(replace(self.config, model=model), self.data.image_shape, self.classes)
        module = Classifier(*self.parts_of(network, epochs))
        diverged = False
        if before is None or len(before["module"]["history"]) < epochs:
            try:
                self.train(module, epochs, before, number * epochs, lambda state: self.save(state, keep))
            except Diverged:
                diverged = True
        else:
            module.go_on(before["module"])
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
        self.save(None, keep)


class _Watch(Checkpoint):
    """Between Lightning's loop and a search: the screen and signals after batches, the state after epochs."""

    def __init__(
        self, search: _Search, module: Classifier, before: State | None, behind: int, after: Callable[[State], None]
    ) -> None:
        self._search, self._module, self._before, self._behind, self._after = search, module, before, behind, after
        self._looked = 0.0

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        if self._before:
            self._module.model.load_state_dict(self._before["model"])
            optimizers.take_back(trainer.optimizers[0], self._before["optimizer"])
            self._module.schedule.load_state_dict(self._before["schedule"])

    def on_train_batch_end(
        self, trainer: pl.Trainer, module: pl.LightningModule, outputs: Any, batch: Any, index: int
    ) -> None:
        self._heed_signals()
        screen, now = self._search.screen, time.perf_counter()
        if screen.visible and now - self._looked >= REFRESH:
            self._looked = now
            share = self._module.done / self._search.epoch.batches
            screen.step(self._behind + trainer.current_epoch + share, *self._module.running())

    def on_train_epoch_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        state = {
            "model": self._module.model.state_dict(),
            "optimizer": trainer.optimizers[0].state_dict(),
            "schedule": self._module.schedule.state_dict(),
            "module": self._module.state(),
        }
        self._after(state)
        row = self._module.history[-1]
        self._search.screen.epoch(row | {"epoch": self._behind + row["epoch"]})
        self._heed_signals()

    def _heed_signals(self) -> None:
        if self._search.received:
            raise Interrupted(self._search.received[0])
