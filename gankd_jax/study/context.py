"""A study in work: its config and folder, and what its parts share."""

import dataclasses
import functools
from pathlib import Path

import jax
import ml_collections
import numpy as np
from jaxtyping import Float, UInt8

from gankd_jax.data.loading import ImageSplit, default_data_dir, load_split
from gankd_jax.evaluation import inference, reference_stats, scoring
from gankd_jax.evaluation.classifier import EvalClassifier, load_or_train_classifier
from gankd_jax.evaluation.inception import load_inception_extractor
from gankd_jax.interop import inception_weights
from gankd_jax.metrics.feature_stats import FeatureExtractor, FeatureStats
from gankd_jax.models import sampling
from gankd_jax.study import networks, plan, workdir
from gankd_jax.study.plan import Run
from gankd_jax.training import loop
from gankd_jax.training.multi_run import RunSpec
from gankd_jax.training.train_state import TrainState, create_train_state
from gankd_jax.utils import atomic_io
from gankd_jax.utils.checkpoint import Checkpoints, is_intact
from gankd_jax.utils.errors import UserError
from gankd_jax.utils.progress import log_info

MOST_SEEN = 10_000  # training images that the FID network looks at for the nearest, as it is slow


@dataclasses.dataclass(frozen=True)
class StudyContext:
    """What is shared is made when it is first asked for."""

    config: ml_collections.ConfigDict
    folder: Path

    @functools.cached_property
    def data_dir(self) -> Path:
        """Where the data sets lie."""
        return Path(self.config.data.dir) if self.config.data.dir else default_data_dir()

    @property
    def cache(self) -> Path:
        """Where what was worked out of a data set is kept."""
        return self.data_dir / "gankd_cache"

    def split(self, name: str) -> ImageSplit:
        """The images of a split, as the networks see them."""
        data = self.config.data
        return load_split(
            data.name,
            name,
            data_dir=self.data_dir,
            image_size=data.image_size,
            pad=data.pad,
            validation=data.validation,
        )

    @functools.cached_property
    def train(self) -> ImageSplit:
        """The training images, without those held out."""
        return self.split("train")

    @functools.cached_property
    def judges(self) -> tuple[EvalClassifier, ...]:
        """The data set's classifiers; none where it has no labels."""
        if self.train.labels is None:
            return ()
        test, kinds = self.split("test"), self.config.evaluation.classifiers
        return tuple(load_or_train_classifier(self.train, test, self.cache, kind) for kind in kinds)

    @functools.cached_property
    def references(self) -> list[tuple[FeatureExtractor, FeatureStats]]:
        """Each judge with its statistics of the training images."""
        found = [judge.extractor(self.config.evaluation.batch_size) for judge in self.judges]
        return [(extractor, self.summary(self.train, extractor)) for extractor in found]

    @functools.cached_property
    def inception(self) -> FeatureExtractor | None:
        """The FID network, if its layers are asked for."""
        layers = self.config.evaluation.layers
        if not layers:
            return None
        return load_inception_extractor(inception_weights.default_weights_path(), layers=layers)

    @property
    def looks(self) -> FeatureExtractor | None:
        """The network by whose features images are alike: a judge, else the FID network."""
        return self.references[0][0] if self.references else self.inception

    @functools.cached_property
    def seen(self) -> UInt8[np.ndarray, "n s s c"]:
        """The training images among which the nearest are looked for."""
        if self.references:
            return self.train.pixels
        return self.train.pixels[reference_stats.subset_indices(len(self.train.pixels), MOST_SEEN)]

    @functools.cached_property
    def known(self) -> Float[np.ndarray, "n f"]:
        """What `looks` sees in each of them, kept beside the data set."""
        assert self.looks
        name = f"{self.train.key}-{self.looks.name}-{self.looks.kept}-each-{len(self.seen)}.npz"
        path = self.cache / name
        if not path.exists():
            log_info(f"looking at {len(self.seen):,} training images, once")
            atomic_io.write_npz(path, features=scoring.extract_features(self.seen, self.looks))
        return atomic_io.read_npz(path)["features"]

    def nearest(self, images: UInt8[np.ndarray, "n s s c"]) -> dict[str, np.ndarray]:
        """How near images come to the training images; nothing where no network can tell."""
        if self.looks is None:
            return {}
        return scoring.nearest_neighbours(images, self.looks, self.known, pixels=self.seen)

    def summary(
        self, images: ImageSplit, extractor: FeatureExtractor, samples: int | None = None
    ) -> FeatureStats:
        """A network's statistics of real images, all or so many, out of the cache if possible."""
        return reference_stats.cached_image_stats(images, extractor, self.cache, samples)

    @functools.cached_property
    def teacher(self) -> Run:
        """The teacher that was chosen.

        Raises:
          UserError: there is none yet, or every candidate has failed.
        """
        path = self.folder / "teacher.json"
        if not path.exists():
            raise UserError(self._why_no_teacher())
        chosen = workdir.read_study_json(path, "delete it, and the teacher is chosen again").get(
            "run"
        )
        return plan.find_run(self.config, str(chosen))

    def _why_no_teacher(self) -> str:
        candidates = plan.teacher_runs(self.config)
        if all(workdir.has_failed_for_good(self.folder, self.config, run) for run in candidates):
            return f"every teacher failed; see {self.folder / candidates[0].name / 'failed.json'}"
        names = ", ".join(run.name for run in candidates)
        return f"a student needs a teacher, and none is trained: run {names} first"

    @functools.cached_property
    def drawn_teacher(self) -> loop.TeacherNetworks:
        """The chosen teacher, ready to draw."""
        state = self.state(self.teacher)
        generator, variables = self.drawer(self.teacher)
        return loop.TeacherNetworks(self.teacher.name, generator, variables, state.critic)

    def member(self, run: Run) -> RunSpec:
        """A run as the train step takes it."""
        teacher = self.teacher if run.kind == "student" else None
        retries = workdir.retry_count(self.folder, run)
        return networks.make_run_spec(self.config, run, teacher, retries=retries)

    def state(self, run: Run) -> TrainState:
        """A trained run's last state.

        Raises:
          UserError: its checkpoint is damaged.
        """
        member = self.member(run)
        last = self.folder / run.name / "checkpoints" / str(member.spec.recipe.steps)
        if not is_intact(last):
            raise UserError(f"{last} is damaged; `gankd train --run={run.name}` sets it aside")
        like = jax.eval_shape(functools.partial(create_train_state, member.spec), member.seed)
        checkpoints = Checkpoints(self.folder / run.name / "checkpoints")
        try:
            return checkpoints.restore(member.spec.recipe.steps, like)
        finally:
            checkpoints.close()

    def drawer(self, run: Run) -> sampling.TrainedGenerator:
        """A trained run's generator and variables."""
        return self.draws(self.member(run), self.state(run))

    def draws(self, member: RunSpec, state: TrainState) -> sampling.TrainedGenerator:
        """A generator and the variables that it draws with at a state."""
        generator = member.spec.generator
        statistics = self.config.evaluation.statistics
        variables = inference.inference_variables(generator, state, statistics)
        return sampling.TrainedGenerator(generator, variables)
