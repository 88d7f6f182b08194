"""Models on disk: whole, bound together, and refused otherwise."""

import json
import shutil

import numpy as np
import pytest

from ntk_dist import NTKClassifier, NTKRegressor, stax
from ntk_dist.errors import ArtifactError, StoreUnreachableError
from ntk_dist.model.load import find_model, load_model

FC = stax.serial(stax.Dense(1, 2**0.5, 0.1), stax.Relu(), stax.Dense(1))


@pytest.fixture
def problem(rng):
    x = rng.normal(size=(40, 3))
    return x, x[:, 0] * x[:, 1], rng.normal(size=(10, 3))


@pytest.fixture
def saved(problem, tmp_path):
    x, y, _ = problem
    model = NTKRegressor(FC, preprocess=["standardize"]).fit(x, y)
    model.save(tmp_path / "model")
    return tmp_path / "model"


def test_a_model_of_either_kind_is_found_and_opened(problem, saved, tmp_path):
    x, y, new = problem
    NTKClassifier(FC).fit(x, y > 0).save(tmp_path / "versions/2")
    shutil.copytree(saved, tmp_path / "versions/10")
    assert str(find_model(tmp_path / "versions")) == str(tmp_path / "versions/10")
    assert isinstance(load_model(tmp_path / "versions/2"), NTKClassifier)
    assert load_model(saved).predict(new).shape == (10,)


def test_nothing_that_is_no_part_of_a_model_is_deleted(problem, saved):
    x, y, _ = problem
    (saved / "notes.txt").write_text("keep me")
    with pytest.raises(ArtifactError, match=r"notes\.txt"):
        NTKRegressor(FC).fit(x, y).save(saved)
    assert (saved / "notes.txt").read_text() == "keep me"


@pytest.mark.parametrize("name", ["x" * 300, "y/" + "x" * 300, "x" * 300 + "/y"])
def test_a_name_that_no_folder_can_have_is_refused_in_words(problem, tmp_path, name):
    x, y, _ = problem
    with pytest.raises(StoreUnreachableError, match="File name too long"):
        NTKRegressor(FC).fit(x, y).save(tmp_path / name)


def test_saving_through_a_link_replaces_what_it_means(problem, saved, tmp_path):
    x, y, new = problem
    link = tmp_path / "link"
    link.symlink_to(saved)
    model = NTKRegressor(FC).fit(x, -y)
    model.save(link)
    assert link.is_symlink()
    np.testing.assert_array_equal(NTKRegressor.load(saved).predict(new), model.predict(new))


def test_a_model_that_is_replaced_while_open_is_not_answered_with(problem, saved):
    x, y, new = problem
    opened = NTKRegressor.load(saved)
    NTKRegressor(FC).fit(3 * x, y).save(saved)
    with pytest.raises(ArtifactError, match="load it again"):
        opened.predict(new)
    shutil.rmtree(saved)
    with pytest.raises(ArtifactError, match="gone"):
        opened.predict(new)


@pytest.mark.parametrize("part", ["rows", "dual_coef", "arrays", "statistics"])
def test_parts_of_two_models_are_refused(problem, saved, tmp_path, part):
    x, y, _ = problem
    NTKRegressor(FC, preprocess=["standardize"]).fit(x**3, y + 1).save(tmp_path / "other")
    shutil.rmtree(saved / part)
    shutil.copytree(tmp_path / "other" / part, saved / part)
    with pytest.raises(ArtifactError, match=f"{part} belongs to another model"):
        NTKRegressor.load(saved)


@pytest.mark.parametrize(
    "edit",
    [
        lambda record: record.update(preprocess=[]),
        lambda record: record["parameters"].update(kernel="nngp"),
        lambda record: record.pop("report"),
        lambda record: record.update(format=99),
    ],
)
def test_an_edited_record_is_refused(saved, edit):
    record = json.loads((saved / "model.json").read_text())
    edit(record)
    (saved / "model.json").write_text(json.dumps(record))
    with pytest.raises(ArtifactError):
        NTKRegressor.load(saved)


@pytest.mark.parametrize("part", ["rows", "dual_coef", "arrays", "statistics", "model.json"])
def test_a_missing_part_is_named(saved, part):
    if (saved / part).is_dir():
        shutil.rmtree(saved / part)
    else:
        (saved / part).unlink()
    with pytest.raises(ArtifactError):
        load_model(saved)


def test_another_kind_of_model_is_refused(saved):
    with pytest.raises(ArtifactError, match="expected a NTKClassifier, got a NTKRegressor"):
        NTKClassifier.load(saved)


def test_a_folder_without_a_model_is_refused(tmp_path):
    with pytest.raises(ArtifactError, match="expected a model folder"):
        find_model(tmp_path)
    (tmp_path / "7").mkdir()
    with pytest.raises(ArtifactError, match=r"got no model\.json there$"):
        NTKRegressor.load(tmp_path)


def test_a_folder_of_versions_is_refused_with_the_name_of_one(saved, tmp_path):
    shutil.copytree(saved, tmp_path / "versions/2")
    shutil.copytree(saved, tmp_path / "versions/10")
    (tmp_path / "versions/11").mkdir()
    words = rf"got a folder of versions: name one of them, such as {tmp_path}/versions/10$"
    with pytest.raises(ArtifactError, match=words):
        NTKRegressor.load(tmp_path / "versions")
