from itertools import groupby

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from pipelines.groups import borders


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), max_size=20))
def test_a_run_begins_where_any_column_changes(rows: list[tuple[int, int]]) -> None:
    first, second = np.array(rows, np.int64).reshape(-1, 2).T
    sizes = [len(list(run)) for _, run in groupby(rows)]
    assert np.flatnonzero(borders(first, second)).tolist() == [sum(sizes[:run]) for run in range(len(sizes))]
