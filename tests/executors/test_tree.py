import math
import operator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ntk_dist.executors.tree import add_in_pairs


@given(st.integers(1, 200))
def test_every_part_is_added_once_in_order_and_in_few_levels(n):
    additions = []

    def add(first, second):
        additions.append((first, second))
        return first[0] + second[0], 1 + max(first[1], second[1])

    parts, depth = add_in_pairs([((k,), 0) for k in range(n)], add)
    assert parts == tuple(range(n))
    assert len(additions) == n - 1
    assert depth == math.ceil(math.log2(n))


def test_the_parts_of_the_caller_stay_as_they_were():
    parts = [1, 2, 3]
    assert add_in_pairs(parts, operator.add) == 6
    assert parts == [1, 2, 3]


def test_nothing_has_no_sum():
    with pytest.raises(ValueError, match="at least one part"):
        add_in_pairs([], operator.add)
