"""The networks that a config names, and what must be there for them before any work."""

import numpy as np
import pytest
import tiny

from gankd_jax.interop import inception_weights
from gankd_jax.models.classifiers import WhitenedConvNet
from gankd_jax.models.dcgan import DCGANCritic
from gankd_jax.models.inception import InceptionMaps, parameter_shapes
from gankd_jax.study import networks, plan
from gankd_jax.study.plan import Run
from gankd_jax.study.runner import validate_study
from gankd_jax.utils.errors import UserError


@pytest.fixture
def empty_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


def write_weights(layer: str) -> None:
    """Writes weights of the FID network up to a layer, all 0."""
    path = inception_weights.default_weights_path()
    path.parent.mkdir(parents=True, exist_ok=True)
    shapes = parameter_shapes([layer])
    arrays = {
        f"{name}/{part}": np.zeros(shape, np.float32)
        for name, parts in shapes.items()
        for part, shape in parts.items()
    }
    np.savez(path, **arrays)


def config_with(network: str, name: str = "mnist"):
    fields = {"recipes__mse__features": "l1", "recipes__mse__feature_network": network}
    return tiny.repository_config(name, **fields)


def feature_network(config):
    [teacher] = plan.teacher_runs(config)
    student = plan.student_runs(config)[0]
    return networks.make_run_spec(config, student, teacher).spec.feature_network


def test_a_recipe_names_the_network_in_whose_layers_images_are_compared(empty_cache):
    assert isinstance(feature_network(config_with("critic")), DCGANCritic)
    classifier = feature_network(config_with("classifier"))
    assert isinstance(classifier, WhitenedConvNet)
    assert (classifier.classes, classifier.channels) == (10, 1)
    write_weights("192")
    assert feature_network(config_with("inception")) == InceptionMaps(("64", "192"))
    assert feature_network(tiny.repository_config("mnist")) is None


def test_features_of_a_classifier_need_labels():
    with pytest.raises(UserError, match="feature_network is classifier, and celeb_a has no labels"):
        validate_study(config_with("classifier", "celeb_a"))
    validate_study(config_with("critic", "celeb_a"))


def test_an_image_size_that_no_classifier_takes_is_refused_where_there_are_labels():
    for size in (28, 36, 100):
        message = (
            rf"config\.data\.image_size is {size}, and the classifiers .* of mnist need a mult"
        )
        with pytest.raises(UserError, match=message):
            validate_study(tiny.repository_config("mnist", data__image_size=size))
    validate_study(tiny.repository_config("mnist", data__image_size=24))
    validate_study(tiny.repository_config("celeb_a", data__image_size=100))  # without labels


@pytest.mark.slow
def test_features_of_the_fid_network_need_its_weights(empty_cache):
    config = config_with("inception")
    with pytest.raises(UserError, match=r"no Inception weights; `gankd weights fetch` downloads"):
        validate_study(config)
    write_weights("64")
    validate_study(config)
    path = inception_weights.default_weights_path()
    shape = parameter_shapes(["64"])["conv"]["kernel"]
    np.savez(path, **{"conv/kernel": np.zeros(shape, np.float32)})
    with pytest.raises(UserError, match="has no weights of layer 64: `gankd weights fetch`"):
        validate_study(config)


def test_the_networks_of_two_students_are_named_once():
    config = config_with("critic")
    with config.unlocked():
        config.recipes.joint.features = "energy"
    assert networks.feature_network_names(config) == {"critic"}
    assert networks.feature_network_names(tiny.repository_config("mnist")) == set()


def test_what_is_sampled_scored_and_exported_does_not_know_the_precision_of_training():
    run = Run("student", "mse", 1, 0)
    exact, rounded = (tiny.config(model__precision=name) for name in ("float32", "bfloat16"))
    teacher = plan.widest_teacher(exact)
    assert networks.build_generator(exact, run) == networks.build_generator(rounded, run)
    specs = [networks.make_run_spec(config, run, teacher) for config in (exact, rounded)]
    assert specs[0] == specs[1]
