"""The functions of the report: in its cells, as they stand, and in plots."""

from types import SimpleNamespace

import matplotlib
import numpy as np
import pytest
import torch
from torch.distributions import Normal
from torch.distributions import kl_divergence as reference_kl

import plots
from mnist import load
from network import CVAE

Report = SimpleNamespace


@pytest.fixture
def digits(
    monkeypatch: pytest.MonkeyPatch,
) -> tuple[torch.Tensor, torch.Tensor]:
    monkeypatch.setenv("DEMO", "1")
    return load("MNIST", train=True)


def small_cvae(latent_dim: int = 2) -> CVAE:
    torch.manual_seed(0)
    return CVAE(latent_dim, width=64)


def quick(
    report: Report, model: CVAE, data: tuple, **options
) -> torch.Tensor:
    defaults = {"epochs": 8, "batch_size": 64, "learning_rate": 3e-3}
    return report.train(model, *data, **defaults | options)


def test_kl_divergence_and_its_gradients(report: Report) -> None:
    mu = torch.randn(6, 4, dtype=torch.float64, requires_grad=True)
    logvar = torch.randn(6, 4, dtype=torch.float64, requires_grad=True)
    ours = report.kl_divergence(mu, logvar)
    theirs = reference_kl(Normal(mu, (0.5 * logvar).exp()), Normal(0, 1))
    torch.testing.assert_close(ours, theirs.sum(dim=1))
    weights = torch.rand(6, dtype=torch.float64)
    for one, other in zip(
        torch.autograd.grad((ours * weights).sum(), (mu, logvar)),
        torch.autograd.grad((theirs.sum(1) * weights).sum(), (mu, logvar)),
        strict=True,
    ):
        torch.testing.assert_close(one, other)


def test_reconstruction_loss_and_its_gradients(report: Report) -> None:
    """Against the formula, on grey pixels: no library in between."""
    logits = torch.randn(3, 1, 28, 28, dtype=torch.float64)
    logits.requires_grad_()
    grey = torch.rand(3, 1, 28, 28, dtype=torch.float64)
    ours = report.reconstruction_loss(logits, grey)
    pi = 1 / (1 + torch.exp(-logits))
    theirs = -(grey * pi.log() + (1 - grey) * (1 - pi).log())
    torch.testing.assert_close(ours, theirs.sum((1, 2, 3)))
    (gradient,) = torch.autograd.grad(ours.sum(), logits)
    torch.testing.assert_close(gradient, (pi - grey).detach())


def test_loss_terms_are_those_of_each_image(report: Report) -> None:
    model = small_cvae()
    images, labels = torch.rand(5, 1, 28, 28), torch.arange(5)
    torch.manual_seed(3)
    reconstruction, kl = report.loss_terms(model, images, labels)
    torch.manual_seed(3)
    logits, mu, logvar = model(images, labels)
    torch.testing.assert_close(
        reconstruction, report.reconstruction_loss(logits, images)
    )
    torch.testing.assert_close(kl, report.kl_divergence(mu, logvar))


def test_training_lowers_the_loss_and_calls_after_every_epoch(
    report: Report, digits: tuple
) -> None:
    seen = []
    history = quick(report, small_cvae(), digits, after_epoch=seen.append)
    assert seen == list(range(1, 9))
    assert history.shape == (8, len(digits[0]) // 64, 2)
    first, last = history.sum(dim=2)[[0, -1]].mean(dim=1)
    assert last < 0.75 * first
    # the rounded matrix products are the training's alone
    assert torch.get_float32_matmul_precision() == "highest"


def test_the_same_seed_gives_the_same_weights(
    report: Report, digits: tuple
) -> None:
    def weights(seed: int, **options) -> torch.Tensor:
        model = small_cvae()
        if options.pop("watch", False):
            options["after_epoch"] = lambda _: report.evaluate(model, *digits)
        quick(report, model, digits, epochs=2, seed=seed, **options)
        return torch.nn.utils.parameters_to_vector(model.parameters())

    # looking at the held-out loss between epochs changes nothing
    assert torch.equal(weights(1), weights(1, watch=True))
    assert not torch.equal(weights(1), weights(2))


def test_batches_are_distorted_alike_and_a_little(
    report: Report, digits: tuple
) -> None:
    images = digits[0][:4].repeat(2, 1, 1, 1)
    torch.manual_seed(0)
    distorted = report.distort(images)
    assert distorted.shape == images.shape
    assert distorted.min() >= 0 and distorted.max() <= 1
    torch.testing.assert_close(distorted[:4], distorted[4:])
    change = (distorted - images).abs().mean()
    assert 0.1 * images.mean() < change < images.mean()
    # ink neither vanishes nor moves away
    ratio = distorted.mean() / images.mean()
    assert ratio.item() == pytest.approx(1, abs=0.2)


def test_the_mean_distortion_is_none(
    report: Report, digits: tuple, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "rand", lambda *size: torch.full(size, 0.5))
    images = digits[0][:4]
    torch.testing.assert_close(report.distort(images), images)


def test_only_the_first_epochs_are_distorted(
    report: Report, digits: tuple, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    names = report.train.__wrapped__.__globals__
    monkeypatch.setitem(names, "distort", lambda x: calls.append(1) or x)
    counts = []
    quick(
        report,
        small_cvae(),
        digits,
        epochs=5,
        distorted=0.8,
        after_epoch=lambda _: counts.append(len(calls)),
    )
    steps = len(digits[0]) // 64
    assert counts == [steps, 2 * steps, 3 * steps, 4 * steps, 4 * steps]


@pytest.mark.parametrize("images", [640, 2 * 64])
def test_short_trainings_have_a_schedule(report: Report, images: int) -> None:
    """Ten steps in all are where a warm-up of a tenth has none."""
    data = torch.rand(images, 1, 28, 28), torch.zeros(images).long()
    history = quick(report, small_cvae(), data, epochs=1)
    assert history.shape == (1, images // 64, 2)


def test_the_three_ablations_behave_as_theory_says(
    report: Report, digits: tuple
) -> None:
    models, terms, start = {}, {}, {}
    for name, weights in {
        "reconstruction only": (1.0, 0.0),
        "KL only": (0.0, 1.0),
        "full loss": (1.0, 1.0),
    }.items():
        models[name] = small_cvae()
        start[name] = models[name].decoder.last.weight.clone()
        quick(report, models[name], digits, epochs=30, weights=weights)
        terms[name] = report.evaluate(models[name], *digits)
    spread = {
        name: model.encode(*digits)[0].std() for name, model in models.items()
    }
    assert terms["KL only"][1] < 0.01
    assert spread["KL only"] < 0.05
    assert torch.equal(
        models["KL only"].decoder.last.weight, start["KL only"]
    )
    assert terms["reconstruction only"][0] < terms["full loss"][0]
    assert terms["reconstruction only"][1] > 2 * terms["full loss"][1]
    assert spread["reconstruction only"] > 1.5 * spread["full loss"]
    assert sum(terms["full loss"]) == min(map(sum, terms.values()))


def test_evaluate_is_the_mean_over_images(
    report: Report, digits: tuple
) -> None:
    model = small_cvae()
    kl = report.kl_divergence(*model.encode(*digits)).mean().item()
    assert report.evaluate(model, *digits)[1] == pytest.approx(kl)
    # one z per image, other ones with another seed, all of the same model
    first, again, other = (
        report.evaluate(model, *digits, seed) for seed in (0, 0, 1)
    )
    assert first == again != other
    assert sum(first) == pytest.approx(sum(other), rel=0.01)


def test_label_free_scores(report: Report) -> None:
    """The smallest of the ten losses, whatever the label of the image."""
    model, images = small_cvae(3), torch.rand(4, 1, 28, 28)
    for name, parameter in model.named_parameters():
        if "shift" in name:  # as initialised, classes may be equal
            parameter.data += torch.randn_like(parameter)
    losses = torch.empty(10, 4)
    means = torch.empty(10, 4, 1, 28, 28)
    for label in range(10):
        labels = torch.full((4,), label)
        logits = model.decode(model.encode(images, labels)[0], labels)
        losses[label] = report.reconstruction_loss(logits, images)
        means[label] = logits.sigmoid()
    smallest, drawn, best = report.label_free_scores(model, images)
    torch.testing.assert_close(smallest, losses.amin(dim=0))
    assert torch.equal(best, losses.argmin(dim=0))
    torch.testing.assert_close(drawn, means[best, torch.arange(4)])


def test_pixel_entropy() -> None:
    images = torch.zeros(2, 1, 28, 28)
    images[1] = 0.5
    entropy = torch.tensor([0.0, 784 * np.log(2)], dtype=torch.float32)
    torch.testing.assert_close(plots.pixel_entropy(images), entropy)


def test_prior_samples_and_the_judge(digits: tuple) -> None:
    images, labels = plots.prior_samples(small_cvae(), 3)
    assert images.shape == (30, 1, 28, 28)
    assert labels.tolist() == [digit for digit in range(10) for _ in range(3)]
    judge = plots.fit_judge(*digits)
    test = load("MNIST", train=False)
    assert plots.recognised(judge, *test).mean() > 0.95
    wrong = (test[1] + 1) % 10
    assert plots.recognised(judge, test[0], wrong).mean() < 0.05


def test_distances_from_the_prior_are_those_of_gaussians() -> None:
    """Two classes whose codes are N(m, 1): half of m squared, on average."""
    torch.manual_seed(1)  # not that of the codes' noise
    labels = torch.arange(6000) % 2
    logvar = torch.full((6000, 2), -1.0)
    mu = torch.randn(6000, 2) * (1 - np.exp(-1.0)) ** 0.5
    mu[labels == 1] += torch.tensor([2.0, 0.0])
    for measure in (plots.distance_from_prior, plots.distance_at_least):
        assert measure(mu, logvar, labels) == pytest.approx(1, abs=0.07)
    # far from a Gaussian, the bound is one
    mu = 3.0 * torch.randint(-1, 2, (6000, 2))
    all_alike = torch.zeros(6000).long()
    bound = plots.distance_at_least(mu, logvar, all_alike)
    assert bound < plots.distance_from_prior(mu, logvar, all_alike) - 0.3


def test_separation_counts_pairs_and_errors() -> None:
    normal = torch.tensor([1.0, 2.0, 3.0, 6.0])
    anomalous = torch.tensor([5.0, 7.0])
    auroc, wrong, *others = plots.separation(
        normal, anomalous, torch.tensor(5.5)
    )
    assert (auroc, wrong) == (pytest.approx(7 / 8), pytest.approx(1))
    assert others == [2.0, 5.0, 0.25, 0.5]


def test_tiles_are_where_their_column_and_row_say() -> None:
    images = torch.rand(3, 2, 1, 28, 28)
    grid = plots.tile(images)
    assert grid.shape == (62, 92)
    assert torch.equal(grid[32:60, 62:90], images[2, 1, 0])


def test_every_code_is_drawn_in_the_colour_of_its_class() -> None:
    torch.manual_seed(0)
    mu, labels = torch.rand(500, 2), torch.arange(500) % 10
    mu[0] = torch.tensor([9.0, 1.0])  # outside: drawn on the border
    plots.set_style()
    first, second = (
        plots.plot_latent_space(*codes, labels, "A caption.").axes[0]
        for codes in ((mu, mu - 3), (1e-3 * mu, 0 * mu))
    )
    assert first.get_xlim() == second.get_xlim() == first.get_ylim()
    titles = [ax.child_axes[0].get_title() for ax in (first, second)]
    assert [title[-10:] for title in titles] == ["outside: 1", "outside: 0"]
    drawn = [
        (place, color)
        for points in first.collections
        for place, color in zip(
            points.get_offsets(), points.get_facecolors(), strict=True
        )
    ]
    assert len(drawn) == 500
    assert (4, 1) in [tuple(place) for place, _ in drawn]
    for place, color in drawn:
        digit = labels[
            (mu.clamp(-4, 4) - torch.tensor(place)).abs().sum(1).argmin()
        ]
        expected = matplotlib.colors.to_rgb(plots.COLORS[digit])
        assert tuple(color[:3]) == pytest.approx(expected)
    # two margins; the dot is magnified
    assert (len(first.child_axes), len(second.child_axes)) == (2, 3)


def test_colors_differ_for_everybody_and_are_of_similar_lightness() -> None:
    """Machado et al. 2009; distances in CIELAB, where 2 can be seen."""
    rgb = np.array([matplotlib.colors.to_rgb(c) for c in plots.COLORS])
    linear = np.where(
        rgb > 0.04045, ((rgb + 0.055) / 1.055) ** 2.4, rgb / 12.92
    )
    for seen in (
        np.eye(3),
        [
            [0.152, 1.053, -0.205],
            [0.115, 0.786, 0.099],
            [-0.004, -0.048, 1.052],
        ],
        [
            [0.367, 0.861, -0.228],
            [0.280, 0.673, 0.047],
            [-0.012, 0.043, 0.969],
        ],
        [
            [1.256, -0.077, -0.179],
            [-0.078, 0.931, 0.148],
            [0.005, 0.691, 0.304],
        ],
    ):
        colors = np.clip(linear @ np.transpose(seen), 0, 1)
        to_xyz = [
            [0.434, 0.376, 0.190],
            [0.213, 0.715, 0.072],
            [0.018, 0.109, 0.873],
        ]
        x, y, z = np.cbrt(np.maximum(colors @ np.transpose(to_xyz), 0.0089)).T
        lab = np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=1)
        apart = np.linalg.norm(lab[:, None] - lab, axis=2) + 99 * np.eye(10)
        assert apart.min() > 20
        if np.array_equal(seen, np.eye(3)):
            assert lab[:, 0].min() > 38 and lab[:, 0].max() < 80


def test_a_place_run_again_keeps_what_was_filled_in(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shown = {}
    monkeypatch.setattr(
        plots, "display", lambda x, display_id: shown.update({display_id: x})
    )
    monkeypatch.setattr(
        plots,
        "update_display",
        lambda x, display_id: shown.update({display_id: x}),
    )
    plots.reserve("here")
    plots.fill("here", "result")
    plots.reserve("here")
    assert shown["here"].data == "result"
