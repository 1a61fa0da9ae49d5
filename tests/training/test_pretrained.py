"""Weights from a file or from torchvision, and what is said of the layers that took them."""

import re
from pathlib import Path

import pytest
import timm
import torch
import torchvision
from conftest import record, write_images

from cnnbench.models import from_timm
from cnnbench.models.from_torchvision import NAMES
from cnnbench.training import checkpoints

DATA = "data=folder data.root=colours data.val=test epochs=1 batch_size=10"
WORDS = f"{DATA} model=torchvision model.name=squeezenet1_1"
real = timm.create_model
CLASSIFIER = {"classifier.1.weight", "classifier.1.bias"}


@pytest.fixture
def published(here: Path) -> dict[str, torch.Tensor]:
    """Weights of a network of 1,000 classes, as torchvision publishes them."""
    write_images(here / "colours", {"red": 6, "green": 6, "blue": 6}, size=32)
    torch.manual_seed(7)
    return torchvision.models.squeezenet1_1().state_dict()


def trained(here: Path, name: str) -> dict[str, torch.Tensor]:
    (path,) = here.glob(f"runs/{name}/*/best.ckpt")
    return {key.removeprefix("network."): value for key, value in checkpoints.read(path)["model"].items()}


def test_all_but_the_last_layer_is_taken_from_a_file(command, here: Path, published) -> None:
    torch.save(published, here / "squeezenet.pth")
    result = command(f"{WORDS} model.weights=squeezenet.pth model.freeze=[features.0] lr=1e-12 name=tuned")
    assert result.code == 0, result.err
    assert "loaded: features.0, features.3" in result.err  # before it trains
    assert "; new: classifier; frozen: features.0\n" in result.err
    after = trained(here, "tuned")
    for name in published.keys() - CLASSIFIER:
        torch.testing.assert_close(after[name], published[name])
    assert after["classifier.1.weight"].shape == (3, 512, 1, 1)
    found = record(here)
    layers = {each["name"]: each for each in found["layers"]}
    # A 3x3 convolution from 3 to 64 channels, and a 1x1 convolution from 512 to 3.
    assert layers["features.0"] == {"name": "features.0", "parameters": 28 * 64, "loaded": True, "frozen": True}
    assert layers["classifier"] == {"name": "classifier", "parameters": 513 * 3, "loaded": False, "frozen": False}
    assert {name for name, each in layers.items() if each["frozen"]} == {"features.0"}
    assert sum(each["parameters"] for each in layers.values()) == found["parameters"] + 28 * 64
    shown = command(f"show runs/tuned/{found['run_id']}").out
    assert re.search(r"features.0 +│ loaded +│ frozen +│ +1,792", shown)
    assert re.search(r"classifier +│ new +│ trained +│ +1,539", shown)


def test_the_same_weights_are_the_same_run_wherever_they_lie(command, here: Path, published, monkeypatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(here / "torch"))
    cached = here / "torch/hub/checkpoints" / published_name("squeezenet1_1")
    cached.parent.mkdir(parents=True)
    torch.save(published, cached)
    assert command(f"{WORDS} model.weights=DEFAULT").code == 0
    again = command(f"{WORDS} model.weights={cached}")
    assert "already done" in again.err
    torch.save({"state_dict": {f"module.{key}": value for key, value in published.items()}}, here / "other.pth")
    assert command(f"{WORDS} model.weights=other.pth").code == 0  # another file, so another run
    assert len(list(here.glob("runs/default/*/record.json"))) == 2
    assert len({str(path.read_text()) for path in here.glob("runs/default/*/config.yaml")}) == 2


def published_name(name: str) -> str:
    return torchvision.models.get_model_weights(name).DEFAULT.url.rpartition("/")[2]


def test_every_network_has_published_weights_with_their_sum() -> None:
    for name in NAMES:
        assert re.fullmatch(r".+-[0-9a-f]{8,}\.pth", published_name(name)), name


def test_weights_that_can_not_be_downloaded_are_refused_in_one_line(
    command, here: Path, published, monkeypatch
) -> None:
    def refuse(url: str, *_: object, **__: object) -> None:
        raise OSError("no network")

    monkeypatch.setenv("TORCH_HOME", str(here / "torch"))
    monkeypatch.setattr(torch.hub, "download_url_to_file", refuse)
    says = f"{published_name('squeezenet1_1')} can't be downloaded (no network)"
    assert_refused(command, here, f"{WORDS} model.weights=DEFAULT", says)


def test_densenets_file_has_older_names(command, here: Path, published) -> None:
    network = torchvision.models.densenet121(num_classes=3)
    older = {re.sub(r"(denselayer\d+\.(?:norm|conv))(\d)", r"\1.\2", k): v for k, v in network.state_dict().items()}
    assert older.keys() != network.state_dict().keys()
    torch.save(older, here / "densenet.pth", _use_new_zipfile_serialization=False)  # as older files are, too
    result = command(f"{WORDS} model.name=densenet121 model.weights=densenet.pth")
    assert result.code == 0, result.err
    assert "; new: nothing; frozen: nothing\n" in result.err


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("model.weights=nowhere.pth", "model.weights=nowhere.pth: no such file."),
        ("model.weights=list.pth", "model.weights: list.pth: not a checkpoint, but a list."),
        (
            "model.weights=whole.pth",
            "whole.pth: not a complete checkpoint (Weights only load failed). What torch.save(",
        ),
        ("model.weights=other.pth", "model.weights=other.pth: none of its layers fits this network."),
        ("model.weights=other.pth model.init_from=other.pth", "model.init_from and model.weights: give one of them."),
        ("model.name=squeezenet1_2 model.weights=DEFAULT", "Did you mean 'squeezenet1_1'?"),
    ],
)
def test_what_is_refused(command, here: Path, published, words: str, says: str) -> None:
    torch.save([1, 2], here / "list.pth")
    torch.save({"fc.weight": torch.zeros(3)}, here / "other.pth")
    torch.save(torch.nn.Linear(2, 2), here / "whole.pth")
    assert_refused(command, here, f"{WORDS} {words}", says)


def test_timms_weights_from_its_folder(command, here: Path, published, monkeypatch) -> None:
    words = f"{DATA} model=timm model.name=test_resnet model.weights=DEFAULT model.freeze=[conv1] lr=1e-12"
    monkeypatch.setenv("TORCH_HOME", str(here / "torch"))
    with monkeypatch.context() as patched:

        def refuse(*_: object, **__: object) -> None:
            raise OSError("no network\nat all")

        patched.setattr(
            timm, "create_model", lambda *a, pretrained=False, **k: refuse() if pretrained else real(*a, **k)
        )
        says = "timm's weights of test_resnet can't be downloaded (no network). Put the file of a state_dict into"
        assert_refused(command, here, words, says)
    cached = here / "torch/hub/checkpoints/timm-test_resnet.pth"
    cached.parent.mkdir(parents=True)
    weights = real("test_resnet").state_dict()  # of 1,000 classes
    torch.save(weights, cached)
    result = command(words)
    assert result.code == 0, result.err
    assert "; new: fc; frozen: conv1\n" in result.err
    after = trained(here, "default")
    torch.testing.assert_close(after["layer1.0.conv1.weight"], weights["layer1.0.conv1.weight"])


def test_timms_weights_are_kept(here: Path, monkeypatch) -> None:
    """What timm downloads, here a new network, lies in the folder afterwards."""
    monkeypatch.setenv("TORCH_HOME", str(here / "torch"))
    monkeypatch.setattr(timm, "create_model", lambda name, pretrained: real(name, pretrained=not pretrained))
    path = from_timm.published_weights("test_resnet")
    assert path == here / "torch/hub/checkpoints/timm-test_resnet.pth"
    assert checkpoints.read(path).keys() == real("test_resnet").state_dict().keys()


def test_without_timm(command, here: Path, published, monkeypatch) -> None:
    monkeypatch.setattr(from_timm, "find_spec", lambda name: None)
    assert_refused(command, here, f"{DATA} model=timm", "pip install 'cnnbench[more]'")


def test_only_torchvisions_networks_have_published_weights(command, here: Path, published) -> None:
    assert_refused(command, here, f"{DATA} model=resnet20 model.weights=DEFAULT", "only model=torchvision")


def assert_refused(command, here: Path, words: str, says: str) -> None:
    result = command(words)
    assert result.code == 2
    (line,) = (line for line in result.err.splitlines() if not line.startswith("Decoding"))
    assert line.startswith("cnnbench: model.")
    assert says in line
    assert not (here / "runs").exists()
