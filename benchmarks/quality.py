"""How good the report's model is: one table, measured on the test sets.

    DATA_DIR=… python -m benchmarks.quality [--seeds 3]

Trains the report's models exactly as the notebook does (its cells tagged
``definitions`` and ``parameters``), and, for the same number of epochs, a
plain CVAE that gets the label by concatenation (512-256, z = 20): as public
projects train it (Adam, constant 1e-3, batch 128) and with our routine.
The judge is a small CNN that saw only real MNIST; it is trained once and
kept in ``benchmarks/.cache``.
"""

import argparse
import itertools
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from sklearn.metrics import roc_auc_score
from sklearn.neighbors import NearestNeighbors
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import trange

from benchmarks.report import definitions, get_device, parameters
from checks import Linear
from mnist import load
from network import CVAE
from plots import baseline_scores, model_scores, prior_samples

CELLS = definitions()
CACHE = Path(__file__).parent / ".cache" / "judge.pt"
Data = tuple[Tensor, Tensor]


class Judge(nn.Module):
    """A LeNet-like classifier; ``features`` are its penultimate layer."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, 32, 5, padding=2),
            nn.ReLU(),
            nn.MaxPool2d(2),  # 28 x 28 => 14 x 14
            nn.Conv2d(32, 64, 5, padding=2),
            nn.ReLU(),
            nn.MaxPool2d(2),  # 14 x 14 => 7 x 7
            nn.Flatten(),
            nn.Dropout(0.4),
            nn.Linear(64 * 49, 128),
            nn.ReLU(),
        )
        self.head = nn.Sequential(nn.Dropout(0.4), nn.Linear(128, 10))

    def forward(self, images: Tensor) -> Tensor:
        """Class logits (B, 10) of images (B, 1, 28, 28)."""
        return self.head(self.features(images))


def get_judge(train: Data, test: Data, epochs: int = 8) -> Judge:
    """The judge from the cache, or newly trained.

    Raises:
        RuntimeError: It recognises less than 99.2 % of the test images.
    """
    torch.manual_seed(0)
    images, labels = train
    judge = Judge().to(images.device)
    if CACHE.exists():
        weights = torch.load(CACHE, images.device, weights_only=True)
        judge.load_state_dict(weights)
    else:
        steps = len(images) // 128
        optimizer = torch.optim.Adam(judge.parameters(), lr=2e-3, fused=True)
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, 2e-3, total_steps=epochs * steps
        )
        for _ in trange(epochs, desc="judge"):
            order = torch.randperm(len(images), device=images.device)
            for batch in order[: steps * 128].view(steps, 128):
                loss = F.cross_entropy(judge(images[batch]), labels[batch])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
        CACHE.parent.mkdir(exist_ok=True)
        torch.save(judge.state_dict(), CACHE)
    judge.eval()
    accuracy = share_recognised(judge, *test)
    print(f"judge: {accuracy:.2%} of the test images")
    if accuracy < 0.992:
        raise RuntimeError("the judge is too weak: at least 99.2 % needed")
    return judge


@torch.no_grad()
def share_recognised(judge: Judge, images: Tensor, labels: Tensor) -> float:
    """Share of images whose label the judge sees in them."""
    seen = torch.cat([judge(x).argmax(dim=1) for x in images.split(1000)])
    return (seen == labels).float().mean().item()


@torch.no_grad()
def frechet(judge: Judge, one: Tensor, other: Tensor) -> float:
    """Fréchet distance of Gaussians in the judge's features (Heusel 2017)."""
    moments = []
    for images in (one, other):
        features = torch.cat([judge.features(x) for x in images.split(1000)])
        features = features.double().cpu()
        moments.append((features.mean(dim=0), features.T.cov()))
    (mean_1, cov_1), (mean_2, cov_2) = moments
    # trace of the square root of cov_1 cov_2, from its eigenvalues
    root = torch.linalg.eigvals(cov_1 @ cov_2).real.clamp(min=0).sqrt().sum()
    distance = (mean_1 - mean_2).square().sum()
    return (distance + cov_1.trace() + cov_2.trace() - 2 * root).item()


class Concatenating(nn.Module):
    """A plain MLP that gets the label one-hot beside its input."""

    def __init__(self, *sizes: int, num_classes: int = 10) -> None:
        super().__init__()
        self.num_classes = num_classes
        sizes = (sizes[0] + num_classes, *sizes[1:])
        layers: list[nn.Module] = []
        for i, o in itertools.pairwise(sizes):
            layers += [Linear(i, o), nn.ReLU()]
        self.layers = nn.Sequential(*layers[:-1])

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        """Map ``x`` (B, sizes[0]) to (B, sizes[-1])."""
        one_hot = F.one_hot(labels, self.num_classes).to(x.dtype)
        return self.layers(torch.cat([x, one_hot], dim=1))


def concatenating_cvae() -> CVAE:
    """The usual public CVAE, 784-512-256-20 and back."""
    model = CVAE(20)
    model.encoder = Concatenating(784, 512, 256, 40)
    model.decoder = Concatenating(20, 256, 512, 784)
    for maps in (model.encoder_map, model.decoder_map):
        maps.requires_grad_(False)  # they stay the identity
    return model


def row_of(
    model: CVAE, judge: Judge, nearest: NearestNeighbors, data: dict
) -> dict[str, float]:
    """All measurements of one model on the test sets."""
    reconstruction, kl = CELLS.evaluate(model, *data["test"])
    samples, labels = prior_samples(model, 1000)
    labels = labels.to(samples.device)
    decoded = reconstructions(model, *(x[:10_000] for x in data["train"]))
    row = {
        "−ELBO": reconstruction + kl,
        "reconstruction": reconstruction,
        "KL": kl,
        "recognised": share_recognised(judge, samples, labels),
        "Fréchet": frechet(judge, samples, data["test"][0]),
        "Fréchet of reconstructions": frechet(
            judge, decoded, data["test"][0]
        ),
        "nearest training image": distance_to(nearest, samples),
    }
    scores = [
        model_scores(images, *CELLS.label_free_scores(model, images)[:2])
        for images in (data["test"][0], data["fashion"][0])
    ]
    return row | aurocs(scores)


@torch.no_grad()
def reconstructions(model: CVAE, images: Tensor, labels: Tensor) -> Tensor:
    """Decoded draws from the posteriors: samples of an ideal prior."""
    torch.manual_seed(0)
    batches = zip(images.split(1000), labels.split(1000), strict=True)
    return torch.cat([model(x, y)[0].sigmoid() for x, y in batches])


def distance_to(nearest: NearestNeighbors, images: Tensor) -> float:
    """Mean Euclidean distance to the nearest training image."""
    return nearest.kneighbors(images.flatten(1).cpu())[0].mean()


def aurocs(scores: list[dict[str, Tensor]]) -> dict[str, float]:
    """AUROC of each score, Fashion-MNIST against MNIST."""
    return {
        f"AUROC {name}": roc_auc_score(
            np.repeat([0, 1], [len(of[name]) for of in scores]),
            torch.cat([of[name] for of in scores]),
        )
        for name in scores[0]
    }


def train_as_the_report(
    model: CVAE,
    data: Data,
    epochs: int,
    seed: int,
    distorted: float = parameters().DISTORTED,
    after_epoch: Callable[[int], None] = lambda epoch: None,
) -> None:
    """Train with the notebook's routine and parameters."""
    p = parameters()
    CELLS.train(
        model,
        *data,
        epochs,
        weights=(1.0, p.KL_WEIGHT),
        batch_size=p.BATCH_SIZE,
        learning_rate=p.LEARNING_RATE,
        distorted=distorted,
        seed=seed,
        after_epoch=after_epoch,
    )


def watched_training(
    judge: Judge,
    data: dict[str, Data],
    latent_dim: int,
    epochs: int,
    distorted: float,
    seed: int,
) -> tuple[CVAE, dict[str, float]]:
    """The report's network, trained, and how soon its samples were good."""
    torch.manual_seed(seed)
    images, _ = data["train"]
    model = CVAE(latent_dim, mean_image=images.mean(dim=0)).to(images.device)
    shares = {}

    def look(epoch: int) -> None:
        if epoch in (1, 5):
            share = share_recognised(judge, *prior_samples(model, 200))
            shares[f"recognised after epoch {epoch}, of 2,000"] = share

    train_as_the_report(model, data["train"], epochs, seed, distorted, look)
    return model, shares


def train_plainly(model: CVAE, data: Data, epochs: int, seed: int) -> None:
    """Train as public projects do: Adam, constant 1e-3, batches of 128."""
    torch.manual_seed(seed)
    images, labels = data
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, fused=True)
    for _ in trange(epochs, desc="plain"):
        order = torch.randperm(len(images), device=images.device)
        for batch in order.split(128):
            terms = CELLS.loss_terms(model, images[batch], labels[batch])
            optimizer.zero_grad()
            sum(terms).mean().backward()
            optimizer.step()


def main() -> None:
    """Train, measure, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", type=int, default=3)
    seeds = parser.parse_args().seeds
    p = parameters()
    device = get_device()
    data = {
        "train": load("MNIST", True, device),
        "test": load("MNIST", False, device),
        "fashion": load("FashionMNIST", False, device),
    }
    judge = get_judge(data["train"], data["test"])
    nearest = NearestNeighbors(n_neighbors=1, algorithm="brute")
    nearest.fit(data["train"][0].flatten(1).cpu())
    columns: dict[str, list[dict[str, float]]] = defaultdict(list)

    def measure(name: str, model: CVAE, early: dict[str, float]) -> None:
        row = early | row_of(model, judge, nearest, data)
        columns[name].append(row)
        parts = (f"{key} {value:.5g}" for key, value in row.items())
        print(f"{name}: {', '.join(parts)}", flush=True)

    trainings = {
        "the report": (p.LATENT_DIM, p.EPOCHS, p.DISTORTED),
        f"{p.EPOCHS_SWEEP} epochs": (p.LATENT_DIM, p.EPOCHS_SWEEP, 0),
        "z = 2": (2, p.EPOCHS_2D, 0),
        "nothing distorted": (p.LATENT_DIM, p.EPOCHS, 0),
    }
    for seed in range(p.SEED, p.SEED + seeds):
        for name, settings in trainings.items():
            if seed == p.SEED or name != "nothing distorted":
                trained = watched_training(judge, data, *settings, seed)
                measure(name, *trained)
    for name, routine in (
        ("concatenating", train_plainly),
        ("the same, our routine", train_as_the_report),
    ):
        torch.manual_seed(p.SEED)
        baseline = concatenating_cvae().to(device)
        routine(baseline, data["train"], p.EPOCHS, p.SEED)
        measure(name, baseline, {})

    columns["real images"] = [
        {
            "recognised": share_recognised(judge, *data["test"]),
            # of as many images as there are samples: fewer look further away
            "Fréchet": frechet(
                judge, data["train"][0][:10_000], data["test"][0]
            ),
            "nearest training image": distance_to(nearest, data["test"][0]),
        }
        | aurocs(
            [baseline_scores(data[name][0]) for name in ("test", "fashion")]
        )
    ]
    keys = dict.fromkeys(k for rows in columns.values() for k in rows[0])
    print(f"\n| | {' | '.join(columns)} |\n|:--{'|--:' * len(columns)}|")
    for key in keys:
        texts = [
            spread([r[key] for r in rows if key in r])
            for rows in columns.values()
        ]
        print(f"| {key} | {' | '.join(texts)} |")
    print(
        f"\nMean ± standard deviation of {seeds} seeds where one stands. "
        f"{p.EPOCHS} epochs, z = 2: {p.EPOCHS_2D}; batches of {p.BATCH_SIZE}."
    )


def spread(values: list[float]) -> str:
    """Mean ± standard deviation, five digits."""
    if len(values) < 2:
        return "".join(f"{value:.5g}" for value in values)
    return f"{np.mean(values):.5g} ± {np.std(values):.1g}"


if __name__ == "__main__":
    main()
