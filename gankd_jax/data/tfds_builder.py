"""The TFDS builder that writes a data set in array_record, without TensorFlow or a network."""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds
from tqdm import tqdm

from gankd_jax.data.originals.readers import ExampleSplit
from gankd_jax.data.registry import Dataset

# Images in a file.  TFDS holds those of one file in memory: more take more memory, fewer give more
# files.  Another number would change the files, not the order of the records.
_SHARD_SIZE = 20_000


def record_order(split: str, keys: Sequence[int | str]) -> list[int | str]:
    """Sorts keys into the order in which stock TFDS stores their records.

    With the same order, "the last n images of train" are the same images whoever prepared the data.

    Args:
        split: The split's name.
        keys: The keys of its examples.

    Reference: `tensorflow_datasets/core/hashing.py`: by the md5 of the split's name and the key.
    """
    return sorted(keys, key=lambda key: hashlib.md5(f"{split}{key}".encode()).digest())


class ArrayRecordBuilder(tfds.core.ShardBasedBuilder, skip_registration=True):  # type: ignore[call-arg]
    """Writes splits of examples as array_record.

    It is not registered with TFDS, because stock TFDS has builders of the same names.  It is shard
    based, because `GeneratorBasedBuilder` shuffles splits of more than 1 GB (CelebA) through
    TensorFlow's file system.
    """

    def __init__(self, dataset: Dataset, splits: Mapping[str, ExampleSplit], data_dir: Path):
        self.name = dataset.name
        self.VERSION = tfds.core.Version(dataset.version)
        self._dataset = dataset
        self._splits = splits
        super().__init__(data_dir=data_dir)

    def write(self) -> tuple[Path, dict[str, int]]:
        """Writes the data set; returns its folder and the number of examples of each split."""
        config = tfds.download.DownloadConfig(try_download_gcs=False)
        self.download_and_prepare(file_format="array_record", download_config=config)
        counts = {name: split.num_examples for name, split in self.info.splits.items()}
        return Path(self.data_dir), counts

    def _info(self) -> tfds.core.DatasetInfo:
        dataset = self._dataset
        features: dict[str, Any] = {"image": tfds.features.Image(shape=dataset.image_shape)}
        if dataset.classes is not None:
            classes = None if dataset.class_names else dataset.classes
            names = list(dataset.class_names) or None
            features["label"] = tfds.features.ClassLabel(num_classes=classes, names=names)
        if dataset.ids:
            features["id"] = tfds.features.Text()
        return tfds.core.DatasetInfo(
            builder=self,
            features=tfds.features.FeaturesDict(features),
            supervised_keys=("image", "label") if dataset.classes is not None else None,
            homepage=dataset.homepage,
        )

    def _shard_iterators_per_split(
        self, dl_manager: object
    ) -> dict[str, list[Callable[[], Iterator[tuple[int | str, dict[str, Any]]]]]]:
        return {name: self._make_shards(name, split) for name, split in self._splits.items()}

    def _make_shards(
        self, name: str, split: ExampleSplit
    ) -> list[Callable[[], Iterator[tuple[int | str, dict[str, Any]]]]]:
        keys = record_order(name, split.keys)

        def make_shard(first: int) -> Callable[[], Iterator[tuple[int | str, dict[str, Any]]]]:
            shard_keys = keys[first : first + _SHARD_SIZE]
            label = f"{self.name} {name} {first // _SHARD_SIZE + 1}/{-(-len(keys) // _SHARD_SIZE)}"
            # `disable=None` shows a progress bar on a terminal only.
            return lambda: (
                (key, example)
                for key in tqdm(shard_keys, label, leave=False, disable=None)
                if (example := split.example(key)) is not None
            )

        return [make_shard(first) for first in range(0, len(keys), _SHARD_SIZE)]
