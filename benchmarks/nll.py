"""The field's own test: NLL of binarised MNIST, beside published figures.

    DATA_DIR=… python -m benchmarks.nll [--epochs 160] [--seeds 3]

The report's network, without labels and with 32 latent dimensions, is
trained by the report's routine on images that are distorted as there and
binarised anew for each epoch (each pixel is 1 with the grey level's
probability). The test images are binarised once, with a fixed seed.
Published: Burda, Grosse and Salakhutdinov, "Importance Weighted Autoencoders"
(ICLR 2016, arXiv:1509.00519), Table 1.
"""

import argparse
import math
import time

import numpy as np
import torch
from torch import Tensor

from benchmarks.report import definitions, get_device, parameters
from mnist import load
from network import CVAE

CELLS = definitions()
LATENT_DIM = 32
PUBLISHED = {
    "VAE, one stochastic layer": 86.76,
    "VAE, two stochastic layers": 85.33,
    "IWAE, k = 50, one stochastic layer": 84.78,
}


def binarised(images: Tensor, seed: int) -> Tensor:
    """Draw each pixel as 0 or 1, its grey level the probability of 1."""
    generator = torch.Generator(images.device).manual_seed(seed)
    return torch.bernoulli(images, generator=generator)


def train_without_labels(images: Tensor, epochs: int, seed: int) -> CVAE:
    """Train with the notebook's routine on images (N, 1, 28, 28)."""
    p = parameters()
    torch.manual_seed(seed)
    mean_image = images.mean(dim=0)
    model = CVAE(LATENT_DIM, 1, mean_image).to(images.device)
    batches = torch.empty_like(images)

    def binarise_anew(epoch: int) -> None:
        grey = images
        if epoch < p.DISTORTED * epochs:
            parts = images.split(p.BATCH_SIZE)
            grey = torch.cat([CELLS.distort(part) for part in parts])
        batches.copy_(binarised(grey, seed=epoch))

    binarise_anew(0)
    CELLS.train(
        model,
        batches,
        no_labels(images),
        epochs,
        batch_size=p.BATCH_SIZE,
        learning_rate=p.LEARNING_RATE,
        seed=seed,
        after_epoch=binarise_anew,
    )
    return model


def no_labels(images: Tensor) -> Tensor:
    """The one class of all images: zeros (N,)."""
    return torch.zeros(len(images), dtype=torch.int64, device=images.device)


@torch.no_grad()
def nll(model: CVAE, images: Tensor, samples: int) -> Tensor:
    """Estimate -log p(x) by importance sampling: (N,), nats per image.

    -log of the mean of p(x|z) p(z) / q(z|x) over draws from q(z|x). On
    average too large, the less so the more samples (Burda et al., Theorem 1).
    """
    estimates = []
    labels = no_labels(images)
    posteriors = zip(images, *model.encode(images, labels), strict=True)
    for image, mu, logvar in posteriors:
        noise = torch.randn(samples, model.latent_dim, device=mu.device)
        z = mu + (0.5 * logvar).exp() * noise
        logits = model.decode(z, labels[:1].expand(samples))
        # the constants of both normal densities cancel
        log_prior = -0.5 * z.square().sum(dim=1)
        log_posterior = -0.5 * (noise.square() + logvar).sum(dim=1)
        log_likelihood = -CELLS.reconstruction_loss(
            logits, image.expand_as(logits)
        )
        log_weights = log_likelihood + log_prior - log_posterior
        estimates.append(math.log(samples) - log_weights.logsumexp(dim=0))
    return torch.stack(estimates)


@torch.no_grad()
def check_nll() -> None:
    """Compare the estimate with a numerical integral over one dimension.

    Raises:
        AssertionError: They differ by more than 0.02 nats.
    """
    torch.manual_seed(0)
    model = CVAE(latent_dim=1, num_classes=1, width=32)
    model.encoder.last.bias.fill_(0.5)  # q must differ from the prior
    images = torch.bernoulli(torch.rand(4, 1, 28, 28))
    z = torch.linspace(-10, 10, 4001)[:, None]
    logits = model.decode(z, torch.zeros(len(z), dtype=torch.int64))
    log_joint = torch.stack(
        [
            -CELLS.reconstruction_loss(logits, image.expand_as(logits))
            - 0.5 * (z[:, 0].square() + math.log(2 * math.pi))
            for image in images
        ]
    )
    step = (z[1] - z[0]).log()
    exact = -(log_joint.logsumexp(dim=1) + step)
    estimate = nll(model, images, samples=20_000)
    torch.testing.assert_close(estimate, exact, rtol=0, atol=0.02)
    print(f"estimator against integral: {(estimate - exact).abs().max():.1g}")


def main() -> None:
    """Train, estimate, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--epochs", type=int, default=160)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--samples", type=int, default=1000)
    args = parser.parse_args()
    device = get_device()
    check_nll()
    images, _ = load("MNIST", True, device)
    test_images = binarised(load("MNIST", False, device)[0], seed=0)
    elbos, nlls, seconds = [], [], []
    for seed in range(args.seeds):
        start = time.perf_counter()
        model = train_without_labels(images, args.epochs, seed)
        seconds.append(time.perf_counter() - start)
        labels = no_labels(test_images)
        elbos.append(sum(CELLS.evaluate(model, test_images, labels)))
        nlls.append(nll(model, test_images, args.samples).mean().item())
        print(f"seed {seed}: −ELBO {elbos[-1]:.2f}, NLL {nlls[-1]:.2f}")

    print("\n| model | passes | NLL |\n|:--|--:|--:|")
    for name, value in PUBLISHED.items():
        print(f"| {name} (Burda et al.) | 3,280 | {value:.2f} |")
    print(
        f"| ours, one stochastic layer | {args.epochs} "
        f"| {np.mean(nlls):.2f} ± {np.std(nlls):.2f} |\n\n"
        f"{args.seeds} seeds, {args.samples:,} samples for each of "
        f"{len(test_images):,} test images; −ELBO "
        f"{np.mean(elbos):.2f}; training "
        f"{np.mean(seconds):.0f} s on {device}."
    )


if __name__ == "__main__":
    main()
