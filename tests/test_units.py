import pytest

from ntk_dist.units import format_bytes, format_count, format_seconds


@pytest.mark.parametrize(
    ("n_bytes", "text"), [(0, "0 B"), (1536, "1.5 KiB"), (5 * 2**30, "5.0 GiB"), (2**50, "1.0 PiB")]
)
def test_bytes_for_people(n_bytes, text):
    assert format_bytes(n_bytes) == text


@pytest.mark.parametrize(
    ("count", "text"), [(0.584, "0.58"), (9.96, "10"), (457.3, "460"), (7_512_345, "7,500,000")]
)
def test_counts_for_people(count, text):
    assert format_count(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.04, "0.04 s"),
        (119, "119.0 s"),
        (120, "2.0 min"),
        (7200, "2.0 h"),
        (864000, "10.0 days"),
    ],
)
def test_durations_for_people(seconds, text):
    assert format_seconds(seconds) == text
