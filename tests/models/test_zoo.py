"""The published networks: their sizes as printed or worked out by hand, and what they refuse."""

from collections.abc import Iterator

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional as F

from cnnbench.config.composition import Composer, config_source
from cnnbench.config.keys import CONF
from cnnbench.errors import ConfigError
from cnnbench.models import VGG16BN, AllCNNC, DeepOBS3c3d, GoogLeNet, ResNet18, ResNet20, timm_model, torchvision_model
from cnnbench.models.from_torchvision import NAMES
from cnnbench.training.parts import make_model

# On 3x32x32 images of ten classes. A convolution has (window * inputs + 1) * filters parameters where it has a bias.
PARAMETERS = {
    # Published by torchvision: 11,689,512. First layer 7x7 to 3x3: -40 * 3 * 64. 10 outputs, not 1,000: -990 * 513.
    "resnet18": 11_689_512 - 7_680 - 507_870,
    # Convolutions without bias 9 * (3 * 16 + 6 * 16² + 16 * 32 + 5 * 32² + 32 * 64 + 5 * 64²); normalization 2 * 16
    # seven times, 2 * 32 and 2 * 64 six times; dense 65 * 10.
    "resnet20": 267_696 + 1_376 + 650,
    # Published by torchvision: 138,365,992. Its dense layers: 25,089 * 4,096 + 4,097 * 4,096 + 4,097 * 1,000.
    "vgg16_bn": 138_365_992 - 123_642_856 + 513 * 10,
    # 28 * 96 + 2 * 865 * 96; 865 * 192 + 3 * 1,729 * 192; 193 * 192; 193 * 10
    "all_cnn_c": 168_768 + 1_161_984 + 37_056 + 1_930,
    # 76 * 64; 577 * 96; 865 * 128; 1,153 * 512; 513 * 256; 257 * 10
    "deepobs_3c3d": 4_864 + 55_392 + 110_720 + 590_336 + 131_328 + 2_570,
    # Published by torchvision: 6,624,904. First layer 7x7 to 3x3: -40 * 3 * 64. 10 outputs, not 1,000: -990 * 1,025.
    "googlenet": 6_624_904 - 7_680 - 1_014_750,
    # Published by torchvision: 2,542,856. 10 outputs, not 1,000: -990 * 1,025.
    "torchvision": 2_542_856 - 1_014_750,
    # timm's own count: 5,435,488. 10 outputs, not 1,000: -990 * 513.
    "timm": 5_435_488 - 507_870,
}
PRINTED = {  # in conf/model and the docstrings
    "resnet18": 11_173_962,
    "resnet20": 269_722,
    "vgg16_bn": 14_728_266,
    "all_cnn_c": 1_369_738,
    "deepobs_3c3d": 895_210,
    "googlenet": 5_602_474,
    "torchvision": 1_528_106,
    "timm": 4_927_618,
}


@pytest.fixture(scope="module")
def composer() -> Iterator[Composer]:
    with config_source(None) as composer:
        yield composer


def network(composer: Composer, shape: tuple[int, int, int], classes: int, *overrides: str) -> nn.Module:
    (job,) = composer.jobs(list(overrides), multirun=False)
    return make_model(job.config, shape, classes)


def parameters(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameters(composer: Composer, name: str) -> None:
    with torch.device("meta"):
        model = network(composer, (3, 32, 32), 10, f"model={name}")
        assert parameters(model) == PARAMETERS[name] == PRINTED[name]
    documented = {"torchvision": torchvision_model, "timm": timm_model}.get(name, type(model))
    assert f"{PRINTED[name]:,} parameters" in (documented.__doc__ or "")
    assert f"{PRINTED[name]:,} parameters" in (CONF / "model" / f"{name}.yaml").read_text()


@pytest.mark.parametrize("name", PARAMETERS)
@pytest.mark.parametrize(
    ("shape", "classes"), [((3, 32, 32), 10), ((1, 28, 28), 10), ((3, 64, 64), 5), ((3, 33, 47), 2)]
)
def test_one_image_without_weights(composer: Composer, name: str, shape: tuple[int, int, int], classes: int) -> None:
    if name == "torchvision" and shape[0] != 3:
        pytest.skip("takes three channels")
    with torch.device("meta"):
        model = network(composer, shape, classes, f"model={name}").eval()
        assert model(torch.zeros(1, *shape)).shape == (1, classes)


@pytest.mark.parametrize("name", sorted(PARAMETERS.keys() - {"timm"}))  # it starts with scales of 0 after some layers
def test_every_parameter_gets_a_gradient(composer: Composer, name: str) -> None:
    torch.manual_seed(0)
    model = network(composer, (3, 32, 32), 10, f"model={name}")
    logits = model(torch.randn(4, 3, 32, 32))
    assert logits.shape == (4, 10)
    F.cross_entropy(logits, torch.arange(4)).backward()
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None, key
        assert parameter.grad.isfinite().all(), key
        assert parameter.grad.any(), key


def sizes(model: nn.Module, shape: tuple[int, int, int], names: list[str]) -> list[tuple[int, ...]]:
    """Channels, height and width of the outputs of these layers."""
    seen: list[tuple[int, ...]] = []

    def note(_layer: nn.Module, _inputs: tuple[Tensor, ...], output: Tensor) -> None:
        seen.append(tuple(output.shape[1:]))

    for name in names:
        model.get_submodule(name).register_forward_hook(note)
    model.eval()(torch.zeros(1, *shape))
    return seen


@pytest.mark.parametrize(
    ("model", "layers"),
    [
        (ResNet18, {"maxpool": (64, 32, 32), "layer1": (64, 32, 32), "layer2": (128, 16, 16), "layer3": (256, 8, 8), "layer4": (512, 4, 4)}),
        (ResNet20, {"2": (16, 32, 32), "5": (16, 32, 32), "8": (32, 16, 16), "11": (64, 8, 8)}),
        (VGG16BN, {"pool1": (64, 16, 16), "pool2": (128, 8, 8), "pool3": (256, 4, 4), "pool4": (512, 2, 2), "pool5": (512, 1, 1)}),
        (AllCNNC, {"conv2": (96, 32, 32), "conv3": (96, 16, 16), "conv6": (192, 8, 8), "conv7": (192, 6, 6), "conv9": (10, 6, 6)}),
        (DeepOBS3c3d, {"conv1": (64, 28, 28), "pool1": (64, 14, 14), "conv2": (96, 12, 12), "pool2": (96, 6, 6), "conv3": (128, 6, 6), "pool3": (128, 3, 3)}),
        (GoogLeNet, {"conv1": (64, 32, 32), "conv2": (64, 16, 16), "inception3b": (480, 16, 16), "inception4e": (832, 8, 8), "inception5b": (1024, 4, 4)}),
    ],
)  # fmt: skip
def test_sizes_between_the_layers(model: type[nn.Module], layers: dict[str, tuple[int, ...]]) -> None:
    with torch.device("meta"):
        assert sizes(model((3, 32, 32), 10), (3, 32, 32), list(layers)) == list(layers.values())


def test_resnet18_is_torchvisions_after_the_first_layers() -> None:
    with torch.device("meta"):
        ours, theirs = ResNet18((3, 32, 32), 10), torchvision.models.resnet18(num_classes=10)
        different = [k for k, w in theirs.state_dict().items() if ours.state_dict()[k].shape != w.shape]
    assert different == ["conv1.weight"]
    assert list(ours.state_dict()) == list(theirs.state_dict())


def test_vgg16_bn_has_torchvisions_convolutions() -> None:
    with torch.device("meta"):
        ours, theirs = VGG16BN((3, 32, 32), 10), torchvision.models.vgg16_bn().features
    kinds = [type(layer) for layer in theirs]
    assert [type(layer) for layer in ours][: len(kinds)] == kinds
    assert [p.shape for p in ours.parameters()][:-2] == [p.shape for p in theirs.parameters()]


def test_resnet20s_shortcut_keeps_every_second_pixel_and_adds_zeros() -> None:
    block = ResNet20((3, 32, 32), 10)[6]
    for norm in (block.bn1, block.bn2):
        nn.init.zeros_(norm.weight)  # nothing comes out of the block but its shortcut
    x = torch.rand(2, 16, 7, 8, generator=torch.Generator().manual_seed(0))
    assert torch.equal(block(x), torch.cat([x[:, :, ::2, ::2], torch.zeros(2, 16, 4, 4)], dim=1))
    assert parameters(block) == 9 * (16 * 32 + 32 * 32) + 2 * 2 * 32


@pytest.mark.parametrize(
    ("size", "windows"),
    [  # first and last pixel of each of the 3 wide windows, cut to the image; TensorFlow's `same`
        (32, [(i, min(i + 2, 27)) for i in range(0, 28, 2)]),  # 28 wide: one missing, on the right
        (31, [(max(i, 0), min(i + 2, 26)) for i in range(-1, 27, 2)]),  # 27 wide: one missing on each side
    ],
)
def test_3c3d_pools_as_tensorflow_does(size: int, windows: list[tuple[int, int]]) -> None:
    model = DeepOBS3c3d((3, size, size), 10)
    row = torch.rand(size - 4, generator=torch.Generator().manual_seed(0))
    pooled = model.pool1(model.pad1(row.expand(1, 1, size - 4, -1)))
    assert pooled.shape[-2:] == (len(windows), len(windows))
    assert pooled[0, 0, 0].tolist() == [row[first : last + 1].max().item() for first, last in windows]


def test_all_cnn_c_drops_what_the_paper_drops_and_can_say_no() -> None:
    kinds = [
        (name, layer.p) for name, layer in AllCNNC((3, 32, 32), 10).named_children() if isinstance(layer, nn.Dropout)
    ]
    assert kinds == [("dropout0", 0.2), ("dropout3", 0.5), ("dropout6", 0.5)]
    torch.manual_seed(0)
    assert (AllCNNC((3, 32, 32), 10).eval()(torch.randn(8, 3, 32, 32)) < 0).any()  # no ReLU after the output


@pytest.mark.parametrize(
    ("name", "smallest", "layer"),
    [("all_cnn_c", 9, "conv7"), ("deepobs_3c3d", 9, "conv2"), ("googlenet", 4, "maxpool3"), ("vgg16_bn", 1, ""), ("resnet18", 1, ""), ("resnet20", 1, "")],
)  # fmt: skip
def test_the_smallest_image(composer: Composer, name: str, smallest: int, layer: str) -> None:
    with torch.device("meta"):
        model = network(composer, (1, smallest, smallest), 3, f"model={name}").eval()
        assert model(torch.zeros(1, 1, smallest, smallest)).shape == (1, 3)
        less = smallest - 1
        if less:
            with pytest.raises(
                ConfigError,
                match=rf"^model: {layer} leaves nothing of an image of {less}x{less}; .*{smallest}x{smallest}",
            ):
                network(composer, (1, less, less), 3, f"model={name}")


def test_timms_networks_by_name(composer: Composer) -> None:
    with torch.device("meta"):
        for name in ("convnext_atto", "vit_tiny_patch16_224"):  # the second is made for images of 224x224
            model = network(composer, (1, 32, 48), 10, "model=timm", f"model.name={name}").eval()
            assert model(torch.zeros(1, 1, 32, 48)).shape == (1, 10)
        with pytest.raises(
            ConfigError, match=r"model.name=resnet1x: not known. Did you mean '.+'\? Allowed: the [\d,]+ of"
        ):
            network(composer, (3, 32, 32), 10, "model=timm", "model.name=resnet1x")
        with pytest.raises(ConfigError, match="unexpected keyword argument 'drop_rat'"):
            network(composer, (3, 32, 32), 10, "model=timm", "model.drop_rat=0.1")


def test_torchvisions_networks_by_name(composer: Composer) -> None:
    overrides = ["model=torchvision", "model.name=squeezenet1_1"]
    model = network(composer, (3, 64, 64), 7, *overrides)
    assert isinstance(model, torchvision.models.SqueezeNet)
    # published 1,235,496; a 1x1 convolution to 7 classes, not 1,000
    assert parameters(model) == 1_235_496 - 513 * 993
    with pytest.raises(
        ConfigError, match=r"model\.name=resnet19: not known\. Did you mean 'resnet1\d+'\? Allowed: alexnet, "
    ):
        network(composer, (3, 32, 32), 10, "model=torchvision", "model.name=resnet19")
    with pytest.raises(ConfigError, match=r"mobilenet_v3_small: .* 3 channels, not 1\.$"):
        network(composer, (1, 32, 32), 10, "model=torchvision")


def test_names_are_classifiers_that_can_be_checked() -> None:
    assert {"alexnet", "resnet50", "densenet121", "mobilenet_v3_small", "efficientnet_b0", "convnext_tiny"} <= set(
        NAMES
    )
    assert not {"vit_b_16", "inception_v3", "fasterrcnn_resnet50_fpn", "deeplabv3_resnet50", "r3d_18"} & set(NAMES)
