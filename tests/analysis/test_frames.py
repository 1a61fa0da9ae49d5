"""Tables of other programs' results, compared."""

import json
import math
from pathlib import Path

import polars as pl
import pytest

from cnnbench.analysis.frames import Columns, compare_frame
from cnnbench.errors import ConfigError

ROWS = {  # three seeds each; means 0.9 and 0.8, standard deviations 0.01 and 0.02
    "optimizer": ["adam"] * 3 + ["sgd"] * 3,
    "seed": [0, 1, 2, 0, 1, 2],
    "test_acc": [0.89, 0.90, 0.91, 0.78, 0.80, 0.82],
}


def frame(**columns: list) -> pl.DataFrame:
    return pl.DataFrame({**ROWS, **columns}, strict=False)


@pytest.fixture(autouse=True)
def figures_in_one_test(request: pytest.FixtureRequest) -> None:
    if request.node.name != "test_all_files_of_a_table_with_epochs":
        request.getfixturevalue("no_figures")


def test_means_spreads_and_verdict_by_hand(command, here: Path) -> None:
    frame().write_csv("results.csv")
    result = command("compare results.csv --json")
    (found,) = json.loads(result.out)["comparisons"]
    adam, sgd = found["contestants"]
    assert (adam["label"], sgd["label"]) == ("adam", "sgd")
    assert adam["measures"]["test_acc"]["mean"] == pytest.approx(0.9)
    # t(0.975; 2) = 4.3027: 0.9 -+ 4.3027 * 0.01 / sqrt(3)
    assert adam["measures"]["test_acc"]["interval"] == pytest.approx([0.8752, 0.9248], abs=1e-4)
    (pair,) = found["pairs"]
    assert (pair["first"], pair["verdict"], pair["second"]) == ("adam", "better", "sgd")
    assert pair["difference"] == pytest.approx(0.1)
    assert pair["spreads"] == pytest.approx([0.01, 0.02])
    shown = " ".join(command("compare results.csv").out.split())
    assert "90.00% [87.52, 92.48] │ 1.00 │ 89.00%" in shown
    assert "adam has the best mean test_acc, 90.00%; it is better than sgd." in shown
    assert "metric=test_acc (fractions); contestant=optimizer; seed=seed." in shown
    assert (here / "compared" / "results.csv" / "report.html").exists()


@pytest.mark.parametrize("by_ten", [False, True], ids=["fractions", "percentages"])
def test_percentages_are_fractions_times_100(by_ten: bool) -> None:
    values = [100 * v if by_ten else v for v in ROWS["test_acc"]]
    (found,) = compare_frame(frame(test_acc=values))
    assert [c.mean("test_acc") for c in found.contestants] == pytest.approx([0.9, 0.8])
    assert ("percentages" if by_ten else "fractions") in found.reading


def test_of_a_loss_less_is_better_and_its_numbers_are_not_percent(command, here: Path) -> None:
    frame(test_acc=[math.nan] * 6).drop("test_acc").with_columns(val_loss=1 - pl.Series(ROWS["test_acc"])).write_csv(
        "a.csv"
    )
    shown = command("compare a.csv margin=0.5").out
    assert "adam has the best mean val_loss, 0.1;" in shown
    assert "-0.1 │" in shown  # adam's difference
    assert "%" not in shown.partition("Verdicts")[0].replace("95 %", "")
    assert "Equivalent to it within 0.5: sgd." in shown
    assert "sgd has the best mean val_loss" in command("compare a.csv higher=true").out


def test_settings_are_the_columns_that_stay_the_same_within_a_run() -> None:
    epochs = range(4)
    rows = [
        {"method": m, "lr": lr, "rate_now": lr / (e + 1), "seed": s, "epoch": e, "val_acc": 0.5 + e / 10, "train_acc": 0.7}
        for m in "ab" for lr in (0.1, 0.2) for s in (5, 6) for e in epochs
    ]  # fmt: skip
    (found,) = compare_frame(pl.DataFrame(rows))
    assert sorted(c.label for c in found.contestants) == ["a lr=0.1", "a lr=0.2", "b lr=0.1", "b lr=0.2"]
    assert [run.seed for run in found.contestants[0].runs] == [5, 6]
    assert found.contestants[0].measured("val_acc") == pytest.approx([0.8, 0.8])  # that of the last epoch
    assert "not used: rate_now, train_acc" in found.reading


def test_a_row_for_each_run_has_settings_that_repeat_and_results_that_do_not() -> None:
    both = pl.concat([frame(lr=[rate] * 6, train=[rate + i / 7 for i in range(6)]) for rate in (0.1, 0.01)])
    (found,) = compare_frame(both)
    assert len(found.contestants) == 4
    assert "contestant=optimizer,lr;" in found.reading


def test_a_problem_has_its_own_table() -> None:
    both = pl.concat([frame(problem=[name] * 6) for name in ("b", "a")])
    first, second = compare_frame(both, title="x.csv")
    assert (first.title, second.title) == ("x.csv, a", "x.csv, b")
    assert [len(c.runs) for c in first.contestants] == [3, 3]


def test_rows_without_seeds_are_runs_of_their_own() -> None:
    (found,) = compare_frame(frame().drop("seed"))
    assert [len(c.runs) for c in found.contestants] == [3, 3]
    assert "no seed: each row is a run" in found.reading


def test_nan_and_infinity_are_counted_but_not_averaged() -> None:
    (found,) = compare_frame(frame(test_acc=[0.89, math.nan, 0.91, math.inf, math.nan, -math.inf]))
    adam, sgd = found.contestants
    assert (adam.label, dict(adam.statuses)) == ("adam", {"done": 2, "diverged": 1})
    assert adam.mean("test_acc") == pytest.approx(0.9)
    assert dict(sgd.statuses) == {"diverged": 3}
    assert found.pairs[0].verdict == "better"  # on the ground that all of the other's runs broke
    assert found.pairs[0].p is None


def test_a_cell_that_is_empty_was_not_measured(command, here: Path) -> None:
    Path("a.csv").write_text(
        "optimizer,seed,epoch,val_acc\nadam,0,1,0.5\nadam,0,2,\nadam,1,1,0.7\nadam,1,2,nan\nsgd,0,1,0.1\nsgd,1,1,0.3\n"
    )
    (found,) = json.loads(command("compare a.csv --json").out)["comparisons"]
    adam = next(c for c in found["contestants"] if c["label"] == "adam")
    assert adam["measures"]["val_acc"]["values"] == [0.5]
    assert adam["statuses"] == {"done": 1, "diverged": 1}


def test_cost_in_epochs_until_a_target() -> None:
    rows = [
        {"o": o, "seed": s, "epoch": e, "val_acc": e / 10 if o == "fast" else e / 20}
        for o in ("fast", "slow") for s in range(3) for e in range(11)
    ]  # fmt: skip
    (found,) = compare_frame(pl.DataFrame(rows), targets=[0.4])
    assert {c.label: c.costs("epochs", 0.4) for c in found.contestants} == {"fast": [4, 4, 4], "slow": [8, 8, 8]}


def test_all_files_of_a_table_with_epochs(command, here: Path) -> None:
    pl.concat(
        [frame(epoch=[e] * 6, test_acc=[v - 0.1 / e for v in ROWS["test_acc"]]) for e in (1, 2, 3)]
    ).write_parquet("a.parquet")
    assert command("compare a.parquet contestant=optimizer").code == 0
    out = here / "compared" / "a.parquet_contestant=optimizer"
    written = {"accuracy.png", "comparison.csv", "comparison.md", "comparison.tex", "curves.png", "report.html"}
    assert {path.name for path in out.iterdir()} == written
    page = (out / "report.html").read_text()
    assert "cnnbench compare a.parquet contestant=optimizer" in page
    assert "Configs" not in page
    header, row = (out / "comparison.csv").read_text().splitlines()[:2]
    assert float(row.split(",")[header.split(",").index("test_acc_sd")]) == pytest.approx(0.01)


def test_several_files_and_standard_input(command, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("adam", "sgd"):
        frame().filter(pl.col("optimizer") == name).drop("optimizer").write_csv(f"{name}.csv")
    assert "adam.csv: 3 runs" in command("compare adam.csv sgd.csv --dry-run").out
    with Path("adam.csv").open() as file:
        monkeypatch.setattr("sys.stdin", file)
        assert "3 runs" in command("compare - --dry-run").out


BAD = {
    "no metric": ("a,b\nx,1\n", "", "no column is known as a metric; metric=COLUMN names it (columns with numbers: b)"),
    "text": ("a,acc\nx,good\n", "", "metric=acc: holds 'good', must hold numbers"),
    "mixed": ("a,acc\nx,0.9\ny,85\n", "", "fractions and percentages are mixed"),
    "twice": (
        "a,b,seed,acc\nx,p,1,0.9\nx,q,1,0.8\n",
        "contestant=a",
        "x, seed 1: 2 rows, must be one. contestant=a,COLUMN",
    ),
    "epoch twice": ("a,epoch,acc\nx,1,0.9\nx,1,0.8\n", "", "x: epoch 1 has several rows, and no column tells the runs"),
    "empty": ("", "", "a.csv: is empty."),
    "only a header": ("a,acc\n", "", "a.csv: holds no rows."),
    "semicolons": ("a;acc\nx;0.9\n", "", "separated by semicolons, must be by commas"),
    "tabs": ("a\tacc\nx\t0.9\n", "", "separated by tabs"),
    "more cells": ("a,acc\nx,0.9,1\n", "", "can't be read as a table"),
    "no such column": ("a,acc\nx,0.9\n", "metric=ac", "metric=ac: there is no such column. Did you mean 'acc'?"),
    "no such contestant": ("a,acc\nx,0.9\n", "baseline=y", "baseline=y: not a contestant"),
    "no epochs": ("a,acc\nx,0.9\n", "target=0.5", "the table has no epochs"),
    "of runs": ("a,acc\nx,0.9\n", "by=optimizer", "by=optimizer: is a setting for folders of runs, not for a table"),
    "no truth": ("a,acc\nx,0.9\n", "higher=maybe", "higher=maybe: must be true, or false for a loss"),
}


@pytest.mark.parametrize(("text", "words", "message"), BAD.values(), ids=BAD)
def test_bad_tables_get_one_line(command, here: Path, text: str, words: str, message: str) -> None:
    Path("a.csv").write_text(text)
    result = command(f"compare a.csv {words}")
    assert (result.code, result.out, result.err.count("\n")) == (2, "", 1)
    assert message in result.err
    assert not (here / "compared").exists()


def test_bad_encodings_and_files_that_are_not_there(command, here: Path) -> None:
    Path("a.csv").write_bytes("a,acc\nä,0.9\n".encode("latin-1"))
    assert "is not UTF-8 text (byte 6 is 0xe4)" in command("compare a.csv").err
    assert "b.csv: can't be read (No such file or directory)" in command("compare b.csv").err
    Path("c.parquet").write_bytes(b"nothing")
    assert "c.parquet: can't be read as a table" in command("compare c.parquet").err


def test_one_contestant_alone() -> None:
    (found,) = compare_frame(frame().filter(pl.col("optimizer") == "adam"))
    assert [c.label for c in found.contestants] == ["adam"]
    assert "contestant=COLUMN names what sets contestants apart" in found.verdict


def test_a_name_that_is_no_column() -> None:
    with pytest.raises(ConfigError, match=r"contestant=optimiser: there is no such column\. Did you mean 'optimizer'"):
        compare_frame(frame(), Columns(contestant=("optimiser",)))
