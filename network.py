"""A class-conditional variational autoencoder (CVAE) for 28 x 28 images.

Kingma & Welling, "Auto-Encoding Variational Bayes" (arXiv:1312.6114), with
the class label given to encoder and decoder as in Sohn et al., "Learning
Structured Output Representation using Deep Conditional Generative Models"
(NeurIPS 2015). The label shifts every hidden layer and scales the first of
each network (FiLM, Perez et al., arXiv:1709.07871), and every class has its
own linear map of the codes on either side of z.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

IMAGE_SHAPE = (1, 28, 28)
NUM_PIXELS = 28 * 28


class ConditionalLinear(nn.Module):
    """A linear layer with a bias for each class."""

    def __init__(
        self, in_features: int, out_features: int, num_classes: int
    ) -> None:
        super().__init__()
        self.linear = nn.Linear(in_features, out_features, bias=False)
        self.shift = nn.Parameter(torch.zeros(num_classes, out_features))

    def forward(self, h: Tensor, labels: Tensor) -> Tensor:
        """Map ``h`` (B, in_features) to (B, out_features)."""
        return self.linear(h).add_(F.embedding(labels, self.shift))


class ConditionalMLP(nn.Module):
    """A FiLM layer, residual layers, all of one width, a linear output."""

    def __init__(self, sizes: list[int], num_classes: int) -> None:
        super().__init__()
        size_in, width, *_, size_out = sizes
        self.first = ConditionalLinear(size_in, width, num_classes)
        self.scale = nn.Parameter(torch.ones(num_classes, width))
        self.residual = nn.ModuleList(
            ConditionalLinear(width, width, num_classes) for _ in sizes[2:-1]
        )
        self.last = nn.Linear(width, size_out)

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        """Map ``x`` (B, sizes[0]) to (B, sizes[-1])."""
        scale = F.embedding(labels, self.scale)  # (B, width)
        h = F.silu(scale * self.first(x, labels))
        for layer in self.residual:
            h = F.silu(layer(h, labels)).add_(h)  # in place: less memory
        return self.last(h)


class CVAE(nn.Module):
    """Gaussian posterior q(z|x, y), Bernoulli likelihood p(x|z, y).

    The prior p(z) is N(0, I) for every class. Images are (B, 1, 28, 28)
    floats in [0, 1], labels (B,) int64 in 0 … num_classes - 1; all methods
    raise ValueError for tensors of another shape, type or range.

    Args:
        latent_dim: Dimension of z.
        num_classes: Number of class labels.
        width: Hidden units per layer.
    """

    def __init__(
        self, latent_dim: int, num_classes: int = 10, width: int = 384
    ) -> None:
        super().__init__()
        self.latent_dim = latent_dim
        self.num_classes = num_classes
        identity = torch.eye(latent_dim).repeat(num_classes, 1, 1)
        self.encoder_map = nn.Parameter(identity)
        self.decoder_map = nn.Parameter(identity.clone())
        self.encoder = ConditionalMLP(
            [NUM_PIXELS, width, width, 2 * latent_dim], num_classes
        )
        self.decoder = ConditionalMLP(
            [latent_dim, width, width, width, NUM_PIXELS], num_classes
        )

    def encode(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Posterior N(mu, diag(exp(logvar))): mu, logvar (B, latent_dim)."""
        self._check(images, IMAGE_SHAPE, "images", labels)
        mu, logvar = self.encoder(images.flatten(1), labels).chunk(2, dim=1)
        mu = map_codes(mu, labels, self.encoder_map)
        # without the KL term nothing else keeps sigma finite
        return mu, logvar.clamp(max=5)

    def decode(self, z: Tensor, labels: Tensor) -> Tensor:
        """Logits (B, 1, 28, 28) of the Bernoulli means under p(x|z, y)."""
        self._check(z, (self.latent_dim,), "z", labels)
        h = map_codes(z, labels, self.decoder_map)
        return self.decoder(h, labels).view(-1, *IMAGE_SHAPE)

    def forward(self, images: Tensor, labels: Tensor) -> tuple[Tensor, ...]:
        """Encode, draw one z per image, decode: (logits, mu, logvar)."""
        mu, logvar = self.encode(images, labels)
        return self.decode(reparametrise(mu, logvar), labels), mu, logvar

    @torch.no_grad()
    def sample(self, labels: Tensor, z: Tensor | None = None) -> Tensor:
        """Means (B, 1, 28, 28) of p(x|z, y); z is from the prior if None."""
        if z is None:
            shape = len(labels), self.latent_dim
            z = torch.randn(shape, device=labels.device)
        return self.decode(z, labels).sigmoid()

    def _check(
        self, x: Tensor, shape: tuple[int, ...], name: str, labels: Tensor
    ) -> None:
        if x.shape[1:] != shape or not x.is_floating_point():
            raise ValueError(
                f"{name}: expected floats (B, {str(shape)[1:-1].strip(',')}),"
                f" got {x.dtype} {tuple(x.shape)}"
            )
        if labels.shape != x.shape[:1] or labels.dtype != torch.int64:
            raise ValueError(
                f"labels: expected int64 {tuple(x.shape[:1])}, "
                f"got {labels.dtype} {tuple(labels.shape)}"
            )
        # an accelerator would have to be waited for; its own check of
        # indices stops labels out of range there
        last = self.num_classes - 1
        on_cpu = labels.device.type == "cpu"
        if on_cpu and not labels.equal(labels.clamp(0, last)):
            raise ValueError(f"labels: expected 0 … {last}, got {labels}")


def map_codes(codes: Tensor, labels: Tensor, maps: Tensor) -> Tensor:
    """Map codes (B, latent_dim) by the matrix of their class in ``maps``.

    These are (num_classes, latent_dim, latent_dim). Without them all classes
    share the axes of z, and the codes of a class fill the prior less well.
    """
    one_hot = F.one_hot(labels, len(maps)).to(codes.dtype)
    return torch.einsum("bc,bi,cij->bj", one_hot, codes, maps)


def reparametrise(mu: Tensor, logvar: Tensor) -> Tensor:
    """Draw z = mu + sigma * eps, eps ~ N(0, I), so that gradients reach both.

    Kingma & Welling, section 2.4. All tensors are (B, latent_dim).
    """
    return mu + torch.randn_like(mu) * (0.5 * logvar).exp()
