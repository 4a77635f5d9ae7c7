import pytest

from minigpt.serve.metrics import FAMILIES, Metrics


def test_counters_add_up_by_their_labels():
    metrics = Metrics()
    metrics.count("minigpt_requests_total", "/v1/models", "200")
    metrics.count("minigpt_requests_total", "/v1/models", "200", by=2)
    metrics.count("minigpt_requests_total", "/v1/models", "404")
    text = metrics.text([("minigpt_running", ("m",), 2.5)])
    assert 'minigpt_requests_total{path="/v1/models",status="200"} 3\n' in text
    assert 'minigpt_requests_total{path="/v1/models",status="404"} 1\n' in text
    assert 'minigpt_running{model="m"} 2.5\n' in text


def test_a_histogram_counts_what_is_at_most_its_bound():
    metrics = Metrics()
    for seconds in (0.005, 0.006, 7.0, 1000.0):
        metrics.observe("minigpt_text_seconds", "m", seconds=seconds)
    text = metrics.text([])
    for bound, count in (
        ("0.005", 1),
        ("0.01", 2),
        ("5.0", 2),
        ("10.0", 3),
        ("120.0", 3),
        ("+Inf", 4),
    ):
        assert f'minigpt_text_seconds_bucket{{model="m",le="{bound}"}} {count}\n' in text
    assert 'minigpt_text_seconds_sum{model="m"} 1007.011' in text
    assert 'minigpt_text_seconds_count{model="m"} 4\n' in text


def test_a_name_with_signs_of_the_format_stays_one_label():
    metrics = Metrics()
    metrics.count("minigpt_prompt_tokens_total", 'a"b\\c\nd')
    assert 'minigpt_prompt_tokens_total{model="a\\"b\\\\c\\nd"} 1\n' in metrics.text([])


def test_each_family_says_what_it_is_once():
    text = Metrics().text([])
    for name, (kind, what, _) in FAMILIES.items():
        assert text.count(f"# HELP {name} {what}\n# TYPE {name} {kind}\n") == 1


def test_labels_must_be_those_of_the_family():
    metrics = Metrics()
    metrics.count("minigpt_requests_total", "only one")
    with pytest.raises(ValueError, match="zip"):
        metrics.text([])
