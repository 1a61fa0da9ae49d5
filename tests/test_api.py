"""The Python API: the same runs, records and errors as the command line."""

import doctest
import json
import re
import signal
import sys
from pathlib import Path

import numpy as np
import pandas
import polars as pl
import pytest
from conftest import without_times
from made_records import made, write

import cnnbench
from cnnbench import api


@pytest.fixture
def runs(here: Path) -> Path:
    return write(
        here / "runs" / "mine",
        made("optimizer=adam seed=0", (0.5, 0.7), 0.6),
        made("optimizer=adam seed=1", (0.5, 0.8), 0.8),
        made("optimizer=sgd seed=0", (0.3, 0.4), 0.3),
        made("optimizer=sgd seed=1", (), status="diverged"),
    )


def test_a_run_is_that_of_the_command_line(command, here: Path) -> None:
    run = cnnbench.train("data=digits", "optimizer=adam", epochs=1, augment=["flip_crop", "cutout"], seed=3)
    assert (run.status, run.seed, run.error) == ("done", 3, "")
    command("data=digits optimizer=adam epochs=1 augment=[flip_crop,cutout] seed=3 name=other")
    (typed,) = here.glob("runs/other/*/record.json")
    called = json.loads((run.folder / "record.json").read_text())
    for record in (one := without_times(called), two := without_times(json.loads(typed.read_text()))):
        del record["config"]["name"]
    assert one == two
    assert run.test_accuracy == called["test"]["acc"]
    assert len(run.load().classes) == 10


def test_a_sweep_of_python_values(here: Path) -> None:
    runs = cnnbench.sweep("data=digits", "optimizer=adam,sgd", epochs=1, seed=range(2), batch_size=[100])
    assert [(run.record.choices["optimizer"], run.seed) for run in runs] == [
        ("adam", 0), ("adam", 1), ("sgd", 0), ("sgd", 1),
    ]  # fmt: skip
    assert runs.folder == Path("runs/default")
    again = cnnbench.sweep("data=digits", "optimizer=adam,sgd", epochs=1, seed=range(2), batch_size=[100])
    assert [run.record for run in again] == [run.record for run in runs]  # nothing ran twice
    frame = runs.to_pandas()
    assert list(frame["test_acc"]) == [run.test_accuracy for run in runs]
    lr = cnnbench.sweep("data=digits", epochs=1, lr=np.logspace(-3, -2, 2), name="rates")
    assert [run.record.config["lr"] for run in lr] == [0.001, 0.01]
    history = lr.history
    assert list(history["contestant"]) == ["adam lr=0.001", "adam lr=0.01"]
    assert list(history["val_acc"]) == [run.val_accuracy for run in lr]
    assert runs.compare().verdict == cnnbench.compare("runs/default").verdict == cnnbench.compare(list(runs)).verdict


def test_tables_and_verdicts_by_hand(runs: Path) -> None:
    found = cnnbench.compare(runs)
    table = found.table.set_index("contestant")
    assert table.loc["adam", "test_acc_mean"] == pytest.approx(0.7)
    assert table.loc["adam", "test_acc_sd"] == pytest.approx(0.1 * 2**0.5)
    assert table.loc["sgd", "diverged"] == 1
    (row,) = found.verdicts.to_dict("records")
    assert (row["first"], row["second"], row["seeds"]) == ("adam", "sgd", 2)
    # A run that diverged counts as chance, 1 / 2 with two classes: 0.7 - (0.3 + 0.5) / 2
    assert row["difference"] == pytest.approx(0.3)
    assert row["low"] < 0.3 < row["high"]


def test_runs_are_compared_by_the_plan_of_their_folder(here: Path) -> None:
    words = ("data=digits", "data.limit=200", "optimizer=adam,sgd")
    runs = cnnbench.sweep(*words, epochs=1, seeds="auto", max_seeds=4)
    looks = [frame["p"][0] for frame in (runs.compare().verdicts, cnnbench.compare("runs/default").verdicts)]
    for some in (runs, list(runs)):  # p is divided by the share of the 5 % that the look may use
        assert [cnnbench.compare(some).verdicts["p"][0]] * 2 == looks
    assert cnnbench.compare(runs).verdicts["p"][0] > cnnbench.compare(runs).verdicts["raw_p"][0]


def test_a_tuning_with_its_trials(command, here: Path) -> None:
    words = ("data=digits", "data.limit=200", "optimizer=adam,sgd", "trials=2")  # typed, it wins over the default
    runs = cnnbench.tune(*words, seeds=2, epochs=1)
    trials = runs.trials
    assert list(trials["contestant"]) == ["adam", "adam", "sgd", "sgd"]
    for name, tried in trials.groupby("contestant"):
        (best,) = tried[tried["winner"]].to_dict("records")
        assert best["val_acc"] == tried["val_acc"].max()
        own = [run for run in runs if run.record.choices["optimizer"] == name]
        assert [(run.seed, run.record.config["lr"]) for run in own] == [(1, best["lr"]), (2, best["lr"])]
    assert "tunings=3 repeats the tuning" in cnnbench.compare(runs).verdict  # they know of their tuning
    for settings in ({"trials": 0}, {"sampler": "tpee"}, {"seeds": 1000}):
        with pytest.raises(cnnbench.ConfigError) as error:
            cnnbench.tune("data=digits", "optimizer=adam,sgd", name="bad", **settings)
        typed = " ".join(f"{key}={value}" for key, value in settings.items())
        assert command(f"tune data=digits optimizer=adam,sgd name=bad {typed}").err == f"cnnbench: {error.value}\n"
    assert not (here / "runs" / "bad").exists()


def test_all_that_a_comparison_shows(runs: Path, here: Path) -> None:
    found = cnnbench.compare(runs)
    page = found.save("report")
    assert page == Path("report/report.html")
    assert {path.name for path in page.parent.iterdir()} >= {"comparison.csv", "comparison.md", "accuracy.png"}
    assert found.plot().axes[0].get_title(loc="left") == "test accuracy"
    with pytest.raises(
        cnnbench.ConfigError, match=r"plot\('acuracy'\): there is no such figure\. Did you mean 'accuracy'"
    ):
        found.plot("acuracy")
    with pytest.raises(cnnbench.ConfigError, match="don't have what it shows"):
        found.plot("architecture")
    frame = pl.DataFrame({"optimizer": ["<script>x", "b"] * 2, "seed": [0, 0, 1, 1], "acc": [0.5, 0.6, 0.5, 0.7]})
    html = cnnbench.compare(frame)._repr_html_()
    assert "<script" not in html
    assert "&lt;script&gt;x" in html
    assert html.count('<img alt="') == 1


@pytest.mark.parametrize("library", ["polars", "pandas"])
def test_frames_of_other_libraries(library: str) -> None:
    columns = {
        "optimizer": ["adam"] * 4 + ["sgd"] * 4,
        "seed": [0, 0, 1, 1] * 2,
        "epoch": [1, 2] * 4,
        "acc": [0.5, 0.9, 0.5, 0.8, 0.3, None, 0.2, float("nan")],
    }
    if library == "pandas":
        frame, sgd = pandas.DataFrame(columns), {"done": 2}  # NaN beside numbers was not measured: pandas knows no more
    else:
        frame, sgd = pl.DataFrame(columns, strict=False), {"done": 1, "diverged": 1}
    found = cnnbench.compare(frame, contestant="optimizer", baseline="sgd")
    assert "baseline sgd" in found.verdict
    contestants = {c.label: c for c in found._tables[0].contestants}
    assert contestants["adam"].mean("acc") == pytest.approx(0.85)
    assert dict(contestants["sgd"].statuses) == sgd


def test_a_run_of_pandas_that_diverged_is_counted() -> None:
    # Without epochs a row is a run: seed 1 has no number in any row of its own.
    columns = {"optimizer": ["adam"] * 3 + ["sgd"] * 3, "seed": [0, 1, 2] * 2}
    frame = pandas.DataFrame({**columns, "acc": [0.9, float("nan"), 0.8, 0.7, 0.6, 0.5]})
    table = cnnbench.compare(frame).table.set_index("contestant")
    assert (table.loc["adam", "seeds"], table.loc["adam", "diverged"], table.loc["sgd", "diverged"]) == (2, 1, 0)
    # With several rows of a run, as Lightning's CSV logger writes them, NaN is what another row has.
    rows = pandas.concat([frame.assign(acc=float("nan")), frame.fillna({"acc": 0.7})], ignore_index=True)
    table = cnnbench.compare(rows, contestant="optimizer").table.set_index("contestant")
    assert list(table["seeds"]) == [3, 3]


def test_settings_are_checked_as_typed(command, runs: Path) -> None:
    for typed, settings in (
        ("margin=0", {"margin": 0}),
        ("target=1.5", {"targets": [1.5]}),
        ("seed=s", {"seed": "s"}),
        ("baseline=admam", {"baseline": "admam"}),
    ):
        with pytest.raises(cnnbench.ConfigError) as error:
            cnnbench.compare(runs, **settings)
        assert command(f"compare {runs} {typed}").err == f"cnnbench: {error.value}\n"
    frame = pl.DataFrame({"optimizer": ["a", "b"], "acc": [0.5, 0.6]})
    with pytest.raises(cnnbench.ConfigError, match="by=model: is a setting for folders of runs, not for a table"):
        cnnbench.compare(frame, by="model")


@pytest.mark.parametrize("words", ["data=digits optimzer=adam", "data=digits optimizer=adm", "data=digits lr=-1"])
def test_bad_words_raise_the_line_that_is_printed(command, here: Path, words: str) -> None:
    with pytest.raises(cnnbench.ConfigError) as error:
        cnnbench.train(*words.split())
    assert command(words).err == f"cnnbench: {error.value}\n"
    assert not (here / "runs").exists()


def test_what_is_no_single_run_or_no_results(here: Path) -> None:
    for call in (
        lambda: cnnbench.train("experiment=quickstart"),
        lambda: cnnbench.train("data=digits", seed="0,1"),
        lambda: cnnbench.compare("nothing"),
        lambda: cnnbench.compare(3),
        lambda: cnnbench.compare([3]),
        lambda: cnnbench.sweep("data=digits", seed=[]),
        lambda: cnnbench.train("data=digits", "hardware.devices=2"),
        lambda: cnnbench.compare([]),
    ):
        with pytest.raises(cnnbench.ConfigError):
            call()
    assert list(here.iterdir()) == []


def test_ctrl_c_leaves_a_run_that_resumes(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from interruptions import stop_after

    before = signal.getsignal(signal.SIGINT)
    with monkeypatch.context() as patch:
        stop_after(patch, 15, signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            cnnbench.train("data=digits", epochs=3)
    assert signal.getsignal(signal.SIGINT) is before
    assert cnnbench.train("data=digits", epochs=3).status == "done"


def test_the_examples_in_the_docstrings(here: Path) -> None:
    found = doctest.testmod(api)
    assert found.attempted >= 9
    assert found.failed == 0


def test_import_is_light(here: Path) -> None:
    import subprocess

    code = "import sys, cnnbench; sys.exit(bool({'torch', 'polars', 'numpy'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


DOCS = Path(__file__).parent.parent / "docs"


def test_the_code_on_the_page(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = (DOCS / "python.md").read_text()
    names: dict[str, object] = {}
    for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL):
        exec(block, names)
    (promised,) = re.findall(r"\n    (adam has the best mean .*)\n", page)
    assert capsys.readouterr().out.rstrip().endswith(promised)
    assert (here / "curves.png").exists()
    assert (here / "report" / "report.html").exists()


def test_the_notebook(here: Path) -> None:
    import nbformat
    from nbclient import NotebookClient

    notebook = nbformat.read(DOCS / "notebook.ipynb", 4)
    before = [[output.output_type for output in cell.get("outputs", [])] for cell in notebook.cells]
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(here)}}).execute()  # raises on an error
    plots = [cell for cell in notebook.cells if ".plot(" in cell.source]
    assert all("image/png" in cell.outputs[0].data for cell in plots)
    assert "it is better than sgd" in "".join(
        o.get("text", "") for cell in notebook.cells for o in cell.get("outputs", [])
    )
    assert [bool(outputs) for outputs in before] == [bool(cell.get("outputs")) for cell in notebook.cells]
    text = (DOCS / "notebook.ipynb").read_text()
    assert not re.search(r"/home/|/root/|/tmp/", text)


def test_bars_and_interrupts_in_a_notebook(here: Path) -> None:
    import nbformat
    from nbclient import NotebookClient

    # The kernel interrupts itself, first in a training that would last for minutes, then twice.
    cells = [
        "import numpy, os, pathlib, signal, threading, time, cnnbench\n"
        "numpy.random.seed(7)\n"
        "def press():\n"
        "    while not list(pathlib.Path('runs').glob('*/*/last.ckpt')): time.sleep(0.05)\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
        "threading.Thread(target=press, daemon=True).start()\n"
        "try: cnnbench.train('data=digits', epochs=5000)\n"
        "except KeyboardInterrupt: print('stopped')",
        "print(numpy.random.rand() == numpy.random.RandomState(7).rand(), signal.getsignal(signal.SIGTERM) == signal.SIG_DFL)",
        "from cnnbench.runtime.signals import collected_signals\n"
        "with collected_signals() as received:\n"
        "    os.kill(os.getpid(), signal.SIGINT); time.sleep(0.1)\n"
        "    try: os.kill(os.getpid(), signal.SIGINT); time.sleep(10)\n"
        "    except KeyboardInterrupt: print(received)",
        "from cnnbench.runtime import progress\n"
        "def begun():\n"
        "    sweep = progress.Sweep(2, 6).__enter__()\n"
        "    line = sweep.line(); line.start('adam, seed 0', 3); line.step(1.5, 0.25, 0.9, 1000.0)\n"
        "    return sweep\n"
        "begun(); begun().__exit__()",
    ]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(here)}}).execute()
    stopped, state, twice, _ = (
        "".join(o.text for o in cell.outputs if o.output_type == "stream" and o.name == "stdout")
        for cell in notebook.cells
    )
    assert "stopped" in stopped
    (record,) = here.glob("runs/*/*/record.json")
    assert json.loads(record.read_text())["status"] == "interrupted"
    assert state == "True True\n"
    assert twice == "[2]\n"
    going_on, ended = (output.data["text/plain"] for output in notebook.cells[3].outputs)
    assert re.search(r"adam, seed 0.* 50%.*epoch 2/3 loss 0.250", re.sub(r"\x1b\[[\d;]*m", "", going_on))
    assert ended == ""
