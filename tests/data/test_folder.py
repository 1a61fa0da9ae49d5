"""Layouts of people's own images: parts, classes alone, CSV files; what is decoded, and the cache."""

import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from conftest import write_images
from PIL import Image

from cnnbench.config.schema import Data
from cnnbench.data import cache
from cnnbench.data.folder import folder
from cnnbench.data.images import ImageSet, load
from cnnbench.errors import ConfigError

TARGET = "cnnbench.data.folder.folder"


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def here_decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Decoding in this process, which a process pool would take seconds for; the names of the decoded files."""
    names: list[str] = []

    class Here:
        def __init__(self, **_: object) -> None: ...
        def __enter__(self) -> "Here":
            return self

        def __exit__(self, *_: object) -> None: ...
        def shutdown(self, **_: object) -> None: ...
        def map(self, work, chunks):
            for chunk in chunks:
                names.extend(path.name for path in chunk)
                yield work(chunk)

    monkeypatch.setattr(cache, "ProcessPoolExecutor", Here)
    return names


def flat(root: Path, counts: dict[str, int], first: int = 0) -> Path:
    """`root`/<class>/NUMBER.png, whose every pixel is the number and the class."""
    for c, (name, count) in enumerate(counts.items()):
        (root / name).mkdir(parents=True, exist_ok=True)
        for i in range(first, first + count):
            Image.fromarray(np.full((2, 2, 3), (i // 256, i % 256, c), np.uint8)).save(root / name / f"{i:04}.png")
    return root


def sides(images: ImageSet) -> dict[tuple[int, ...], str]:
    """The part of each image, by its first pixel."""
    assert images.validation is not None
    parts = {tuple(pixels[0, 0]): "train" for pixels in images.train}
    parts |= {tuple(images.train[position][0, 0]): "val" for position in images.validation}
    return parts | {tuple(pixels[0, 0]): "test" for pixels in images.test}


@pytest.mark.parametrize(
    "names", [("Train", "VALID", "Test"), ("training", "validation", "testing"), ("train", "val", "test")]
)
def test_parts_may_have_several_names(tmp_path: Path, here_decoded: list[str], names: tuple[str, str, str]) -> None:
    root = tmp_path / "photos"
    for part, count in zip(names, (5, 2, 3), strict=True):
        flat(root / part, {"cat": count, "dog": count}, first=10 * count)
    (root / "docs").mkdir()
    images = folder(Data(root=str(root)))
    assert Counter(sides(images).values()) == {"train": 10, "val": 4, "test": 6}
    assert sides(images)[0, 20, 1] == "val"
    assert images.note == f"folders {names[0]}/, {names[1]}/, {names[2]}/ (not read: docs/)"
    assert images.train_labels.tolist() == [0] * 7 + [1] * 7


def test_val_is_training_data_if_the_user_says_so(tmp_path: Path, here_decoded: list[str]) -> None:
    for part in ("train", "valid", "test"):
        flat(tmp_path / "photos" / part, {"cat": 4, "dog": 4}, first=len(part))
    found = {
        val: load(Data(TARGET, root=str(tmp_path / "photos"), val=val)) for val in (None, "folder", "split", "test")
    }
    assert found[None].fingerprint == found["folder"].fingerprint != found["split"].fingerprint
    assert found["split"].fingerprint == found["test"].fingerprint
    assert found["split"].validation is None
    assert len(found["split"].train) == len(found[None].train) == 16
    assert len(here_decoded) == 24  # once


def test_without_val_the_fingerprint_is_that_of_before(tmp_path: Path, here_decoded: list[str]) -> None:
    root = write_images(tmp_path / "colours", {"red": 3, "green": 3})
    assert folder(Data(root=str(root))).fingerprint == "742b0597f4816610"


def test_no_test_folder(tmp_path: Path, here_decoded: list[str]) -> None:
    flat(tmp_path / "photos" / "train", {"cat": 4, "dog": 4})
    images = folder(Data(root=str(tmp_path / "photos")))
    assert images.test.shape == (0, 2, 2, 3)
    assert images.note == "folders train/; no test images"


def test_a_flat_folder_is_divided_by_content(tmp_path: Path, here_decoded: list[str]) -> None:
    root = flat(tmp_path / "photos", {"cat": 300, "dog": 700})
    before = sides(folder(Data(root=str(root))))
    for c, count in enumerate((300, 700)):
        shares = Counter(part for (_, _, label), part in before.items() if label == c)
        assert abs(shares["test"] / count - 0.2) < 3 * (0.2 * 0.8 / count) ** 0.5
        assert abs(shares["val"] / count - 0.08) < 3 * (0.08 * 0.92 / count) ** 0.5
    for path in sorted((root / "cat").iterdir())[:100]:
        path.unlink()
    (root / "dog" / "0003.png").rename(root / "dog" / "renamed.png")
    flat(root, {"cat": 50, "dog": 50}, first=1000)
    flat(root, {"zebra": 20})  # its pixels are those of cats: files of the same content are on the same side
    after = sides(folder(Data(root=str(root))))
    assert {pixels: part for pixels, part in after.items() if pixels in before} == {
        pixels: part for pixels, part in before.items() if pixels in after
    }
    assert len(after) == 300 - 100 + 50 + 700 + 50 + 20
    wider = sides(folder(Data(root=str(root), test_fraction=0.5, val_fraction=0.5)))
    assert 0.4 < Counter(wider.values())["test"] / len(wider) < 0.6
    assert {pixels for pixels, part in after.items() if part == "test"} <= {
        pixels for pixels, part in wider.items() if part == "test"
    }


def test_files_are_hashed_once(tmp_path: Path, here_decoded: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    root = flat(tmp_path / "photos", {"cat": 30, "dog": 30})
    hashed: list[str] = []
    real = cache._digest
    monkeypatch.setattr(cache, "_digest", lambda path: hashed.append(path.name) or real(path))
    first = folder(Data(root=str(root)))
    assert len(hashed) == 60
    assert folder(Data(root=str(root))).fingerprint == first.fingerprint
    assert len(hashed) == 60
    Image.fromarray(np.full((2, 2, 3), 200, np.uint8)).save(root / "cat" / "0007.png")
    assert folder(Data(root=str(root))).fingerprint != first.fingerprint
    assert hashed[60:] == ["0007.png"]


def test_a_class_may_be_called_train(tmp_path: Path, here_decoded: list[str]) -> None:
    images = folder(Data(root=str(flat(tmp_path / "vehicles", {"car": 40, "plane": 40, "train": 40}))))
    assert images.classes == ("car", "plane", "train")


def csv_of(root: Path, text: str) -> Path:
    flat(root / "all", {"cat": 40, "dog": 40})
    (root / "labels.csv").write_text(text, encoding="utf-8")
    return root / "labels.csv"


def test_a_csv_file_with_parts(tmp_path: Path, here_decoded: list[str]) -> None:
    lines = ["\ufeffSplit;Filename;Label"]
    for i, part in enumerate(["training", "Train", "validation", "test"] * 2):
        lines.append(f"{part};all/{'cat' if i < 4 else 'dog'}/{i:04}.png;{'a cat' if i < 4 else 'a dog'}")
    images = folder(Data(root=str(csv_of(tmp_path, "\r\n".join(lines) + "\r\n\r\n"))))
    assert images.classes == ("a cat", "a dog")
    assert sides(images) == {
        (0, 0, 0): "train", (0, 1, 0): "train", (0, 2, 0): "val", (0, 3, 0): "test",
        (0, 4, 1): "train", (0, 5, 1): "train", (0, 6, 1): "val", (0, 7, 1): "test",
    }  # fmt: skip
    assert images.note == "labels.csv"


def test_a_csv_file_without_parts_is_divided_as_a_flat_folder_is(tmp_path: Path, here_decoded: list[str]) -> None:
    rows = [f"all/{name}/{i:04}.png,{name}" for name in ("cat", "dog") for i in range(40)]
    images = folder(Data(root=str(csv_of(tmp_path, "\n".join(["path,class", *rows])))))
    assert sides(images) == sides(folder(Data(root=str(tmp_path / "all"))))
    assert images.note == "labels.csv, divided by the content of the files"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a.png,cat\n", "first line must name the columns file and label, not 'a.png,cat'"),
        ("file,label\nall/cat/9999.png,cat\n", "line 2: there is no image 'all/cat/9999.png'"),
        ("file,label\nall/cat/0001.png,\n", "line 2: no label"),
        ("file,label\nall/cat/0001.png\n", "line 2: has 1 columns"),
        ("file,label\nall/cat/0001.png,a\nall/cat/0001.png,b\n", "line 3: all/cat/0001.png stands there twice"),
        ("file,label,split\nall/cat/0001.png,a,tran\n", "line 2: 'tran' is no part. Allowed: train, val, test"),
        ("file,label\n", "lists no images"),
        ("file,label,split\nall/cat/0001.png,a,train\nall/cat/0002.png,b,test\n", "test/b has no train/b"),
    ],
)
def test_csv_files_that_are_refused(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        folder(Data(root=str(csv_of(tmp_path, text))))


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda root: root.mkdir(), r"it is empty\). It must hold train/<class>/ and test/<class>/, or <class>/ alone"),
        (
            lambda root: flat(root / "photos", {"cat": 3, "dog": 3}),
            r"one class. Did you mean data.root=\S+/own/photos",
        ),
        (
            lambda root: csv_of(root, "").parent.joinpath("all").rename(root.parent / "x"),
            "data.root=.*/labels.csv if that",
        ),
        (
            lambda root: csv_of(root, "file,label\n"),
            r"all images lie in all/\. Type data.root=\S+/own/labels.csv if that file has their labels",
        ),
        (lambda root: [flat(root / name, {"cat": 3}) for name in ("train", "Training")], "both .* Keep one"),
        (lambda root: flat(root, {"train": 3, "test": 3}), "train/ holds no class folders"),
        (lambda root: flat(root, {"cat": 60, "dog": 1}), "has no train/dog: none of the 1 images of this class is for"),
    ],
    ids=["empty", "one-class", "csv", "csv-and-images", "twice", "no-classes", "few"],
)
def test_folders_that_are_refused(tmp_path: Path, make, says: str) -> None:
    make(tmp_path / "own")
    with pytest.raises(ConfigError, match=says):
        folder(Data(root=str(tmp_path / "own"), test_fraction=0.9))


def test_a_limit_decodes_no_more_than_it_needs(tmp_path: Path, here_decoded: list[str]) -> None:
    for part in ("train", "test"):
        flat(tmp_path / "photos" / part, {"cat": 30, "dog": 10})
    few = folder(Data(root=str(tmp_path / "photos"), limit=8))
    assert len(few.train) == len(few.test) == 8
    assert few.train_labels.tolist() == [0] * 6 + [1] * 2
    assert len(here_decoded) == 16 + 0
    whole = folder(Data(root=str(tmp_path / "photos")))
    assert few.fingerprint != whole.fingerprint
    assert len(here_decoded) == 16 + 80
    folder(Data(root=str(tmp_path / "photos"), limit=8))  # both stay in the cache
    folder(Data(root=str(tmp_path / "photos")))
    assert len(here_decoded) == 16 + 80


def test_height_and_width(tmp_path: Path, here_decoded: list[str]) -> None:
    root = str(write_images(tmp_path / "colours", {"red": 2, "green": 2}))
    assert folder(Data(root=root, image_size=[4, 6])).train.shape == (4, 4, 6, 3)
    assert Data(image_size=[64, 64]).image_size == Data(image_size=64).image_size == 64
    for wrong in ([4], [4, 0], [4, 5, 6], 0, "abc", True, 2.5, {}):
        with pytest.raises(
            ConfigError, match=r"data.image_size=.*: must be a whole number from 1 to 10,000, or \[height,width\]"
        ):
            Data(image_size=wrong)


def test_rotated_validation_images_stay_apart(tmp_path: Path, here_decoded: list[str]) -> None:
    images = load(Data(TARGET, root=str(flat(tmp_path / "photos", {"cat": 60, "dog": 60})), labels="rotation"))
    plain = folder(Data(root=str(tmp_path / "photos")))
    assert images.validation is not None
    assert plain.validation is not None
    assert len(images.validation) == 4 * len(plain.validation)
    once = {tuple(pixels[0, 0]) for pixels in plain.train[plain.validation]}
    assert {tuple(pixels[0, 0]) for pixels in images.train[images.validation]} == once


def test_the_cache_is_listed_and_cleared(tmp_path: Path, here_decoded: list[str]) -> None:
    assert cache.entries() == []
    assert cache.clear() == (0, [])
    root = flat(tmp_path / "photos", {"cat": 30, "dog": 30})
    folder(Data(root=str(root)))
    folder(Data(root=str(root), image_size=[4, 6], grayscale=True))
    assert [(entry.root, entry.images, entry.shape) for entry in cache.entries()] == [
        (str(root), 60, (2, 2, 3)),
        (str(root), 60, (4, 6, 1)),
    ]
    first, second = (entry.size for entry in cache.entries())
    assert abs(second - first - 60 * (24 - 12)) < 20  # of bytes; about.json differs by some digits
    total = cache.size()
    assert total > first + second
    with cache.FileLock(next(cache.place().glob("*-own-rgb.lock"))):
        freed, busy = cache.clear()
    assert busy == [next(cache.place().glob("*-own-rgb")).name]
    assert freed == total - cache.size()
    assert cache.size() == first
    assert cache.clear() == (first, [])
    shutil.rmtree(cache.place())
    assert len(folder(Data(root=str(root))).train) + len(folder(Data(root=str(root))).test) == 60


def test_classes_without_test_images_are_said(tmp_path: Path, here_decoded: list[str]) -> None:
    flat(tmp_path / "photos" / "train", {"cat": 4, "dog": 4, "emu": 4})
    flat(tmp_path / "photos" / "test", {"cat": 4, "emu": 4}, first=9)
    assert folder(Data(root=str(tmp_path / "photos"))).note == "folders train/, test/; no test image of dog"
