"""network.py: shapes, conditioning on the label, refusals."""

import pytest
import torch

from network import CVAE, map_codes, reparametrise


@pytest.fixture
def model() -> CVAE:
    torch.manual_seed(0)
    model = CVAE(latent_dim=3)
    # training moves these; as initialised, all classes are equal
    for name, parameter in model.named_parameters():
        if any(part in name for part in ("shift", "scale", "map")):
            parameter.data += 0.1 * torch.randn_like(parameter)
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


def test_sigma_stays_finite(model: CVAE) -> None:
    """Reconstruction alone would let it grow until the loss is NaN."""
    images, labels = batch()
    with torch.no_grad():
        model.encoder.last.bias.fill_(500)
    logits, _, logvar = model(images, labels)
    assert logvar.max() <= 5 and logits.isfinite().all()


def test_the_label_changes_encoder_and_decoder(model: CVAE) -> None:
    images, labels = batch()
    z = torch.randn(4, 3)
    for part, x in ((model.encoder, images.flatten(1)), (model.decoder, z)):
        difference = part(x, labels) - part(x, labels + 1)
        assert (difference.abs().amax(dim=1) > 1e-3).all()


def test_labels_reach_gradients_in_both_networks() -> None:
    model = CVAE(latent_dim=2)
    images, labels = batch()
    logits, mu, logvar = model(images, labels)
    (logits.sum() + mu.sum() + logvar.sum()).backward()
    for weight in (model.encoder_map, model.decoder_map):
        assert all(weight.grad[labels].abs().sum(dim=(1, 2)) > 0)
        assert not weight.grad[4:].any()
    for network in (model.encoder, model.decoder):
        for part in ("shift", "scale"):
            grads = [
                parameter.grad
                for name, parameter in network.named_parameters()
                if part in name
            ]
            assert grads
            assert all(grad[labels].abs().sum() > 0 for grad in grads)


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


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (torch.rand(4, 28, 28), torch.zeros(4).long(), r"\(4, 28, 28\)"),
        (torch.rand(4, 1, 8, 8), torch.zeros(4).long(), r"\(4, 1, 8, 8\)"),
        (
            torch.zeros(4, 1, 28, 28, dtype=torch.uint8),
            torch.zeros(4).long(),
            "uint8",
        ),
        (torch.rand(4, 1, 28, 28), torch.zeros(3).long(), r"\(4,\).*\(3,\)"),
        (torch.rand(4, 1, 28, 28), torch.zeros(4, 1).long(), r"\(4, 1\)"),
        (torch.rand(4, 1, 28, 28), torch.zeros(4), "float32"),
        (torch.rand(4, 1, 28, 28), torch.full((4,), 10), "0 … 9.*10"),
        (torch.rand(4, 1, 28, 28), torch.full((4,), -1), "0 … 9.*-1"),
    ],
)
def test_bad_input_is_refused(
    model: CVAE, images: torch.Tensor, labels: torch.Tensor, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        model(images, labels)


def test_bad_z_is_refused(model: CVAE) -> None:
    with pytest.raises(ValueError, match=r"z: expected .*\(B, 3\).*\(4, 2\)"):
        model.decode(torch.randn(4, 2), torch.zeros(4).long())
    with pytest.raises(ValueError, match="0 … 9"):
        model.sample(torch.tensor([3, 12]))


def test_one_class_is_an_unconditional_vae() -> None:
    model = CVAE(latent_dim=2, num_classes=1)
    assert model.sample(torch.zeros(5).long()).shape == (5, 1, 28, 28)
