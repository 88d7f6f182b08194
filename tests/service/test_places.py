"""Which files a job of a caller may read."""

import pytest

from ntk_dist.errors import ForbiddenError, SettingsError, UnreadableDataError
from ntk_dist.service.places import Roots, require_executors


@pytest.fixture
def root(tmp_path):
    folder = tmp_path / "data"
    (folder / "deep").mkdir(parents=True)
    (folder / "a.npz").touch()
    (folder / "odd:name.npy").touch()
    (folder / "deep" / "b.npy").touch()
    (tmp_path / "secret.npy").touch()
    (tmp_path / "database").mkdir()
    (folder / "out.npy").symlink_to(tmp_path / "secret.npy")
    (folder / "away").symlink_to(tmp_path)
    (folder / "circle").symlink_to(folder / "circle")
    (folder / "inside.npy").symlink_to(folder / "deep" / "b.npy")
    return folder


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("a.npz", "a.npz"),
        ("a.npz:x", "a.npz:x"),
        ("deep/b.npy", "deep/b.npy"),
        ("deep//./b.npy", "deep/b.npy"),
        ("odd:name.npy", "odd:name.npy"),
        ("inside.npy", "deep/b.npy"),
    ],
)
def test_files_below_a_root_are_allowed(root, name, meant):
    assert Roots((str(root),)).path(f"{root}/{name}", "data.x") == f"{root.resolve()}/{meant}"


@pytest.mark.parametrize(
    "name",
    [
        "/etc/passwd",
        "{root}/../secret.npy",
        "{root}/deep/../../secret.npy",
        "{root}/a.npz:../../secret.npy",
        "{root}/out.npy",
        "{root}/away/secret.npy",
        "{root}base/x.npy",
        "{root}",
        "{root}/a.npz\n",
        "{root}/\0",
        "a.npz",
        "~/a.npz",
        "",
        ":",
        "file:///etc/passwd",
        "http://127.0.0.1/x.npy",
        "s3://other/x.npy",
        "s3://bucket/prefixed/x.npy",
        "s3://bucket/prefix/../x.npy",
        "s3://bucket/prefix//x.npy",
        "s3://bucket/prefix/",
        "S3://bucket/prefix/x.npy",
    ],
)
def test_everything_else_is_not(root, name):
    roots = Roots((str(root), "s3://bucket/prefix"))
    with pytest.raises(ForbiddenError, match=r"^data.x: expected upload://ID"):
        roots.path(name.format(root=root), "data.x")


def test_addresses_below_a_root_are_allowed():
    roots = Roots(("s3://bucket/prefix/",))
    assert roots.path("s3://bucket/prefix/x.npz:x", "data.x") == "s3://bucket/prefix/x.npz:x"


@pytest.mark.parametrize("name", ["nothing.npy", "circle", "a.npz/x"])
def test_a_file_that_is_not_there(root, name):
    with pytest.raises(UnreadableDataError, match="expected a data file"):
        Roots((str(root),)).path(f"{root}/{name}", "data.x")


@pytest.mark.parametrize("root", ["data", "./data", "~/data", "http://host/", "/a:b", ""])
def test_roots_that_make_no_sense(root):
    with pytest.raises(SettingsError, match="DATA_ROOTS"):
        Roots((root,))


@pytest.mark.parametrize("name", ["bogus", "", "local:0", "dask://nowhere", "Ray"])
def test_executors_that_there_are_not_are_refused_before_any_job(name):
    with pytest.raises(SettingsError, match=r"SERVICE__EXECUTORS: .*'local', .*'dask', .*got"):
        require_executors(("local", name))
    require_executors(
        ("local", "local:4", "dask", "dask://h:1", "ray:auto", "ray://h:1", "tls://h:1")
    )
