import gzip
import threading

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pa_parquet
import pytest

from ntk_dist.errors import UnreadableDataError
from ntk_dist.store.inputs import read_array

IRIS = "sepal,petal,species\n5.1,1,setosa\n6.5,2,virginica\n"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a,b\n1,2\n3,4.5\n", [[1, 2], [3, 4.5]]),
        ("1,2\n3,4.5\n", [[1, 2], [3, 4.5]]),
        ("1,2\n3,4.5", [[1, 2], [3, 4.5]]),
        ("\ufeffa,b\r\n1,2\r\n", [[1, 2]]),
        ('"fixed acidity";"pH"\n7.4;3.5\n', [[7.4, 3.5]]),
        ("a\tb\n1\t2\n", [[1, 2]]),
        ("\n\na,b\n1,2\n", [[1, 2]]),
        ("0,1,2\n5,6,7\n", [[5, 6, 7]]),
        ("0,1\n5,6\n", [[0, 1], [5, 6]]),
        ("label,0,1\n5,6,7\n", [[5, 6, 7]]),
        ("1e3,-2\n,nan\n", [[1000, -2], [np.nan, np.nan]]),
        ("NA,2\n3,4\n", [[np.nan, 2], [3, 4]]),
        ("a,b\ntrue,1\nfalse,2\n", [[1, 1], [0, 2]]),
        ("7\n8\n", [[7], [8]]),
    ],
)
@pytest.mark.parametrize("compressed", [False, True])
def test_all_columns_of_a_csv(write, text, expected, compressed):
    content = text.encode()
    name, content = ("t.csv.gz", gzip.compress(content)) if compressed else ("t.csv", content)
    got = read_array(write(name, content))
    assert got.dtype == np.float64
    np.testing.assert_array_equal(got, np.array(expected, float))


def test_selected_columns(write):
    path = write("iris.csv", IRIS)
    np.testing.assert_array_equal(read_array(f"{path}:species"), ["setosa", "virginica"])
    whole = read_array(f"{path}:petal")
    assert whole.dtype.kind == "i"
    np.testing.assert_array_equal(whole, [1, 2])
    np.testing.assert_array_equal(read_array(f"{path}:petal,sepal"), [[1, 5.1], [2, 6.5]])


def test_columns_without_a_header_are_counted(write):
    path = write("t.csv", "5.1,1,setosa\n6.5,2,virginica\n")
    np.testing.assert_array_equal(read_array(f"{path}:2"), ["setosa", "virginica"])
    np.testing.assert_array_equal(read_array(f"{path}:0,1"), [[5.1, 1], [6.5, 2]])


def test_a_column_may_have_a_comma_in_its_name(write):
    path = write("t.csv", 'x,"weight, kg"\n1,2\n')
    np.testing.assert_array_equal(read_array(f"{path}:weight, kg"), [2])


@pytest.mark.parametrize(
    ("text", "columns", "message"),
    [
        (IRIS, "", "column 'species': expected numbers, got string; select columns"),
        (IRIS, ":sepal,species", "column 'species': expected numbers"),
        (IRIS, ":colour", "expected one column 'colour', got 0; .* sepal, petal, species"),
        ("a,a\n1,2\n", ":a", "expected one column 'a', got 2"),
        ("a,b\n1,2020-01-02\n", ":b", "column 'b': expected numbers, got date32"),
        ("a,b\n1,\n2,\n", "", "column 'b': expected numbers, got null"),
        ("a,b\n1,2\n1,2,3\n", "", "cannot be read .*Expected 2 columns, got 3"),
        ("", "", "empty file"),
        ("\n\n", "", "empty file"),
    ],
)
def test_what_cannot_be_read_from_a_csv_is_named(write, text, columns, message):
    with pytest.raises(UnreadableDataError, match=message):
        read_array(f"{write('t.csv', text)}{columns}")


@pytest.mark.parametrize(
    "content", [b"\xff\xfe,\x00\n1,2\n", gzip.compress(b"a,b\n1,2\n")], ids=["utf-16", "gzip"]
)
def test_bytes_that_are_no_text(write, content):
    with pytest.raises(UnreadableDataError, match="cannot be read"):
        read_array(write("t.csv", content))


@pytest.mark.parametrize("keep", [5, 0.5, 0.99])
def test_a_truncated_gzip_is_unreadable(write, keep):
    rows = np.random.default_rng(0).standard_normal((500, 2))
    content = gzip.compress("\n".join(f"{a},{b}" for a, b in rows).encode())
    cut = content[: int(keep * len(content)) if keep < 1 else keep]
    with pytest.raises(UnreadableDataError, match="cannot be read"):
        read_array(write("t.csv.gz", cut))


def test_no_thread_of_pyarrow_touches_an_object_of_python(write, monkeypatch):
    readers, read = set(), gzip.GzipFile.read

    def watched(file, size=-1):
        readers.add(threading.get_ident())
        return read(file, size)

    monkeypatch.setattr(gzip.GzipFile, "read", watched)
    read_array(write("t.csv.gz", gzip.compress(IRIS.encode())).as_posix() + ":petal")
    assert readers == {threading.get_ident()}


@pytest.fixture
def parquet(tmp_path):
    table = pa.table(
        {
            "a": pa.array([1, 2, 3], pa.int32()),
            "b": pa.array([0.5, None, 2.5]),
            "kind": pa.array(["x", "y", "x"]).dictionary_encode(),
            "hole": pa.array(["x", None, "x"]),
            "list": pa.array([[1], [2], [3]]),
        }
    )
    pa_parquet.write_table(table, tmp_path / "t.parquet")
    return tmp_path / "t.parquet"


def test_columns_of_a_parquet_file(parquet):
    np.testing.assert_array_equal(read_array(f"{parquet}:a,b"), [[1, 0.5], [2, np.nan], [3, 2.5]])
    np.testing.assert_array_equal(read_array(f"{parquet}:b"), [0.5, np.nan, 2.5])
    np.testing.assert_array_equal(read_array(f"{parquet}:kind"), ["x", "y", "x"])
    assert read_array(f"{parquet}:a").dtype == np.int32


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ("", "column 'kind': expected numbers, got string"),
        (":hole", "column 'hole' has no text in 1 rows: 1"),
        (":list", "column 'list': expected numbers, got list"),
    ],
)
def test_what_cannot_be_read_from_parquet_is_named(parquet, columns, message):
    with pytest.raises(UnreadableDataError, match=message):
        read_array(f"{parquet}{columns}")


@pytest.mark.parametrize("keep", [0, 10, 0.5, 0.98])
def test_a_truncated_parquet_file_is_unreadable(parquet, write, keep):
    content = parquet.read_bytes()
    cut = write("cut.parquet", content[: int(keep * len(content)) if keep < 1 else keep])
    with pytest.raises(UnreadableDataError, match="cannot be read"):
        read_array(cut)
