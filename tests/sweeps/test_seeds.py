"""seeds=auto: seeds are added at planned looks until every pair is settled."""

import json
import shlex
import signal
from pathlib import Path

import pytest
from conftest import all_records, without_times
from interruptions import killed_after
from made_records import made

from cnnbench.analysis import sequential
from cnnbench.analysis.sequential import Decision, Plan
from cnnbench.config.composition import config_source
from cnnbench.config.schema import Data
from cnnbench.data.images import digits
from cnnbench.errors import ConfigError
from cnnbench.results.decoding import decode
from cnnbench.results.records import Record
from cnnbench.sweeps.run import folder_of
from cnnbench.sweeps.seeds import _Adder

pytestmark = pytest.mark.usefixtures("no_figures")

CLEAR = "-m data=digits epochs=3 batch_size=32 seeds=auto optimizer=adam lr=0.005,1e-7"
EQUAL = "-m data=digits data.limit=300 epochs=2 seeds=auto optimizer=adam optimizer.eps=1e-8,1.0000001e-8 max_seeds=4"
"""Looks at 3 and 4 seeds."""


def planned(folder: Path) -> Plan:
    plan = sequential.read(folder)
    assert plan is not None
    return plan


def added(words: str, results: dict[str, list[float]]) -> tuple[Plan, list[str]]:
    """What is decided if a contestant's seeds have these test accuracies, and what the screen says."""
    said: list[str] = []
    typed = shlex.split(f"data=digits optimizer={','.join(results)} {words}")
    with config_source(None) as composer:

        def jobs_of(first: int, end: int):
            return composer.jobs([*typed, "seeds=null", f"seed=range({first},{end})"], multirun=True)

        adder = _Adder(jobs_of(0, 3), jobs_of, [digits(Data())] * len(results))
        due = adder.begin()
        while due:
            now, due = due, []
            for task in now:
                assert due == []  # the next look waits for the last run of this one
                config, name = task[0].config, task[0].choices["optimizer"]
                accuracy = results[name][config.seed]
                values = made(f"optimizer={name} seed={config.seed}", (accuracy,), accuracy)
                values |= {"run_id": folder_of(*task).name}
                values["data"]["sizes"]["test"] = 100_000
                due = adder.after(decode(Record, values), said.append)
    return adder.plan, said


# Mean 0.91, variance 0.0001 with three seeds and 0.00005 with five.
HIGH = [0.90, 0.91, 0.92, 0.91, 0.91]
LOW = [0.86, 0.87, 0.88, 0.87, 0.87]


def test_a_look_uses_its_share(here: Path) -> None:
    # Three seeds: e = sqrt(2 * 0.0001 / 3) = 0.008165, t = 0.04 / e = 4.899 with 4 degrees of freedom, p = 0.0080.
    # Of 5 % this look may use 3/28: 0.0054. Five seeds: t = 0.04 / sqrt(2 * 0.00005 / 5) = 8.94, p = 0.00002.
    plan, said = added("max_seeds=12", {"adam": HIGH, "sgd": LOW})
    assert plan.decisions == [Decision(3, 1, [("adam", "sgd")]), Decision(5, 1, [])]
    assert plan.share == pytest.approx(5 / 28)
    assert said == [
        "after 3 seeds: 0 of 1 pairs settled, not adam and sgd; 5 seeds next",
        "after 5 seeds: 1 of 1 pairs settled with 10 of at most 24 runs",
    ]
    assert planned(here / "runs" / "default") == plan
    # With a single look all of the 5 % is its own.
    plan, _ = added("max_seeds=3 name=one", {"adam": HIGH, "sgd": LOW})
    assert plan.decisions == [Decision(3, 1, [])]
    assert plan.share == 1


def test_what_has_to_be_settled(here: Path) -> None:
    low = [value - 0.2 for value in HIGH]
    results = {"adam": HIGH, "momentum": low, "sgd": [value - 0.001 for value in low]}
    # momentum - sgd: 0.001 with e = 0.008 or, at five seeds, 0.0045.
    plan, said = added("max_seeds=5", results)
    assert plan.decisions == [Decision(3, 3, [("momentum", "sgd")]), Decision(5, 3, [("momentum", "sgd")])]
    assert not plan.settled
    assert said[1] == "after 5 seeds: 2 of 3 pairs settled, not momentum and sgd; max_seeds is reached"
    plan, _ = added("max_seeds=5 settle=leader name=leader", results)
    assert plan.decisions == [Decision(3, 2, [])]
    # Within 10 points: t = (0.001 - 0.1) / e = -12.1, one-sided p = 0.00013, three pairs: 0.0004.
    plan, _ = added("max_seeds=5 margin=10 name=margin", results)
    assert plan.decisions == [Decision(3, 3, [])]
    assert plan.margin == pytest.approx(0.1)


def test_a_run_that_is_asked_for_twice_is_one(here: Path) -> None:
    with config_source(None) as composer:
        words = ["data=digits", "lr=0.1,0.10", "seeds=null"]

        def jobs_of(first: int, end: int):
            return composer.jobs([*words, f"seed=range({first},{end})"], multirun=True)

        adder = _Adder(jobs_of(0, 3), jobs_of, [digits(Data())] * 2)
        assert len(adder.begin()) == 3


def test_another_plan_in_the_same_folder(here: Path) -> None:
    results = {"adam": HIGH, "sgd": LOW}
    before, _ = added("max_seeds=12", results)
    for words in ("max_seeds=20", "max_seeds=12 margin=1", "max_seeds=12 settle=leader", "max_seeds=12 epochs=3"):
        with pytest.raises(ConfigError, match="runs/default: has other contestants, or another max_seeds"):
            added(words, results)
    assert planned(here / "runs" / "default") == before
    plan, _ = added("max_seeds=12 margin=1 force=true", results)
    assert plan.margin == pytest.approx(0.01)


def test_a_look_that_is_under_way_has_the_share_of_the_last_one() -> None:
    plan = Plan("pairs", None, sequential.looks(12), [])
    assert plan.share == pytest.approx(3 / 28)
    plan.decisions = [Decision(3, 1, [("a", "b")])]
    assert plan.share == pytest.approx(3 / 28)
    plan.decisions += [Decision(5, 1, [("a", "b")])]
    assert plan.share == pytest.approx(5 / 28)


def test_a_damaged_plan(command, here: Path) -> None:
    added("max_seeds=3", {"adam": HIGH, "sgd": LOW})
    path = here / "runs" / "default" / "seeds.json"
    path.write_text(path.read_text().replace('"pairs": 1', '"pairs": "one"'))
    with pytest.raises(ConfigError, match=r"seeds.json: edited or damaged \(decisions\[0\].pairs: 'one' must be a who"):
        sequential.read(path.parent)


def test_stops_at_the_first_look(command, here: Path) -> None:
    listed = command(f"{CLEAR} --dry-run").out.splitlines()
    assert listed[0] == "6 runs, then more until all is settled: at most 40"
    assert listed[1:] == [f"lr={lr} seed={seed}" for lr in ("0.005", "1e-07") for seed in range(3)]
    assert not (here / "runs").exists()

    result = command(CLEAR)
    assert result.code == 0, result.err
    assert "at most 40 runs" in result.err
    assert "after 3 seeds: 1 of 1 pairs settled with 6 of at most 40 runs" in result.err
    runs = all_records(here / "runs" / "default")
    assert sorted((run["config"]["lr"], run["config"]["seed"]) for run in runs) == [
        (lr, seed) for lr in (1e-7, 0.005) for seed in range(3)
    ]
    assert all("seeds" not in " ".join(run["overrides"]) for run in runs)  # one run has one seed
    # looks(20) is 3, 5, 8, 12, 20: the first one has 3/48 of the 5 %, which is 6.25 %. So has the comparison later on.
    page = here / "runs" / "default" / "comparison.md"
    before = page.read_text()
    assert "this look may use 6.2 % of the 5 %" in before
    found = json.loads(command("compare runs/default --json").out)["comparisons"][0]
    assert found["share"] == pytest.approx(3 / 48)
    assert found["pairs"][0]["p"] == pytest.approx(found["pairs"][0]["raw_p"] * 16)
    assert command("compare runs/default").code == 0
    assert page.read_text() == before


def test_equal_contestants_reach_the_limit(command, here: Path) -> None:
    result = command(EQUAL)
    assert result.code == 0, result.err
    assert "after 3 seeds: 0 of 1 pairs settled, not" in result.err
    assert "after 4 seeds: 0 of 1 pairs settled, not" in result.err
    assert "max_seeds is reached" in result.err
    assert len(all_records(here / "runs" / "default")) == 8

    wide = command(f"{EQUAL} margin=60 name=wide")
    assert "after 3 seeds: 1 of 1 pairs settled with 6 of at most 8 runs" in wide.err
    assert "equivalent" in wide.out
    assert "smaller than 60 points" in wide.out


def test_killed_or_with_workers_nothing_is_decided_otherwise(command, here: Path) -> None:
    words = f"{EQUAL} hardware.threads=1"
    assert command(f"{words} name=whole").code == 0
    assert command(f"{words} name=two workers=2").code == 0
    same(here, "whole", "two")
    assert killed_after(1, signal.SIGKILL, here, f"{words} name=again").returncode == -signal.SIGKILL
    assert command(f"{words} name=again").code == 0
    same(here, "whole", "again")
    # A run of the first look that was lost is run again.
    lost = here / "runs" / "again" / planned(here / "runs" / "again").contestants[0]
    for path in lost.glob("*"):
        path.unlink()
    assert command(f"{words} name=again").err.count("already done") == 7
    same(here, "whole", "again")


def same(here: Path, one: str, other: str) -> None:
    """Whether both folders hold the same records, and the same plan to the byte."""
    folders = here / "runs" / one, here / "runs" / other
    first, second = (
        {run["run_id"]: without_times(run) | {"config": None} for run in all_records(folder)} for folder in folders
    )
    assert len(first) == 8
    assert first == second
    assert (folders[0] / "seeds.json").read_bytes() == (folders[1] / "seeds.json").read_bytes()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("-m optimizer=sgd,adam seeds=abc", "seeds=abc: must be auto or a whole number from 1 to 9999."),
        ("-m optimizer=sgd,adam seeds=0", "seeds=0: must be auto or a whole number from 1 to 9999."),
        ("-m optimizer=sgd,adam seeds=auto,5", "seeds=auto,5: takes one value."),
        ("-m optimizer=sgd,adam seeds=auto seed=0,1", "seeds=auto seed=0,1: give one of them."),
        ("-m optimizer=sgd,adam seeds=5 seed=3", "seeds=5 seed=3: give one of them."),
        ("-m optimizer=sgd,adam seeds=auto max_seeds=2", "max_seeds=2: must be from 3 to 9999."),
        ("-m optimizer=sgd,adam seeds=auto margin=0", "margin=0.0: must be above 0, at most 100 points."),
        ("-m optimizer=sgd,adam seeds=auto settle=all", "settle=all: must be pairs or leader."),
        ("-m optimizer=sgd,adam seeds=auto margin=1,2", "margin=1.0,2.0: with seeds=auto all contestants have the"),
        ("-m optimizer=sgd,adam seeds=auto name=a,b", "name=a,b: with seeds=auto all contestants have the same name."),
        ("-m optimizer=adam seeds=auto", "seeds=auto: needs two contestants"),
        ("optimizer=adam seeds=auto", "seeds=auto: several seeds are a sweep: add -m."),
        ("experiment=reach_92 seeds=auto", "seeds=auto: a ladder has the same seeds on each rung"),
        ("-m optimizer=sgd,adam seeds=auto hardware.devices=2", "several processes train a single run"),
        ("tune optimizer=sgd,adam seeds=auto", "seeds=auto: must be a whole number"),
    ],
)
def test_refused_before_anything_runs(command, here: Path, words: str, says: str) -> None:
    result = command(f"{words} data=digits")
    assert result.code == 2
    assert says in result.err
    assert len(result.err.strip().splitlines()) == 1
    assert not (here / "runs").exists()


def seeds_of(words: str, multirun: bool = False) -> list[int]:
    with config_source(Path("mine")) as composer:
        return [job.config.seed for job in composer.jobs(["data=digits", *words.split()], multirun)]


def test_seeds_in_place_of_seed(here: Path) -> None:
    folder = here / "mine" / "experiment"
    folder.mkdir(parents=True)
    head = "# @package _global_\n"
    sweep = "hydra:\n  mode: MULTIRUN\n  sweeper:\n    params:\n      seed: 7,8\n      optimizer: sgd,adam\n"
    (folder / "swept.yaml").write_text(head + sweep)
    (folder / "auto.yaml").write_text(f"{head}seeds: auto\n{sweep}")
    assert seeds_of("optimizer=sgd,adam seeds=3", multirun=True) == [0, 1, 2, 0, 1, 2]
    assert seeds_of("seeds=1", multirun=True) == [0]
    assert seeds_of("experiment=swept") == [7, 7, 8, 8]
    assert seeds_of("experiment=swept seeds=3") == [0, 1, 2, 0, 1, 2]  # what is typed wins
    assert seeds_of("experiment=swept seeds=auto") == [0, 0]  # one for each contestant
    assert seeds_of("experiment=auto") == [0, 0]
    assert seeds_of("experiment=auto seed=5") == [5, 5]
    with config_source(Path("mine")) as composer:
        (job, _) = composer.jobs(["experiment=auto", "seed=5"], multirun=False)
        assert job.config.seeds is None
        assert job.typed == ("experiment=auto", "seed=5", "optimizer=sgd")
