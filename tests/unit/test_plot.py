"""Learning curves: who is averaged with whom, over which steps, and how sure one may be."""

import json

import numpy as np
import pytest
from matplotlib.figure import Figure

from protorl.cli.plot import _moving_average, bootstrap_interval, plot
from protorl.data import ProtoRLError


def make_run(folder, seed=0, recipe="dqn", env="CartPole-v1", points=20, last=1000, level=0.0, **settings):
    folder.mkdir(parents=True)
    config = {"recipe": recipe, "env": env, "recipe_config": {"env": env, "seed": seed, **settings}}
    (folder / "config.json").write_text(json.dumps(config))
    steps = np.linspace(last / points, last, points).astype(int)
    rows = [f"{step},{level + seed + step / 100}" for step in steps]
    (folder / "metrics.csv").write_text("\n".join(["step,return", *rows]) + "\n")
    return folder


@pytest.fixture
def drawn(monkeypatch):
    """What was drawn: lines and bands by panel, and the legend."""
    seen = {"figures": [], "notices": []}
    init = Figure.__init__

    def remember(self, *args, **kwargs):
        init(self, *args, **kwargs)
        seen["figures"].append(self)

    monkeypatch.setattr(Figure, "__init__", remember)
    return seen


def lines(figure, panel=0):
    return [(line.get_label(), line.get_xdata(), line.get_ydata()) for line in figure.axes[panel].get_lines()]


def test_three_seeds_are_a_mean_and_a_band(tmp_path, drawn):
    for seed in range(3):
        make_run(tmp_path / "runs" / f"seed-{seed}", seed)
    out = plot([tmp_path / "runs"], tmp_path / "deep" / "curve.png", smooth=1)
    assert out.read_bytes().startswith(b"\x89PNG")
    figure = drawn["figures"][0]
    [(label, steps, mean)] = lines(figure)
    assert label == "dqn (3 seeds)"
    np.testing.assert_allclose(mean, 1 + steps / 100)
    low, high = bootstrap_interval([0.0, 1.0, 2.0])
    band = figure.axes[0].collections[0].get_paths()[0].vertices
    at_end = band[band[:, 0] == 1000][:, 1]
    assert {at_end.min(), at_end.max()} == {10 + low, 10 + high}
    assert figure.axes[0].get_title() == "CartPole-v1"
    assert figure.axes[0].get_xlabel() == "agent steps"
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [label]
    assert figure.legends[0].get_title().get_text() == "mean over seeds with its 95% bootstrap interval"


def test_two_seeds_are_two_lines_without_a_band(tmp_path, drawn):
    runs = [make_run(tmp_path / str(seed), seed) for seed in range(2)]
    plot(runs, tmp_path / "curve.svg")
    figure = drawn["figures"][0]
    assert len(lines(figure)) == 2
    assert not figure.axes[0].collections
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["dqn (2 seeds)"]
    assert figure.legends[0].get_title().get_text() == ""
    plot(runs, tmp_path / "curve.svg", smooth=3)
    assert drawn["figures"][1].legends[0].get_title().get_text() == "moving average of 3 points"


@pytest.mark.parametrize("name", ["a", "a rather long name of a recipe that someone gave it"])
def test_the_legend_is_inside_the_figure_and_outside_the_data(tmp_path, drawn, name):
    runs = [make_run(tmp_path / str(i), recipe=f"{name}-{i}") for i in range(5)]
    plot(runs, tmp_path / "curve.png")
    figure = drawn["figures"][0]
    legend = figure.legends[0].get_window_extent()
    assert legend.x0 >= 0
    assert legend.x1 <= figure.bbox.x1
    assert legend.y1 <= figure.axes[0].get_tightbbox().y0 + 1


def test_settings_that_differ_are_other_curves_and_named(tmp_path, drawn):
    runs = [make_run(tmp_path / f"{lr}-{seed}", seed, lr=lr, gamma=0.99) for lr in (0.1, 0.2) for seed in range(3)]
    plot(runs, tmp_path / "curve.png")
    labels = [label for label, _, _ in lines(drawn["figures"][0])]
    assert labels == ["dqn, lr=0.1 (3 seeds)", "dqn, lr=0.2 (3 seeds)"]


def test_how_a_run_went_makes_no_other_curve(tmp_path, drawn):
    how = [{"accelerate": "aot", "threads": 2}, {"accelerate": "eager", "keep": 5}, {"backend": "async", "device": "cuda"}]
    runs = [make_run(tmp_path / str(seed), seed, lr=0.1, **settings) for seed, settings in enumerate(how)]
    plot(runs, tmp_path / "c.png")
    assert [label for label, _, _ in lines(drawn["figures"][-1])] == ["dqn (3 seeds)"]


def test_each_environment_has_a_panel(tmp_path, drawn):
    runs = [make_run(tmp_path / f"{recipe}{env}", recipe=recipe, env=env) for recipe in ("dqn", "ppo") for env in "ABCD"]
    plot(runs, tmp_path / "curve.pdf")
    figure = drawn["figures"][0]
    assert [axes.get_title() for axes in figure.axes if axes.get_visible()] == list("ABCD")
    assert [label for label, _, _ in lines(figure, 3)] == ["dqn (one seed)", "ppo (one seed)"]
    assert len(figure.legends[0].get_texts()) == 2


def test_different_steps_are_put_on_one_axis_and_the_mean_ends_with_the_shortest(tmp_path, drawn):
    runs = [make_run(tmp_path / str(i), last=last, points=n) for i, (last, n) in enumerate([(1000, 20), (500, 7), (1000, 9)])]
    notices = []
    plot(runs, tmp_path / "curve.png", smooth=1, notify=notices.append)
    [(_, steps, mean)] = lines(drawn["figures"][0])
    assert steps[-1] == 500
    np.testing.assert_allclose(mean, steps / 100, rtol=1e-12)
    assert len(notices) == 1
    assert "ends at step 500 of 1,000" in notices[0]


def test_evaluation_is_preferred_where_every_run_has_it(tmp_path, drawn):
    runs = [make_run(tmp_path / str(seed), seed) for seed in range(2)]
    (runs[0] / "metrics.csv").write_text("step,return,eval_return\n10,1.0,\n20,,5.0\n20,,6.0\n30,2.0,\n")
    plot(runs, tmp_path / "curve.png", smooth=1)
    assert drawn["figures"][0].axes[0].get_ylabel() == "training return (per episode)"
    (runs[1] / "metrics.csv").write_text("step,return,eval_return\n10,1.0,7.0\n")
    plot(runs, tmp_path / "curve.png")
    assert drawn["figures"][1].axes[0].get_ylabel() == "evaluation return (per episode)"
    [(_, steps, scores), _] = lines(drawn["figures"][1])
    assert (steps.tolist(), scores.tolist()) == ([20], [6])  # logged twice: the later row


def test_a_folder_without_a_config_is_named_by_itself(tmp_path, drawn):
    run = make_run(tmp_path / "mine")
    for text in (None, "{torn", "[]", '{"recipe": {"deep": 1}}'):
        (run / "config.json").unlink() if text is None else (run / "config.json").write_text(text)
        plot([run], tmp_path / "curve.png")
        assert lines(drawn["figures"][-1])[0][0] == "mine (one seed)"


def test_mistakes_are_one_sentence(tmp_path):
    run = make_run(tmp_path / "run")
    with pytest.raises(ProtoRLError, match="no run in"):
        plot([tmp_path / "none"], tmp_path / "curve.png")
    with pytest.raises(ProtoRLError, match="has no 'lost' yet; it has logged: return"):
        plot([run], tmp_path / "curve.png", metric="lost")
    with pytest.raises(ProtoRLError, match=r"cannot draw into .*curve\.txt: .* png"):
        plot([run], tmp_path / "curve.txt")
    with pytest.raises(ProtoRLError, match="smooth=0"):
        plot([run], tmp_path / "curve.png", smooth=0)
    (run / "metrics.csv").write_text("step,return\n")
    with pytest.raises(ProtoRLError, match="it has logged: nothing"):
        plot([run], tmp_path / "curve.png")
    with pytest.raises(ProtoRLError, match="at least two seeds"):
        bootstrap_interval([1.0])


def test_pyplot_keeps_its_own_figures(tmp_path):
    import sys

    before = "matplotlib.pyplot" in sys.modules
    plot([make_run(tmp_path / "run")], tmp_path / "curve.png")
    assert ("matplotlib.pyplot" in sys.modules) == before


def test_moving_average_against_the_obvious():
    scores = np.random.default_rng(0).normal(size=17)
    for width in (1, 2, 3, 6, 40):
        expected = [scores[max(0, i - (width - 1) // 2) : i + width // 2 + 1].mean() for i in range(17)]
        np.testing.assert_allclose(_moving_average(scores, width), expected)


def test_bootstrap_interval_of_two_seeds_by_hand():
    # Two seeds 0 and 1: the resampled mean is 0, 1/2, 1 with probabilities 1/4, 1/2, 1/4.
    assert bootstrap_interval([0.0, 1.0]) == (0.0, 1.0)
    assert bootstrap_interval([0.0, 1.0], level=0.4) == (0.5, 0.5)


def test_bootstrap_interval_against_scipy():
    from scipy.stats import bootstrap

    values = np.random.default_rng(1).normal(size=(10, 3)) * [1, 10, 100]
    low, high = bootstrap_interval(values, n=20_000)
    theirs = bootstrap((values,), np.mean, axis=0, n_resamples=20_000, method="percentile", random_state=0)
    scale = values.std(0)
    np.testing.assert_allclose(low / scale, theirs.confidence_interval.low / scale, atol=0.02)
    np.testing.assert_allclose(high / scale, theirs.confidence_interval.high / scale, atol=0.02)


def test_bootstrap_interval_draws_once_for_a_whole_curve():
    values = np.random.default_rng(2).normal(size=(5, 4))
    low, high = bootstrap_interval(values)
    alone = bootstrap_interval(values[:, 2])
    np.testing.assert_allclose((low[2], high[2]), alone)
    np.testing.assert_allclose(bootstrap_interval(values), bootstrap_interval(values))
