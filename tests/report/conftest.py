"""Made-up studies that the tests of the report share; no test changes them."""

import fake_study
import pytest

from gankd_jax.report.study_results import StudyResults, load_study


@pytest.fixture(scope="session")
def study(tmp_path_factory) -> StudyResults:
    """A finished study with three seeds."""
    return load_study(fake_study.write_study(tmp_path_factory.mktemp("study")))


@pytest.fixture(scope="session")
def unfinished_study(tmp_path_factory) -> StudyResults:
    folder = tmp_path_factory.mktemp("unfinished")
    return load_study(fake_study.write_unfinished_study(folder))


@pytest.fixture(scope="session")
def timed_study(tmp_path_factory) -> StudyResults:
    """A study with two seeds and latencies."""
    folder = tmp_path_factory.mktemp("timed")
    fake_study.write_study(folder, seeds=(0, 1), students=("mse",))
    fake_study.add_latency(folder, widths=(2, 4, 8))
    return load_study(folder)
