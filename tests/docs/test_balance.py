"""docs/balance.md is current: its settings and what it quotes are those of the product."""

import dataclasses
import re
from pathlib import Path

from autopar.runtime.training import balance_lines
from autopar.runtime.training.balance_settings import BalanceSettings, parse_balance
from autopar.runtime.training.load_balance import Move

TEXT = (Path(__file__).resolve().parents[2] / "docs" / "balance.md").read_text(encoding="utf-8")
TRAINING = Path(__file__).resolve().parents[2] / "runtime" / "training"


def test_settings_and_their_defaults_are_all_there():
    told = dict(re.findall(r"^\| `(\w+)` \| (\S+) \|", TEXT, re.MULTILINE))
    assert told == {key: str(value) for key, value in dataclasses.asdict(BalanceSettings()).items()}
    for text in re.findall(r"--balance (\S+)", TEXT):
        assert parse_balance(text.strip("`").rstrip("`:,")) or text.startswith("off")


def test_what_it_quotes_is_what_is_said():
    cuts = ((0.0, 0.649, 1.0),)
    move = Move(cuts, (None,), 0.0963, 0.0687, 0.0687, (1.0, 0.56))
    assert f"    moved      {balance_lines.moved(['axis0'], 823, move)}\n" in TEXT
    said = balance_lines.summary(["once"], "no rank is slower than the others by 3% of a step for long")
    assert f"    balance    {said}\n" in TEXT


def test_reasons_are_those_of_the_product():
    source = "".join(file.read_text(encoding="utf-8") for file in TRAINING.glob("*.py"))
    reasons = re.findall(r"^\| (?:\.\.\.; )?([a-z][^|`]+?) \|", TEXT[TEXT.index("| reason") :], re.MULTILINE)[1:]
    assert len(reasons) >= 8
    for reason in reasons:
        for part in re.split(r"[0-9.]+%?|\.\.\.|; ", reason):
            assert part.strip(" MB") in source, reason
