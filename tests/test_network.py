"""network.py: shapes, conditioning on the label, refusals."""

from collections.abc import Callable

import numpy as np
import pytest
import torch

from network import CVAE, map_codes, reparametrise


@pytest.fixture
def model() -> CVAE:
    torch.manual_seed(0)
    model = CVAE(latent_dim=3)
    # training moves these; as initialised, they are the same for all classes
    for maps in (model.encoder_map, model.decoder_map):
        maps.data += 0.1 * torch.randn_like(maps)
    return model


def batch(size: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.rand(size, 1, 28, 28), torch.arange(size) % 10


def test_shapes(model: CVAE) -> None:
    images, labels = batch()
    logits, mu, logvar = model(images, labels)
    assert logits.shape == images.shape
    assert mu.shape == logvar.shape == (4, 3)
    samples = model.sample(labels)
    assert samples.shape == images.shape
    assert samples.min() >= 0 and samples.max() <= 1
    assert model.sample(labels[:0]).shape == (0, 1, 28, 28)


def test_double_precision(model: CVAE) -> None:
    images, labels = batch()
    expected = model.encode(images, labels)[0].double()
    mu, _ = model.double().encode(images.double(), labels)
    torch.testing.assert_close(mu, expected, atol=1e-5, rtol=0)
    assert model.sample(labels).dtype == torch.float64


def test_sigma_stays_finite(model: CVAE) -> None:
    """Reconstruction alone would let it grow until the loss is NaN."""
    images, labels = batch()
    with torch.no_grad():
        model.encoder.last.bias.fill_(500)
    logits, _, logvar = model(images, labels)
    assert logvar.max() <= 5 and logits.isfinite().all()


def test_an_untrained_network_knows_its_classes() -> None:
    """It need not find out first that there are any."""
    torch.manual_seed(0)
    model = CVAE(latent_dim=3)
    images, labels = batch()
    z = torch.randn(4, 3)
    for part, x in ((model.encoder, images.flatten(1)), (model.decoder, z)):
        difference = part(x, labels) - part(x, labels + 1)
        assert (difference.abs().amax(dim=1) > 0.05).all()
        assert part.shifts.std().item() == pytest.approx(0.5, abs=0.02)


def test_an_untrained_decoder_starts_from_the_mean_image() -> None:
    torch.manual_seed(0)
    mean_image = torch.rand(1, 28, 28)
    mean_image[0, 0] = 0  # its logit is not finite
    mean_image[0, 27] = 1
    model = CVAE(latent_dim=3, mean_image=mean_image)
    drawn = model.sample(torch.arange(10).repeat(20))
    assert (drawn.mean(dim=0) - mean_image).abs().max() < 0.2
    grey = CVAE(latent_dim=3).sample(torch.arange(10).repeat(20))
    assert (grey.mean(dim=0) - 0.5).abs().max() < 0.3


def test_labels_reach_gradients_in_both_networks() -> None:
    model = CVAE(latent_dim=2)
    images, labels = batch()
    logits, mu, logvar = model(images, labels)
    (logits.sum() + mu.sum() + logvar.sum()).backward()
    for weight in (model.encoder_map, model.decoder_map):
        assert all(weight.grad[labels].abs().sum(dim=(1, 2)) > 0)
        assert not weight.grad[4:].any()
    for network in (model.encoder, model.decoder):
        grad = network.shifts.grad  # (depth, classes, width)
        assert (grad[:, labels].abs().sum(dim=2) > 0).all()
        assert not grad[:, 4:].any()


def test_each_class_has_its_own_map_of_the_codes(model: CVAE) -> None:
    codes, labels = torch.randn(4, 3), torch.tensor([7, 0, 7, 2])
    mapped = map_codes(codes, labels, model.decoder_map)
    for code, label, found in zip(codes, labels, mapped, strict=True):
        torch.testing.assert_close(found, code @ model.decoder_map[label])
    # untrained it changes nothing
    untrained = CVAE(latent_dim=3).encoder_map
    torch.testing.assert_close(map_codes(codes, labels, untrained), codes)


def test_sample_is_the_decoded_z(model: CVAE) -> None:
    z, labels = torch.randn(4, 3), torch.arange(4)
    expected = model.decode(z, labels).sigmoid()
    torch.testing.assert_close(model.sample(labels, z), expected)


def test_reparametrise_has_the_moments_and_gradients_of_its_posterior() -> (
    None
):
    torch.manual_seed(0)
    mu = torch.tensor([1.0, -2.0], requires_grad=True)
    logvar = torch.tensor([0.0, -1.0], requires_grad=True)
    z = reparametrise(mu.expand(100_000, 2), logvar.expand(100_000, 2))
    torch.testing.assert_close(z.mean(0), mu, atol=0.02, rtol=0)
    torch.testing.assert_close(z.var(0), logvar.exp(), atol=0.02, rtol=0)
    # E z**2 = mu**2 + sigma**2, so its gradients are 2 mu and sigma**2
    z.square().mean(dim=0).sum().backward()
    torch.testing.assert_close(mu.grad, 2 * mu, atol=0.05, rtol=0)
    torch.testing.assert_close(logvar.grad, logvar.exp(), atol=0.05, rtol=0)


def test_noise_of_ones_own_leaves_the_common_stream_alone(
    model: CVAE,
) -> None:
    images, labels = batch()
    before = torch.get_rng_state()
    one, other = (
        model(images, labels, torch.Generator().manual_seed(seed))[0]
        for seed in (1, 2)
    )
    assert torch.equal(torch.get_rng_state(), before)
    assert not torch.equal(one, other)


X, Y, Z = torch.rand(4, 1, 28, 28), torch.arange(4), torch.randn(4, 3)


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (X[:, 0], Y, r"images: .*\(B, 1, 28, 28\).*\(4, 28, 28\)"),
        (X[..., :8, :8], Y, r"images: .*\(4, 1, 8, 8\)"),
        (X[0, 0, 0, 0], Y, r"images: .*\(\)"),
        ((255 * X).to(torch.uint8), Y, "images: .*float32.*uint8"),
        (X.double(), Y, "images: .*float32.*float64"),
        (X.half(), Y, "images: .*float32.*float16"),
        (X.numpy(), Y, "images: .*got ndarray"),
        (X.tolist(), Y, "images: .*got list"),
        (X.to("meta"), Y, "images: .* cpu, .* meta"),
        (255 * X, Y, "images: expected 0 to 1, got .* to 2"),
        (2 * X - 1, Y, "images: expected 0 to 1, got -"),
        (X.where(X.lt(0.5), torch.nan), Y, "images: .*got nan"),
        (X, Y[:3], r"labels: .*\(4,\).*\(3,\)"),
        (X, Y[:, None], r"labels: .*\(4, 1\)"),
        (X, Y[3], r"labels: .*\(4,\).*\(\)"),
        (X, Y.float(), "labels: .*int64.*float32"),
        (X, Y.int(), "labels: .*int64.*int32"),
        (X, Y.numpy(), "labels: .*got ndarray"),
        (X, [0, 1, 2, 3], "labels: .*got list"),
        (X, None, "labels: .*got NoneType"),
        (X, Y.to("meta"), "labels: .* cpu, .* meta"),
        (X, Y + 7, "labels: expected 0 to 9, got 7 to 10"),
        (X, Y - 1, "labels: expected 0 to 9, got -1 to 2"),
    ],
)
@pytest.mark.parametrize("gradients", [True, False])
def test_bad_input_is_refused(
    model: CVAE,
    images: object,
    labels: object,
    message: str,
    gradients: bool,
) -> None:
    for method in (model, model.encode):
        with (
            torch.set_grad_enabled(gradients),
            pytest.raises(ValueError, match=message),
        ):
            method(images, labels)


@pytest.mark.parametrize(
    ("z", "message"),
    [
        (Z[:, :2], r"z: expected .*\(B, 3\).*\(4, 2\)"),
        (Z[0], r"z: .*\(3,\)"),
        (Z.double(), "z: .*float32.*float64"),
        (Z.numpy(), "z: .*got ndarray"),
        (Z * torch.nan, "z: .*got nan"),
        (Z / 0, "z: .*got -?inf"),
        (Z[:3], r"labels: .*\(3,\).*\(4,\)"),
    ],
)
def test_bad_z_is_refused(model: CVAE, z: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        model.decode(z, Y)
    with pytest.raises(ValueError, match=message):
        model.sample(Y, z)


@pytest.mark.parametrize(
    "labels", [3, [3], np.array([3]), torch.tensor(3), Y + 9, Y / 2, "3"]
)
def test_sample_takes_a_tensor_of_labels_only(
    model: CVAE, labels: object
) -> None:
    with pytest.raises(ValueError, match="labels: "):
        model.sample(labels)


@pytest.mark.parametrize(
    "make",
    [
        lambda: CVAE(0),
        lambda: CVAE(-2),
        lambda: CVAE(2.0),
        lambda: CVAE("2"),
        lambda: CVAE(True),
        lambda: CVAE(2, num_classes=0),
        lambda: CVAE(2, num_classes=None),
        lambda: CVAE(2, width=-1),
        lambda: CVAE(2, mean_image=X),
        lambda: CVAE(2, mean_image=X[0, 0]),
        lambda: CVAE(2, mean_image=255 * X[0]),
        lambda: CVAE(2, mean_image=X[0] * torch.nan),
        lambda: CVAE(2, mean_image=X[0].numpy()),
        lambda: CVAE(2, mean_image=X[0].to(torch.uint8)),
        lambda: CVAE(2, mean_image=0.5),
    ],
)
def test_bad_arguments_are_refused(make: Callable[[], CVAE]) -> None:
    with pytest.raises(ValueError, match=r"expected|mean_image"):
        make()


def test_a_diverged_network_is_not_blamed_on_its_input(model: CVAE) -> None:
    """Its codes are NaN; `train` says why."""
    model.encoder.last.bias.data.fill_(torch.nan)
    logits, _, _ = model(*batch())
    assert logits.isnan().any()


def test_one_class_is_an_unconditional_vae() -> None:
    model = CVAE(latent_dim=2, num_classes=1)
    assert model.sample(torch.zeros(5).long()).shape == (5, 1, 28, 28)
