"""The variance of the Laplacian: values by hand, SciPy's and OpenCV's, and its direction."""

import numpy as np
import pytest
from scipy import ndimage

from gankd_jax.metrics.sharpness import variance_of_laplacian


def noise_images(channels: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (3, 9, 7, channels), np.uint8)


def test_variance_for_one_bright_pixel_equals_the_value_by_hand() -> None:
    image = np.zeros((1, 5, 5, 1), np.uint8)
    image[0, 2, 2, 0] = 10
    # -40 at the pixel, 10 at its four neighbours, mean 0: (1600 + 4 * 100) / 25
    np.testing.assert_allclose(variance_of_laplacian(image), [80.0], rtol=1e-12)


def test_grey_images_equal_scipy_laplacian() -> None:
    images = noise_images(1)
    expected = [ndimage.laplace(x[..., 0].astype(float), mode="mirror").var() for x in images]
    np.testing.assert_allclose(variance_of_laplacian(images), expected, rtol=1e-12)


def test_colour_is_converted_to_rounded_luma() -> None:
    colour = np.zeros((3, 4, 4, 3), np.uint8)
    colour[[0, 1, 2], 1, 1, [0, 1, 2]] = 200
    levels = np.zeros((3, 4, 4, 1), np.uint8)
    levels[:, 1, 1, 0] = [60, 117, 23]  # 200 * (0.299, 0.587, 0.114) rounded
    np.testing.assert_array_equal(variance_of_laplacian(colour), variance_of_laplacian(levels))


@pytest.mark.parametrize("channels", [1, 3])
def test_variance_equals_opencv(channels: int) -> None:
    cv2 = pytest.importorskip("cv2", reason="opencv-python-headless is not installed")
    images = noise_images(channels)
    greys = [cv2.cvtColor(x, cv2.COLOR_RGB2GRAY) if channels == 3 else x[..., 0] for x in images]
    expected = [cv2.Laplacian(grey, cv2.CV_64F).var() for grey in greys]
    np.testing.assert_allclose(variance_of_laplacian(images), expected, rtol=1e-12)


def test_blur_lowers_the_variance_and_flat_images_have_zero() -> None:
    sharp = noise_images(3)
    blurred = ndimage.gaussian_filter(sharp, (0, 1, 1, 0))
    assert (variance_of_laplacian(blurred) < variance_of_laplacian(sharp)).all()
    np.testing.assert_array_equal(variance_of_laplacian(np.full((2, 6, 6, 3), 77, np.uint8)), 0)
