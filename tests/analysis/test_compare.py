"""The comparison, on records written by hand."""

import copy
import csv
import json
import subprocess
import sys
from pathlib import Path

import pytest
from made_records import made, write
from PIL import Image

DRAWN = ("test_runs_that_differ_only_in_seed_are_one_contestant", "test_the_same_records_give_the_same_files")


@pytest.fixture(autouse=True)
def figures_in_two_tests(request: pytest.FixtureRequest) -> None:
    if request.node.name not in DRAWN:
        request.getfixturevalue("no_figures")


def table(here: Path, name: str = "comparison.csv") -> dict[str, dict[str, str]]:
    with (here / name).open() as file:
        return {row["contestant"]: row for row in csv.DictReader(file)}


def test_runs_that_differ_only_in_seed_are_one_contestant(command, here: Path) -> None:
    write(
        here / "runs",
        made("optimizer=adam seed=0", (0.5, 0.7, 0.6), 0.6),
        made("optimizer=adam seed=1", (0.5, 0.8), 0.8),
        made("optimizer=sgd seed=0", (0.3, 0.4), 0.35),
        made("optimizer=sgd seed=1", (), status="diverged"),
        made("optimizer=momentum seed=0", (), status="failed"),
    )
    result = command("compare runs")
    assert result.code == 0
    rows = table(here / "runs")
    assert list(rows) == ["adam", "sgd", "momentum"]  # best first
    adam = rows["adam"]
    assert adam["seeds"] == "2"
    assert float(adam["val_acc_mean"]) == pytest.approx(0.75)
    assert float(adam["val_acc_sd"]) == pytest.approx(0.0707106781)  # sqrt((0.05^2 + 0.05^2) / 1)
    assert float(adam["test_acc_mean"]) == pytest.approx(0.7)
    assert float(adam["best_epoch_mean"]) == 2
    assert float(adam["seconds_mean"]) == pytest.approx((4.5 + 3.0) / 2)
    assert rows["sgd"]["seeds"] == "1"
    assert rows["sgd"]["val_acc_sd"] == ""  # one seed has no spread
    assert (rows["sgd"]["done"], rows["sgd"]["diverged"], rows["momentum"]["failed"]) == ("1", "1", "1")
    assert (float(adam["val_acc_low"]), float(adam["val_acc_high"])) == pytest.approx((0.7, 0.8))  # of two values
    assert float(adam["final_val_acc_mean"]) == pytest.approx(0.7)
    assert float(adam["train_loss_mean"]) == pytest.approx((2 / 3 + 1) / 2)
    assert float(adam["gap_mean"]) == pytest.approx(-0.75)
    assert rows["momentum"]["test_acc_mean"] == ""
    assert "75.00% [70.00, 80.00]" in result.out
    assert "40.00%" in result.out
    assert "1 diverged, 1 done" in result.out
    markdown = (here / "runs" / "comparison.md").read_text()
    row = "| adam | 2 | 70.00% [60.00, 80.00] | 75.00% [70.00, 80.00] | 70.00% [60.00, 80.00] | 0.8333 | -75.00% | 2 done |"
    assert row in markdown
    with Image.open(here / "runs" / "curves.png") as picture:
        assert picture.width > 900


def test_labels_say_what_differs(command, here: Path) -> None:
    write(
        here / "runs",
        made("optimizer=adam lr=0.001", (0.5,)),
        made("optimizer=adam lr=0.01", (0.6,)),
        made("optimizer=sgd lr=0.1", (0.4,)),
        made("optimizer=sgd lr=0.1 augment=flip_crop", (0.3,)),
    )
    command("compare runs")
    assert list(table(here / "runs")) == [
        "adam augment=none lr=0.01",
        "adam augment=none lr=0.001",
        "sgd augment=none",
        "sgd augment=flip_crop",
    ]
    result = command("compare runs by=optimizer")
    rows = table(here / "runs")
    assert list(rows) == ["adam augment=none lr=0.01", "sgd augment=none"]
    assert rows["adam augment=none lr=0.01"]["settings_tried"] == "2"
    assert "(best of 2)" in result.out
    result = command("compare runs by=optimiser")
    assert result.code == 2
    assert "Did you mean 'optimizer'?" in result.err


def test_one_setting_alone(command, here: Path) -> None:
    write(here / "runs", made("optimizer=adam"))
    command("compare runs")
    assert list(table(here / "runs")) == ["adam"]


def test_different_data_or_protocol_are_not_put_side_by_side(command, here: Path) -> None:
    other = made("optimizer=sgd seed=5")
    other["data"] |= {"fingerprint": "cd" * 8}
    write(here / "runs", made("optimizer=adam"), made("optimizer=sgd data.val=test"), other)
    refused = command("compare runs")
    assert refused.code == 2
    for words in ("data, split or validation source", "ababab", "cdcdcd", "VALIDATION IS THE TEST SET", "apart=true"):
        assert words in refused.err
    assert refused.err.count("\n") == 1
    assert not (here / "runs" / "comparison.md").exists()
    result = command("compare runs apart=true")
    assert result.code == 0
    assert result.out.count("Accuracy  ") == 3
    assert "VALIDATION IS THE TEST SET" in result.out


def test_one_bad_record_hides_no_other(command, here: Path) -> None:
    write(here / "runs", made("optimizer=adam"), made("optimizer=sgd"), made("optimizer=momentum"))
    broken, edited = sorted(here.glob("runs/*/record.json"))[1:]
    broken.write_text(broken.read_text()[:300])
    changed = json.loads(edited.read_text())
    changed["history"][0]["val_acc"] = "high"
    edited.write_text(json.dumps(changed))
    result = command("compare runs")
    assert result.code == 0
    assert list(table(here / "runs")) == ["adam"]
    assert result.err.count("left out:") == 2
    assert str(broken.relative_to(here)) in result.err
    assert "history[0].val_acc: 'high' must be a number" in result.err


def test_several_folders_and_runs_that_were_put_aside(command, here: Path) -> None:
    write(here / "a", made("optimizer=adam"))
    write(here / "b", made("optimizer=sgd"))
    write(here / "a" / "adam" / ".old", made("optimizer=rmsprop"))
    command("compare a b")
    assert sorted(table(here / "a")) == ["adam", "sgd"]


def test_the_same_records_give_the_same_files(command, here: Path) -> None:
    write(here / "runs", made("optimizer=adam seed=1"), made("optimizer=adam seed=0"), made("optimizer=sgd"))
    files = ("comparison.csv", "comparison.md", "comparison.tex", "curves.png")
    command("compare runs")
    first = [(here / "runs" / name).read_bytes() for name in files]
    command("compare runs")
    assert [(here / "runs" / name).read_bytes() for name in files] == first


def seeds(words: str, tests: list[float]) -> list[dict]:
    return [made(f"{words} seed={i}", (test,), test) for i, test in enumerate(tests)]


def test_verdicts_against_all_and_against_a_baseline(command, here: Path) -> None:
    # Differences adam - sgd 0.3, 0.4, 0.5: mean 0.4, deviation 0.1, t = 0.4 / (0.1 / sqrt 3) = 6.93 with 2 degrees of
    # freedom, p = 0.020; interval 0.4 +- 4.303 * 0.1 / sqrt 3 (a table of Student's t).
    write(here / "runs", *seeds("optimizer=adam", [0.8, 0.9, 1.0]), *seeds("optimizer=sgd", [0.5, 0.5, 0.5]))
    assert command("compare runs").code == 0
    markdown = (here / "runs" / "comparison.md").read_text()
    assert "| adam | better | sgd | 3 | +40.00 | [+15.16, +64.84] | 0.020 |  |" in markdown
    assert "adam has the best validation accuracy and 90.00% on the test images; it is better than sgd." in markdown
    command("compare runs baseline=adam")
    markdown = (here / "runs" / "comparison.md").read_text()
    assert "| sgd | worse | adam | 3 | -40.00 | [-64.84, -15.16] | 0.020 |  |" in markdown
    assert "named as baseline" not in markdown  # it is the best one too
    command("compare runs baseline=sgd")
    assert (
        "sgd has been named as baseline and 50.00% on the test images; it is worse than adam."
        in (here / "runs" / "comparison.md").read_text()
    )
    result = command("compare runs baseline=sgdd")
    assert result.code == 2
    assert "Did you mean 'sgd'? Allowed: adam, sgd." in result.err


def test_what_few_seeds_can_not_say(command, here: Path) -> None:
    write(here / "runs", made("optimizer=adam", (0.8,), 0.8), made("optimizer=sgd", (0.4,), 0.4))
    result = command("compare runs")
    markdown = (here / "runs" / "comparison.md").read_text()
    assert "One seed says nothing of how sure a difference is" in markdown
    assert "| adam | not distinguishable | sgd | 1 | +40.00 | - | - | at least 2 |" in markdown
    assert "[" not in markdown
    assert "no interval can be given" in result.out


def test_seeds_are_paired(command, here: Path) -> None:
    # The seeds differ by 0.2, the contestants by 0.02 in each of them: a test without pairs would see nothing.
    write(here / "runs", *seeds("optimizer=adam", [0.32, 0.53, 0.72]), *seeds("optimizer=sgd", [0.3, 0.5, 0.7, 0.9]))
    command("compare runs baseline=sgd")
    assert "| adam | better | sgd | 3 | +2.33 |" not in (here / "runs" / "comparison.md").read_text()  # 5 points a step
    for run in (here / "runs").glob("*/record.json"):
        changed = json.loads(run.read_text())
        changed["data"]["sizes"]["test"] = 10_000
        run.write_text(json.dumps(changed))
    command("compare runs baseline=sgd")
    assert "| adam | better | sgd | 3 | +2.33 |" in (here / "runs" / "comparison.md").read_text()


def test_cost_of_a_target(command, here: Path) -> None:
    runs = [made("optimizer=adam seed=0", (0.5, 0.7, 0.6)), made("optimizer=adam seed=1", (0.5, 0.6, 0.7))]
    runs += [made("optimizer=sgd seed=0", (0.1, 0.2, 0.7)), made("optimizer=sgd seed=1", (0.1, 0.2, 0.3))]
    runs += [made("optimizer=sgd seed=2", (0.1, 0.2, 0.4))]
    for run in runs:
        for row in run["history"]:
            row["images_seen"] = 90 * row["epoch"]
    write(here / "runs", *runs)
    assert command("compare runs target=0.65").code == 0
    markdown = (here / "runs" / "comparison.md").read_text()
    assert "| adam | 2.5 | 3 | 270 | 4.5 | 60 | 2 of 2 | 2 | 225 | 3.8 |" in markdown
    assert "| sgd | 3.0 | 3 | 270 | 4.5 | 60 | 1 of 3 | ∞ | ∞ | ∞ |" in markdown
    assert table(here / "runs")["sgd"]["target_epochs_median"] == "inf"
    for word in ("target=1.5", "target=high"):
        result = command(f"compare runs {word}")
        assert (result.code, result.err) == (2, f"cnnbench: {word}: must be a number from 0 to 1.\n")


@pytest.mark.parametrize(
    "words",
    [
        "compare",
        "compare nowhere",
        "compare runs aparrt=true",
        "compare runs apart=yes",
        "compare runs by=x",
        "compare empty",
    ],
)
def test_bad_words(command, here: Path, words: str) -> None:
    write(here / "runs", made())
    (here / "empty").mkdir()
    result = command(words)
    assert (result.code, result.err.count("\n"), result.out) == (2, 1, "")


def test_with_many_contestants_each_is_compared_with_the_best(command, here: Path) -> None:
    runs = []
    for run in seeds("lr=0.1", [0.5, 0.5]):
        for i in range(22):
            config = run["config"] | {"lr": 0.1 + i, "optimizer": run["config"]["optimizer"] | {"lr": 0.1 + i}}
            accuracy = 0.3 + (i + run["config"]["seed"]) / 100
            changed = {
                "config": config,
                "run_id": f"{i}-{run['config']['seed']}",
                "test": run["test"] | {"acc": accuracy},
            }
            runs.append(copy.deepcopy(run | changed))
    write(here / "runs", *runs)
    assert command("compare runs").code == 0
    markdown = (here / "runs" / "comparison.md").read_text()
    verdicts = markdown[markdown.index("### Verdicts") :].splitlines()
    assert sum(line.startswith("| adam lr=") for line in verdicts) == 21
    assert "each is compared with the best one alone" in markdown


def test_torch_is_not_imported(here: Path) -> None:
    write(here / "runs", made("optimizer=adam"), made("optimizer=sgd"))
    program = "import sys; from cnnbench.cli import main; assert main(['compare', 'runs']) == 0; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", program], check=True, capture_output=True)
    assert (here / "runs" / "report.html").exists()


def test_per_class_accuracy_and_tex(command, here: Path) -> None:
    first, second = made("optimizer=adam seed=0"), made("optimizer=adam seed=1")
    first["test"]["per_class"], second["test"]["per_class"] = [0.5, 1.0], [0.7, 0.5]
    for run in (first, second):
        run["data"]["classes"] = ["50 % cat", "a_b"]
    write(here / "runs", first, second)
    command("compare runs")
    assert "| a_b | 75.0% |" in (here / "runs" / "comparison.md").read_text()
    tex = (here / "runs" / "comparison.tex").read_text()
    assert r"50 \% cat & 60.0\% \\" in tex
    assert r"a\_b & 75.0\% \\" in tex


def test_json_is_all_of_it_and_nothing_else(command, here: Path) -> None:
    runs = [
        made(f"optimizer={name} seed={seed}", (0.3, 0.5 + 0.4 * i + 0.01 * seed), 0.5 + 0.4 * i + 0.01 * seed)
        for i, name in enumerate(("sgd", "adam"))
        for seed in (1, 2, 3)
    ]
    folder = write(here / "runs", *runs, made("optimizer=sgd seed=4", (), status="diverged"))
    before = sorted(here.rglob("*"))
    result = command("compare --json runs target=0.6")
    assert (result.code, result.err, sorted(here.rglob("*"))) == (0, "", before)

    def no_constant(word: str) -> None:
        raise AssertionError(f"{word} is no JSON")

    found = json.loads(result.out, parse_constant=no_constant)
    assert found["tuning"] is None
    (table,) = found["comparisons"]
    assert (table["measure"], table["target"], table["protocol"]["validation"]) == ("test_acc", 0.6, "split")
    assert table["verdict"].startswith("adam has the best validation accuracy")
    adam, sgd = table["contestants"]
    assert (adam["label"], sgd["label"]) == ("adam", "sgd")
    assert (sgd["statuses"], sgd["seeds"]) == ({"done": 3, "diverged": 1}, [1, 2, 3])
    assert sgd["runs"] == [run["run_id"] for run in runs[:3]]
    assert sgd["measures"]["test_acc"]["values"] == pytest.approx([0.51, 0.52, 0.53])
    assert sgd["measures"]["test_acc"]["mean"] == pytest.approx(0.52)
    low, high = sgd["measures"]["test_acc"]["interval"]
    assert 0.51 <= low < 0.52 < high <= 0.53
    missed = {"mean": None, "interval": None, "values": [None] * 3}
    assert sgd["measures"]["target_epochs"] == missed
    assert adam["measures"]["target_epochs"]["values"] == [2, 2, 2]
    (pair,) = table["pairs"]
    assert (pair["first"], pair["second"], pair["verdict"], pair["seeds"]) == ("adam", "sgd", "better", 3)
    assert pair["difference"] == pytest.approx(0.4)
    assert table["claims"] == []
    assert command(f"compare {folder} baseline=sgd --json").out.count('"baseline": "sgd"') == 1
