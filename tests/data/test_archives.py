"""Published data sets: small archives of the real formats, read, refused and downloaded."""

import gzip
import io
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import yaml
from scipy.io import savemat
from small_archives import (
    CIFAR_CLASSES,
    CONF,
    KINDS,
    Evil,
    Kind,
    write_cifar10,
    write_cifar100,
    write_mnist,
    write_svhn,
)

from cnnbench.config.schema import Data
from cnnbench.data.archives import cifar10, cifar100, fashion_mnist, mnist, svhn
from cnnbench.data.images import ImageSet, load
from cnnbench.errors import ConfigError

# --- archives as the real ones, with few images


every_kind = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)


# --- what is read


def test_cifar10_reads_the_real_format(tmp_path: Path) -> None:
    write_cifar10(tmp_path)
    images = cifar10(Data(root=str(tmp_path)))
    assert images.train.shape == (10, 32, 32, 3)
    assert images.test.shape == (3, 32, 32, 3)
    assert list(images.classes) == CIFAR_CLASSES
    assert images.train_labels.tolist() == [1, 9, 2, 9, 3, 9, 4, 9, 5, 9]  # by batch, however they lie in the archive
    assert images.test_labels.tolist() == [8, 0, 7]
    assert images.train[3, 0, 0].tolist() == [50, 51, 52]  # batch 2, image 1: 20 * 2 + 10 * 1
    assert images.train[3, 5, 7].tolist() == [200, 201, 202]
    assert images.train[3, 7, 5].tolist() == [50, 51, 52]
    assert images.test[2, 31, 31].tolist() == [170, 171, 172]


def test_cifar100_reads_the_fine_classes(tmp_path: Path) -> None:
    write_cifar100(tmp_path)
    images = cifar100(Data(root=str(tmp_path)))
    assert images.train.shape == (4, 32, 32, 3)
    assert images.test.shape == (2, 32, 32, 3)
    assert len(images.classes) == 100
    assert images.classes[42] == "fine 42"
    assert images.train_labels.tolist() == [99, 0, 42, 7]
    assert images.test_labels.tolist() == [3, 98]
    assert images.train[1, 0, 0].tolist() == [30, 31, 32]
    assert images.train[1, 5, 7].tolist() == [200, 201, 202]
    assert images.test[1, 7, 5].tolist() == [160, 161, 162]


@pytest.mark.parametrize(
    ("read", "last"), [(mnist, "9"), (fashion_mnist, "Ankle boot")], ids=["mnist", "fashion_mnist"]
)
def test_mnist_and_fashion_mnist_read_idx(tmp_path: Path, read: Callable[[Data], ImageSet], last: str) -> None:
    write_mnist(tmp_path)
    images = read(Data(root=str(tmp_path)))
    assert images.train.shape == (3, 28, 28, 1)
    assert images.test.shape == (2, 28, 28, 1)
    assert len(images.classes) == 10
    assert images.classes[9] == last
    assert images.train_labels.tolist() == [5, 0, 4]
    assert images.test_labels.tolist() == [9, 2]
    assert images.train[2, 10, 3, 0] == 55  # 5 * 10 + 3 + 2
    assert images.test[1, 3, 10, 0] == 76  # 5 * 3 + 10 + 50 + 1


def test_svhn_reads_matlab_and_ten_is_zero(tmp_path: Path) -> None:
    write_svhn(tmp_path)
    images = svhn(Data(root=str(tmp_path)))
    assert images.train.shape == (4, 32, 32, 3)
    assert images.test.shape == (2, 32, 32, 3)
    assert images.classes == tuple("0123456789")
    assert images.train_labels.tolist() == [1, 0, 9, 2]
    assert images.test_labels.tolist() == [0, 5]
    assert images.train[3, 10, 4].tolist() == [37, 77, 117]  # 3 * 10 + 4 + 3, and 40 more for each channel
    assert images.test[1, 4, 10].tolist() == [53, 93, 133]  # 3 * 4 + 10 + 30 + 1


@every_kind
def test_arrays_are_as_all_readers_give_them(tmp_path: Path, kind: Kind) -> None:
    kind.write(tmp_path)
    images = kind.read(Data(root=str(tmp_path), md5=kind.md5(tmp_path).upper()))
    for pixels, labels in ((images.train, images.train_labels), (images.test, images.test_labels)):
        assert pixels.dtype == np.uint8
        assert labels.dtype == np.int64
        assert pixels.flags.c_contiguous
        assert pixels.flags.writeable
    assert len(images.fingerprint) == 16
    assert images.fingerprint == kind.read(Data(root=str(tmp_path))).fingerprint
    small = kind.read(Data(root=str(tmp_path), image_size=9, grayscale=True))
    assert small.train.shape == (len(images.train), 9, 9, 1)
    assert small.fingerprint != images.fingerprint


@every_kind
def test_each_option_has_the_official_sums(kind: Kind) -> None:
    from torchvision import datasets

    official = {
        "cifar10": [datasets.CIFAR10.tgz_md5],
        "cifar100": [datasets.CIFAR100.tgz_md5],
        "mnist": [md5 for _, md5 in datasets.MNIST.resources],
        "fashion_mnist": [md5 for _, md5 in datasets.FashionMNIST.resources],
        "svhn": [datasets.SVHN.split_list[split][2] for split in ("train", "test")],
    }
    option = yaml.safe_load((CONF / f"{kind.name}.yaml").read_text())
    assert option["_target_"] == f"cnnbench.data.archives.{kind.name}"
    assert option["md5"].split() == official[kind.name]


def test_mnist_and_fashion_mnist_have_folders_of_their_own() -> None:
    roots = [yaml.safe_load((CONF / f"{kind.name}.yaml").read_text())["root"] for kind in KINDS]
    assert roots == ["data", "data", "data/mnist", "data/fashion_mnist", "data/svhn"]


def test_nothing_here_imports_torch() -> None:
    program = "import sys, cnnbench.data.archives; sys.exit(bool({'torch', 'torchvision', 'scipy'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", program]).returncode == 0


# --- what is refused


@every_kind
def test_a_wrong_sum_is_refused_before_anything_is_parsed(
    tmp_path: Path, kind: Kind, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: object, **__: object) -> None:
        raise AssertionError("parsed")

    kind.write(tmp_path)
    for parser in ("tarfile.open", "gzip.decompress", "scipy.io.loadmat"):
        monkeypatch.setattr(parser, never)
    sums = kind.md5(tmp_path).split()
    for i, file in enumerate(kind.files):
        wrong = [*sums[:i], "0" * 32, *sums[i + 1 :]]
        with pytest.raises(ConfigError, match=f"data.md5=0000.*{file} has md5 {sums[i]}"):
            kind.read(Data(root=str(tmp_path), md5=" ".join(wrong)))


@every_kind
def test_each_file_needs_a_sum(tmp_path: Path, kind: Kind) -> None:
    kind.write(tmp_path)
    with pytest.raises(ConfigError, match=f"data.md5=.*must be {len(kind.files)} md5 sum"):
        kind.read(Data(root=str(tmp_path), md5=f"{kind.md5(tmp_path)} {'0' * 32}"))


@every_kind
def test_a_truncated_file_is_refused(tmp_path: Path, kind: Kind) -> None:
    kind.write(tmp_path)
    for file in kind.files:
        whole = (tmp_path / file).read_bytes()
        for length in (0, 3, len(whole) // 2, len(whole) * 3 // 4):
            (tmp_path / file).write_bytes(whole[:length])
            with pytest.raises(ConfigError, match=f"data.root=.*{file} is damaged"):
                kind.read(Data(root=str(tmp_path)))
        (tmp_path / file).write_bytes(whole)
    kind.read(Data(root=str(tmp_path)))


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (bytes([0, 0, 8, 1, 0, 0, 0, 4, 1, 2, 3]), "announces 4 bytes and holds 3"),
        (bytes([0, 0, 8, 1, 0, 0, 0, 2, 1, 2, 3]), "announces 2 bytes and holds 3"),
        (bytes([0, 0, 8, 1, 0, 0]), "begins with 00 00 08 01"),
        (bytes([0, 0, 8, 3, 0, 0, 0, 3, 1, 2, 3]), "begins with 00 00 08 03"),
        (bytes([0, 0, 13, 1, 0, 0, 0, 3, 1, 2, 3]), "begins with 00 00 0d 01"),
        (bytes([0, 0, 8, 1, 0, 0, 0, 2, 1, 2]), "training images.*labels"),
        (bytes([0, 0, 8, 1, 0, 0, 0, 3, 1, 2, 10]), "not all from 0 to 9"),
    ],
    ids=["short", "long", "half a header", "images", "floats", "one label less", "label 10"],
)
def test_an_idx_header_must_be_true(tmp_path: Path, content: bytes, says: str) -> None:
    write_mnist(tmp_path)
    (tmp_path / "train-labels-idx1-ubyte.gz").write_bytes(gzip.compress(content))
    with pytest.raises(ConfigError, match=says):
        mnist(Data(root=str(tmp_path)))


def test_matlab_arrays_of_another_kind_are_refused(tmp_path: Path) -> None:
    write_svhn(tmp_path)
    savemat(tmp_path / "test_32x32.mat", {"X": np.zeros((32, 32, 3, 2)), "y": np.ones((2, 1))})
    with pytest.raises(ConfigError, match="test images are float64"):
        svhn(Data(root=str(tmp_path)))
    savemat(tmp_path / "test_32x32.mat", {"X": np.zeros((32, 32, 3, 2), np.uint8)})
    with pytest.raises(ConfigError, match=r"test_32x32\.mat is damaged.*y"):
        svhn(Data(root=str(tmp_path)))


@pytest.mark.parametrize(("kind", "write"), [(KINDS[0], write_cifar10), (KINDS[1], write_cifar100)], ids=["10", "100"])
def test_nothing_but_arrays_is_unpickled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: Kind, write: Callable[[Path, object], None]
) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path, Evil())
    with pytest.raises(ConfigError, match="mkdir"):
        kind.read(Data(root=str(tmp_path), md5=kind.md5(tmp_path)))
    assert not (tmp_path / "unpickled").exists()


# --- what is downloaded


class Server:
    """Stands for the network: answers with the files of a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.asked: list[str] = []
        self.down: tuple[str, ...] = ()
        """Addresses that begin so are not reached."""
        self.cut: int | None = None
        """The connection ends after so many bytes."""

    def __call__(self, url: str, timeout: float) -> io.BytesIO:
        self.asked.append(url)
        if url.startswith(self.down):
            raise urllib.error.URLError(f"{url.split('/')[2]} is down")
        content = (self.folder / url.rsplit("/", 1)[1]).read_bytes()
        response = io.BytesIO(content[: self.cut])
        response.headers = {"Content-Length": str(len(content))}  # type: ignore[attr-defined]
        return response


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Server:
    server = Server(tmp_path / "server")
    monkeypatch.setattr(urllib.request, "urlopen", server)
    return server


ADDRESSES = {
    "cifar10": "https://www.cs.toronto.edu/~kriz/",
    "cifar100": "https://www.cs.toronto.edu/~kriz/",
    "mnist": "https://ossci-datasets.s3.amazonaws.com/mnist/",
    "fashion_mnist": "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
    "svhn": "http://ufldl.stanford.edu/housenumbers/",
}


@every_kind
def test_what_is_absent_is_downloaded_once(tmp_path: Path, kind: Kind, server: Server) -> None:
    kind.write(server.folder)
    data = Data(f"cnnbench.data.archives.{kind.name}", root=str(tmp_path / "new" / "data"), md5=kind.md5(server.folder))
    first = load(data)
    assert server.asked == [ADDRESSES[kind.name] + file for file in kind.files]
    assert sorted(path.name for path in (tmp_path / "new" / "data").iterdir()) == sorted(kind.files)
    assert load(data).fingerprint == first.fingerprint
    assert len(server.asked) == len(kind.files)
    (tmp_path / "new" / "data" / kind.files[-1]).unlink()
    assert load(data).fingerprint == first.fingerprint
    assert server.asked[len(kind.files) :] == [ADDRESSES[kind.name] + kind.files[-1]]


@every_kind
def test_a_download_is_whole_or_leaves_nothing(tmp_path: Path, kind: Kind, server: Server) -> None:
    kind.write(server.folder)
    data = Data(root=str(tmp_path / "new" / "data"), md5=kind.md5(server.folder))
    server.cut = 20
    with pytest.raises(ConfigError, match="ended after 20 of"):
        kind.read(data)
    assert not (tmp_path / "new").exists()
    server.cut = None
    other = Data(root=data.root, md5=" ".join(["0" * 32] * len(kind.files)))
    with pytest.raises(ConfigError, match=r"data\.md5=0000"):
        kind.read(other)
    assert not (tmp_path / "new").exists()
    kind.read(data)


@every_kind
def test_without_a_network_it_names_the_ways_out(tmp_path: Path, kind: Kind, server: Server) -> None:
    server.down = ("http",)
    with pytest.raises(ConfigError, match=r"is down.*Put the archive into .*data=digits.*data=folder") as caught:
        kind.read(Data(root=str(tmp_path / "new" / "data")))
    assert f"data.root={tmp_path}/new/data: {kind.files[0]} is missing" in str(caught.value)
    assert not (tmp_path / "new").exists()
    with pytest.raises(ConfigError, match=f"data.root=null: data={kind.name} needs"):
        kind.read(Data())


def test_a_full_disk_leaves_nothing(tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    write_mnist(server.folder)
    monkeypatch.setattr("shutil.disk_usage", lambda folder: SimpleNamespace(free=0))
    with pytest.raises(ConfigError, match="0 MB are free"):
        mnist(Data(root=str(tmp_path / "new" / "data")))
    assert not (tmp_path / "new").exists()


def test_mirrors_are_tried_in_order(tmp_path: Path, server: Server) -> None:
    write_mnist(server.folder)
    server.down = (ADDRESSES["mnist"],)
    mnist(Data(root=str(tmp_path / "data")))
    assert server.asked[:2] == [
        "https://ossci-datasets.s3.amazonaws.com/mnist/train-images-idx3-ubyte.gz",
        "http://yann.lecun.com/exdb/mnist/train-images-idx3-ubyte.gz",
    ]
    assert len(server.asked) == 8
    server.down = ("http",)
    with pytest.raises(ConfigError, match=r"ossci-datasets\S+ is down; yann\.lecun\.com is down"):
        mnist(Data(root=str(tmp_path / "other")))
