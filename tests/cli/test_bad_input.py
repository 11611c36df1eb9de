"""Damaged and malicious files: one line, status 2, nothing written, nothing executed.

Mistakes on the command line itself are in `test_main.py`.
"""

import gzip
import io
import itertools
import pickle
import shutil
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
from PIL import Image

from gankd_jax.models.inception import parameter_shapes

# ml_collections reads a config file by a deprecated call.
pytestmark = pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")
MakeFiles = Callable[[Path], Any]  # makes bad files in a folder

# The commands; {d} is the folder in which `bad` lies.
SCORE = ["score", "{d}/bad", "{d}/bad", "--weights={d}/fid.npz"]
STATISTICS = ["score", "{d}/bad.npz", "{d}/bad.npz", "--weights={d}/fid.npz"]
FETCH = ["weights", "fetch", "--from={d}/bad.npz"]
NEW = [*tiny.flags(), "--workdir={d}/new", "--run=teacher-d4-s0"]
IMPORT = ["weights", "import-torch", "{d}/bad", *NEW]
TRAIN = ["train", *NEW]
MNIST, CIFAR, CELEBA = (
    ["data", "prepare", name, "--source-dir={d}", "--data-dir={d}/new"]
    for name in ("mnist", "cifar10", "celeb_a")
)
DESCRIBE = ["describe", "--config={d}/bad"]
FIELD = ["describe", f"--config={tiny.DIGITS}"]
OF_STUDY = [*tiny.flags(), "--workdir={d}/bad"]
SAMPLE = ["sample", *OF_STUDY, "--run=student-mse-d1-s0", "--out={d}/grid.png"]
REPORT = ["report", "--workdir={d}/bad"]
OF_RUN = ["score", "{d}/bad/teacher-d4-s0", "{d}/bad", "--weights={d}/fid.npz"]
COMPARE = ["compare", "--workdir={d}/bad", "--reference={d}/bad.csv"]

CELEBA_ZIP, CIFAR_TAR = "img_align_celeba.zip", "cifar-10-binary.tar.gz"
MNIST_FILES = [
    f"{split}-{kind}-ubyte.gz"
    for split in ("train", "t10k")
    for kind in ("images-idx3", "labels-idx1")
]


LFS_POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0a\nsize 14222\n"


class Harm:
    """Unpickling it makes the file `harm` in the current folder."""

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path("harm"),)


def nothing(_: Path) -> None:
    """Make no file: the command's input is missing."""


def write(name: str, content: bytes) -> MakeFiles:
    def make(folder: Path) -> None:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)

    return make


def all_of(*makes: MakeFiles) -> MakeFiles:
    def make(folder: Path) -> None:
        for make_files in makes:
            make_files(folder)

    return make


def truncate(name: str) -> MakeFiles:
    """Cut a file to half of its bytes."""
    return lambda d: write(name, (d / name).read_bytes()[: (d / name).stat().st_size // 2])(d)


def png(size: tuple[int, int] = (4, 4), mode: str = "L") -> bytes:
    buffer = io.BytesIO()
    Image.new(mode, size).save(buffer, "PNG")
    return buffer.getvalue()


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims that size and ends after a few pixels."""
    size = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", size), (b"IDAT", zlib.compress(bytes(99))))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in chunks
    )


def image(content: bytes, name: str = "a.png") -> MakeFiles:
    """A folder of two images, the first of them bad."""
    return all_of(write(f"bad/{name}", content), write("bad/b.png", png()))


def tiff(samples: int) -> bytes:
    """A colour TIFF that claims so many values a pixel."""
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4)).save(buffer, "tiff")
    entry = struct.pack("<HHIH", 277, 3, 1, 3)
    assert buffer.getvalue().count(entry) == 1
    return buffer.getvalue().replace(entry, struct.pack("<HHIH", 277, 3, 1, samples))


def link(name: str, target: str) -> MakeFiles:
    return lambda d: (d / name).symlink_to(target)


def arrays(name: str, **values: Any) -> MakeFiles:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **{k.replace("__", "/"): np.asarray(v) for k, v in values.items()})
    return write(name, buffer.getvalue())


def statistics(**values: Any) -> MakeFiles:
    return arrays("bad.npz", **values)


def npy_header(*shape: int) -> bytes:
    """A .npy file that claims an array of that shape and holds no data."""
    buffer = io.BytesIO()
    head = {"descr": "<f4", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(buffer, head)
    return buffer.getvalue()


def zipped(name: str, *members: tuple[str | zipfile.ZipInfo, bytes]) -> MakeFiles:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for member, content in members:
            archive.writestr(member, content)
    return write(name, buffer.getvalue())


def bomb(folder: Path) -> None:
    """An .npz that claims to unpack to 2 GiB."""
    zipped("bad.npz", ("mu.npy", bytes(1234)))(folder)
    content = (folder / "bad.npz").read_bytes()
    write("bad.npz", content.replace(struct.pack("<L", 1234), struct.pack("<L", 2**31)))(folder)


def tarred(member: str, kind: bytes = tarfile.REGTYPE) -> MakeFiles:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        info = tarfile.TarInfo(member)
        info.type, info.linkname = kind, "/etc/passwd"
        archive.addfile(info)
    return write(CIFAR_TAR, buffer.getvalue())


def photographs(content: bytes) -> MakeFiles:
    return zipped(CELEBA_ZIP, *((f"{k:06}.jpg", content) for k in range(20)))


def mnist(content: bytes) -> MakeFiles:
    return all_of(*(write(name, gzip.compress(content)) for name in MNIST_FILES))


def write_fid_weights(folder: Path) -> None:
    """Write weights for the FID network's first layer."""
    shapes = parameter_shapes(["64"])
    random = np.random.default_rng(0).random
    values = {f"{k}__{part}": random(x) for k in shapes for part, x in shapes[k].items()}
    arrays("fid.npz", **values)(folder)


def generator_state(width: int) -> dict[str, np.ndarray]:
    """The state_dict of a generator for the digits."""
    sides = itertools.pairwise([100, 2 * width, width, 1])
    return {f"{2 * k}.weight": np.zeros((*side, 4, 4), np.float32) for k, side in enumerate(sides)}


def torch_file(state: dict[str, np.ndarray]) -> MakeFiles:
    def make(folder: Path) -> None:
        torch = pytest.importorskip("torch", reason="torch is not installed")
        torch.save({name: torch.tensor(array) for name, array in state.items()}, folder / "bad")

    return make


def critic_state() -> dict[str, np.ndarray]:
    sides = [(4, 1), (8, 4), (1, 8)]
    return {f"{2 * k}.weight": np.zeros((*side, 4, 4), np.float32) for k, side in enumerate(sides)}


def data(name: str, change: Callable[[bytes], bytes]) -> MakeFiles:
    """A copy of the prepared digits with one damaged file and no cache."""

    def make(folder: Path) -> None:
        shared = (folder / "data").resolve()
        (folder / "data").unlink()
        shutil.copytree(shared / "digits", folder / "data" / "digits")
        (damaged,) = (folder / "data").rglob(name)
        damaged.write_bytes(change(damaged.read_bytes()))

    return make


def half(content: bytes) -> bytes:
    return content[: len(content) // 2]


def flip(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 255]) + content[middle + 1 :]


def config(body: str) -> MakeFiles:
    head = "from gankd_jax.config.schema import base_config\n"
    head += "def get_config(v=''):\n    c = base_config()\n"
    return write("bad", f"{head}    {body}\n    return c".encode())


def study(name: str, content: bytes) -> MakeFiles:
    """A copy of a finished study with one damaged file."""
    return all_of(
        lambda d: shutil.copytree(d / "finished", d / "bad"), write(f"bad/{name}", content)
    )


def without(name: str) -> MakeFiles:
    return all_of(study(name, b""), lambda d: (d / "bad" / name).unlink())


NO_CHECKPOINTS = shutil.ignore_patterns("checkpoints", "tensorboard", "grids")
PICKLE = pickle.dumps(Harm())
OBJECTS = io.BytesIO()
np.save(OBJECTS, np.array([Harm()], dtype=object))
LINK = zipfile.ZipInfo("000001.jpg")
LINK.external_attr = 0o120777 << 16
RUN = "teacher-d4-s0"

CASES: dict[str, tuple[MakeFiles, list[str], str]] = {
    # Folders of images
    "no image": (write("bad/a.txt", b"x"), SCORE, "has no images"),
    "one image": (write("bad/a.png", png()), SCORE, "has 1 image; 2 or more are needed"),
    "empty image": (image(b""), SCORE, "a.png cannot be read as an image"),
    "text as image": (image(b"text"), SCORE, "a.png cannot be read as an image"),
    "cut image": (image(png((64, 64))[:60]), SCORE, "a.png cannot be read as an image"),
    "cut pixels": (image(png_header(9, 9)), SCORE, "a.png cannot be read as an image"),
    "huge image": (image(png_header(40_000, 40_000)), SCORE, "decompression bomb"),
    "large image": (image(png_header(10_000, 10_000)), SCORE, "decompression bomb"),
    "no pixel": (image(png_header(0, 9)), SCORE, "a.png cannot be read as an image"),
    "many values a pixel": (image(tiff(200), "a.tiff"), SCORE, "a.tiff cannot be read as an"),
    "half a webp": (image(b"RIFF\x04\0\0\0WEBPVP8X", "a.webp"), SCORE, "cannot be read as"),
    "floats": (
        all_of(image(png()), lambda d: Image.new("F", (4, 4)).save(d / "bad/a.png.tiff")),
        SCORE,
        "a.png.tiff has floating-point values",
    ),
    "folder as image": (
        all_of(write("bad/b.png", png()), lambda d: (d / "bad/a.png").mkdir()),
        SCORE,
        "bad has 1 image; 2 or more are needed",
    ),
    "link to itself": (
        all_of(write("bad/b.png", png()), link("bad/a.png", "a.png")),
        SCORE,
        "a.png cannot be read as an image",
    ),
    "link to nothing": (
        all_of(write("bad/b.png", png()), link("bad/a.png", "c.png")),
        SCORE,
        "a.png cannot be read as an image",
    ),
    "folder links to itself": (link("bad", "bad"), SCORE, "bad is no folder of images"),
    # Statistics
    "empty statistics": (write("bad.npz", b""), STATISTICS, "has no statistics"),
    "text as statistics": (write("bad.npz", b"x"), STATISTICS, "has no statistics"),
    "other arrays": (statistics(a=[1]), STATISTICS, "has no statistics"),
    "other shapes": (statistics(mu=[1.0, 2.0], sigma=[[1.0]]), STATISTICS, "does not fit"),
    "words": (statistics(mu=["a"], sigma=[["b"]]), STATISTICS, "has no statistics"),
    "not finite": (statistics(mu=[np.nan], sigma=[[1.0]]), STATISTICS, "not finite"),
    "endless count": (statistics(mu=[1], sigma=[[1]], count=np.inf), STATISTICS, "not finite"),
    "negative count": (statistics(mu=[1], sigma=[[1]], count=-5), STATISTICS, "count is -5"),
    "negative sigma": (statistics(mu=[1], sigma=[[-1]]), STATISTICS, "a negative eigenvalue"),
    "nan features": (
        statistics(mu=[1], sigma=[[1]], features=[[np.nan], [1]]),
        STATISTICS,
        "bad.npz has no statistics: features holds values that are not finite",
    ),
    "only counts of answers": (
        statistics(mu=[1], sigma=[[1]], answers_counts=[1]),
        STATISTICS,
        "has no statistics: the array 'answers_totals' is missing",
    ),
    "only totals of answers": (
        statistics(mu=[1], sigma=[[1]], answers_totals=[[1.0]]),
        STATISTICS,
        "has no statistics: the array 'answers_counts' is missing",
    ),
    "answers of other splits": (
        statistics(
            mu=[1],
            sigma=[[1]],
            answers_counts=[1, 2],
            answers_totals=[[1.0]],
            answers_negentropies=[1.0, 2.0],
        ),
        STATISTICS,
        "answers_totals (1, 1) does not fit",
    ),
    "words as features": (
        statistics(mu=[1], sigma=[[1]], features=[["a"]]),
        STATISTICS,
        "features holds <U1",
    ),
    "several sharpnesses": (
        statistics(mu=[1], sigma=[[1]], sharpness=[1, 2]),
        STATISTICS,
        "has no statistics",
    ),
    "features of another layer": (
        statistics(mu=[1], sigma=[[1]], features=[[1, 2], [3, 4]]),
        STATISTICS,
        "features (2, 2) does not fit",
    ),
    "no count": (statistics(mu=[1], sigma=[[1]], count="x"), STATISTICS, "has no statistics"),
    "code in statistics": (
        zipped("bad.npz", ("mu.npy", OBJECTS.getvalue()), ("sigma.npy", PICKLE)),
        STATISTICS,
        "has no statistics",
    ),
    "pickle as statistics": (write("bad.npz", PICKLE), STATISTICS, "has no statistics"),
    "bomb as statistics": (bomb, STATISTICS, "unpacks to more than"),
    "endless array": (
        zipped("bad.npz", ("mu.npy", npy_header(1 << 50))),
        STATISTICS,
        "has no statistics",
    ),
    "array alone": (write("bad.npz", npy_header(0)), STATISTICS, "has no statistics"),
    # Arrays of images
    "no array file": (nothing, ["score", "{d}/bad.npy", *SCORE[2:]], "bad.npy: no such file"),
    "floats as images": (
        arrays("bad.npz", arr_0=np.zeros((9, 4, 4, 3))),
        STATISTICS,
        "bad.npz holds float64; images must be uint8, from 0 to 255",
    ),
    "channels first": (
        arrays("bad.npz", arr_0=np.zeros((9, 3, 8, 8), np.uint8)),
        STATISTICS,
        "put the channels last, (n, h, w, c)",
    ),
    # Weights of the FID network
    "no weights": (image(png()), [*SCORE[:3], "--weights={d}/no"], "`gankd weights fetch`"),
    "empty weights": (write("bad.npz", b""), FETCH, "is no .npz of folded Inception weights"),
    "cut weights": (
        all_of(lambda d: shutil.copy(d / "fid.npz", d / "bad.npz"), truncate("bad.npz")),
        FETCH,
        "is no .npz of folded Inception weights",
    ),
    "weights of nan": (arrays("bad.npz", conv__kernel=[np.nan]), FETCH, "that are not finite"),
    "other weights": (arrays("bad.npz", conv__kernel=[0]), FETCH, "is no .npz of folded"),
    "code in weights": (
        zipped("bad.npz", ("conv/kernel.npy", OBJECTS.getvalue())),
        FETCH,
        "is no .npz of folded Inception weights",
    ),
    "bytes in weights": (
        zipped("bad.npz", ("conv/kernel.npy", b"x" * 40)),
        FETCH,
        "is no .npz of folded Inception weights",
    ),
    "weights that leave": (
        zipped("bad.npz", ("../harm.npy", npy_header(0))),
        FETCH,
        "is no .npz of folded Inception weights: ../harm",
    ),
    "folder as weights": (lambda d: (d / "bad.npz").mkdir(), FETCH, "is no .npz of folded"),
    "not the published": (
        write("bad.pth", PICKLE),
        ["weights", "fetch", "--from={d}/bad.pth"],
        "is not the published file",
    ),
    # A teacher of PyTorch
    "no teacher": (nothing, IMPORT, "no such file"),
    "empty teacher": (write("bad", b""), IMPORT, "bad is empty"),
    "text as teacher": (write("bad", b"weights"), IMPORT, "not a PyTorch file"),
    "folder as teacher": (lambda d: (d / "bad").mkdir(), IMPORT, "bad cannot be read"),
    "cut teacher": (
        all_of(torch_file(generator_state(4)), truncate("bad")),
        IMPORT,
        "not a PyTorch file",
    ),
    "code in a teacher": (write("bad", PICKLE), IMPORT, "is not allowed"),
    "code in a zip": (
        lambda d: zipfile.ZipFile(d / "bad", "w").writestr("a/data.pkl", PICKLE),
        IMPORT,
        "is not allowed",
    ),
    "another zip": (zipped("bad", ("a.txt", b"")), IMPORT, "no data.pkl in it"),
    "bomb as teacher": (zipped("bad", ("a/data.pkl", bytes(9999))), IMPORT, "it is compressed"),
    "deep teacher": (write("bad", b"\x80\x02" + b"(" * 100_000), IMPORT, "not a PyTorch file"),
    "endless text": (
        write("bad", b"\x80\x04\x8d" + struct.pack("<Q", 1 << 60)),
        IMPORT,
        "not a PyTorch file",
    ),
    "no generator": (torch_file({"a": np.zeros(3, np.float32)}), IMPORT, "holds no state_dict"),
    "critic as generator": (torch_file(critic_state()), IMPORT, "holds no DCGAN generator"),
    "another width": (torch_file(generator_state(5)), IMPORT, "is no teacher of width 5"),
    "no weights in a teacher": (write("bad", LFS_POINTER), IMPORT, "bad is a Git LFS pointer"),
    # Original files of data sets
    "no original files": (nothing, MNIST, "lacks train-images-idx3-ubyte.gz"),
    "no digits": (mnist(b"text"), MNIST, "is not an idx file"),
    "few digits": (mnist(struct.pack(">4I", 0x803, 5, 28, 28)), MNIST, "the shape (5, 28, 28)"),
    "bomb of digits": (mnist(bytes(1 << 26)), MNIST, "unpacks to more than"),
    "empty archive": (write(CIFAR_TAR, b""), CIFAR, "damaged or cut short"),
    "text as archive": (write(CIFAR_TAR, b"text"), CIFAR, "damaged or cut short"),
    "member above": (tarred("../x.bin"), CIFAR, "unsafe member '../x.bin'"),
    "absolute member": (tarred("/x.bin"), CIFAR, "unsafe member '/x.bin'"),
    "linked member": (tarred("x.bin", tarfile.SYMTYPE), CIFAR, "unsafe member 'x.bin'"),
    "device member": (tarred("x.bin", tarfile.CHRTYPE), CIFAR, "unsafe member 'x.bin'"),
    "zip member above": (zipped(CELEBA_ZIP, ("../a.jpg", b"")), CELEBA, "member '../a.jpg'"),
    "zip member absolute": (zipped(CELEBA_ZIP, ("/a.jpg", b"")), CELEBA, "member '/a.jpg'"),
    "zip link": (zipped(CELEBA_ZIP, (LINK, b"/etc/passwd")), CELEBA, "member '000001.jpg'"),
    "zip bomb": (
        zipped(CELEBA_ZIP, ("000001.jpg", bytes((1 << 24) + 1))),
        CELEBA,
        "000001.jpg has 16777217 bytes",
    ),
    "cut zip": (all_of(photographs(b"x"), truncate(CELEBA_ZIP)), CELEBA, "damaged or cut short"),
    "no photographs": (photographs(b"text"), CELEBA, "damaged or cut short"),
    # Prepared data sets
    "data: no JSON": (data("dataset_info.json", lambda _: b"{"), TRAIN, "is damaged: move it away"),
    "data: no features": (data("features.json", lambda _: b"[]"), TRAIN, "is damaged"),
    "data: cut": (data("*train.array_record*", half), TRAIN, "is damaged"),
    "data: empty": (data("*train.array_record*", lambda _: b""), TRAIN, "is damaged"),
    "data: another byte": (data("*train.array_record*", flip), TRAIN, "is damaged"),
    # Configs
    "config: empty": (write("bad", b""), DESCRIBE, "has no function get_config"),
    "config: no Python": (write("bad", b"x = ("), DESCRIBE, "raises SyntaxError"),
    "config: bytes": (write("bad", PICKLE), DESCRIBE, "the config file raises"),
    "config: raises": (write("bad", b"1 / 0"), DESCRIBE, "raises ZeroDivisionError: division"),
    "config: imports": (write("bad", b"import no_such"), DESCRIBE, "raises ModuleNotFoundError"),
    "config: gives nothing": (
        config("return"),
        DESCRIBE,
        "returns None; it must return a ConfigDict",
    ),
    "config: gives a dict": (
        config("return {}"),
        DESCRIBE,
        "returns {}; it must return a ConfigDict",
    ),
    "config: no block": (config("del c['study']"), DESCRIBE, "config.study is missing"),
    "config: no field": (config("del c.data['pad']"), DESCRIBE, "config.data.pad is missing"),
    "config: no recipe's field": (
        config("del c.recipes.mse['steps']"),
        DESCRIBE,
        "config.recipes.mse.steps is missing",
    ),
    "config: another field": (
        config("c.recipes.mse.stepz = 3"),
        DESCRIBE,
        "config.recipes.mse is 'stepz'; it can be alpha, steps",
    ),
    "config: text": (config("c.training.log_every = 'often'"), DESCRIBE, "log_every"),
    "config: none": (config("c.recipes.mse.steps = None"), DESCRIBE, "recipes.mse.steps is None"),
    "config: a path": (config("c.recipes['x/y'] = c.recipes.mse"), DESCRIBE, "a plain word"),
    "config: inf": (nothing, [*FIELD, "--config.recipes.mse.generator_lr=inf"], "lr is inf"),
    "config: nan": (nothing, [*FIELD, "--config.recipes.mse.alpha=nan"], "alpha is nan"),
    "config: true": (nothing, [*FIELD, "--config.study.widths=(True,)"], "whole numbers"),
    "config: -1 retries": (nothing, [*FIELD, "--config.training.retries=-1"], "0 or more"),
    # A study's files
    "study: cut config": (study("config.json", b"{"), REPORT, "config.json is damaged"),
    "study: a list": (study("config.json", b"[]"), REPORT, "config.json is damaged"),
    "study: empty config": (study("config.json", b"{}"), REPORT, "config.json is damaged"),
    "study: bytes": (study("config.json", b"\xff\xfe"), REPORT, "config.json is damaged"),
    "study: to resume": (
        study("config.json", b"[]"),
        ["study", *OF_STUDY],
        "config.json is damaged",
    ),
    "study: score": (study("config.json", b"{"), OF_RUN, "config.json is damaged"),
    "study: no config": (without("config.json"), OF_RUN, "holds no study (no config.json)"),
    "study: empty run": (study(f"{RUN}/run.json", b"{}"), REPORT, "run.json is damaged"),
    "study: cut scores": (study(f"{RUN}/scores.json", b'{"sco'), REPORT, "scores.json is damaged"),
    "study: other scores": (
        study(f"{RUN}/scores.json", b'{"scores": {"fd_classifier": "low"}}'),
        REPORT,
        "scores.json is damaged",
    ),
    "study: no samples": (study(f"{RUN}/samples.npz", b""), REPORT, "samples.npz is damaged"),
    "study: code": (study(f"{RUN}/samples.npz", PICKLE), REPORT, "samples.npz is damaged"),
    "study: another log": (study(f"{RUN}/log.jsonl", b"5\n"), REPORT, "log.jsonl is damaged"),
    "study: cut teacher": (study("teacher.json", b"{"), SAMPLE, "teacher.json is damaged"),
    "study: no teacher": (study("teacher.json", b'{"run": "x"}'), SAMPLE, "x is not a run of"),
    "empty reference": (all_of(study("bad", b""), write("bad.csv", b"")), COMPARE, "no column"),
    "bytes as reference": (
        all_of(study("bad", b""), write("bad.csv", b"\xff\xfe\0")),
        COMPARE,
        "cannot be read as CSV",
    ),
}
OF_FINISHED_STUDY = [case for case in CASES if case.startswith("study: ")] + [
    "empty reference",
    "bytes as reference",
]


@pytest.fixture
def sandbox(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, root: Path) -> Path:
    """A folder that holds everything a command could write to; also the current folder."""
    (tmp_path / "data").symlink_to(tiny.prepare_data(root))
    write_fid_weights(tmp_path)
    monkeypatch.setenv("MPLCONFIGDIR", str(root / "cache"))  # matplotlib's list of fonts
    return tmp_path


def check_case(command, sandbox: Path, monkeypatch: pytest.MonkeyPatch, case: str) -> None:
    """The command prints one line, and no file in the sandbox changes."""
    make, words, message = CASES[case]
    make(sandbox)
    before = tiny.snapshot(sandbox)
    monkeypatch.setenv("TFDS_DATA_DIR", str(sandbox / "data"))  # after `command` has set it
    monkeypatch.setenv("XDG_CACHE_HOME", str(sandbox / "cache"))
    monkeypatch.chdir(sandbox)
    status, out, err = command(*(word.format(d=sandbox) for word in words))
    assert (status, out) == (2, ""), err
    assert err.startswith("gankd: ")
    assert err.count("\n") == 1, err
    assert message in err
    assert tiny.snapshot(sandbox) == before


@pytest.mark.parametrize("case", [case for case in CASES if case not in OF_FINISHED_STUDY])
def test_a_bad_file_gives_one_line_and_writes_nothing(command, sandbox, monkeypatch, case):
    check_case(command, sandbox, monkeypatch, case)


@pytest.mark.parametrize("case", OF_FINISHED_STUDY)
def test_a_damaged_study_gives_one_line(command, sandbox, finished, monkeypatch, case):
    (sandbox / "finished").symlink_to(finished)
    check_case(command, sandbox, monkeypatch, case)


@pytest.mark.slow
@pytest.mark.parametrize(
    "case",
    [
        "large image",
        "many values a pixel",
        "code in a teacher",
        "config: imports",
        "no photographs",
        "data: cut",
    ],
)
def test_a_separate_process_prints_that_line_alone(root, sandbox, case):
    make, words, message = CASES[case]
    make(sandbox)
    before = tiny.snapshot(sandbox)
    words = [word.format(d=sandbox) for word in words]
    done = tiny.run_gankd(root, *words, TFDS_DATA_DIR=str(sandbox / "data"))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1, done.stderr
    assert message in done.stderr
    assert tiny.snapshot(sandbox) == before
