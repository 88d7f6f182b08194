import pytest

from ntk_dist.units import first_few, format_bytes, format_count, format_seconds, parse_bytes


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


@pytest.mark.parametrize(
    ("text", "n_bytes"),
    [("32GB", 32 * 10**9), ("1.5 GiB", 3 * 2**29), ("512B", 512), (" 7kB ", 7000), ("7KiB", 7168)],
)
def test_sizes_from_people(text, n_bytes):
    assert parse_bytes(text) == n_bytes


@pytest.mark.parametrize("text", ["", "32", "GB", "-1GB", "1e3B", "32gb", "32GB/s", "inf GB"])
def test_what_is_no_size(text):
    with pytest.raises(ValueError, match="expected a size such as 32GB"):
        parse_bytes(text)


@pytest.mark.parametrize(
    ("n", "text"),
    [(0, ""), (1, "0"), (3, "0, 1, 2"), (4, "0, 1, 2, ..."), (10**9, "0, 1, 2, ...")],
)
def test_a_list_that_may_be_long(n, text):
    assert first_few(range(n), 3) == text


def test_ten_are_named_where_nobody_says_how_many():
    assert first_few("abcdefghijk") == "a, b, c, d, e, f, g, h, i, j, ..."
    assert first_few("abcdefghij") == "a, b, c, d, e, f, g, h, i, j"
