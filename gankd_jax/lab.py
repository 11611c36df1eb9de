"""A study in work: its config and folder, and what its parts share."""

import dataclasses
import functools
from pathlib import Path

import jax
import ml_collections
import numpy as np
from jaxtyping import Float, UInt8

from gankd_jax import evaluate, runs, sampling, workdir
from gankd_jax.data.load import Images, default_data_dir, load_split
from gankd_jax.errors import UserError
from gankd_jax.extractor import inception_extractor
from gankd_jax.interop import inception_weights
from gankd_jax.judge import Judge, judge
from gankd_jax.metrics import statistics
from gankd_jax.metrics.features import Extractor, Summary, summarize
from gankd_jax.runs import Run
from gankd_jax.runtime import files
from gankd_jax.runtime.checkpoint import Checkpoints, is_sound
from gankd_jax.training import loop
from gankd_jax.training.group import Member
from gankd_jax.training.state import State, init


@dataclasses.dataclass(frozen=True)
class Lab:
    """What is shared is made when it is first asked for."""

    config: ml_collections.ConfigDict
    folder: Path

    @functools.cached_property
    def data_dir(self) -> Path:
        """Where the data sets lie."""
        return Path(self.config.data.dir) if self.config.data.dir else default_data_dir()

    def split(self, name: str) -> Images:
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
    def train(self) -> Images:
        """The training images, without those held out."""
        return self.split("train")

    @functools.cached_property
    def judges(self) -> tuple[Judge, ...]:
        """The data set's classifiers; none where it has no labels."""
        if self.train.labels is None:
            return ()
        test, cache = self.split("test"), self.data_dir / "gankd_cache"
        return tuple(judge(self.train, test, cache, kind) for kind in self.config.evaluation.judges)

    @functools.cached_property
    def extractors(self) -> tuple[Extractor, ...]:
        """The networks whose features are compared: judges, and the FID network if asked for."""
        evaluation = self.config.evaluation
        found = [judge.extractor(evaluation.batch_size) for judge in self.judges]
        if evaluation.layers:
            weights = inception_weights.default_path()
            found.append(inception_extractor(weights, layers=evaluation.layers))
        return tuple(found)

    @functools.cached_property
    def known(self) -> Float[np.ndarray, "n f"]:
        """The first network's features of every training image, kept beside the data set."""
        name = f"{self.train.key}-{self.extractors[0].name}-every.npz"
        path = self.data_dir / "gankd_cache" / name
        if not path.exists():
            found = evaluate.features_of(self.train.pixels, self.extractors[0])
            files.write_arrays(path, features=found)
        return files.read_arrays(path)["features"]

    def nearest(self, images: UInt8[np.ndarray, "n s s c"]) -> dict[str, np.ndarray]:
        """How near images come to the training images; nothing where no network can tell."""
        if not self.extractors:
            return {}
        return evaluate.nearest(images, self.extractors[0], self.known, pixels=self.train.pixels)

    @functools.cached_property
    def references(self) -> list[tuple[Extractor, Summary]]:
        """Each network with its statistics of the training images, kept beside the data set."""
        return [(extractor, self.summary(self.train, extractor)) for extractor in self.extractors]

    def summary(self, images: Images, extractor: Extractor) -> Summary:
        """A network's statistics of real images, out of the cache where they are."""
        cache, key = self.data_dir / "gankd_cache", f"{images.key}-{extractor.name}"
        found = statistics.read_cached(cache, key, extractor.distances)
        if found is None:
            batches = evaluate.in_batches(images.pixels, extractor.batch_size)
            found = summarize(batches, extractor, count=len(images.pixels))
            statistics.write(found, cache, key)
        return found

    @functools.cached_property
    def teacher(self) -> Run:
        """The teacher that was chosen.

        Raises:
          UserError: there is none yet.
        """
        path = self.folder / "teacher.json"
        if not path.exists():
            names = ", ".join(run.name for run in runs.teachers(self.config))
            raise UserError(f"a student needs a teacher, and none is trained: run {names} first")
        chosen = workdir.read_json(path, "delete it, and the teacher is chosen again").get("run")
        return runs.find(self.config, str(chosen))

    @functools.cached_property
    def drawn_teacher(self) -> loop.Teacher:
        """The chosen teacher, ready to draw."""
        state = self.state(self.teacher)
        generator, variables = self.drawer(self.teacher)
        return loop.Teacher(self.teacher.name, generator, variables, state.critic)

    def member(self, run: Run) -> Member:
        """A run as the train step takes it."""
        teacher = self.teacher if run.kind == "student" else None
        retries = workdir.retries(self.folder, run)
        return runs.member(self.config, run, teacher, retries=retries)

    def state(self, run: Run) -> State:
        """A trained run's last state.

        Raises:
          UserError: its checkpoint is damaged.
        """
        member = self.member(run)
        last = self.folder / run.name / "checkpoints" / str(member.spec.recipe.steps)
        if not is_sound(last):
            raise UserError(f"{last} is damaged; `gankd train --run={run.name}` sets it aside")
        like = jax.eval_shape(functools.partial(init, member.spec), member.seed)
        checkpoints = Checkpoints(self.folder / run.name / "checkpoints")
        try:
            return checkpoints.restore(member.spec.recipe.steps, like)
        finally:
            checkpoints.close()

    def drawer(self, run: Run) -> evaluate.Drawer:
        """A trained run's generator and variables."""
        return self.draws(self.member(run), self.state(run))

    def draws(self, member: Member, state: State) -> evaluate.Drawer:
        """A generator and the variables that it draws with at a state."""
        generator = member.spec.generator
        statistics = self.config.evaluation.statistics
        return generator, sampling.inference_variables(generator, state, statistics)
