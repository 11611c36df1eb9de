"""The registry of data sets: shapes, counts, and where their original files come from.

A data set that is prepared needs no entry: what is stored says the same.  One whose original files
`gankd data prepare` is to read needs a `register_dataset(Dataset(...))` here, and a reader in
`originals/readers.py`.
"""

from dataclasses import dataclass
from pathlib import Path

from gankd_jax.data import stored
from gankd_jax.utils.errors import UserError, suggest


@dataclass(frozen=True)
class SourceFile:
    """One original file of a data set.

    Attributes:
        name: The published file name.
        sha256: The published hash of the file, as TensorFlow Datasets records it.
        aliases: Names or patterns of other files that serve in its place.
        unpacked: Names or patterns of files in the folder that it was unpacked to.
        other_sha256: The published hashes of the aliases.
        url: Where to download it; None if the site offers no direct download.
        content_sha256: Hash of the gunzipped content.  By it a file that was compressed again still
            counts as the published one.  None to leave that out.
        optional: Whether the data set can be prepared without it.
    """

    name: str
    sha256: str
    url: str | None = None
    content_sha256: str | None = None
    optional: bool = False
    aliases: tuple[str, ...] = ()
    unpacked: tuple[str, ...] = ()
    other_sha256: tuple[str, ...] = ()


@dataclass(frozen=True)
class Dataset:
    """Properties of a data set that are known before any of its files is opened.

    Attributes:
        name: Key in `DATASETS`, the value of `config.data.name`.
        image_shape: Height, width and channels of the images; None where images differ.
        classes: Number of class labels; None without labels.
        counts: Number of images of each split.
        version: Version of the data that `prepare_dataset` writes.  It differs from that of stock
            TFDS, so that both can lie in one folder.
        homepage: Where a person finds the original files.
        files: The original files; empty if they come with a library or are prepared by TFDS itself.
        ids: Whether each example has an `id` text.
        class_names: The names of the classes; empty where they are numbers.
    """

    name: str
    image_shape: tuple[int | None, int | None, int]
    classes: int | None
    counts: dict[str, int]
    version: str
    homepage: str
    files: tuple[SourceFile, ...] = ()
    ids: bool = False
    class_names: tuple[str, ...] = ()


DATASETS: dict[str, Dataset] = {}


def register_dataset(dataset: Dataset) -> None:
    """Adds a data set to `DATASETS` under its name.

    Args:
        dataset: Registered before, it changes nothing, as when a cell is executed again.

    Raises:
        UserError: Another data set has the name.

    Example:
        >>> import gankd_jax
        >>> from gankd_jax.data.registry import Dataset
        >>> gankd_jax.register_dataset(
        ...     Dataset("shapes", (32, 32, 3), 5, {"train": 900, "test": 100}, "1.0.0", "")
        ... )
    """
    if DATASETS.get(dataset.name, dataset) != dataset:
        raise UserError(
            f"a data set named {dataset.name!r} is registered already; choose another name"
        )
    DATASETS[dataset.name] = dataset


def get_dataset(name: str, data_dir: Path | None = None) -> Dataset:
    """Returns the data set of that name: a registered one, or any that is prepared.

    Args:
        name: The data set, as `NAME` or, where TFDS has several configurations, `NAME/CONFIG`.
        data_dir: The folder of the TFDS data sets; None: TFDS's own default.

    Raises:
        UserError: There is none; lists the names.
    """
    if name in DATASETS:
        return DATASETS[name]
    data_dir = data_dir or stored.default_data_dir()
    folder = stored.prepared_dir(name, data_dir) if name else None
    if folder is None:
        raise UserError(_describe_unknown(name, data_dir))
    builder = stored.open_image_builder(folder)
    names = stored.class_names(builder)
    return Dataset(
        name=name,
        image_shape=builder.info.features["image"].shape,
        classes=len(names) or None,
        counts={split: info.num_examples for split, info in builder.info.splits.items()},
        version=str(builder.version),
        homepage=builder.info.homepage,
        class_names=names,
    )


def _describe_unknown(name: str, data_dir: Path) -> str:
    """Says which data sets there are, and how another is prepared."""
    if name and (versions := stored.prepared_versions(name, data_dir)):
        return (
            f"{versions[0][0]} is not stored as array_record, so TensorFlow alone could read it:"
            " prepare it again with TFDS and file_format='array_record'"
        )
    names = dict.fromkeys([*DATASETS, *stored.prepared_names(data_dir)])
    advice = (
        f"choose one of {', '.join(names)}, or prepare images of your own with"
        " `gankd data prepare NAME --source-dir=PHOTOS`"
    )
    return f"unknown data set {name!r}: " + " ".join(filter(None, (suggest(name, names), advice)))


_MNIST = "https://storage.googleapis.com/cvdf-datasets/mnist/"

register_dataset(
    Dataset(
        name="digits",
        image_shape=(8, 8, 1),
        classes=10,
        counts={"train": 1438, "test": 359},
        version="1.0.0",
        homepage="https://archive.ics.uci.edu/dataset/80",
    )
)
register_dataset(
    Dataset(
        name="mnist",
        image_shape=(28, 28, 1),
        classes=10,
        counts={"train": 60_000, "test": 10_000},
        version="1.0.0",
        homepage="http://yann.lecun.com/exdb/mnist/",
        files=(
            SourceFile(
                name="train-images-idx3-ubyte.gz",
                sha256="440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
                url=_MNIST + "train-images-idx3-ubyte.gz",
                content_sha256="ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
                aliases=("train-images-idx3-ubyte", "train-images.idx3-ubyte"),
            ),
            SourceFile(
                name="train-labels-idx1-ubyte.gz",
                sha256="3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
                url=_MNIST + "train-labels-idx1-ubyte.gz",
                content_sha256="65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
                aliases=("train-labels-idx1-ubyte", "train-labels.idx1-ubyte"),
            ),
            SourceFile(
                name="t10k-images-idx3-ubyte.gz",
                sha256="8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
                url=_MNIST + "t10k-images-idx3-ubyte.gz",
                content_sha256="0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
                aliases=("t10k-images-idx3-ubyte", "t10k-images.idx3-ubyte"),
            ),
            SourceFile(
                name="t10k-labels-idx1-ubyte.gz",
                sha256="f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
                url=_MNIST + "t10k-labels-idx1-ubyte.gz",
                content_sha256="ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
                aliases=("t10k-labels-idx1-ubyte", "t10k-labels.idx1-ubyte"),
            ),
        ),
    )
)
register_dataset(
    Dataset(
        name="cifar10",
        image_shape=(32, 32, 3),
        classes=10,
        counts={"train": 50_000, "test": 10_000},
        version="1.0.0",
        homepage="https://www.cs.toronto.edu/~kriz/cifar.html",
        files=(
            SourceFile(
                name="cifar-10-binary.tar.gz",
                sha256="c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
                url="https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
                aliases=("cifar-10-python.tar.gz",),
                unpacked=("data_batch_1.bin", "data_batch_1"),
                other_sha256=("6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce",),
            ),
        ),
        ids=True,
    )
)
register_dataset(
    Dataset(
        name="celeb_a",
        image_shape=(None, None, 3),
        classes=None,
        counts={"train": 162_770, "validation": 19_867, "test": 19_962},
        version="1.0.0",
        homepage="https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html",
        files=(
            SourceFile(
                name="img_align_celeba.zip",
                sha256="46fb89443c578308acf364d7d379fe1b9efb793042c0af734b6112e4fd3a8c74",
                aliases=("*.zip",),  # Kaggle's archive
                unpacked=("[0-9]" * 6 + ".jpg",),
            ),
            SourceFile(
                name="list_eval_partition.txt",
                sha256="fc955bcb3ef8fbdf7d5640d9a8693a8431b5f2ee291a5c1449a1549e7e073fe7",
                optional=True,
                aliases=("list_eval_partition.csv",),
            ),
        ),
    )
)
