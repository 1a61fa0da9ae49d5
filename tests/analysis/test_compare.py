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
    # t(0.975; 1) = 12.706: 0.75 - 12.706 * 0.0707107 / sqrt(2) = 0.1147; the upper end is cut off at 1.
    assert (float(adam["val_acc_low"]), float(adam["val_acc_high"])) == pytest.approx((0.1147, 1.0), abs=1e-4)
    assert float(adam["final_val_acc_mean"]) == pytest.approx(0.7)
    assert float(adam["train_loss_mean"]) == pytest.approx((2 / 3 + 1) / 2)
    assert float(adam["gap_mean"]) == pytest.approx(-0.75)
    assert rows["momentum"]["test_acc_mean"] == ""
    assert "75.00% [11.47, 100.00]" in result.out
    assert "40.00%" in result.out
    assert "1 diverged, 1 done" in result.out
    markdown = (here / "runs" / "comparison.md").read_text()
    row = "| adam | 2 | 70.00% [0.00, 100.00] | 75.00% [11.47, 100.00] | 70.00% [0.00, 100.00] | 60.00% | 0.8333 | -75.00% | 2 done |"
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
    result = command("compare runs by=optimizer out=runs")
    rows = table(here / "runs")
    assert list(rows) == ["adam augment=none lr=0.01", "sgd augment=none"]
    assert rows["adam augment=none lr=0.01"]["settings_tried"] == "2"
    assert "(best of 2)" in result.out
    result = command("compare runs by=optimiser out=runs")
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
    result = command("compare runs apart=true out=runs")
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
    assert sorted(table(here / "a" / "compared" / "b")) == ["adam", "sgd"]


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
    # Means 0.9 and 0.5, standard deviations 0.1 and 0: t = 0.4 / (0.1 / sqrt 3) = 6.93, and as adam alone scatters, 2
    # degrees of freedom: p = 0.020; interval 0.4 +- 4.303 * 0.1 / sqrt 3 (a table of Student's t).
    write(here / "runs", *seeds("optimizer=adam", [0.8, 0.9, 1.0]), *seeds("optimizer=sgd", [0.5, 0.5, 0.5]))
    assert command("compare runs").code == 0
    markdown = (here / "runs" / "comparison.md").read_text()
    assert "| adam | better | sgd | 3 | +40.00 | [+15.16, +64.84] | 0.020 |" in markdown
    assert "adam has the best validation accuracy and 90.00% on the test images; it is better than sgd." in markdown
    command("compare runs baseline=adam out=runs")
    markdown = (here / "runs" / "comparison.md").read_text()
    assert "| sgd | worse | adam | 3 | -40.00 | [-64.84, -15.16] | 0.020 |" in markdown
    assert "The baseline is adam, with 90.00% on the test images; it is better than sgd." in markdown
    command("compare runs baseline=sgd out=runs")
    assert (
        "The baseline is sgd, with 50.00% on the test images; it is worse than adam."
        in (here / "runs" / "comparison.md").read_text()
    )
    result = command("compare runs baseline=sgdd out=runs")
    assert result.code == 2
    assert "Did you mean 'sgd'? Allowed: adam, sgd." in result.err


def test_another_question_leaves_the_sweep_s_own_report_alone(command, here: Path) -> None:
    write(here / "runs" / "a", *seeds("optimizer=adam", [0.8, 0.9]), *seeds("optimizer=sgd", [0.5, 0.6]))
    write(here / "runs" / "b", *seeds("optimizer=momentum", [0.7, 0.7]))
    assert command("compare runs/a apart=false").code == 0
    own = {path: path.read_bytes() for path in (here / "runs" / "a").glob("*.*") if path.is_file()}
    for words, folder in (
        ("runs/a baseline=sgd", "runs/a/compared/baseline=sgd"),
        ("runs/a apart=true target=0.5", "runs/a/compared/apart=true_target=0.5"),
        ("runs/a runs/b", "runs/a/compared/runs_b"),
        ("runs/a baseline=adam out=mine/pages", "mine/pages"),
    ):
        result = command(f"compare {words}")
        assert (result.code, result.err) == (0, "")
        assert f"\n{folder}/report.html (beside it" in result.out
        assert {"comparison.md", "report.html"} <= {path.name for path in (here / folder).iterdir()}
        assert {path: path.read_bytes() for path in own} == own
    assert "momentum" in (here / "runs" / "a" / "compared" / "runs_b" / "comparison.md").read_text()
    for words in ("runs/a out=runs/b", "runs/a runs/b out=runs/a"):
        result = command(f"compare {words}")
        assert result.code == 2
        assert result.err.endswith("holds other runs, whose report would be lost. Take another folder.\n")
    assert not (here / "runs" / "b" / "comparison.md").exists()
    assert command("compare runs/a baseline=sgd out=runs/a").code == 0
    assert "The baseline is sgd" in (here / "runs" / "a" / "comparison.md").read_text()


@pytest.mark.parametrize(
    ("words", "about", "data", "shown"),
    [
        ("", "digits", "digits", True),
        ("", None, "digits", True),
        ("", "cifar10", "digits", False),
        ("data.limit=50", "digits", "digits", False),
        ("size=small", "digits", "digits", False),
        ("", "cifar10", "folder", True),
    ],
)
def test_a_claim_is_compared_with_what_it_is_about(
    command, here: Path, words: str, about: str | None, data: str, shown: bool
) -> None:
    runs = [made(f"optimizer={name} {words}", (0.6,), 0.6) for name in ("adam", "sgd")]
    for run in runs:
        run["data"]["name"] = data
        run["config"]["claims"] = [
            {"match": {"optimizer": "adam"}, "data": about, "metric": "test_acc", "value": 0.9, "source": "doc 3"}
        ]
    write(here / "runs", *runs)
    result = command("compare runs")
    assert result.code == 0
    markdown = (here / "runs" / "comparison.md").read_text()
    assert ("| doc 3 | adam | test | 90.00% | 60.00% | -30.00 |" in markdown) == shown
    caveat = "Claimed of cifar10: they say nothing of this folder unless it holds the same images."
    assert (caveat in markdown) == (data == "folder")


def test_what_few_seeds_can_not_say(command, here: Path) -> None:
    write(here / "runs", made("optimizer=adam", (0.8,), 0.8), made("optimizer=sgd", (0.4,), 0.4))
    result = command("compare runs")
    markdown = (here / "runs" / "comparison.md").read_text()
    assert "One seed does not show how sure a difference is" in markdown
    assert "| adam | not distinguishable | sgd | 1 | +40.00 | - | - | - | - |" in markdown
    assert "[" not in markdown
    assert "no interval can be given" in result.out


def test_seeds_need_not_be_the_same(command, here: Path) -> None:
    write(here / "runs", *seeds("optimizer=adam", [0.3, 0.5, 0.7]), *seeds("optimizer=sgd", [0.3, 0.5, 0.7, 0.9]))
    command("compare runs baseline=sgd out=runs")
    assert "| adam | not distinguishable | sgd | 3, 4 | -10.00 |" in (here / "runs" / "comparison.md").read_text()


def test_a_broken_run_counts_as_chance(command, here: Path) -> None:
    """risky is the best where it is trained to its end; with its two diverged runs at 50 % it neither leads nor wins."""
    risky = seeds("optimizer=momentum", [0.95, 0.95, 0.95])
    broken = [made(f"optimizer=momentum seed={seed}", (), status="diverged") for seed in (3, 4)]
    write(here / "runs", *seeds("optimizer=adam", [0.88, 0.9, 0.89, 0.91, 0.9]), *risky, *broken)
    result = command("compare runs target=0.6 out=runs")
    assert result.code == 0
    markdown = (here / "runs" / "comparison.md").read_text()
    assert list(table(here / "runs")) == ["adam", "momentum"]
    # (3 * 0.95 + 2 * 0.5) / 5 = 0.77
    assert "| adam | not distinguishable | momentum | 5 | +12.60 |" in markdown
    assert "| momentum | 3 of 5 | 95.00% [95.00, 95.00] |" in markdown
    assert "Of momentum, 2 of 5 runs diverged or failed; they count as chance." in markdown
    # C(5, 0) C(5, 2) of C(10, 2) ways have both of the same contestant; of either one 20 / 45.
    # Beside it the finished runs alone, means 0.896 and 0.95. The error is that of one of 20 test images,
    # 0.05 sqrt((1/5 + 1/3) / 2) = 0.025820, and t = -2.0914. As adam alone scatters f = 4, guarded
    # 2 + (4 - 2)^2 / (6 - 2) = 3: p = 0.128. t(0.975; 3) = 3.1824, times the error 8.22 points.
    assert (
        "| adam | 0 of 5 | not distinguishable | momentum | 2 of 5 | 0.444 | -5.40 | [-13.62, +2.82] | 0.128 |"
        in markdown
    )
    assert "3 of 5 |" in markdown[markdown.index("### Cost") :]


@pytest.mark.parametrize("count", [1, 2, 5])
def test_a_contestant_that_always_breaks_is_worse(command, here: Path, count: int) -> None:
    broken = [made(f"optimizer=sgd seed={seed}", (), status="diverged") for seed in range(count)]
    write(here / "runs", *seeds("optimizer=adam", [0.9, 0.8, 0.85, 0.9, 0.8][:count]), *broken)
    assert command("compare runs").code == 0
    markdown = (here / "runs" / "comparison.md").read_text()
    assert f"| adam | better: all {count} runs of sgd broke | sgd |" in markdown
    # By the counts alone: 2 of C(2 n, n) ways are as clear as this, 2 of 252 with 5 seeds.
    said = "breaks less often" if count == 5 else "too few runs to say"
    assert f"| adam | 0 of {count} | {said} | sgd | {count} of {count} |" in markdown
    if count > 1:
        assert "it is better than sgd." in markdown
        assert f"All {count} runs of sgd diverged or failed: it is worse on that ground alone." in markdown
        assert "beyond noise" not in markdown


def test_all_broken_is_no_verdict(command, here: Path) -> None:
    write(here / "runs", *(made(f"optimizer={o} seed=0", (), status="diverged") for o in ("adam", "sgd")))
    result = command("compare runs")
    assert (result.code, result.err) == (0, "")
    assert "There are not two contestants with finished runs." in result.out


def test_equivalent_within_a_margin(command, here: Path) -> None:
    adam, sgd = seeds("optimizer=adam", [0.8, 0.81, 0.82]), seeds("optimizer=sgd", [0.8, 0.81, 0.82])
    for run in adam + sgd:
        run["data"]["sizes"]["test"] = 10_000
        for row in run["history"]:
            row["seconds"] = 3.0 if run in sgd else 5.0
    write(here / "runs", *adam, *sgd)
    # Equal means, standard deviations 0.01, so e = 0.01 sqrt(2/3) = 0.008165 with 4 degrees of freedom; the margin lies
    # 0.03 / e = 3.674 errors away: p = 0.0107. t(0.95; 4) = 2.132, so the smallest margin is 2.132 e = 1.74 points.
    command("compare runs margin=3 out=runs")
    markdown = (here / "runs" / "comparison.md").read_text()
    assert "| adam | equivalent | sgd | 3 | +0.00 |" in markdown
    assert "Equivalent to it within 3 points: sgd. The cheapest of these is sgd, with 3.0 s of training." in markdown
    for margin, verdict in (("1.75", "equivalent"), ("1.73", "not distinguishable")):
        command(f"compare runs margin={margin} out=runs")
        assert f"| adam | {verdict} | sgd |" in (here / "runs" / "comparison.md").read_text()
    for margin in ("0", "-1", "nan", "x"):
        result = command(f"compare runs margin={margin} out=runs")
        assert (result.code, result.err.count("\n")) == (2, 1), result.err


def test_cost_of_a_target(command, here: Path) -> None:
    runs = [made("optimizer=adam seed=0", (0.5, 0.7, 0.6)), made("optimizer=adam seed=1", (0.5, 0.6, 0.7))]
    runs += [made("optimizer=sgd seed=0", (0.1, 0.2, 0.7)), made("optimizer=sgd seed=1", (0.1, 0.2, 0.3))]
    runs += [made("optimizer=sgd seed=2", (0.1, 0.2, 0.4))]
    for run in runs:
        for row in run["history"]:
            row["images_seen"] = 90 * row["epoch"]
    write(here / "runs", *runs)
    assert command("compare runs target=0.65 out=runs").code == 0
    markdown = (here / "runs" / "comparison.md").read_text()
    assert "| adam | 2.5 | 3 | 270 | 4.5 | 60 | 2 of 2 | 2 | 225 | 3.8 |" in markdown
    assert "| sgd | 3.0 | 3 | 270 | 4.5 | 60 | 1 of 3 | ∞ | ∞ | ∞ |" in markdown
    assert "| adam | sgd | too few seeds to say | too few seeds to say | too few seeds to say |" in markdown
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
    # 0.52 +- 4.3027 * 0.01 / sqrt(3)
    assert sgd["measures"]["test_acc"]["interval"] == pytest.approx([0.52 - 0.024842, 0.52 + 0.024842], abs=1e-6)
    missed = {"mean": None, "interval": None, "values": [None] * 3}
    assert sgd["measures"]["target_epochs"] == missed
    assert adam["measures"]["target_epochs"]["values"] == [2, 2, 2]
    (pair,) = table["pairs"]
    assert (pair["first"], pair["second"], pair["verdict"], pair["seeds"]) == ("adam", "sgd", "better", [3, 4])
    assert pair["difference"] == pytest.approx(0.92 - (0.51 + 0.52 + 0.53 + 0.5) / 4)  # the diverged run is chance
    assert [(f["first"], f["second"], f["verdict"]) for f in table["failures"]] == [
        ("adam", "sgd", "not distinguishable")
    ]
    assert table["costs"]["epochs"][0]["raw_p"] == pytest.approx(1 / 35)  # all of 3 below all of 4: 1 of C(7, 3)
    assert table["claims"] == []
    assert command(f"compare {folder} baseline=sgd --json").out.count('"baseline": "sgd"') == 1
