import json
from dataclasses import fields, replace

import pytest

from ntk_dist.errors import ManifestMismatchError
from ntk_dist.store.manifest import Manifest

MANIFEST = Manifest(
    architecture="a1",
    data_rows="d1",
    data_cols="d1",
    n_rows=23,
    n_cols=23,
    block_rows=10,
    symmetric=True,
    kernels=("nngp", "ntk"),
    dtype="float32",
    device_kind="cpu",
)
OTHER = Manifest(
    architecture="a2",
    data_rows="d2",
    data_cols="d2",
    n_rows=24,
    n_cols=24,
    block_rows=11,
    symmetric=False,
    kernels=("ntk",),
    dtype="float64",
    device_kind="gpu",
    format=2,
)
IDENTITY = [field.name for field in fields(Manifest) if field.name != "package_version"]


def test_a_manifest_survives_json():
    assert Manifest.from_dict(json.loads(json.dumps(MANIFEST.to_dict()))) == MANIFEST


@pytest.mark.parametrize("field", IDENTITY)
def test_every_field_but_the_version_is_identity(field):
    other = replace(MANIFEST, **{field: getattr(OTHER, field)})
    assert other.key != MANIFEST.key
    with pytest.raises(ManifestMismatchError, match=rf"at here .*\({field}: expected .*, got "):
        MANIFEST.require_same(other, "here")


def test_the_order_of_kernels_is_no_identity():
    other = replace(MANIFEST, kernels=("ntk", "nngp"))
    assert other == MANIFEST
    assert other.key == MANIFEST.key


def test_the_package_version_is_no_identity():
    newer = replace(MANIFEST, package_version="99")
    assert newer.key == MANIFEST.key
    MANIFEST.require_same(newer, "here")


@pytest.mark.parametrize("record", [{}, {**MANIFEST.to_dict(), "colour": "red"}])
def test_fields_of_another_version_are_refused(record):
    with pytest.raises(ManifestMismatchError, match="another version"):
        Manifest.from_dict(record)
