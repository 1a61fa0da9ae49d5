"""The Python API: the same runs, records and errors as the command line."""

import doctest
import json
import re
import signal
import sys
from pathlib import Path

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
        import pandas

        frame, sgd = pandas.DataFrame(columns), {"done": 2}  # NaN beside numbers was not measured: pandas knows no more
    else:
        frame, sgd = pl.DataFrame(columns, strict=False), {"done": 1, "diverged": 1}
    found = cnnbench.compare(frame, contestant="optimizer", baseline="sgd")
    assert "baseline sgd" in found.verdict
    contestants = {c.label: c for c in found._tables[0].contestants}
    assert contestants["adam"].mean("acc") == pytest.approx(0.85)
    assert dict(contestants["sgd"].statuses) == sgd


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
