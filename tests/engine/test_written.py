"""Numbers of a written row as columns of what a loss is given."""

import pytest
import torch

from thespis.core import Fault
from thespis.engine.written import Book
from thespis.lm import Text

ROWS = [{"prompt": "1+1=", "answer": "2", "value": [0.5, 0.25], "outcome": 3}, {"prompt": "2+20=", "answer": "22"}]


def book(rows: list[dict]) -> Book:
    return Book(Text(), 64, 0, None, rows, columns={"value": 1.0, "outcome": -1})


def test_a_number_is_of_all_tokens_and_a_list_of_those_of_the_answer() -> None:
    rows = book(ROWS).batch(0, 2)
    first = int(rows.mask.sum(1).argmin())
    value, outcome, mask = rows.value[first], rows.outcome[first], rows.mask[first]
    assert value[mask].tolist() == [0.5, 0.25]
    assert not value[~mask].any()
    assert outcome.tolist() == [3.0] * len(outcome)
    assert rows.value[1 - first].tolist() == [1.0] * rows.tokens.shape[1]  # what is left out
    assert rows.outcome[1 - first].unique().tolist() == [-1.0]
    assert rows.value.dtype == torch.float32
    assert not Book(Text(), 64, 0, None, ROWS).batch(0, 2).columns


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ([0.5], "data: a row has 1 numbers as its value; its answer has 2 tokens"),
        ("much", "data: a row has 'much' as its value; allowed: a number, or one for each token"),
        ([0.5, None], "data: a row has '.0.5, None.' as its value; allowed: a number"),
        (float("nan"), "data: a row has 'nan' as its value"),
    ],
)
def test_what_is_no_number_is_told(value: object, says: str) -> None:
    with pytest.raises(Fault, match=says):
        book([ROWS[0] | {"value": value}]).batch(0, 1)
