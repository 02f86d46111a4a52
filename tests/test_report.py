"""The functions in the report's cells, as they stand there."""

import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.distributions import Bernoulli, Normal
from torch.distributions import kl_divergence as reference_kl

from mnist import load
from network import CVAE, reparametrise

Report = SimpleNamespace


@pytest.fixture
def digits(demo: Path) -> tuple[torch.Tensor, torch.Tensor]:
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
    logits = (5 * torch.randn(3, 1, 28, 28)).double().requires_grad_()
    images = torch.randint(0, 2, (3, 1, 28, 28)).double()
    ours = report.reconstruction_loss(logits, images)
    theirs = -Bernoulli(logits=logits).log_prob(images).sum((1, 2, 3))
    torch.testing.assert_close(ours, theirs)
    (one,) = torch.autograd.grad(ours.sum(), logits)
    (other,) = torch.autograd.grad(theirs.sum(), logits)
    torch.testing.assert_close(one, other)


def test_reconstruction_loss_of_grey_levels(report: Report) -> None:
    """A grey pixel is an expectation over black and white ones."""
    logits, grey = torch.randn(2, 1, 28, 28), torch.rand(2, 1, 28, 28)
    black, white = torch.zeros_like(grey), torch.ones_like(grey)
    law = Bernoulli(logits=logits)
    expected = -(
        grey * law.log_prob(white) + (1 - grey) * law.log_prob(black)
    )
    torch.testing.assert_close(
        report.reconstruction_loss(logits, grey), expected.sum((1, 2, 3))
    )


@pytest.mark.parametrize(("batch", "masks"), [(24, 3), (20, 5), (21, 21)])
def test_hidden_pixels(report: Report, batch: int, masks: int) -> None:
    """Dropout: black or scaled up; up to 8 images share a mask."""
    images = 0.1 + torch.rand(batch, 1, 28, 28)
    seen = report.hide_pixels(images, 0.25)
    kept = seen > 0
    torch.testing.assert_close(seen[kept], images[kept] / 0.75)
    assert 0.7 < kept.float().mean() < 0.8
    assert len(kept.flatten(1).unique(dim=0)) == masks


def test_loss_terms_are_means_over_the_batch(report: Report) -> None:
    model = small_cvae()
    images, labels = torch.rand(5, 1, 28, 28), torch.arange(5)
    torch.manual_seed(3)
    terms = report.loss_terms(model, images, labels)
    torch.manual_seed(3)
    mu, logvar = model.encode(images, labels)
    logits = model.decode(reparametrise(mu, logvar), labels)
    expected = [
        report.reconstruction_loss(logits, images).mean(),
        report.kl_divergence(mu, logvar).mean(),
    ]
    torch.testing.assert_close(terms, torch.stack(expected))


def test_dropout_hides_pixels_from_the_encoder_alone(
    report: Report,
) -> None:
    model = small_cvae()
    images, labels = torch.rand(5, 1, 28, 28), torch.arange(5)
    torch.manual_seed(3)
    terms = report.loss_terms(model, images, labels, input_dropout=1.0)
    mu, logvar = model.encode(torch.zeros_like(images), labels)
    torch.testing.assert_close(
        terms[1], report.kl_divergence(mu, logvar).mean()
    )
    far = model.decode(mu, labels)  # z is drawn; the target is not hidden
    whole = report.reconstruction_loss(far, images).mean()
    torch.testing.assert_close(terms[0], whole, rtol=0.05, atol=0)


def test_training_lowers_the_loss(report: Report, digits: tuple) -> None:
    history = quick(report, small_cvae(), digits)
    steps = len(digits[0]) // 64
    assert history.shape == (8, steps, 2)
    first, last = history.sum(dim=2)[[0, -1]].mean(dim=1)
    assert last < 0.75 * first


def test_the_same_seed_gives_the_same_weights(
    report: Report, digits: tuple
) -> None:
    def weights(seed: int, watch: bool) -> torch.Tensor:
        model = small_cvae()
        look = (lambda _: report.evaluate(model, *digits)) if watch else None
        options = {"after_epoch": look} if look else {}
        quick(report, model, digits, epochs=2, seed=seed, **options)
        return torch.nn.utils.parameters_to_vector(model.parameters())

    # looking at the held-out loss between epochs changes nothing
    assert torch.equal(weights(1, watch=False), weights(1, watch=True))
    assert not torch.equal(weights(1, watch=False), weights(2, watch=False))


def test_after_epoch_is_called_after_every_epoch(
    report: Report, digits: tuple
) -> None:
    seen = []
    quick(report, small_cvae(), digits, epochs=3, after_epoch=seen.append)
    assert seen == [1, 2, 3]


def test_training_leaves_the_precision_as_it_was(
    report: Report, digits: tuple
) -> None:
    before = torch.get_float32_matmul_precision()
    quick(report, small_cvae(), digits, epochs=1)
    assert torch.get_float32_matmul_precision() == before


def test_loss_that_is_not_finite_stops_the_training(
    report: Report, digits: tuple
) -> None:
    images = digits[0].clone()
    images[:] = float("nan")
    with pytest.raises(FloatingPointError, match=r"epoch 1, step 1 of \d+"):
        quick(report, small_cvae(), (images, digits[1]))
    losses = torch.ones(7, 2)
    losses[4, 1] = float("inf")
    with pytest.raises(FloatingPointError, match="epoch 9, step 5 of 7"):
        report.check_finite(losses, 9)
    report.check_finite(torch.ones(7, 2), 9)


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
        name: report.embed(model, *digits)[0].std()
        for name, model in models.items()
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
    images, labels = digits[0][:1300], digits[1][:1300]
    whole = report.evaluate(model, images, labels)
    torch.manual_seed(0)
    terms = [
        report.loss_terms(model, x, y) * len(x)
        for x, y in zip(images.split(1000), labels.split(1000), strict=True)
    ]
    expected = (sum(terms) / 1300).tolist()
    assert whole == pytest.approx(expected, rel=1e-5)


def test_label_free_scores(report: Report) -> None:
    model, images = small_cvae(3), torch.rand(4, 1, 28, 28)
    bce, mse, reconstructions = report.label_free_scores(model, images)
    losses, errors, means = [], [], []
    for label in range(10):
        labels = torch.full((4,), label)
        logits = model.decode(model.encode(images, labels)[0], labels)
        losses.append(report.reconstruction_loss(logits, images))
        means.append(logits.sigmoid())
        errors.append((means[-1] - images).square().mean((1, 2, 3)))
    best = torch.stack(losses).argmin(dim=0)
    torch.testing.assert_close(bce, torch.stack(losses).amin(0))
    torch.testing.assert_close(mse, torch.stack(errors).amin(0))
    for i in range(4):
        torch.testing.assert_close(reconstructions[i], means[best[i]][i])


def test_pixel_entropy_and_baselines(report: Report) -> None:
    images = torch.zeros(2, 1, 28, 28)
    images[1] = 0.5
    entropy = report.pixel_entropy(images)
    torch.testing.assert_close(
        entropy, torch.tensor([0.0, 784 * np.log(2)], dtype=torch.float32)
    )
    scores = report.baseline_scores(images, torch.full((1, 28, 28), 0.5))
    assert scores["share of non-zero pixels"].tolist() == [0.0, 1.0]
    assert scores["mean intensity"].tolist() == [0.0, 0.5]
    torch.testing.assert_close(
        scores["distance to the mean image (BCE)"],
        torch.full((2,), 784 * np.log(2), dtype=torch.float32),
    )


def test_detection(report: Report) -> None:
    normal = torch.arange(100.0)
    auroc, threshold, caught = report.detection(normal, normal + 1000)
    assert (auroc, caught) == (1.0, 1.0)
    assert (normal <= threshold).float().mean() == pytest.approx(0.95)
    auroc, _, caught = report.detection(normal, normal)
    assert auroc == pytest.approx(0.5) and caught == pytest.approx(0.05)


def test_first_of_each_class(report: Report) -> None:
    labels = torch.tensor([9, 1, 1, 0, 2, 3, 4, 5, 6, 7, 8, 9])
    chosen = report.first_of_each_class(labels)
    assert chosen.tolist() == [3, 1, 4, 5, 6, 7, 8, 9, 10, 0]


def test_prior_samples_and_the_judge(report: Report, digits: tuple) -> None:
    images, labels = report.prior_samples(small_cvae(), 3)
    assert images.shape == (30, 1, 28, 28)
    assert labels.tolist() == [digit for digit in range(10) for _ in range(3)]
    judge = report.fit_judge(*digits)
    test = load("MNIST", train=False)
    assert report.recognised(judge, *test) > 0.95
    assert report.recognised(judge, test[0], (test[1] + 1) % 10) < 0.05


def test_class_left_in_z(report: Report, digits: tuple) -> None:
    """Codes that are the class give it away; constant codes do not."""
    model = CVAE(2)

    def encode_class(images: torch.Tensor, labels: torch.Tensor) -> tuple:
        mu = torch.stack([labels.float(), labels.float()], dim=1)
        return mu, torch.zeros_like(mu)

    model.encode = encode_class
    test = load("MNIST", train=False)
    assert report.class_left_in_z(model, digits, test) == 1.0
    blind = CVAE(2, num_classes=1)
    blind.encode = encode_class  # sees label 0 for every image
    assert report.class_left_in_z(blind, digits, test) < 0.2


def test_image_grid(report: Report) -> None:
    images = torch.rand(6, 1, 28, 28)
    grid = report.image_grid(images, columns=3, gap=2)
    assert grid.shape == (60, 90)
    assert np.array_equal(grid[30:58, 60:88], images[5, 0].numpy())


def test_plots_label_their_axes(report: Report) -> None:
    fig, (top, bottom) = report.plt.subplots(2, 2)
    history = torch.rand(3, 5, 2) + 1
    report.plot_training_curve(top, history, [(1.0, 2.0)] * 3)
    for ax in top:
        assert ax.get_xlabel() == "number of steps"
        assert "nats" in ax.get_ylabel()
        for line in ax.lines:
            assert line.get_xdata()[-1] == 15
    report.plot_samples(bottom, torch.rand(10, 4, 1, 28, 28))
    labels = [
        text.get_text() for ax in bottom for text in ax.get_xticklabels()
    ]
    assert labels == ["1", "2", "3", "4"]
    assert bottom[-1].get_xlabel() == "epoch"
    bottom[1].clear()
    z, digit = np.random.rand(20, 2), torch.arange(20) % 10
    report.scatter(bottom[1], z, digit, circles=True)
    colors = bottom[1].collections[0].get_facecolors()
    assert len(np.unique(colors, axis=0)) == 10
    assert len(bottom[1].patches) == 2
    report.plt.close(fig)


def test_no_function_reads_another_cells_globals() -> None:
    """Definitions use their arguments, each other and imports only."""
    import symtable

    from report import cells

    sources = cells("definitions")
    known = set(dir(__builtins__)) | set(__builtins__)
    tables = [symtable.symtable(source, "", "exec") for source in sources]
    for table in tables:
        known |= {
            s.get_name() for s in table.get_symbols() if s.is_assigned()
        }
        known |= {
            s.get_name() for s in table.get_symbols() if s.is_imported()
        }
        known |= {t.get_name() for t in table.get_children()}
    parameter = re.compile(r"[A-Z_0-9]+")

    def unknown(table: symtable.SymbolTable) -> set[str]:
        own = {
            s.get_name()
            for s in table.get_symbols()
            if s.is_global() and s.get_name() not in known
        }
        return own.union(*map(unknown, table.get_children()))

    for table in tables:
        names = {n for n in unknown(table) if not parameter.fullmatch(n)}
        assert not names
