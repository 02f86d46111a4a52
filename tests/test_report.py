"""The functions in the report's cells, as they stand there."""

import re
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.distributions import Normal
from torch.distributions import kl_divergence as reference_kl

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


def test_reconstruction_loss_is_an_expectation(report: Report) -> None:
    """A grey pixel stands for black and white ones, drawn with its value."""
    logits, grey = torch.randn(2, 1, 28, 28), torch.rand(2, 1, 28, 28)
    loss_of = report.reconstruction_loss
    drawn = (torch.rand(4000, 2, 1, 28, 28) < grey).float()
    mean = torch.stack([loss_of(logits, b) for b in drawn]).mean(dim=0)
    torch.testing.assert_close(mean, loss_of(logits, grey), rtol=5e-3, atol=0)


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


def test_pixels_are_hidden_from_the_encoder_alone(report: Report) -> None:
    model = small_cvae()
    images, labels = torch.rand(5, 1, 28, 28), torch.arange(5)
    reconstruction, kl = report.loss_terms(model, images, labels, 1.0)
    mu, logvar = model.encode(torch.zeros_like(images), labels)
    torch.testing.assert_close(kl, report.kl_divergence(mu, logvar))
    # z is drawn, but what is to be drawn from it is not hidden
    whole = report.reconstruction_loss(model.decode(mu, labels), images)
    torch.testing.assert_close(reconstruction, whole, rtol=0.05, atol=0)


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
    with pytest.raises(FloatingPointError, match="epoch 1"):
        quick(report, small_cvae(), (images, digits[1]))


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
    images, labels = digits[0][:1300], digits[1][:1300]
    kl = report.kl_divergence(*model.encode(images, labels)).mean().item()
    assert report.evaluate(model, images, labels).kl == pytest.approx(kl)
    # one z per image, other ones with another seed, all of the same model
    first, again, other = (
        report.evaluate(model, images, labels, seed) for seed in (0, 0, 1)
    )
    assert first == again != other
    assert sum(first) == pytest.approx(sum(other), rel=0.01)


def test_in_batches_is_the_function_of_all_rows(report: Report) -> None:
    rows, more = torch.rand(1234, 3), torch.rand(1234)
    both = report.in_batches(lambda x, y: (x.sum(1) + y, x), rows, more)
    torch.testing.assert_close(both[0], rows.sum(1) + more)
    assert torch.equal(both[1], rows)


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
    normal = torch.arange(1000.0)
    apart = report.detection(normal, normal + 5000)
    assert (apart.auroc, apart.caught) == (1.0, 1.0)
    assert apart.kept == pytest.approx(0.95, abs=0.002)
    same = report.detection(normal, normal)
    assert same.auroc == pytest.approx(0.5)
    assert same.caught == pytest.approx(0.05, abs=0.002)
    # the threshold is that of every second image, whatever the others are
    normal[1::2] += 5000
    assert report.detection(normal, normal).kept == 0.0


def test_images_are_compared_with_those_of_their_like(report: Report) -> None:
    by = torch.tensor([30.0, 10.0, 20.0]), torch.tensor([20.1, 9.95, 25.0])
    score = torch.tensor([3.0, 1.0, 2.0]), torch.tensor([2.5, 0.5, 9.0])
    # 20.1 is like 20 and scores more, 9.95 like 10 and less, 25 like none
    assert report.against_its_like(score, by) == (2, 0.5)


def test_prior_samples_and_the_judge(report: Report, digits: tuple) -> None:
    images, labels = report.prior_samples(small_cvae(), 3)
    assert images.shape == (30, 1, 28, 28)
    assert labels.tolist() == [digit for digit in range(10) for _ in range(3)]
    judge = report.fit_judge(*digits)
    test = load("MNIST", train=False)
    assert report.recognised(judge, *test).mean() > 0.95
    wrong = (test[1] + 1) % 10
    assert report.recognised(judge, test[0], wrong).mean() < 0.05


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


@pytest.mark.parametrize("epochs", [1, 4, 20, 23])
def test_samples_of_every_epoch_are_drawn(
    report: Report, epochs: int
) -> None:
    missed = np.zeros((10, epochs), dtype=bool)
    missed[3, -1] = True
    fig = report.plot_samples(torch.rand(10, epochs, 1, 28, 28), missed)
    drawn = [ax for ax in fig.axes if ax.get_visible()]
    assert len(drawn) == (1 if epochs <= 20 else 2)
    widths = [ax.images[0].get_array().shape[1] for ax in drawn]
    assert sum(widths) == 30 * epochs
    assert sum(len(ax.patches) for ax in drawn) == 1
    assert drawn[-1].get_xlabel() == "epoch"
    fig.canvas.draw()


def test_all_codes_are_drawn_in_a_square_frame(report: Report) -> None:
    z, digit = 0.01 * np.random.randn(500, 2) + 5, np.arange(500) % 10
    z[0] = 9  # far from the others: it must not set the scale
    fig = report.plot_codes(z, digit, unit=0.01)
    main, *alone = fig.axes
    assert len(main.collections[0].get_offsets()) == 500
    assert [len(ax.collections[1].get_offsets()) for ax in alone] == [50] * 10
    colors = main.collections[0].get_facecolors()
    assert len(np.unique(colors, axis=0)) == 10
    for ax in fig.axes:
        (left, right), (low, high) = ax.get_xlim(), ax.get_ylim()
        assert right - left == pytest.approx(high - low)
        assert 4 < right - left < 9
        inside = (100 * z > (left, low)) & (100 * z < (right, high))
        assert 0.98 < inside.all(axis=1).mean() < 1
    assert "0.01" in main.get_xlabel() and "0.01" in main.get_ylabel()


def test_labels_at_one_place_are_spread(report: Report) -> None:
    places = report.spread_labels(np.zeros((10, 2)), gap=1.0)
    distance = np.linalg.norm(places[:, None] - places[None], axis=2)
    assert (distance + np.eye(10)).min() > 0.9
    far = np.arange(20.0).reshape(10, 2)
    np.testing.assert_allclose(report.spread_labels(far, 1.0), far, atol=0.01)


def test_no_function_reads_another_cells_globals() -> None:
    """Definitions use their arguments, each other and imports only."""
    import symtable

    from benchmarks.report import cells

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
