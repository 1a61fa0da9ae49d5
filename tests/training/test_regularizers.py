"""Penalties by hand, and where dropout and batch normalization go."""

from pathlib import Path

import pytest
import torch
from conftest import record, without_prefix, without_times

from cnnbench.config.schema import Regularizer
from cnnbench.models import PlainCNN
from cnnbench.training import checkpoints
from cnnbench.training.parts import squared_error
from cnnbench.training.regularizers import describe, penalised, penalty

RUN = "data=digits data.limit=200 epochs=1 optimizer=sgd lr=0.1 update=full_batch batch_size=200"  # one step


def weights(command, here: Path, words: str, name: str) -> dict[str, torch.Tensor]:
    assert command(f"{RUN} {words} name={name}").code == 0
    (path,) = here.glob(f"runs/{name}/*/last.ckpt")
    return without_prefix(checkpoints.read(path)["lightning"]["state_dict"], "model.")


def test_penalties_by_hand() -> None:
    w = [torch.tensor([[1.0, -2.0]]), torch.tensor([[3.0]])]
    assert penalty(Regularizer(l1=0.1), w).item() == pytest.approx(0.1 * 6)
    assert penalty(Regularizer(l2=0.1), w).item() == pytest.approx(0.1 * 14)
    assert penalty(Regularizer(l2=0.1, l2_half=True), w).item() == pytest.approx(0.05 * 14)
    assert penalty(Regularizer(l1=0.2, l2=0.1), w).item() == pytest.approx(0.2 * 6 + 0.1 * 14)


def test_weights_are_penalised_and_nothing_else() -> None:
    model = PlainCNN((1, 8, 8), 10, [{"filters": 2, "kernel_size": 3}], [4], batch_norm=True)
    assert list(penalised(model)) == ["conv1.weight", "dense1.weight", "output.weight"]


@pytest.mark.parametrize(
    ("words", "gradient"),
    [
        ("regularizer=l1 regularizer.l1=0.01", lambda w: 0.01 * w.sign()),
        ("regularizer=l2 regularizer.l2=0.01", lambda w: 0.02 * w),
        ("regularizer=l2 regularizer.l2=0.01 regularizer.l2_half=true", lambda w: 0.01 * w),
        ("regularizer=elastic regularizer.l1=0.01 regularizer.l2=0.02", lambda w: 0.01 * w.sign() + 0.04 * w),
        ("regularizer=[l1,l2] regularizer.l1=0.01 regularizer.l2=0.02", lambda w: 0.01 * w.sign() + 0.04 * w),
        ("regularizer=weight_decay regularizer.weight_decay=0.05", lambda w: 0.05 * w),
    ],
)
def test_one_step_moves_the_weights_by_the_penalty_too(command, here: Path, words: str, gradient) -> None:
    start = weights(command, here, "lr=1e-30", "start")
    plain = weights(command, here, "", "plain")
    moved = weights(command, here, words, "penalised")
    for key in plain:
        if key.startswith("normalize"):
            continue
        expected = plain[key] - 0.1 * gradient(start[key]) if key.endswith("weight") else plain[key]
        torch.testing.assert_close(moved[key], expected, rtol=1e-4, atol=1e-6)


def test_the_log_separates_loss_and_penalty(command, here: Path) -> None:
    command(f"{RUN} name=plain")
    command(f"{RUN} name=l2 regularizer=l2 regularizer.l2=0.01")
    plain, l2 = (record(here / "runs" / name)["history"][0] for name in ("plain", "l2"))
    assert l2["train_loss"] == pytest.approx(plain["train_loss"])
    start = weights(command, here, "lr=1e-30", "start")
    squares = sum(float(tensor.square().sum()) for key, tensor in start.items() if key.endswith("weight"))
    assert plain["penalty"] == 0
    assert l2["penalty"] == pytest.approx(0.01 * squares, rel=1e-4)


def test_none_is_no_regularizer(command, here: Path) -> None:
    command("data=digits epochs=2 name=a")
    command("data=digits epochs=2 name=b regularizer=none")
    a, b = (without_times(record(here / "runs" / name)) for name in "ab")
    assert a | {"config": None} == b | {"config": None}


def test_where_it_went_is_in_the_record(command, here: Path) -> None:
    words = "data=digits epochs=1 regularizer=[l2,dropout,batch_norm]"
    assert command(words).code == 0
    assert record(here)["choices"]["regularizer"] == "l2+dropout+batch_norm"
    assert record(here)["protocol"]["regularized"] == {
        "penalised": ["conv1.weight", "conv2.weight", "dense1.weight", "output.weight"],
        "dropout": ["dense_dropout1"],
        "batch_norm": ["norm1", "norm2", "dense_norm1"],
    }
    assert describe(Regularizer(), torch.nn.Linear(1, 1)) == {"penalised": [], "dropout": [], "batch_norm": []}
    import cnnbench

    cnnbench.load(here / "runs" / "default" / record(here)["run_id"])


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("regularizer=l2 regularizer.l2=-1", "regularizer.l2=-1"),
        ("regularizer=dropout regularizer.dropout=1", "regularizer.dropout=1"),
        ("regularizer=dropout model.dropout=0.2", "regularizer.dropout=0.5 and model.dropout=0.2"),
        ("regularizer=dropout model._target_=torchvision.models.resnet18", "regularizer.dropout=0.5"),
        ("regularizer=label_smoothing regularizer.label_smoothing=1", "label_smoothing=1"),
    ],
)
def test_what_makes_no_sense_is_refused(command, here: Path, words: str, says: str) -> None:
    result = command(f"data=digits data.image_size=32 epochs=1 {words}")
    assert result.code == 2
    assert says in result.err
    assert list(here.iterdir()) == []


def test_squared_error_by_hand() -> None:
    logits = torch.log(torch.tensor([[0.5, 0.25, 0.25], [0.1, 0.1, 0.8]]))
    labels = torch.tensor([0, 1])
    # (0.5^2 + 0.25^2 + 0.25^2) = 0.375; (0.1^2 + 0.9^2 + 0.8^2) = 1.46
    assert squared_error(logits, labels).item() == pytest.approx((0.375 + 1.46) / 2)
    assert squared_error(logits, labels, reduction="sum").item() == pytest.approx(0.375 + 1.46)
    # smoothed by 0.3: 0.8 0.1 0.1 against 0.5 0.25 0.25: 0.09 + 0.0225 + 0.0225
    assert squared_error(logits[:1], labels[:1], label_smoothing=0.3).item() == pytest.approx(0.135)


def test_label_smoothing_is_for_training_alone(command, here: Path) -> None:
    base = "data=digits data.limit=200 epochs=1 lr=1e-30"
    command(f"{base} name=plain")
    command(f"{base} name=smooth regularizer=label_smoothing regularizer.label_smoothing=0.5")
    command(f"{base} name=squared loss=squared_error")
    plain, smooth, squared = (record(here / "runs" / n)["history"][0] for n in ("plain", "smooth", "squared"))
    assert smooth["val_loss"] == plain["val_loss"]
    assert smooth["train_loss"] != plain["train_loss"]
    assert 0.8 < squared["val_loss"] < 1.1  # untrained: (1 - 0.1)^2 + 9 * 0.1^2 = 0.9
