"""What training and evaluation of a study share: paths, images, trained networks, statistics."""

import dataclasses
import functools
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import jax
import ml_collections
import numpy as np
from jaxtyping import Float, UInt8

from gankd_jax.config.dataset import config_data_dir, config_dataset, evaluation_split
from gankd_jax.data.loading import ImageSplit, load_split
from gankd_jax.data.stored import CACHE_FOLDER
from gankd_jax.evaluation import inference, reference_stats, scoring
from gankd_jax.evaluation.classifier import EvalClassifier, load_or_train_classifier
from gankd_jax.evaluation.inception import available_maps, load_inception_extractor
from gankd_jax.export import pretrained
from gankd_jax.interop import inception_weights
from gankd_jax.interop.pair_table import PairTable, has_normal_latents
from gankd_jax.metrics.feature_stats import FeatureExtractor, FeatureStats
from gankd_jax.models import sampling
from gankd_jax.models.family import PyTree
from gankd_jax.models.sampling import TrainedGenerator
from gankd_jax.study import networks, plan, workdir
from gankd_jax.study.plan import Run
from gankd_jax.training import loop
from gankd_jax.training.multi_run import RunSpec
from gankd_jax.training.train_state import (
    NetworkState,
    TrainState,
    create_train_state,
    make_variables,
)
from gankd_jax.utils import atomic_io
from gankd_jax.utils.checkpoint import Checkpoints, is_intact
from gankd_jax.utils.errors import UserError
from gankd_jax.utils.metric_writer import WriterSettings
from gankd_jax.utils.paths import expand_path, write_cache

logger = logging.getLogger(__name__)

# Training images in the nearest-neighbour search by the FID network, which is slow.  More images
# find nearer neighbours and take proportionally longer.
MAX_INCEPTION_NEIGHBOURS = 10_000

BLANK_IMAGES = 1024  # in place of real ones where a study has none; no run reads them

T = TypeVar("T")


def _cached(method: Callable[[Any], T]) -> Callable[[Any], T]:
    """Caches the result of a method without arguments in its object, as `cached_property` does."""
    key = f"_{method.__name__}"

    @functools.wraps(method)
    def wrapper(self: Any) -> T:
        results = vars(self)
        if key not in results:
            results[key] = method(self)
        return results[key]

    return wrapper


@dataclasses.dataclass(frozen=True)
class StudyContext:
    """Shared objects of a study.

    Attributes read files; the first use of a split decodes it, which can take minutes.  So can
    methods, `load_or_train_classifiers` for one; their results are cached.

    Attributes:
        config: The study's config.
        workdir: Its work directory.
        teacher_object: The teacher that `config.study.teacher` names, where it is no file; None to
            load it.
    """

    config: ml_collections.ConfigDict
    workdir: Path
    teacher_object: TrainedGenerator | None = None

    @property
    def data_dir(self) -> Path:
        """Folder of prepared data sets."""
        return config_data_dir(self.config)

    @property
    def has_data(self) -> bool:
        """Whether the study has real images, and not a given teacher alone."""
        return self.config.data.name != "none"

    @property
    def cache_dir(self) -> Path:
        """Folder of classifiers and statistics of data sets, which studies share."""
        return self.data_dir / CACHE_FOLDER

    def load_split(self, name: str) -> ImageSplit:
        """Loads the images of a split, resized and padded for the networks."""
        data = self.config.data
        if not self.has_data:
            shape = (BLANK_IMAGES, data.image_size, data.image_size, data.channels)
            return ImageSplit(np.zeros(shape, np.uint8), labels=None, key="none")
        return load_split(
            data.name,
            name,
            data_dir=self.data_dir,
            image_size=data.image_size,
            pad=data.pad,
            validation=data.validation,
        )

    @functools.cached_property
    def train_images(self) -> ImageSplit:
        """The training images, without the validation images."""
        return self.load_split("train")

    @functools.cached_property
    def test_images(self) -> ImageSplit:
        """The images of the test split, or where there is none, of the validation split.

        Raises:
            UserError: The data set has neither.
        """
        return self.load_split(evaluation_split(self.config) if self.has_data else "test")

    @functools.cached_property
    def inception_extractor(self) -> FeatureExtractor | None:
        """The FID network; None if `evaluation.layers` is empty."""
        layers = self.config.evaluation.layers
        if not layers:
            return None
        return load_inception_extractor(inception_weights.default_weights_path(), layers=layers)

    @_cached
    def load_or_train_classifiers(self) -> tuple[EvalClassifier, ...]:
        """Loads the evaluation classifiers, or trains them; returns none without labels.

        Training takes up to an hour for each, once for a data set.
        """
        if self.train_images.labels is None:
            return ()
        test, kinds = self.test_images, self.config.evaluation.classifiers
        use_pretrained = self.config.evaluation.classifier == "pretrained"
        dataset = self.config.data.name if use_pretrained else ""
        return tuple(
            load_or_train_classifier(
                self.train_images,
                test,
                self.cache_dir,
                kind,
                classes=config_dataset(self.config).classes,
                dataset=dataset,
            )
            for kind in kinds
        )

    @_cached
    def compute_reference_stats(self) -> list[tuple[FeatureExtractor, FeatureStats]]:
        """Returns each classifier with its statistics of the training images.

        Trains the classifiers and computes the statistics where the cache lacks them.
        """
        batch_size = self.config.evaluation.batch_size
        classifiers = self.load_or_train_classifiers()
        extractors = [classifier.make_extractor(batch_size) for classifier in classifiers]
        return [(x, self.load_or_compute_stats(self.train_images, x)) for x in extractors]

    def load_or_compute_stats(
        self, images: ImageSplit, extractor: FeatureExtractor, samples: int | None = None
    ) -> FeatureStats:
        """Returns the statistics of real images, from the cache if they are there.

        Args:
            images: A split.
            extractor: The network.
            samples: Size of a fixed random subset to use; None for all images.
        """
        return reference_stats.load_or_compute_stats(images, extractor, self.cache_dir, samples)

    def nn_extractor(self) -> FeatureExtractor | None:
        """Returns the network of the nearest-neighbour search.

        That is the first classifier, the FID network where there are no labels, or None.
        """
        references = self.compute_reference_stats()
        return references[0][0] if references else self.inception_extractor

    @_cached
    def _nn_reference_images(self) -> UInt8[np.ndarray, "n s s c"]:
        """Returns the training images to search."""
        pixels = self.train_images.pixels
        if self.load_or_train_classifiers():
            return pixels
        return pixels[reference_stats.subset_indices(len(pixels), MAX_INCEPTION_NEIGHBOURS)]

    @_cached
    def _nn_reference_features(self) -> Float[np.ndarray, "n f"]:
        """Returns the features of the images to search, from the cache if they are there."""
        extractor, images = self.nn_extractor(), self._nn_reference_images()
        assert extractor
        name = f"{self.train_images.key}-{extractor.name}-{extractor.pair_layer}-each-{len(images)}"
        path = self.cache_dir / f"{name}.npz"
        if path.exists():
            return atomic_io.read_own_npz(path)["features"]
        logger.info("computing features of %s training images, once", f"{len(images):,}")
        features = scoring.extract_features(images, extractor)
        write_cache(path, lambda: atomic_io.write_npz(path, features=features))
        return features

    def find_nearest_training_images(
        self, images: UInt8[np.ndarray, "n s s c"]
    ) -> dict[str, np.ndarray]:
        """Returns `scoring.nearest_neighbours` among the training images; {} without a network."""
        extractor = self.nn_extractor()
        if extractor is None:
            return {}
        return scoring.nearest_neighbours(
            images,
            extractor,
            self._nn_reference_features(),
            reference_images=self._nn_reference_images(),
        )

    @functools.cached_property
    def teacher(self) -> Run:
        """The selected teacher, from teacher.json.

        Raises:
            UserError: No teacher is selected yet, or every candidate has failed.
        """
        path = self.workdir / "teacher.json"
        if not path.exists():
            raise UserError(self._explain_missing_teacher())
        advice = "delete it, and the teacher is chosen again"
        return plan.find_run(self.config, str(workdir.read_study_json(path, advice).get("run")))

    @property
    def has_no_teacher_left(self) -> bool:
        """Whether every candidate for the teacher has failed for good."""
        candidates = plan.teacher_runs(self.config)
        return all(
            workdir.has_failed_for_good(self.workdir, self.config, run) for run in candidates
        )

    def _explain_missing_teacher(self) -> str:
        candidates = plan.teacher_runs(self.config)
        if self.has_no_teacher_left:
            return f"every teacher failed; see {self.workdir / candidates[0].name / 'failed.json'}"
        names = ", ".join(run.name for run in candidates)
        return f"a student needs a teacher, and none is trained: run {names} first"

    @_cached
    def load_given_teacher(self) -> TrainedGenerator | None:
        """Loads the teacher that `config.study.teacher` names; None if the study trains its own.

        Raises:
            UserError: It cannot be loaded, or its images have another size than the config's.
        """
        source = self.config.study.teacher
        if not source:
            return None
        teacher = self.teacher_object or _load_teacher_source(source)
        expected = {
            "image_size": self.config.data.image_size,
            "channels": networks.image_channels(self.config),
            "latent_dim": self.config.model.latent,
        }
        for name, value in expected.items():
            if getattr(teacher, name) != value:
                raise UserError(
                    f"the teacher {source} has {name} {getattr(teacher, name)}, the config {value}"
                )
        self._check_given_teacher(teacher)
        return teacher

    def _check_given_teacher(self, teacher: TrainedGenerator) -> None:
        """Refuses recipes and statistics that do not suit a given teacher."""
        config, source = self.config, self.config.study.teacher
        width = max(config.study.widths, default=0)
        can_start = networks.can_start_from(
            teacher, config.model.student.family, norm=config.model.generator_norm, width=width
        )
        for name in config.study.students:
            if config.recipes[name].warm_start and not can_start:
                raise UserError(
                    f"config.recipes.{name}.warm_start copies channels of the teacher, and {source}"
                    " has another family or norm, or too few channels; set it to False"
                )
        is_table = isinstance(teacher.module, PairTable)
        is_recomputed = config.evaluation.statistics == "recomputed"
        if is_table and is_recomputed and not has_normal_latents(teacher):
            raise UserError(
                f"the latents of {source} are no standard normal numbers, on which batch norm is"
                " recomputed; set --config.evaluation.statistics=running"
            )

    @_cached
    def load_teacher(self) -> loop.TeacherNetworks:
        """Restores the selected teacher's generator and critic; a given one has no critic."""
        given = self.load_given_teacher()
        if given is not None:
            features = self._load_feature_variables(None)
            return loop.TeacherNetworks(given.module, given.variables, None, features)
        state = self.restore_state(self.teacher)
        generator, variables = self.bind_generator(self.make_run_spec(self.teacher), state)
        features = self._load_feature_variables(state.critic)
        return loop.TeacherNetworks(generator, variables, state.critic, features)

    @_cached
    def teacher_grid(self) -> UInt8[np.ndarray, "h w c"]:
        """Returns the teacher's image grid of the fixed latents."""
        return sampling.sample_grid(*self.load_teacher().trained_generator)

    def _load_feature_variables(self, critic: NetworkState | None) -> dict[str, PyTree]:
        """Returns the variables of the networks in whose hidden layers students are compared.

        Args:
            critic: The teacher's; None for a given teacher, which has none.
        """

        def load(name: str) -> PyTree:
            if name == "critic":
                assert critic is not None
                return make_variables(critic.params, critic.batch_stats)
            if name == "classifier":
                return self.load_or_train_classifiers()[0].variables
            weights = inception_weights.default_weights_path()
            return {"params": inception_weights.load_weights(weights, available_maps())}

        return {name: load(name) for name in networks.feature_network_names(self.config)}

    def writer_settings(self, run: Run) -> WriterSettings:
        """Returns what the writers of a run are opened with."""
        names = tuple(self.config.training.writers)
        return WriterSettings(names, self.config.name, plan.hyperparameters(self.config, run))

    def make_run_spec(self, run: Run) -> RunSpec:
        """Returns the networks, recipe and seeds of a run, after as many retries as it has had."""
        teacher = self.teacher if run.kind == "student" else None
        retries = workdir.retry_count(self.workdir, run)
        return networks.make_run_spec(self.config, run, teacher, retries=retries)

    def restore_state(self, run: Run, step: int | None = None) -> TrainState:
        """Restores a state of a run.

        Args:
            run: The run.
            step: Of the checkpoint; None for the last step of a trained run.

        Raises:
            UserError: The checkpoint is damaged.
        """
        run_spec = self.make_run_spec(run)
        folder = self.workdir / run.name / "checkpoints"
        last_step = run_spec.spec.recipe.steps if step is None else step
        if not is_intact(folder / str(last_step)):
            raise UserError(
                f"{folder / str(last_step)} is damaged; `gankd train --run={run.name}` sets it"
                " aside"
            )
        shapes = jax.eval_shape(functools.partial(create_train_state, run_spec.spec), run_spec.seed)
        checkpoints = Checkpoints(folder)
        try:
            return checkpoints.restore(last_step, shapes)
        finally:
            checkpoints.close()

    def load_generator(self, run: Run, step: int | None = None) -> TrainedGenerator:
        """Restores the generator of a run, ready to sample.

        Args:
            run: The run.
            step: Of the checkpoint; None for the last step of a trained run.
        """
        given = self.load_given_teacher() if run.kind == "teacher" else None
        if given is not None:
            return given
        return self.bind_generator(self.make_run_spec(run), self.restore_state(run, step))

    def bind_generator(self, run_spec: RunSpec, state: TrainState) -> TrainedGenerator:
        """Binds a run's generator to the variables that it samples with.

        Args:
            run_spec: The run.
            state: Any state of its training.
        """
        generator = run_spec.spec.generator
        statistics = self.config.evaluation.statistics
        variables = inference.inference_variables(generator, state, statistics)
        return TrainedGenerator(generator, variables)


def open_run(folder: Path) -> tuple[StudyContext, Run]:
    """Returns a trained run and its study, given the run's folder in the work directory.

    Raises:
        UserError: The folder is not a trained run's.
    """
    folder = folder.resolve()  # the parent of '.' or of a link is not the work directory
    if not (folder.parent / workdir.CONFIG_FILE).is_file():
        raise UserError(
            f"{folder} has a run.json, but {folder.parent} holds no study (no config.json)"
        )
    config = workdir.read_config(folder.parent)
    run = plan.find_run(config, folder.name)
    if not workdir.is_trained(folder.parent, config, run):
        raise UserError(f"{folder} is not trained yet; `gankd study` goes on with it")
    return StudyContext(config, folder.parent), run


def _load_teacher_source(source: str) -> TrainedGenerator:
    folder = expand_path(source)
    if not (folder / "run.json").is_file():
        return pretrained.load_file(source)
    context, run = open_run(folder)
    return context.load_generator(run)
