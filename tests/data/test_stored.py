"""Data sets that TFDS itself prepared are known by what is stored, and loaded by their names."""

from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from gankd_jax.data import registry, stored
from gankd_jax.data.loading import load_split
from gankd_jax.utils.errors import UserError

COUNTS = {"train": 12, "test": 3}
FEATURES = {
    "image": tfds.features.Image(shape=(6, 8, 1)),
    "label": tfds.features.ClassLabel(names=["cat", "dog"]),
}


def image_of(number: int) -> np.ndarray:
    return np.full((6, 8), 10 * number, np.uint8)


class Pets(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """A data set as somebody writes it for TFDS."""

    name = "pets"
    VERSION = tfds.core.Version("2.0.0")
    features = FEATURES

    def _info(self) -> tfds.core.DatasetInfo:
        return self.dataset_info_from_configs(features=tfds.features.FeaturesDict(self.features))

    def _split_generators(self, dl_manager):
        return {split: self._generate_examples(count) for split, count in COUNTS.items()}

    def _generate_examples(self, count: int):
        for k in range(count):
            example = {"image": Image.fromarray(image_of(k)), "label": k % 2, "text": "a"}
            yield k, {name: example[name] for name in self.features}


def write_pets(data_dir: Path, file_format: str = "array_record", **features) -> Path:
    """Prepares `pets` by TFDS."""
    attributes = {"features": features or FEATURES, "__module__": __name__}
    builder = type("Pets", (Pets,), attributes, skip_registration=True)(data_dir=data_dir)
    config = tfds.download.DownloadConfig(try_download_gcs=False)
    builder.download_and_prepare(file_format=file_format, download_config=config)
    return Path(builder.data_dir)


def check_pets(name: str, data_dir: Path) -> None:
    dataset = registry.get_dataset(name, data_dir)
    assert dataset.image_shape == (6, 8, 1)
    assert (dataset.classes, dataset.class_names) == (2, ("cat", "dog"))
    assert dataset.counts == COUNTS
    images = load_split(name, "train", data_dir=data_dir, image_size=6, pad=0)
    numbers = images.pixels[:, 0, 0, 0] // 10
    assert sorted(numbers) == list(range(12))
    assert (images.labels == numbers % 2).all()


def test_a_data_set_of_stock_tfds_is_used_by_its_name(tmp_path):
    assert write_pets(tmp_path) == tmp_path / "pets" / "2.0.0"
    check_pets("pets", tmp_path)
    assert stored.prepared_names(tmp_path) == ["pets"]


def test_a_configuration_of_a_data_set_is_named_with_a_slash(tmp_path):
    folder = write_pets(tmp_path)
    (tmp_path / "zoo").mkdir()
    folder.parent.rename(tmp_path / "zoo" / "small")
    check_pets("zoo/small", tmp_path)
    assert stored.prepared_names(tmp_path) == ["zoo/small"]


def test_record_files_with_metadata_of_folder_dataset_are_used(tmp_path):
    folder = write_pets(tmp_path)
    for path in folder.glob("*.json"):
        path.unlink()
    tfds.folder_dataset.write_metadata(
        data_dir=folder,
        features=tfds.features.FeaturesDict(FEATURES),
        split_infos=[
            tfds.core.SplitInfo(
                name=split,
                shard_lengths=[count],
                num_bytes=0,
                filename_template=tfds.core.ShardedFileTemplate(
                    data_dir=folder,
                    dataset_name="pets",
                    split=split,
                    filetype_suffix="array_record",
                ),
            )
            for split, count in COUNTS.items()
        ],
        version="2.0.0",
        check_data=False,  # it reads by TensorFlow
    )
    check_pets("pets", tmp_path)


def test_labels_that_are_no_classes_are_left_alone(tmp_path):
    write_pets(tmp_path, image=FEATURES["image"], text=tfds.features.Text())
    assert registry.get_dataset("pets", tmp_path).classes is None
    images = load_split("pets", "test", data_dir=tmp_path, image_size=6, pad=0)
    assert images.labels is None


def test_data_that_cannot_serve_is_refused_in_a_line(tmp_path):
    write_pets(tmp_path, text=tfds.features.Text())
    with pytest.raises(UserError, match="no grey or colour images under the name 'image'"):
        registry.get_dataset("pets", tmp_path)
    info = tmp_path / "pets" / "2.0.0" / "dataset_info.json"
    info.write_text(info.read_text().replace("array_record", "tfrecord"))
    with pytest.raises(UserError, match=r"not stored as array_record.*file_format='array_record'"):
        registry.get_dataset("pets", tmp_path)


def test_a_missing_data_set_lists_the_names_and_how_to_prepare_it(tmp_path):
    write_pets(tmp_path)
    match = "unknown data set 'pet': did you mean pets. choose one of digits.*pets, or prepare"
    with pytest.raises(UserError, match=match):
        registry.get_dataset("pet", tmp_path)
    with pytest.raises(UserError, match="unknown data set ''"):
        registry.get_dataset("", tmp_path)
