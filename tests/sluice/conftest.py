"""Runs that several modules read and none changes."""

from pathlib import Path

import pytest

from tests.sluice import made_duplicates


@pytest.fixture(scope="session")
def duplicates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the documents of `made_duplicates` up to deduplication."""
    return made_duplicates.make_duplicates(tmp_path_factory.mktemp("duplicates"))


@pytest.fixture(scope="session")
def found(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose documents repeat one another and hold items of a benchmark; see `made_duplicates.make_found`."""
    return made_duplicates.make_found(tmp_path_factory.mktemp("found"))
