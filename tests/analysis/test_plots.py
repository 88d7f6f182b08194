import numpy as np
import pytest

from ntk_dist import NTKRegressor, stax
from ntk_dist.analysis.plots import plot_ridges
from ntk_dist.errors import InvalidInputError
from ntk_dist.solver import RidgeScore

pytest.importorskip("matplotlib")


def score(ridge, error, has_converged=True):
    return RidgeScore(ridge=ridge, error=error, residual=1e-5, has_converged=has_converged)


SCORES = [score(0.1, 0.3), score(0.0, 0.5), score(1e-3, 0.4), score(10.0, 0.9)]


def points(axes):
    """Where the circles are, as ``{x: (y, fill)}``; the last one that was drawn at each place."""
    return {
        float(line.get_xdata()[0]): (float(line.get_ydata()[0]), line.get_markerfacecolor())
        for line in axes.lines
        if line.get_marker() == "o" and len(line.get_xdata())
    }


def ticks(axes):
    return dict(zip(axes.get_xticks(), [t.get_text() for t in axes.get_xticklabels()], strict=True))


def test_every_ridge_is_drawn_and_the_chosen_one_is_marked(tmp_path):
    axes = plot_ridges(SCORES)
    drawn = points(axes)
    assert {x: y for x, (y, _) in drawn.items()} == {1e-4: 0.5, 1e-3: 0.4, 0.1: 0.3, 10.0: 0.9}
    fills = [drawn[x][1] for x in (1e-4, 1e-3, 10.0)]
    assert len(set(fills)) == 1
    assert drawn[0.1][1] not in fills
    assert "chosen: 0.1\nerror 0.3" in [text.get_text() for text in axes.texts]
    assert axes.get_xscale() == "log"
    assert ticks(axes)[1e-4] == "0"
    assert ticks(axes)[1e-3] == "$10^{-3}$"
    axes.figure.savefig(tmp_path / "ridges.png")
    assert (tmp_path / "ridges.png").stat().st_size > 5000


def test_without_ridge_zero_there_is_no_break():
    axes = plot_ridges([s for s in SCORES if s.ridge])
    assert "0" not in ticks(axes).values()
    assert [text.get_text() for text in axes.texts] == ["chosen: 0.1\nerror 0.3"]


def test_ridges_that_were_not_solved_are_hollow_and_never_chosen():
    axes = plot_ridges([score(1e-6, 0.1, False), score(1.0, 0.2)])
    drawn = points(axes)
    assert drawn[1e-6] == (0.1, "white")
    assert "chosen: 1\nerror 0.2" in [text.get_text() for text in axes.texts]
    assert [t.get_text() for t in axes.get_legend().get_texts()] == ["not solved"]
    none = plot_ridges([score(1.0, 0.2, False)])
    assert list(none.texts) == []


@pytest.mark.parametrize("ridge", [5e-324, 1e-300, 1e300, 1.7e308])
def test_ridges_beyond_any_axis_are_refused_in_words(ridge):
    with pytest.raises(InvalidInputError, match=r"between 1e-150 and 1e\+150 to draw, got "):
        plot_ridges([*SCORES, score(ridge, 0.5)])


def test_ridges_far_apart_are_drawn(tmp_path):
    axes = plot_ridges([score(0.0, 0.5), score(1e-150, 0.4), score(1e150, 0.3)])
    assert sorted(points(axes)) == [1e-151, 1e-150, 1e150]
    axes.figure.savefig(tmp_path / "ridges.png")


def test_errors_of_many_sizes_have_a_logarithmic_axis():
    assert plot_ridges(SCORES).get_yscale() == "linear"
    assert plot_ridges([score(0.0, 1e6), *SCORES[2:]]).get_yscale() == "log"


def test_a_report_is_drawn_where_it_is_asked_for(rng):
    x = rng.normal(size=(60, 3))
    net = stax.serial(stax.Dense(1, 2**0.5, 0.1), stax.Relu(), stax.Dense(1))
    model = NTKRegressor(net, ridge=[0.01, 1.0]).fit(x, np.sin(x[:, 0]))
    axes = plot_ridges(model.report_)
    assert sorted(points(axes)) == [0.01, 1.0]
    assert plot_ridges(model.report_.ridge_scores, axes) is axes
    with pytest.raises(InvalidInputError, match="single ridge; fit with ridge="):
        plot_ridges(NTKRegressor(net).fit(x, x[:, 0]).report_)
