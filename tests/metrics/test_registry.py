from gankd_jax.metrics.registry import CLASSIFIER, INCEPTION_LAYERS, METRICS, get_metric


def test_every_metric_is_found_by_its_key():
    assert all(get_metric(key) is metric and metric.key == key for key, metric in METRICS.items())


def test_an_unknown_key_gives_a_metric_without_a_better_side():
    metric = get_metric("my_score")
    assert (metric.title, metric.better, metric.main) == ("my_score", "", False)


def test_distances_by_the_fid_network_are_one_metric_from_the_widest_layer():
    keys = [m.key for m in METRICS.values() if m.name == "frechet_distance" and m.main]
    assert keys == ["fid", "fd_768", "fd_192", "fd_64", "fd_classifier", "fd_mixer"]
    assert [METRICS[key].network for key in keys[:4]] == list(INCEPTION_LAYERS)


def test_a_title_says_which_side_is_better():
    assert METRICS["fd_64"].title == "Fréchet distance, 64-wide layer (lower is better)"
    assert METRICS["sharpness"].better == ""
    assert METRICS["precision_classifier"].network == CLASSIFIER
