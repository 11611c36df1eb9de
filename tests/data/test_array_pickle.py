"""Pickled arrays: those of Python 2 and 3 are read, and no code of a pickle runs."""

import functools
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
from python2_pickle import dump_python2_pickle

from gankd_jax.data.originals.array_pickle import load_byte_arrays


def make_batch() -> dict:
    pixels = np.random.default_rng(0).integers(0, 256, (5, 12), np.uint8)
    return {"batch_label": "training batch 1 of 5", "labels": [3, 1, 4, 1, 5], "data": pixels}


@pytest.mark.parametrize(
    "dump",
    [dump_python2_pickle, pickle.dumps, functools.partial(pickle.dumps, protocol=2)],
    ids=["Python 2", "Python 3", "Python 3 for 2"],
)
@pytest.mark.parametrize("order", ["C", "F"])
def test_arrays_lists_and_texts_are_read(dump, order):
    batch = make_batch()
    values = load_byte_arrays(dump(batch | {"data": np.asarray(batch["data"], order=order)}))
    assert list(values) == ["batch_label", "labels", "data"]
    assert values["labels"] == batch["labels"]
    np.testing.assert_array_equal(values["data"], batch["data"])
    assert values["data"].dtype == np.uint8


class Command:
    """Runs a command when it is unpickled by Python's own unpickler."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("place", ["alone", "as the data", "among the labels"])
def test_code_in_a_pickle_is_refused_and_does_not_run(place, tmp_path):
    command = Command(tmp_path / "code-ran")
    values = {
        "alone": command,
        "as the data": make_batch() | {"data": command},
        "among the labels": make_batch() | {"labels": [command]},
    }
    with pytest.raises(ValueError, match=r"refers to posix\.mkdir, no part of an array"):
        load_byte_arrays(pickle.dumps(values[place], protocol=2))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (np.zeros(3, np.float32), "an array holds f4, not bytes"),
        (np.array([object()]), r"refers to __builtin__\.object"),
        (np.zeros(3, "u1,u1"), "holds V2, not bytes"),
    ],
)
def test_arrays_of_other_types_are_refused(data, message):
    with pytest.raises(ValueError, match=message):
        load_byte_arrays(pickle.dumps({"data": data}, protocol=2))


def test_a_number_in_the_memo_that_would_fill_the_memory_is_refused():
    content = b"}r" + (1 << 24).to_bytes(4, "little") + b"q\0."  # puts a dict into both places
    with pytest.raises(ValueError, match="its memo has holes"):
        load_byte_arrays(content)


def test_a_damaged_pickle_is_read_exactly_or_refused():
    content, rng = dump_python2_pickle(make_batch()), np.random.default_rng(0)
    refused = 0
    for _ in range(500):
        damaged = bytearray(content)
        damaged[rng.integers(0, len(content))] = rng.integers(0, 256)
        size = len(content) if rng.random() < 0.7 else rng.integers(0, len(content))
        try:
            values = load_byte_arrays(bytes(damaged[:size]))
        except ValueError:
            refused += 1
        else:
            assert isinstance(values, dict)
    assert refused > 100
