"""docs/configuration.md is what the configs and the docstrings say."""

import runpy
from dataclasses import fields, is_dataclass
from pathlib import Path

import pytest

from cnnbench.config.keys import CONF, GROUPS
from cnnbench.config.schema import Config

COMMAND = "python scripts/configuration_page.py"
ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def page() -> str:
    return runpy.run_path(str(ROOT / "scripts" / "configuration_page.py"))["page"]()


def test_the_page_is_up_to_date(page: str) -> None:
    written = (ROOT / "docs" / "configuration.md").read_text()
    assert written == page, f"docs/configuration.md is older than conf/ or schema.py: {COMMAND}"


def test_every_option_and_every_key_is_there_and_told(page: str) -> None:
    for group in GROUPS:
        for path in (CONF / group).glob("*.yaml"):
            assert f"- **`{path.stem}`**" in page
    entries = {entry.split("`")[1]: entry for entry in page.split("- **")[1:]}
    for field in fields(Config):
        names = (
            [f"{field.name}.{each.name}" for each in fields(field.type)] if is_dataclass(field.type) else [field.name]
        )
        for name in names:
            if name not in GROUPS:
                assert len(entries[name].split(")", 1)[1].strip(" .*")) > 10, f"{name}: has no docstring"
    assert [line for line in page.splitlines() if len(line) > 120] == []


def test_entries_by_hand(page: str) -> None:
    flat = " ".join(page.split())
    for said in (
        "- **`epochs`** (whole number, default `50`). Passes over the training images. Must be at least 1.",
        "- **`data.val_fraction`** (number, default `0.1`). The share of the training images that `val=split` sets aside, "
        "stratified, drawn by the run's seed. Where the content of the files decides, as in a folder of classes alone, their "
        "share in `val=folder`. Must be between 0 and 1.",
        "- **`adam`** (default). Document 3, 3.5: first and second moments of the gradient with bias correction. Sets "
        "`_target_: torch.optim.Adam`, `lr: 0.001`, `betas: [0.9, 0.999]`, `eps: 1.0e-08`.",
        "- **`trials`** (whole number, default `12`). Trials of each contestant.",
        "| `sgd` | `lr` | 0.003 to 3 (log) |",
        "Sweeps `optimizer=sgd,momentum,adagrad,rmsprop,adam seed=0,1,2,3,4`.",
        "- **`baseline`**. The label of the contestant that all others are compared with.",
    ):
        assert said in flat
