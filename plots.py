"""How the report draws and judges: figures, tables, the judge of samples.

Nothing here knows of the experiments: images, codes and losses come as
arguments, and each ``plot_…`` returns a figure.
"""

import base64
import hashlib
import io
import re
import textwrap
from collections.abc import Iterable, Sequence
from inspect import getsource
from pathlib import Path

import matplotlib
import numpy as np
import PIL.Image
import torch
from IPython.display import HTML, Markdown, display, update_display
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Circle, Ellipse, Patch
from matplotlib.patheffects import withStroke
from scipy.special import digamma
from sklearn.decomposition import PCA
from sklearn.metrics import roc_auc_score
from sklearn.neighbors import KNeighborsClassifier, NearestNeighbors
from sklearn.pipeline import Pipeline, make_pipeline
from torch import Tensor
from torch.nn import functional as F
from torchvision.utils import make_grid

from network import CVAE, reparametrise

# Found by search, of similar lightness (L* from 40 to 78): the two that are
# most alike differ as much as possible, for normal sight and the three
# colour blindnesses.
COLORS = [
    "#0b62b3", "#df2200", "#10d7af", "#9a4439", "#ff2afe",
    "#a7cf00", "#7714ff", "#f5b16f", "#c80d74", "#ddaff4",
]  # fmt: skip
WIDTH = 6.5  # inches, of the page's text
FRAME = 4.0  # half the side of a picture of a latent space
HALO = [withStroke(linewidth=2.4, foreground="w")]
# Read when the modules are imported: the text of the code that runs, without
# its docstrings.
NETWORK_CODE = "\n\n".join(
    re.sub(r'(?s)\n *""".*?"""', "", textwrap.dedent(getsource(part))).strip()
    for part in (CVAE.encode, reparametrise, CVAE.decode, CVAE._decode)
)
NETWORK_CODE = Markdown(f"```python\n{NETWORK_CODE}\n```")
PNG = re.compile(r"data:image/png;base64,([^\"]+)")
_read: dict[str, str] = {}  # SHA-256 by name: a cell run again keeps it
_shown: dict[str, object] = {}  # by place


def set_style() -> None:
    """Set figures in Computer Modern, whatever a matplotlibrc says."""
    matplotlib.rcdefaults()
    matplotlib.rc("figure.constrained_layout", use=True)
    matplotlib.rc("font", family="cmr10", size=8.5)
    matplotlib.rc("axes", linewidth=0.6, titlesize=8.5, labelsize=8.5)
    matplotlib.rc("axes.formatter", use_mathtext=True)  # cmr10 has no minus
    matplotlib.rc("mathtext", fontset="cm")
    matplotlib.rc("legend", fontsize=8.5, frameon=False)
    matplotlib.rc("xtick", labelsize=8)
    matplotlib.rc("ytick", labelsize=8)
    matplotlib.rc("image", cmap="gray_r", interpolation="none")
    matplotlib.rc("svg", hashsalt="the same file from the same data")


def show(
    number: int, place: str = "", columns: int = 1, **figures: Figure
) -> None:
    """Save figures as ``figures/NAME.svg`` and show them with captions.

    A caption is the figure's label, HTML, with a number, of which ``number``
    is the first. They are shown here, or at a place that `reserve` has kept.
    Those in several columns stay on one page.
    """
    Path("figures").mkdir(exist_ok=True)
    shown, look = [], f"width: {104 / columns - 4:g}%; margin: 0"
    for of_figure, (name, fig) in enumerate(figures.items(), number):
        buffer = io.StringIO()
        fig.savefig(buffer, format="svg", dpi=300, metadata={"Date": None})
        svg = PNG.sub(_with_fewer_colors, buffer.getvalue())
        Path("figures", f"{name}.svg").write_text(svg, "utf-8")
        svg = base64.b64encode(svg.encode()).decode()
        width = round(96 * fig.get_figwidth())  # a page has 96 px to an inch
        shown.append(
            f'<figure style="{look}">'
            f'<img src="data:image/svg+xml;base64,{svg}" '
            f'alt="{name.replace("_", " ")}" width="{width}">'
            f"<figcaption>Figure {of_figure}: {fig.get_label()}</figcaption>"
            "</figure>"
        )
    content = "".join(shown)
    if columns > 1:
        gap = '<div style="width: 4%"></div>'
        starts = range(0, len(shown), columns)
        rows = [gap.join(shown[i : i + columns]) for i in starts]
        row = '<div style="display: flex">{}</div>'
        content = "".join(map(row.format, rows))
        content = f'<div style="break-inside: avoid">{content}</div>'
    if place:
        fill(place, HTML(content))
    else:
        display(HTML(content))


def _with_fewer_colors(found: re.Match) -> str:
    """A PNG inside an SVG with 64 colours, which look the same."""
    buffer = io.BytesIO()
    image = PIL.Image.open(io.BytesIO(base64.b64decode(found[1])))
    image.quantize(64).save(buffer, "png", optimize=True)
    data = base64.b64encode(buffer.getvalue()).decode()
    return f"data:image/png;base64,{data}"


def note_modules(names: Iterable[str]) -> None:
    """Note in an output's metadata which modules the kernel has read."""
    for name in names:
        content = Path(name).read_bytes()
        _read.setdefault(name, hashlib.sha256(content).hexdigest())
    display(Markdown(""), metadata={"ran_with": dict(_read)})


def reserve(place: str) -> None:
    """Keep a place for `fill`; run again, it shows what is there now."""
    display(
        _shown.get(place, Markdown("*After a full run.*")), display_id=place
    )


def fill(place: str, content: object) -> None:
    """Show Markdown, or a picture, at a place that `reserve` has kept."""
    _shown[place] = Markdown(content) if isinstance(content, str) else content
    update_display(_shown[place], display_id=place)


def table(header: str, row: str, rows: Iterable[Sequence]) -> None:
    """Show rows, each formatted by ``row``, as a table."""
    lines = [header, "|:--|" + "--:|" * (header.count("|") - 2)]
    lines += [row.format(*values).replace("-", "−") for values in rows]
    display(Markdown("\n".join(lines)))


def tile(images: Tensor) -> Tensor:
    """Tile images (columns, rows, 1, 28, 28) as one, 2 pixels between."""
    by_row = images.transpose(0, 1).flatten(0, 1)
    return make_grid(by_row.cpu(), nrow=len(images))[0]


def draw(
    ax: Axes,
    images: Tensor,
    columns: Sequence = (),
    rows: Sequence = (),
    above: Sequence = (),
) -> None:
    """Draw images (columns, rows, 1, 28, 28), with labels if there are."""
    ax.imshow(tile(images), vmin=0, vmax=1)
    for axis, labels in ((ax.xaxis, columns), (ax.yaxis, rows)):
        axis.set_ticks(30 * np.arange(len(labels)) + 16, labels)
    if above:
        top = ax.secondary_xaxis("top")
        top.set_ticks(30 * np.arange(len(above)) + 16, above)
        top.tick_params(length=0, pad=1, labelsize=7)
        top.spines[:].set_visible(False)
    ax.tick_params(length=0, pad=2)
    ax.spines[:].set_visible(False)


def plot_rows(
    blocks: dict[str, Tensor], caption: str, size: float = 0.25
) -> Figure:
    """Draw images (columns, rows, 1, 28, 28) side by side, below titles.

    ``size`` of an image is in inches.
    """
    height = max(images.shape[1] for images in blocks.values())
    fig = Figure(figsize=(WIDTH, size * height + 0.3), label=caption)
    widths = [len(images) for images in blocks.values()]
    axes = fig.subplots(1, len(blocks), squeeze=False, width_ratios=widths)
    for ax, (title, images) in zip(axes[0], blocks.items(), strict=True):
        draw(ax, images)
        ax.set_title(title)
    return fig


def plot_epochs(samples: Tensor, large: int = 16) -> Figure:
    """Draw samples (epochs, 10, 1, 28, 28): the first epochs are larger."""
    most = 0.25  # inches: the size of a large image
    half = max(large, len(samples) + large + 1) // 2  # ends the upper block
    beside = 0.5 + most * large
    small = min(0.125, (WIDTH - beside) / max(half - large, 1))
    height = max(0.45 + 10 * most, 0.75 + 20 * small)
    caption = "A sample for each class after every epoch."
    fig = Figure(figsize=(WIDTH, height), layout="none", label=caption)
    for start, end, x, y, size in (
        (0, large, 0.2, 0.35, most),
        (large, half, beside, 0.65 + 10 * small, small),
        (half, len(samples), beside, 0.35, small),
    ):
        if len(part := samples[start:end]):
            box = x, y, size * len(part), 10 * size
            ax = fig.add_axes(np.divide(box, 2 * (WIDTH, height)))
            every = 4 if start else 1
            numbers = range(start + 1, start + 1 + len(part))
            names = ["" if n % every else str(n) for n in numbers]
            draw(ax, part, names, () if start else range(10))
    fig.text((0.2 + most * large / 2) / WIDTH, 0.01, "epoch", ha="center")
    return fig


def plot_training(
    history: Tensor, held_out: Sequence[tuple[float, float]]
) -> Figure:
    """Plot both terms of the loss against the number of steps.

    They are (epochs, steps, 2); those of test images are for each epoch.
    """
    fig = Figure(figsize=(WIDTH, 2.2))
    left, right = fig.subplots(1, 2, width_ratios=(1.15, 1))
    steps = np.arange(history[..., 0].numel()) + 1
    ends = steps[history.shape[1] - 1 :: history.shape[1]]
    terms, test = history.flatten(0, 1), torch.tensor(held_out)
    for ax, name, color, of_batch, of_test in (
        (left, "loss", COLORS[0], terms.sum(dim=1), test.sum(dim=1)),
        (right, "reconstruction", COLORS[1], terms[:, 0], test[:, 0]),
        (right, "KL term", "#0a8a70", terms[:, 1], test[:, 1]),
    ):
        label = f"{name}, each batch"
        ax.plot(steps, of_batch, color, lw=0.4, label=label)
        ax.plot(ends, of_test, "k.", ms=2.2)
        ax.set(xlabel="number of steps", xlim=(0, steps[-1]))
        ax.grid(lw=0.3)
    left.plot([], [], "k.", label="test images, after each epoch")
    left.set(ylabel="nats per image", yscale="log")
    ticks = [80, 100, 150, 200, 300, 400, 600]
    left.set_yticks(ticks, ticks)
    left.minorticks_off()
    left.set_ylim(0.97 * terms.sum(dim=1).min().item())
    right.set_ylim(0)
    for ax in (left, right):
        look = {"frameon": True, "framealpha": 1, "edgecolor": "w"}
        for line in ax.legend(loc="upper right", **look).get_lines():
            line.set_linewidth(1.5)
    fig.set_label(
        "The loss at every step (left, logarithmic) and its two terms "
        "(right). Black: 2,000 test images after each epoch."
    )
    return fig


def plot_latent_space(
    mu: Tensor,
    logvar: Tensor,
    labels: Tensor,
    caption: str,
    side: float = 2.6,
) -> Figure:
    """Draw the posteriors (N, 2) of images in a 2-D latent space.

    Every point is a mean; those outside the frame are diamonds on its border.
    The histograms are of codes z, one drawn from each posterior. ``side`` of
    the frame is in inches; below a small frame there is a legend.
    """
    width, height, strip = 3.06, 3.25, 0.24  # inches
    left, bottom = (width - side) / 2, height - strip - 0.2 - side
    fig = Figure(figsize=(width, height), layout="none", label=caption)
    box = left / width, bottom / height, side / width, side / height
    ax = fig.add_axes(box)
    above = ax.inset_axes((0, 1, 1, strip / side))
    beside = ax.inset_axes((1, 0, strip / side, 1))
    z = draw_codes(mu, logvar).numpy()
    _draw_margin(above, z[:, 0], across=False)
    _draw_margin(beside, z[:, 1], across=True)
    places, sigma = mu.numpy(), (0.5 * logvar).exp()
    order = np.random.default_rng(0).permutation(len(mu))  # no class on top
    far = (np.abs(places[order]) > FRAME).any(axis=1)
    inside, outside = order[~far], order[far]
    ax.set(xlim=(-FRAME, FRAME), ylim=(-FRAME, FRAME))
    ax.set(xticks=range(-4, 5, 2), yticks=range(-4, 5, 2))
    ax.tick_params(length=2, pad=2)
    near = FRAME - 0.1
    ax.text(near, -near, "$z_1$", ha="right", path_effects=HALO)
    ax.text(-near, near, "$z_2$", va="top", path_effects=HALO)
    _draw_classes(ax, places, labels.numpy(), inside)
    border = np.clip(places[outside], -FRAME, FRAME)
    colors = [COLORS[label] for label in labels[outside]]
    look = {"s": 4, "lw": 0, "clip_on": False, "rasterized": True}
    ax.scatter(*border.T, c=colors, marker="D", **look)
    for radius in (1, 2):
        look = {"fill": False, "ls": "--", "lw": 0.7, "ec": "0.2"}
        ax.add_patch(Circle((0, 0), radius, zorder=6, **look))
    for i in order[:30]:
        size = 2 * sigma[i]
        ax.add_patch(Ellipse(mu[i], *size, fill=False, lw=0.6, zorder=4))
    extent = np.abs(places).max()
    if extent < FRAME / 40:  # a dot: show it magnified
        inset = ax.inset_axes((0.7, 0.11, 0.27, 0.27))
        inset.set(xlim=(-extent, extent), ylim=(-extent, extent))
        inset.set(xticks=[], yticks=[])
        inset.set_xlabel(f"$\\times$ {FRAME / extent:,.0f}", labelpad=2)
        _draw_classes(inset, places, labels.numpy(), order)
        ax.indicate_inset_zoom(inset, ec="0.2", alpha=1)
    median = sigma.median().item()
    width = f"= {median:.2g}" if median >= 0.001 else "< 0.001"
    title = f"median $\\sigma {width}$; outside: {len(outside):,}"
    above.set_title(title, pad=3)
    if side < 2.5:
        _draw_legend(fig)
    return fig


def _draw_margin(ax: Axes, codes: np.ndarray, across: bool) -> None:
    """Draw a histogram of codes (N,) and the density of N(0, 1)."""
    edges = np.linspace(-FRAME, FRAME, 41)
    weights = np.full(len(codes), 1 / len(codes) / (edges[1] - edges[0]))
    side = "horizontal" if across else "vertical"
    ax.hist(codes, edges, weights=weights, color="0.75", orientation=side)
    normal = np.exp(-0.5 * edges**2) / np.sqrt(2 * np.pi)
    ax.plot(*((normal, edges) if across else (edges, normal)), "k", lw=0.8)
    limits = (0, 0.46), (-FRAME, FRAME)
    ax.axis((*limits[not across], *limits[across]))
    ax.axis("off")


def _draw_legend(fig: Figure) -> None:
    """Draw what the colours and lines of `plot_latent_space` mean."""
    digits = [Patch(color=c, label=str(i)) for i, c in enumerate(COLORS)]
    lines = [
        Line2D([], [], color=color, lw=width, ls=style, label=label)
        for color, width, style, label in (
            (COLORS[0], 1.4, "-", "class (1 s.d.)"),
            ("k", 0.6, "-", "30 posteriors (1 s.d.)"),
            ("0.2", 0.7, "--", "prior (1, 2 s.d.)"),
        )
    ]
    look = {"handlelength": 1.2, "columnspacing": 0.8, "borderaxespad": 0.2}
    fig.legend(handles=digits, ncols=4, loc="lower left", **look)
    fig.legend(handles=lines, loc="lower right", **look)


def _draw_classes(
    ax: Axes, mu: np.ndarray, labels: np.ndarray, order: np.ndarray
) -> None:
    """Draw points, and an ellipse for each class (1 s.d.)."""
    colors = np.array(COLORS)[labels[order]]
    look = {"s": 1.6, "lw": 0, "alpha": 0.55, "rasterized": True}
    ax.scatter(*mu[order].T, c=colors, **look)
    turn = np.linspace(0, 2 * np.pi, 100)
    circle = np.stack([np.cos(turn), np.sin(turn)])
    for digit, color in enumerate(COLORS):
        codes = mu[labels == digit].T
        cov = np.cov(codes) + 1e-12 * np.eye(2)  # they may all be alike
        ellipse = codes.mean(axis=1, keepdims=True)
        ellipse = ellipse + np.linalg.cholesky(cov) @ circle
        ax.plot(*ellipse, color, lw=1.4, zorder=5, path_effects=HALO)


def decoded_plane(
    model: CVAE, label: int, extent: float = 2.0, steps: int = 10
) -> Tensor:
    """What a model with a 2-D latent space draws: (steps, steps + 3, …).

    One label at a grid of z, with coordinates from -extent to extent; an
    empty row; two samples from the prior for each class.
    """
    where = next(model.parameters()).device
    line = torch.linspace(-extent, extent, steps, device=where)
    z = torch.cartesian_prod(line, -line)  # columns, then rows from above
    plane = model.sample(torch.full((len(z),), label, device=where), z)
    plane = plane.unflatten(0, (steps, steps))
    samples = prior_samples(model, 2)[0].unflatten(0, (-1, 2))
    return torch.cat([plane, torch.zeros_like(plane[:, :1]), samples], dim=1)


def plot_scored(
    images: Tensor,
    losses: Tensor,
    drawn: Tensor,
    labels: Tensor,
    names: Sequence[str],
    caption: str,
) -> Figure:
    """Draw images over their reconstructions, ten in a row.

    Names stand above; below, the label with which an image was drawn, and its
    loss. Arguments are (N, 1, 28, 28) or N; the caption is HTML.
    """
    caption += " Below: the label with the smallest loss, and its loss."
    pairs = torch.stack([images, drawn], dim=1)
    rows = len(images) // 10
    fig = Figure(figsize=(WIDTH, 1.3 * rows), label=caption)
    scores = zip(labels, losses, strict=True)
    below = [f"label {label}\n{loss:.0f}" for label, loss in scores]
    for row, ax in enumerate(fig.subplots(rows, 1, squeeze=False)[:, 0]):
        part = slice(10 * row, 10 * row + 10)
        draw(ax, pairs[part], below[part], ["image", "drawn"], names[part])
    return fig


def first_of_each_class(*data: tuple[Tensor, Tensor]) -> Tensor:
    """The first image of every class of datasets: (N, 1, 28, 28)."""
    return torch.cat(
        [
            images[np.unique(labels.cpu(), return_index=True)[1]]
            for images, labels in data
        ]
    )


def plot_losses(
    digits: Tensor, garments: Tensor, threshold: Tensor
) -> Figure:
    """Draw histograms of losses (N,), (M,), logarithmic, in the same bins."""
    caption = "Reconstruction losses of all test images (axes: logarithmic)."
    fig = Figure(figsize=(WIDTH, 1.8), label=caption)
    ax = fig.subplots()
    values = torch.cat([digits, garments])
    bins = np.geomspace(values.min().item(), values.max().item(), 90)
    for name, losses, color in (
        ("MNIST", digits, COLORS[0]),
        ("Fashion-MNIST", garments, COLORS[1]),
    ):
        ax.hist(losses.numpy(), bins, alpha=0.7, label=name, fc=color)
    label = f"threshold, {threshold:.0f} nats"
    ax.axvline(threshold.item(), c="k", lw=0.8, ls="--", label=label)
    ax.set(xscale="log", xlabel="reconstruction loss, nats (logarithmic)")
    ticks = [10, 20, 50, 100, 200, 500, 1000, 2000, 5000]
    ax.set_xticks(ticks, ticks)
    ax.set(ylabel="images per bin", xlim=(bins[0], bins[-1]), yscale="log")
    ax.minorticks_off()
    ax.legend(ncols=3, loc="lower center", bbox_to_anchor=(0.5, 1))
    return fig


def with_parts(
    parts: Iterable[str], latent_dim: int, mean_image: Tensor, seed: int
) -> CVAE:
    """A CVAE with only some parts: the others are frozen or shared.

    They are "shifts" (classes have biases in all hidden layers, not in the
    first alone), "start" (which differ at the start, and the decoder starts
    at the mean image), "scales" and "maps".
    """
    torch.manual_seed(seed)
    start = mean_image if "start" in parts else None
    model = CVAE(latent_dim, mean_image=start).to(mean_image.device)
    for half in (model.encoder, model.decoder):
        if "start" not in parts:
            half.shifts.data.zero_()
        if "shifts" not in parts:  # behind the first, one bias for all
            half.shifts.register_hook(_shared_behind_the_first)
        half.scale.requires_grad_("scales" in parts)
    model.encoder_map.requires_grad_("maps" in parts)
    model.decoder_map.requires_grad_("maps" in parts)
    return model


def _shared_behind_the_first(gradient: Tensor) -> Tensor:
    """Equal gradients for all classes keep equal shifts equal."""
    mean = gradient[1:].mean(dim=1, keepdim=True).expand_as(gradient[1:])
    return torch.cat([gradient[:1], mean])


def fit_judge(images: Tensor, labels: Tensor) -> Pipeline:
    """Fit 5-nearest neighbours on 50 principal components."""
    judge = make_pipeline(PCA(50, random_state=0), KNeighborsClassifier(5))
    return judge.fit(images.flatten(1).cpu(), labels.cpu())


def recognised(judge: Pipeline, images: Tensor, labels: Tensor) -> np.ndarray:
    """Whether the judge assigns images to the class of their label: (N,)."""
    return judge.predict(images.flatten(1).cpu()) == labels.cpu().numpy()


def prior_samples(
    model: CVAE, per_class: int, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """Samples (num_classes * per_class, 1, 28, 28) and their labels."""
    device = next(model.parameters()).device
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(model.num_classes).repeat_interleave(per_class)
    z = torch.randn(len(labels), model.latent_dim, generator=generator)
    labels = labels.to(device)
    return model.sample(labels, z.to(device)), labels


def percent(hits: np.ndarray) -> str:
    """A share in percent with its standard error, from (N,) booleans."""
    share = hits.mean()
    error = (share * (1 - share) / len(hits)) ** 0.5
    return f"{100 * share:.1f} ± {100 * error:.1f}%"


def distance_from_prior(mu: Tensor, logvar: Tensor, labels: Tensor) -> float:
    """Estimate the mean over y of KL(q(z|y) || N(0, I)), in nats.

    One z is drawn for each image, from posteriors with mu, logvar (N, 2). The
    entropy of the z of a class is Kozachenko and Leonenko's estimate, from
    the distance of each to its fifth-nearest neighbour.
    """
    codes = draw_codes(mu, logvar).double()
    distances = []
    for label in labels.unique():
        z = codes[labels == label]
        tree = NearestNeighbors(n_neighbors=5).fit(z)
        radius = torch.from_numpy(tree.kneighbors()[0][:, -1])
        entropy = (np.pi * radius.square()).log().mean().item()
        entropy += digamma(len(z)) - digamma(5)
        cross = 0.5 * z.square().sum(dim=1).mean() + np.log(2 * np.pi)
        distances.append(cross.item() - entropy)
    return float(np.mean(distances))


def distance_at_least(mu: Tensor, logvar: Tensor, labels: Tensor) -> float:
    """A lower bound of the mean over y of KL(q(z|y) || N(0, I)), in nats.

    It is the KL of the Gaussian with the same mean and covariance: no
    density with these moments is nearer to the prior. mu, logvar are (N, d).
    """
    bounds = []
    for label in labels.unique():
        codes, variances = mu[labels == label], logvar[labels == label].exp()
        mean, cov = codes.mean(dim=0), codes.T.cov(correction=0)
        cov = cov + variances.mean(dim=0).diag()
        both = cov.trace() + mean.square().sum() - len(cov) - cov.logdet()
        bounds.append(0.5 * both.item())
    return float(np.mean(bounds))


def judge_codes(
    mu: Tensor, logvar: Tensor, labels: Tensor, digits: Tensor
) -> tuple[float, float]:
    """`distance_from_prior`, and how often the digit is read from a code z.

    It is read by 15-nearest neighbours, fitted on every second code and
    tried on the others.
    """
    z = draw_codes(mu, logvar)
    neighbours = KNeighborsClassifier(15).fit(z[::2], digits[::2])
    read = neighbours.score(z[1::2], digits[1::2])
    return distance_from_prior(mu, logvar, labels), read


def draw_codes(mu: Tensor, logvar: Tensor) -> Tensor:
    """One z from each posterior, always the same: (N, d)."""
    noise = torch.randn(mu.shape, generator=torch.Generator().manual_seed(0))
    return mu + (0.5 * logvar).exp() * noise


def pixel_entropy(images: Tensor) -> Tensor:
    """Entropy of the grey levels read as Bernoulli means: (N,), nats."""
    entropy = F.binary_cross_entropy(images, images, reduction="none")
    return entropy.sum(dim=(1, 2, 3))


def model_scores(
    images: Tensor, loss: Tensor, drawn: Tensor
) -> dict[str, Tensor]:
    """Anomaly scores (N,) from losses (N,) and reconstructions of images."""
    mse = (drawn - images).square().mean(dim=(1, 2, 3))
    rest = loss - pixel_entropy(images)
    return {
        "CVAE, reconstruction loss": loss.cpu(),
        "CVAE, loss minus pixel entropy": rest.cpu(),
        "CVAE, pixel MSE": mse.cpu(),
    }


def linear_scores(
    images: Tensor, pca: PCA, sizes: Iterable[int]
) -> dict[str, Tensor]:
    """Anomaly scores (N,): what some first components leave of images."""
    centred = images.flatten(1).cpu().numpy() - pca.mean_
    scores = {}
    for n in sizes:
        first = pca.components_[:n]
        rest = centred - centred @ first.T @ first
        error = torch.from_numpy(rest).square().mean(dim=1)
        scores[f"PCA, {n} components, pixel MSE"] = error
    return scores


def baseline_scores(images: Tensor) -> dict[str, Tensor]:
    """Anomaly scores (N,) that need no model."""
    return {
        "pixel entropy": pixel_entropy(images).cpu(),
        "mean intensity": images.mean(dim=(1, 2, 3)).cpu(),
    }


def separation(
    normal: Tensor, anomalous: Tensor, threshold: Tensor
) -> tuple[float, ...]:
    """How well scores (N,) and (M,) separate two datasets.

    Returns AUROC, pairs in the wrong order (ties count half), both medians,
    the shares of normal images above the threshold and of others not above.
    """
    truth = np.repeat([0, 1], [len(normal), len(anomalous)])
    auroc = roc_auc_score(truth, torch.cat([normal, anomalous]))
    wrong = (1 - auroc) * len(normal) * len(anomalous)
    above = (normal > threshold).double().mean().item()
    missed = (anomalous <= threshold).double().mean().item()
    medians = normal.median().item(), anomalous.median().item()
    return auroc, wrong, *medians, above, missed
