"""A thousand changes of good PyTorch files: each is read exactly, or refused in one line."""

import io
import pickletools
import random
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gankd_jax.interop.torch_file import read_torch_file
from gankd_jax.interop.torch_weights import read_generator
from gankd_jax.utils.errors import UserError

torch = pytest.importorskip("torch", reason="torch is not installed")
safetensors_torch = pytest.importorskip("safetensors.torch", reason="torch is not installed")

Change = Callable[[random.Random, bytes], bytes]
EXAMPLES = 340  # of each format
OPCODES = sorted(code.encode("latin-1") for code in pickletools.code2op)


def make_state() -> OrderedDict:
    """A generator for 16 pixels, and half precision."""
    numbers = torch.Generator().manual_seed(0)
    shapes = {"0.weight": (3, 4, 4, 4), "1.weight": (4,), "1.bias": (4,), "1.running_mean": (4,)}
    shapes |= {"1.running_var": (4,), "2.weight": (4, 2, 4, 4), "2.bias": (2,)}
    shapes |= {"3.weight": (2, 1, 4, 4)}
    state = {name: torch.rand(shape, generator=numbers) for name, shape in shapes.items()}
    counter = {"1.num_batches_tracked": torch.tensor(7)}
    return OrderedDict(state | counter | {"half": torch.rand(3, generator=numbers).bfloat16()})


def make_checkpoint() -> dict[str, Any]:
    """What checkpoints hold beside weights."""
    plain = {"lr": [0.1, None, True], "epoch": 3, "name": "x", "long": 2**80}
    kinds = {"size": torch.Size([1, 2]), "dtype": torch.float32, "set": {1, 2}, "complex": 1j}
    state = make_state()
    return {"netG": state, "view": state["0.weight"].permute(3, 0, 1, 2)[1:]} | plain | kinds


def save(content: Any, *, zipped: bool) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer, _use_new_zipfile_serialization=zipped)
    return buffer.getvalue()


FILES = {
    "zip": save(make_checkpoint(), zipped=True),
    "legacy": save(make_checkpoint(), zipped=False),
    "safetensors": safetensors_torch.save(make_state()),
}


def read_by_reference(path: Path, kind: str) -> Any:
    """What the format's own reader returns; it executes nothing either."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if kind == "safetensors":
            return safetensors_torch.load(path.read_bytes())
        # The device of a tensor does not matter.
        return torch.load(path, weights_only=True, map_location=lambda storage, _: storage)


def flip_bits(numbers: random.Random, content: bytes) -> bytes:
    """Most of them where the structure is: values stand at the end of two of the formats."""
    flipped = bytearray(content)
    end = numbers.choice([100, 1500, len(content)])
    for _ in range(numbers.randint(1, 4)):
        flipped[numbers.randrange(min(end, len(content)))] ^= numbers.randrange(1, 256)
    return bytes(flipped)


def truncate(numbers: random.Random, content: bytes) -> bytes:
    return content[: numbers.randrange(len(content))]


def cut_or_repeat(numbers: random.Random, content: bytes) -> bytes:
    start = numbers.randrange(len(content))
    end = start + numbers.randint(1, 40)
    return content[:start] + content[numbers.choice([end, start - end]) :]


def change_opcodes(numbers: random.Random, content: bytes) -> bytes:
    """Leaves out, repeats, exchanges or replaces an opcode of a pickle."""
    starts = [position for _, _, position in pickletools.genops(content)]
    operations = [content[a:b] for a, b in zip(starts, [*starts[1:], None], strict=True)]
    a, b = (numbers.randrange(len(operations)) for _ in range(2))
    change = numbers.choice(["leave out", "repeat", "exchange", "replace"])
    if change == "leave out":
        del operations[a]
    elif change == "repeat":
        operations.insert(a, operations[b])
    elif change == "exchange":
        operations[a], operations[b] = operations[b], operations[a]
    else:
        operations[a] = numbers.choice(OPCODES) + operations[a][1:]
    return b"".join(operations)


def change_members(numbers: random.Random, content: bytes) -> bytes:
    """Exchanges two members of a zip, leaves one out, or changes its bytes and its checksum."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    a, b = numbers.choices([*members], k=2)
    change = numbers.choice(["exchange", "leave out", "flip", "cut"])
    if change == "exchange":
        members[a], members[b] = members[b], members[a]
    elif change == "leave out":
        del members[a]
    else:
        members[a] = {"flip": flip_bits, "cut": truncate}[change](numbers, members[a])
    return write_zip(members)


def change_pickle_in_zip(numbers: random.Random, content: bytes) -> bytes:
    """Changes the pickle alone, and its checksum with it."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    name = next(name for name in members if name.endswith("/data.pkl"))
    members[name] = numbers.choice([flip_bits, change_opcodes])(numbers, members[name])
    return write_zip(members)


def write_zip(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def change_pickle_in_legacy(numbers: random.Random, content: bytes) -> bytes:
    """Changes one of the five pickles that such a file begins with."""
    file, ends = io.BytesIO(content), [0]
    for _ in range(5):
        list(pickletools.genops(file))
        ends.append(file.tell())
    k = numbers.randrange(5)
    start, end = ends[k : k + 2]
    return content[:start] + change_opcodes(numbers, content[start:end]) + content[end:]


CHANGES: dict[str, tuple[Change, ...]] = {
    "zip": (flip_bits, truncate, cut_or_repeat, change_members, change_pickle_in_zip),
    "legacy": (flip_bits, truncate, cut_or_repeat, change_pickle_in_legacy),
    "safetensors": (flip_bits, truncate, cut_or_repeat),
}


def to_arrays(content: Any) -> Any:
    """Tensors of torch as this package reads them, in nested values that can be compared."""
    if isinstance(content, torch.Tensor):
        content = content.detach()
        return to_arrays((content.float() if content.dtype is torch.bfloat16 else content).numpy())
    if isinstance(content, np.ndarray):
        return content.dtype.str, content.shape, content.tobytes()
    if isinstance(content, dict):
        return {key: to_arrays(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [to_arrays(value) for value in content]
    if isinstance(content, set):
        return sorted(repr(to_arrays(value)) for value in content)
    if callable(content):  # the reader has replacements for torch's classes
        return "a class"
    return str(content) if isinstance(content, torch.dtype) else content


@pytest.mark.parametrize("kind", FILES)
def test_unchanged_files_are_read_exactly(tmp_path: Path, kind: str) -> None:
    (tmp_path / "f").write_bytes(FILES[kind])
    actual = to_arrays(read_torch_file(tmp_path / "f"))
    assert actual == to_arrays(read_by_reference(tmp_path / "f", kind))


def read_or_refuse(read: Callable, path: Path) -> tuple[Any, str]:
    """Returns what a reader returns, or the message of its error; other errors pass."""
    try:
        return read(path), ""
    except UserError as error:
        return None, str(error)


@pytest.mark.parametrize("kind", FILES)
def test_changed_file_is_read_exactly_or_rejected_in_one_line(
    tmp_path_factory: pytest.TempPathFactory, kind: str
) -> None:
    path = tmp_path_factory.mktemp("changed") / "f"
    expected = to_arrays(make_state() if kind == "safetensors" else make_checkpoint())
    refused = 0

    @settings(max_examples=EXAMPLES, derandomize=True, deadline=None, database=None)
    @given(seed=st.integers(0, 2**64), change=st.sampled_from(CHANGES[kind]))
    def check(seed: int, change: Change) -> None:
        nonlocal refused
        path.write_bytes(change(random.Random(seed), FILES[kind]))
        content, message = read_or_refuse(read_torch_file, path)
        refused += bool(message)
        if not message and to_arrays(content) != expected:
            # Where the format has no checksum, the change is part of what the file says.
            assert to_arrays(content) == to_arrays(read_by_reference(path, kind))
        for text in (message, read_or_refuse(read_generator, path)[1]):
            assert text.startswith(str(path)) or not text
            assert text.isprintable()
            assert len(text) < 1000

    check()
    assert refused > EXAMPLES / 2
