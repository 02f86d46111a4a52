"""A class-conditional variational autoencoder (CVAE) for 28 x 28 images.

Kingma & Welling, "Auto-Encoding Variational Bayes" (arXiv:1312.6114), with
the class label given to encoder and decoder as in Sohn et al., "Learning
Structured Output Representation using Deep Conditional Generative Models"
(NeurIPS 2015). Each class shifts every hidden layer, scales the first of each
network (FiLM, Perez et al., arXiv:1709.07871), and has its own linear map of
the codes on either side of z.
"""

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from checks import Linear, check_labels, check_sizes, check_tensor

IMAGE_SHAPE = (1, 28, 28)
NUM_PIXELS = 28 * 28


class ConditionalMLP(nn.Module):
    """A FiLM layer, residual layers, ``depth`` in all, a linear output."""

    def __init__(
        self, size_in: int, width: int, depth: int, size_out: int, labels: int
    ) -> None:
        super().__init__()
        self.first = Linear(size_in, width, bias=False)
        self.residual = nn.ModuleList(
            Linear(width, width, bias=False) for _ in range(depth - 1)
        )
        # from 0, training would first have to find out that classes differ
        self.shifts = nn.Parameter(0.5 * torch.randn(depth, labels, width))
        self.scale = nn.Parameter(torch.ones(labels, width))
        self.last = Linear(width, size_out)

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        """Map ``x`` (B, size_in) to (B, size_out)."""
        first, *others = (F.embedding(labels, s) for s in self.shifts)
        scale = F.embedding(labels, self.scale)  # (B, width)
        h = F.silu(scale * self.first(x).add_(first))
        for layer, shift in zip(self.residual, others, strict=True):
            h = F.silu(layer(h).add_(shift)).add_(h)  # in place: less memory
        return self.last(h)


class CVAE(nn.Module):
    """Gaussian posterior q(z|x, y), Bernoulli likelihood p(x|z, y).

    The prior p(z) is N(0, I) for every class. Images are (B, 1, 28, 28) in
    [0, 1], z is finite and (B, latent_dim), labels are (B,) int64 from 0 to
    num_classes - 1: tensors of the parameters' dtype (float32) and device.
    Anything else raises ValueError (see `check_tensor` for accelerators).

    Args:
        latent_dim: Dimension of z.
        num_classes: Number of class labels.
        mean_image: Mean of the training images (1, 28, 28), with which the
            decoder's output starts. None: grey.
        width: Hidden units per layer.
    """

    def __init__(
        self,
        latent_dim: int,
        num_classes: int = 10,
        mean_image: Tensor | None = None,
        width: int = 384,
    ) -> None:
        super().__init__()
        check_sizes(latent_dim, num_classes, width)
        self.latent_dim = latent_dim
        self.num_classes = num_classes
        classes = torch.arange(num_classes)
        self.register_buffer("classes", classes, persistent=False)
        identity = torch.eye(latent_dim).repeat(num_classes, 1, 1)
        self.encoder_map = nn.Parameter(identity)
        self.decoder_map = nn.Parameter(identity.clone())
        sizes = NUM_PIXELS, width, 2, 2 * latent_dim, num_classes
        self.encoder = ConditionalMLP(*sizes)
        sizes = latent_dim, width, 3, NUM_PIXELS, num_classes
        self.decoder = ConditionalMLP(*sizes)
        if mean_image is not None:
            check_tensor("mean_image", mean_image, IMAGE_SHAPE, None, 0, 1)
            self.decoder.last.bias.data[:] = mean_image.flatten().logit(1e-3)

    def encode(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Posterior N(mu, diag(exp(logvar))): mu, logvar (B, latent_dim)."""
        self.check(images, labels)
        mu, logvar = self.encoder(images.flatten(1), labels).chunk(2, dim=1)
        mu = map_codes(mu, labels, self.encoder_map)
        # sigma stays finite, whatever the loss
        return mu, logvar.clamp(max=5)

    def decode(self, z: Tensor, labels: Tensor) -> Tensor:
        """Logits (B, 1, 28, 28) of the Bernoulli means under p(x|z, y)."""
        check_tensor("z", z, ("B", self.latent_dim), self.decoder_map)
        check_labels(labels, len(z), self.classes)
        return self._decode(z, labels)

    def _decode(self, z: Tensor, labels: Tensor) -> Tensor:
        h = map_codes(z, labels, self.decoder_map)
        return self.decoder(h, labels).view(-1, *IMAGE_SHAPE)

    def forward(
        self, images: Tensor, labels: Tensor, noise: Generator | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Encode, draw one z per image, decode: (logits, mu, logvar)."""
        mu, logvar = self.encode(images, labels)
        z = reparametrise(mu, logvar, noise)
        return self._decode(z, labels), mu, logvar

    @torch.no_grad()
    def sample(self, labels: Tensor, z: Tensor | None = None) -> Tensor:
        """Means (B, 1, 28, 28) of p(x|z, y); z is from the prior if None."""
        if z is None:
            check_labels(labels, "B", self.classes)
            shape = len(labels), self.latent_dim
            z = self.decoder_map.new_empty(shape).normal_()
        return self.decode(z, labels).sigmoid()

    def check(self, images: Tensor, labels: Tensor) -> None:
        """Raise ValueError unless these are images with their labels."""
        shape = "B", *IMAGE_SHAPE
        check_tensor("images", images, shape, self.encoder_map, 0, 1)
        check_labels(labels, len(images), self.classes)


def map_codes(codes: Tensor, labels: Tensor, maps: Tensor) -> Tensor:
    """Map codes (B, latent_dim) by the matrix of their class in ``maps``.

    Without them the classes share axes and fill the prior less well.
    """
    one_hot = F.one_hot(labels, len(maps)).to(codes.dtype)
    by_class = one_hot[:, :, None] * codes[:, None]  # (B, classes, dim)
    return by_class.flatten(1) @ maps.flatten(0, 1)


def reparametrise(
    mu: Tensor, logvar: Tensor, noise: Generator | None = None
) -> Tensor:
    """Draw z = mu + sigma * eps, eps ~ N(0, I), so that gradients reach both.

    Kingma & Welling, section 2.4. All tensors are (B, latent_dim).
    """
    eps = torch.empty_like(mu).normal_(generator=noise)
    return mu + (0.5 * logvar).exp() * eps
