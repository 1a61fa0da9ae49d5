"""report.html and the figures: what is in them, and how the page looks in a browser."""

import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from made_records import made, write
from matplotlib import font_manager
from matplotlib.axes import Axes
from PIL import Image

from cnnbench.analysis.tuning import FOLDER, Plan, Tuned
from cnnbench.config.spaces import Axis
from cnnbench.report import fonts

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


class Page(HTMLParser):
    """What a page shows, and what it refers to."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.text, self.references, self.alts, self.tags = "", [], [], set()
        self.feed(path.read_text())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        given = dict(attrs)
        self.references += [given[key] for key in ("src", "href", "srcset", "action") if given.get(key)]
        if tag == "img":
            self.alts.append(given["alt"])

    def handle_data(self, data: str) -> None:
        self.text += data


def runs(names: tuple[str, ...] = ("sgd", "adam"), seeds: int = 3) -> list[dict]:
    return [
        made(f"optimizer={name} seed={seed}", (0.3, 0.5 + 0.1 * i + 0.01 * seed), 0.5 + 0.1 * i)
        for i, name in enumerate(names)
        for seed in range(1, seeds + 1)
    ]


def tuned(here: Path, diverged: bool = True) -> Path:
    """A folder as `tune` leaves it: momentum is better with one trial, adam with more."""
    folder = write(here / "runs", *runs(("momentum", "adam")))
    contestants = []
    for name, results in {"momentum": (0.5, 0.5, 0.5), "adam": (0.1, 0.7, None)}.items():
        space, trials = {"lr": Axis(1e-4, 1.0, log=True)}, []
        for lr, accuracy in zip((0.001, 0.01, 0.1), results, strict=True):
            lost = {"status": "diverged"} if accuracy is None and diverged else {}
            trial = made(f"optimizer={name} seed=0 lr={lr}", () if lost else (accuracy or 0.2,), **lost)
            write(folder / FOLDER, trial)
            trials.append(({"lr": lr}, trial["run_id"]))
        contestants.append(Tuned(name, [f"optimizer={name}"], space, trials))
    Plan("random", 3, 3, 0, ["data=digits", "name=t"], contestants).write(folder)
    return folder


def test_the_page_tells_all_and_needs_nothing_else(command, here: Path) -> None:
    write(here / "runs", *runs(), made("optimizer=momentum", (), status="failed"))
    assert command("compare runs").code == 0
    page = Page(here / "runs" / "report.html")
    for words in ("sgd", "adam", "momentum", "failed: broken", "1x8x8, 90 training", "adam has the best validation"):
        assert words in page.text
    commands = re.findall(r"cnnbench .*=.*", page.text)
    assert commands[:2] == [f"cnnbench -m data=digits optimizer={name} seed=1,2,3" for name in ("adam", "sgd")]
    assert commands[2:] == ["cnnbench data=digits optimizer=momentum seed=0"]
    assert len(page.alts) == 4
    assert all("Contestants: adam, sgd" in alt for alt in page.alts)
    assert not {"script", "link", "iframe", "object"} & page.tags
    links = [link for link in page.references if not link.startswith("data:image/png;base64,")]
    assert len(links) == 7
    assert all((here / "runs" / unquote(link)).is_file() for link in links)
    assert not re.search(r"https?:", (here / "runs" / "report.html").read_text())


def test_a_tuning_is_told(command, here: Path) -> None:
    folder = tuned(here)
    assert command("compare runs").code == 0
    page = Page(folder / "report.html")
    assert "cnnbench tune data=digits name=t optimizer=momentum,adam trials=3 seeds=3" in page.text
    assert "With one trial momentum leads, adam from" in page.text
    assert any(link.startswith("trials/adam-lr0.1-") for link in page.references)
    assert len(page.alts) == 6


def test_a_tuning_as_json(command, here: Path) -> None:
    tuning = json.loads(command(f"compare --json {tuned(here)}").out)["tuning"]
    assert [(c["label"], c["winner"], c["edges"]) for c in tuning["contestants"]] == [
        ("momentum", {"lr": 0.001}, ["lr"]),
        ("adam", {"lr": 0.01}, []),
    ]
    adam = tuning["contestants"][1]
    assert adam["space"] == {"lr": {"low": 1e-4, "high": 1.0, "log": True, "choices": []}}
    assert [(t["number"], t["status"], t["val_acc"]) for t in adam["trials"]] == [
        (1, "done", 0.1), (2, "done", 0.7), (3, "diverged", None)
    ]  # fmt: skip
    assert tuning["expected_best"]["momentum"] == pytest.approx([0.5, 0.5, 0.5])


def test_the_same_records_give_the_same_files(command, here: Path) -> None:
    folder = tuned(here)
    command("compare runs")
    first = {path.name: path.read_bytes() for path in folder.iterdir() if path.suffix in (".html", ".png")}
    assert len(first) == 7
    command("compare runs")
    assert {name: (folder / name).read_bytes() for name in first} == first


def test_hostile_words_are_only_words(command, here: Path) -> None:
    hostile = "<script>alert(1)</script>$_{\"'"
    bad = made("optimizer=adam", (), status="failed")
    bad |= {"error": hostile, "environment": {"python": hostile, hostile: hostile}}
    bad["data"]["classes"] = [hostile, "飛"]
    good = made("optimizer=sgd")
    good["data"]["classes"] = bad["data"]["classes"]
    bad["choices"]["optimizer"] = good["choices"]["model"] = hostile
    write(here / "runs", bad, good)
    assert command("compare runs").code == 0
    page = Page(here / "runs" / "report.html")
    assert "script" not in page.tags
    assert page.text.count(hostile) >= 5


def test_several_comparisons_each_have_their_figures(command, here: Path) -> None:
    write(here / "runs", *runs(), made("optimizer=sgd data.val=test"))
    assert command("compare runs apart=true out=runs").code == 0
    page = Page(here / "runs" / "report.html")
    assert len(page.alts) == 8
    assert "Validation is the test set" in page.text
    assert (here / "runs" / "accuracy-2.png").exists()


def test_many_contestants_and_runs_are_cut(command, here: Path) -> None:
    one = made("optimizer=adam", (0.5,))
    many = [one | {"run_id": str(i), "config": one["config"] | {"lr": i, "epochs": i}} for i in range(1, 221)]
    write(here / "runs", *many)
    assert command("compare runs").code == 0
    page = Page(here / "runs" / "report.html")
    assert "The first 200; 20 more are left out." in page.text
    assert "The first 200 of 220 rows" in page.text
    with Image.open(here / "runs" / "curves.png") as picture:
        assert picture.height < 2000


def test_nothing_finished(command, here: Path) -> None:
    write(here / "runs", made("optimizer=adam", (), status="failed"), made("optimizer=sgd", (), status="diverged"))
    assert command("compare runs").code == 0
    assert Page(here / "runs" / "report.html").alts == []


@pytest.mark.parametrize("missed", [False, True])
def test_figures_of_edge_cases(command, here: Path, missed: bool) -> None:
    one = made("optimizer=adam", (0.5,))
    one["history"][0] |= {"train_loss": 0.0, "seconds": 0.0}
    one["test"] = {"acc": 0.5, "loss": 1.0, "per_class": [None, 0.5], "confusion": [[0, 0], [1, 1]]}
    write(here / "runs", one)
    assert command(f"compare runs target={1 if missed else 0} out=runs").code == 0


def test_of_many_classes_the_worst_come_first(command, here: Path) -> None:
    runs = [made(f"optimizer={name}") for name in ("adam", "sgd")]
    for add, run in enumerate(runs):
        run["data"]["classes"] = [f"class {i}" for i in range(30)]
        confusion = [[10 if true == taken else 0 for taken in range(30)] for true in range(30)]
        confusion[17][4] = 30 + 10 * add  # of class 17 three or four quarters or fifths are taken for class 4
        confusion[3][8], confusion[3][9] = 5, 5
        shares = [row[i] / sum(row) for i, row in enumerate(confusion)]
        run["test"] |= {"per_class": shares, "confusion": confusion}
    write(here / "runs", *runs)
    assert command("compare runs").code == 0
    assert not (here / "runs" / "confusion.png").exists()
    page = Page(here / "runs" / "report.html").text
    assert "The first 20 of 30 rows; comparison.md has them all." in page
    markdown = (here / "runs" / "comparison.md").read_text()
    classes = markdown[markdown.index("### Test accuracy by class") :].splitlines()[4:34]
    assert classes[:3] == [
        "| class 17 | 25.0% | 20.0% |",
        "| class 3 | 50.0% | 50.0% |",
        "| class 0 | 100.0% | 100.0% |",
    ]
    pairs = markdown[markdown.index("### Classes that are confused most") :].splitlines()[4:8]
    assert pairs == [
        "| class 17 | class 4 | 75.0% | 80.0% |", "| class 3 | class 8 | 25.0% | 25.0% |",
        "| class 3 | class 9 | 25.0% | 25.0% |", "",
    ]  # fmt: skip


def font(path: Path, family: str, letters: str) -> None:
    """A font that has these letters, all of them squares."""
    pen = TTGlyphPen(None)
    for i, point in enumerate(((0, 0), (0, 700), (700, 700), (700, 0))):
        (pen.lineTo if i else pen.moveTo)(point)
    pen.closePath()
    names = {".notdef": pen.glyph(), **{f"u{ord(letter):x}": pen.glyph() for letter in letters}}
    builder = FontBuilder(1000, isTTF=True)
    builder.setupGlyphOrder(list(names))
    builder.setupCharacterMap({ord(letter): f"u{ord(letter):x}" for letter in letters})
    builder.setupGlyf(names)
    builder.setupHorizontalMetrics(dict.fromkeys(names, (750, 0)))
    builder.setupHorizontalHeader(ascent=800, descent=-200)
    builder.setupNameTable({"familyName": family, "styleName": "Regular"})
    builder.setupOS2()
    builder.setupPost()
    builder.save(path)


def test_names_of_classes_in_any_script(
    command, here: Path, monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
) -> None:
    run = made("optimizer=adam")
    run["data"]["classes"] = ["猫", "dog"]
    write(here / "runs", run)
    monkeypatch.setattr(fonts, "FAMILIES", ("DejaVu Sans",))
    assert fonts.class_labels(["猫", "dog"]) == ["#1", "dog"]
    command("compare runs")
    assert "No font installed here has the letters of #1 猫." in Page(here / "runs" / "report.html").text
    numbered = (here / "runs" / "confusion.png").read_bytes()

    font(here / "squares.ttf", "Squares", "猫狗")
    manager = font_manager.fontManager
    monkeypatch.setattr(manager, "ttflist", list(manager.ttflist))
    manager.addfont(here / "squares.ttf")
    monkeypatch.setattr(fonts, "FAMILIES", ("DejaVu Sans", "Not Installed", "Squares"))
    assert fonts.families() == ["DejaVu Sans", "Squares"]
    assert fonts.class_labels(["猫", "dog", "鸟"]) == ["猫", "dog", "#3"]
    assert [Path(fonts.file_for(text)).name for text in ("dog", "猫狗", "鸟")] == [
        "DejaVuSans.ttf", "squares.ttf", "DejaVuSans.ttf"
    ]  # fmt: skip
    command("compare runs")
    assert "No font" not in Page(here / "runs" / "report.html").text
    assert (here / "runs" / "confusion.png").read_bytes() != numbered
    assert not [str(each.message) for each in recwarn if "Glyph" in str(each.message) or "font" in str(each.message)]


def test_lines_to_a_target_lie_between_0_and_100_percent(command, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    heights: list[float] = []
    step = Axes.step
    monkeypatch.setattr(Axes, "step", lambda self, x, y, **words: heights.extend(y) or step(self, x, y, **words))
    write(here / "runs", *runs(("sgd", "momentum", "adam", "rmsprop")))
    assert command("compare runs target=0.6 out=runs").code == 0
    assert min(heights) == 0
    assert 0.95 < max(heights) <= 1
    assert len(set(heights)) > 4  # one above the other


@pytest.mark.parametrize(("other", "drawn"), [(1049, False), (1050, True)])
def test_sizes_that_differ_by_a_twentieth_have_a_figure(command, here: Path, other: int, drawn: bool) -> None:
    sizes = {"adam": 1000, "sgd": other}
    write(here / "runs", *(made(f"optimizer={name}") | {"parameters": count} for name, count in sizes.items()))
    assert command("compare runs").code == 0
    assert (here / "runs" / "parameters.png").exists() == drawn


def test_a_tuning_without_a_winner(command, here: Path) -> None:
    folder = tuned(here)
    for path in folder.glob("trials/*/record.json"):
        found = json.loads(path.read_text())
        path.write_text(json.dumps(found | {"status": "failed", "best": None, "error": "broken", "test": None}))
    assert command("compare runs").code == 0
    assert "none: no trial came to its end" in Page(folder / "report.html").text


MEASURE = """
<script>addEventListener("load", () => parent.postMessage(JSON.stringify({
  width: innerWidth, content: document.documentElement.scrollWidth,
  broken: [...document.images].filter(image => !image.naturalWidth).length,
  wide: [...document.querySelectorAll(".scroll")].filter(part => part.querySelector("table"))
    .filter(part => part.scrollWidth > part.clientWidth + 30).map(part => part.getBoundingClientRect())
    .map(at => [at.left, at.right, at.top, at.bottom].map(Math.round)),
  asked: performance.getEntriesByType("resource").filter(entry => !entry.name.startsWith("data:")).length,
}), "*"))</script>
"""
FRAME = """<!doctype html><style>body {{ margin: 0 }}</style>
<script>addEventListener("message", event => document.title = event.data)</script>
<iframe src="copy.html" style="border: 0; width: {width}px; height: {height}px"></iframe>
"""


@pytest.mark.skipif(BROWSER is None, reason="no Chromium here")
@pytest.mark.parametrize("width", [1280, 390])
def test_the_page_in_a_browser(command, here: Path, tmp_path: Path, width: int) -> None:
    folder = tuned(here)
    command("compare runs")
    page = (folder / "report.html").read_text().replace("<details>", "<details open>")
    allowed = page.replace("default-src 'none'", "default-src 'none'; script-src 'unsafe-inline'")
    (tmp_path / "copy.html").write_text(allowed + MEASURE)
    height = 9000 if width < 500 else 6000
    (tmp_path / "frame.html").write_text(FRAME.format(width=width, height=height))  # windows have at least 500 pixels
    options = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking"
    options += f" --disable-component-update --disable-sync --hide-scrollbars --window-size={max(width, 500)},{height}"
    words = [f"--user-data-dir={tmp_path / 'profile'}", f"--screenshot={tmp_path / 'shot.png'}", "--dump-dom"]
    command_line = [str(BROWSER), *options.split(), *words, (tmp_path / "frame.html").as_uri()]
    with (tmp_path / "dom.html").open("w") as out:  # no pipe: what the browser leaves running would hold it open
        subprocess.run(command_line, stdout=out, stderr=subprocess.DEVNULL, check=True, timeout=120)
    (told,) = re.findall(r"<title>(.*?)</title>", (tmp_path / "dom.html").read_text())
    measured = json.loads(told)
    wide = measured.pop("wide")
    assert measured == {"width": width, "content": width, "broken": 0, "asked": 0}
    with Image.open(tmp_path / "shot.png") as picture:
        grey = np.asarray(picture.convert("L"))
        for left, right, top, bottom in wide:  # shaded at the right, where there is more to see
            assert np.median(grey[top:bottom, right - 2]) < 200 < 250 < np.median(grey[top:bottom, left + 1])
        assert (len(wide) > 2) == (width == 390)
        assert len(picture.convert("RGB").crop((0, 0, width, 2000)).getcolors(10**7) or []) > 100
