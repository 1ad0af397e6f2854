"""Where runs of equal values begin in sorted arrays."""

import numpy as np


def borders(*columns: np.ndarray) -> np.ndarray:
    """bool [rows]: any of the columns, of equal length, differs from the row before; true of the first row."""
    opens = np.ones(len(columns[0]), bool)
    if len(opens):
        opens[1:] = np.logical_or.reduce([column[1:] != column[:-1] for column in columns])
    return opens
