"""Weights from another run, frozen layers, rotation as a task without labels, ensembles."""

from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import record

import cnnbench
from cnnbench.config.schema import Data
from cnnbench.data.images import digits, load
from cnnbench.training import checkpoints


def best(here: Path, name: str) -> dict[str, torch.Tensor]:
    (path,) = here.glob(f"runs/{name}/*/best.ckpt")
    return checkpoints.read(path)["model"]


def test_rotation_is_a_task_without_labels() -> None:
    plain, turned = digits(Data()), load(Data("cnnbench.data.images.digits", labels="rotation"))
    n = len(plain.train)
    assert turned.train.shape == (4 * n, 8, 8, 1)
    assert turned.classes == ("0", "90", "180", "270")
    assert np.bincount(turned.train_labels).tolist() == [n] * 4
    for k in range(4):
        assert (turned.train[k * n + 5] == np.rot90(plain.train[5], k)).all()
        assert turned.train_labels[k * n + 5] == k
    assert turned.fingerprint != plain.fingerprint


def test_weights_are_taken_over_and_frozen(command, here: Path) -> None:
    assert command("data=digits data.labels=rotation data.limit=400 epochs=2 name=pretrained").code == 0
    (source,) = here.glob("runs/pretrained/*")
    before = best(here, "pretrained")
    assert before["network.output.weight"].shape == (4, 128)
    words = f"data=digits data.limit=200 epochs=1 model.init_from={source}"
    assert command(f"{words} model.freeze=[conv1,conv2] name=tuned").code == 0
    after = best(here, "tuned")
    assert after["network.output.weight"].shape == (10, 128)
    for layer in ("conv1", "conv2"):
        assert torch.equal(after[f"network.{layer}.weight"], before[f"network.{layer}.weight"])
    assert not torch.equal(after["network.dense1.weight"], before["network.dense1.weight"])
    assert record(here / "runs" / "tuned")["parameters"] == 53_002 - (9 * 32 + 32) - (9 * 32 * 64 + 64)
    # One step with nearly no learning rate leaves what was taken over, and shows that it was.
    assert command(f"{words} lr=1e-12 name=taken").code == 0
    taken = best(here, "taken")
    torch.testing.assert_close(taken["network.dense1.weight"], before["network.dense1.weight"])
    model = cnnbench.load(next(here.glob("runs/tuned/*")))
    assert model(torch.zeros(1, 1, 8, 8)).shape == (1, 10)


def test_the_content_of_the_weights_is_part_of_the_identity(command, here: Path) -> None:
    ids = set()
    for seed in (0, 1):
        command(f"data=digits epochs=1 seed={seed} name=source{seed}")
        (source,) = here.glob(f"runs/source{seed}/*/best.ckpt")
        (here / "weights.ckpt").write_bytes(source.read_bytes())  # the same name, other weights
        command(f"data=digits epochs=1 model.init_from=weights.ckpt name=tuned{seed}")
        ids.add(record(here / "runs" / f"tuned{seed}")["run_id"])
    (source,) = here.glob("runs/source1/*")
    command(f"data=digits epochs=1 model.init_from={source} name=elsewhere")  # another name, the same weights
    ids.add(record(here / "runs" / "elsewhere")["run_id"])
    assert len(ids) == 2


def test_the_only_run_of_a_folder_is_named_by_the_folder(command, here: Path) -> None:
    small = "data=digits data.limit=60 data.val_fraction=0.2 logger=none epochs=1"
    assert command(f"{small} name=first").code == 0
    (source,) = Path("runs/first").iterdir()
    # As soon as this run has begun, there are two in the folder; it must not look there again.
    assert command(f"{small} lr=1e-12 model.init_from=runs/first name=first").code == 0
    (taken,) = (path for path in Path("runs/first").iterdir() if path != source)
    weights = checkpoints.read(taken / "best.ckpt")["model"]
    for key, value in checkpoints.read(source / "best.ckpt")["model"].items():
        torch.testing.assert_close(weights[key], value)
    assert record(taken)["config"]["model"]["init_from"] == str(source)
    both = ", ".join(sorted(map(str, (source, taken))))
    assert command(f"{small} model.init_from=runs/first name=second").err == (
        f"cnnbench: model.init_from=runs/first: neither a checkpoint nor a run. runs/first: 2 runs. Name one of {both}\n"
    )
    source.rename(here / "elsewhere")
    assert cnnbench.load("runs/first")(torch.zeros(1, 1, 8, 8)).shape == (1, 10)
    assert command("show runs/fi").out.splitlines()[0] == f"{taken.name}: done"


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("model.init_from=nowhere", "model.init_from=nowhere"),
        ("model.init_from=damaged.ckpt", "damaged.ckpt"),
        ("model.freeze=[conv9]", "Did you mean 'conv"),
        ("model=ensemble model.members=[document_cnm]", "Did you mean 'document_cnn'?"),
        ("model=ensemble model.members=[]", "model.members=[]"),
    ],
)
def test_what_is_refused(command, here: Path, words: str, says: str) -> None:
    (here / "damaged.ckpt").write_bytes(b"PK")
    result = command(f"data=digits epochs=1 {words}")
    assert result.code == 2
    assert result.err.count("\n") == 1
    assert says in result.err
    assert [path.name for path in here.iterdir()] == ["damaged.ckpt"]


def test_an_ensemble_is_trained_as_one(command, here: Path) -> None:
    words = "data=digits epochs=3 model=ensemble model.members=[document_cnn,mnist_cnn,document_cnn] data.image_size=20"
    assert command(f"{words} update=cag update.accumulate=2").code == 0
    found = record(here)
    folder = here / "runs" / "default" / found["run_id"]
    network = cnnbench.load(folder)
    members = network.get_submodule("network.members")
    assert len(members) == 3
    assert found["parameters"] == sum(p.numel() for p in members.parameters())
    assert not torch.equal(members[0].output.weight, members[2].output.weight)  # each begins on its own
    source = digits(Data(image_size=20))
    images, labels = torch.from_numpy(source.test).permute(0, 3, 1, 2), torch.from_numpy(source.test_labels)
    with torch.no_grad():
        whole = network(images)
        normalised = network.get_submodule("normalize")(images)
        single = [member(normalised) for member in members]
    torch.testing.assert_close(whole, (single[0] + single[1] + single[2]) / 3)
    accuracies = [(logits.argmax(1) == labels).float().mean().item() for logits in single]
    assert found["test"]["members"] == pytest.approx(accuracies, abs=0.003)
    assert found["test"]["acc"] == pytest.approx((whole.argmax(1) == labels).float().mean().item(), abs=0.003)


@pytest.mark.parametrize(
    "content", [{"conv1.weight": torch.zeros(2)}, [1, 2], {"model": 5}], ids=["weights", "list", "five"]
)
def test_a_file_that_is_no_checkpoint_of_a_run_is_one_line(command, here: Path, content: object) -> None:
    torch.save(content, here / "plain.pth")
    result = command("data=digits model.init_from=plain.pth")
    assert (result.code, result.err.count("\n")) == (2, 1), result.err
    assert "model.init_from" in result.err
    assert "plain.pth" in result.err
