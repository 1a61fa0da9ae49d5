"""Bundles of records: written, read, and attacked."""

import hashlib
import io
import json
import lzma
import tarfile
import zipfile
from pathlib import Path

import pytest
from made_records import made, write

from cnnbench.results import bundles


@pytest.fixture
def runs(here: Path, no_figures: None) -> Path:
    folder = write(here / "runs" / "mine", *(made(f"optimizer={o} seed={s}") for o in ("adam", "sgd") for s in (0, 1)))
    run = next(folder.iterdir())
    (run / "best.ckpt").write_bytes(b"weights")
    (run / "wandb-metadata.json").write_text('{"host": "mine"}')
    (run / ".old" / "1").mkdir(parents=True)
    (run / ".old" / "1" / "record.json").write_text("old")
    return folder


@pytest.mark.parametrize("name", ["mine.tar.xz", "mine.zip"])
def test_a_bundle_is_compared_as_its_folder(command, here: Path, runs: Path, name: str) -> None:
    result = command(f"bundle runs/mine out={name}")
    assert (result.code, result.out.split(", ")[0]) == (0, f"{name}: 4 records")
    first = Path(name).read_bytes()
    command(f"bundle runs/mine out={name}")
    assert Path(name).read_bytes() == first  # equal contents are equal bytes
    of_folder, of_bundle = command("compare runs/mine"), command(f"compare {name}")
    assert of_bundle.code == 0
    assert (
        of_bundle.out.partition("report.html")[0].rpartition("\n")[0]
        == of_folder.out.partition("report.html")[0].rpartition("\n")[0]
    )
    page = (here / "compared" / name / "report.html").read_text()
    assert "adam-" in page
    assert 'record.json"' not in page  # no link to what was unpacked for a moment
    with bundles.unpack(Path(name)) as folder:
        assert (
            len(list(folder.rglob("*"))) == 8
        )  # four folders with a record each; no weights, no logs, nothing set aside


def archive(path: Path, contents: dict[str, bytes], links: dict[str, str] | None = None) -> None:
    with tarfile.open(path, "w:xz") as file:
        for name, text in contents.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(text)
            file.addfile(entry, io.BytesIO(text))
        for name, to in (links or {}).items():
            entry = tarfile.TarInfo(name)
            entry.type, entry.linkname = tarfile.SYMTYPE, to
            file.addfile(entry)


RECORD = json.dumps(made("seed=0")).encode()


def test_an_archive_without_a_manifest_is_read_too(command, here: Path, no_figures: None) -> None:
    archive(here / "a.tar.xz", {"./run/record.json": RECORD})
    assert command("compare a.tar.xz").code == 0


@pytest.mark.parametrize("name", ["../x.json", "/x.json", "a/../../x.json", "a\\..\\x.json", "c:x.json"])
def test_a_path_that_leaves_the_folder(command, here: Path, name: str) -> None:
    archive(here / "a.tar.xz", {"run/record.json": RECORD, name: b"{}"})
    result = command("compare a.tar.xz")
    assert (result.code, result.out, result.err.count("\n")) == (2, "", 1)
    assert "would leave the folder" in result.err
    assert not (here.parent / "x.json").exists()
    with zipfile.ZipFile(here / "a.zip", "w") as file:
        file.writestr(name, "{}")
    assert command("compare a.zip").code == 2


def test_other_attacks(command, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def says(contents: dict[str, bytes], links: dict[str, str] | None = None) -> str:
        archive(here / "a.tar.xz", contents, links)
        result = command("compare a.tar.xz")
        assert (result.code, result.out, result.err.count("\n")) == (2, "", 1)
        return result.err

    assert "is a link" in says({"run/record.json": RECORD}, {"b.json": "/etc/passwd"})
    assert "is no record" in says({"run/best.ckpt": b"weights"})
    told = {"files": {"run/record.json": {"size": 1, "sha256": hashlib.sha256(b"other").hexdigest()}}}
    assert "run/record.json is not the file" in says(
        {"manifest.json": json.dumps(told).encode(), "run/record.json": RECORD}
    )
    assert "manifest.json is damaged" in says({"manifest.json": b"[" * 100_000, "run/record.json": RECORD})
    monkeypatch.setattr(bundles, "_MOST_BYTES", 1 << 20)
    assert "over 200,000 files, or over 1 MB" in says({"a.json": b" " * (1 << 20), "b.json": b" "})
    with lzma.open(here / "a.tar.xz", "wb") as file:  # a header that would be read into memory as a whole
        entry = tarfile.TarInfo("header")
        entry.size, entry.type = 1 << 40, tarfile.XHDTYPE
        file.write(entry.tobuf() + bytes(1 << 21))
    assert "over 1 MB" in command("compare a.tar.xz").err
    assert "can't be unpacked" in says({"a.json": b"{}", "a.json/b.json": b"{}"})
    with zipfile.ZipFile(here / "b.zip", "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("run/record.json", RECORD)
    content = bytearray((here / "b.zip").read_bytes())
    content[60:200] = bytes(140)
    (here / "b.zip").write_bytes(content)
    assert "is damaged, or no ZIP file" in command("compare b.zip").err
    (here / "b.zip").write_bytes(b"PK\x03\x04 nonsense")
    assert "is damaged, or no ZIP file" in command("compare b.zip").err
    (here / "c.tar.xz").write_bytes((here / "a.tar.xz").read_bytes()[:50])
    assert "is damaged, or no tar.xz file" in command("compare c.tar.xz").err
    assert "there is no such file" in command("compare d.zip").err


def test_what_can_not_be_bundled(command, here: Path, runs: Path) -> None:
    assert "must end in .tar.xz or .zip" in command("bundle runs/mine out=a.tgz").err
    (here / "empty").mkdir()
    (here / "photos.zip").write_bytes(b"photos")
    with zipfile.ZipFile(here / "photos.zip", "w") as file:
        file.writestr("a/record.json", "{}")
    assert "is there already, and is no bundle" in command("bundle runs/mine out=photos.zip").err
    assert "no records there" in command("bundle empty").err
    assert "there is no such folder" in command("bundle nothing").err
