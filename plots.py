"""How the report draws and judges: figures, tables, the judge of samples.

Nothing here knows of the experiments: images, codes and losses come as
arguments, and each ``plot_…`` returns a figure.
"""

import base64
import html
import io
import re
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
from matplotlib.patches import Circle, Ellipse, Patch
from matplotlib.patheffects import withStroke
from scipy.special import digamma
from sklearn.decomposition import PCA
from sklearn.metrics import roc_auc_score
from sklearn.neighbors import KNeighborsClassifier, NearestNeighbors
from sklearn.pipeline import Pipeline, make_pipeline
from torch import Tensor
from torchvision.utils import make_grid

import network

# Found by search, of similar lightness (L* from 40 to 78): the two that are
# most alike differ as much as possible, for normal sight and the three
# colour blindnesses.
COLORS = [
    "#0b62b3", "#df2200", "#10d7af", "#9a4439", "#ff2afe",
    "#a7cf00", "#7714ff", "#f5b16f", "#c80d74", "#ddaff4",
]  # fmt: skip
WIDTH = 6.5  # inches, of the page's text
HALO = [withStroke(linewidth=2.4, foreground="w")]
# Read when the modules are imported: the text of the code that runs.
NETWORK_CODE = "\n\n".join(
    getsource(part).rstrip()
    for part in (
        network.CVAE.encode,
        network.reparametrise,
        network.CVAE.decode,
    )
)
PNG = re.compile(r"data:image/png;base64,([^\"]+)")
_shown: dict[str, HTML | Markdown] = {}


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


def show(fig: Figure, name: str, caption: str, place: str = "") -> None:
    """Save a figure as ``figures/NAME.svg`` and show it with its caption.

    Args:
        fig: The figure.
        name: The file's name, without its suffix.
        caption: HTML.
        place: Where to show it: a name that `reserve` was given. Here, if
            empty.
    """
    file = Path("figures") / f"{name}.svg"
    file.parent.mkdir(exist_ok=True)
    buffer = io.StringIO()
    fig.savefig(buffer, format="svg", dpi=300, metadata={"Date": None})
    svg = PNG.sub(_with_fewer_colors, buffer.getvalue())
    file.write_text(svg, "utf-8")
    svg = base64.b64encode(svg.encode()).decode()
    alt = html.escape(name.replace("_", " "))
    width = round(96 * fig.get_figwidth())  # 96 px of a page are an inch
    picture = HTML(
        f'<figure><img src="data:image/svg+xml;base64,{svg}" alt="{alt}" '
        f'width="{width}"><figcaption>{caption}</figcaption></figure>'
    )
    if place:
        fill(place, picture)
    else:
        display(picture)


def _with_fewer_colors(found: re.Match) -> str:
    """A PNG inside an SVG with 64 colours, which look the same."""
    buffer = io.BytesIO()
    image = PIL.Image.open(io.BytesIO(base64.b64decode(found[1])))
    image.quantize(64).save(buffer, "png", optimize=True)
    data = base64.b64encode(buffer.getvalue()).decode()
    return f"data:image/png;base64,{data}"


def reserve(place: str) -> None:
    """Keep a place for `fill`; run again, it shows what is there now."""
    display(
        _shown.get(place, Markdown("*After a full run.*")), display_id=place
    )


def fill(place: str, content: HTML | Markdown) -> None:
    """Show something at a place that `reserve` has kept."""
    _shown[place] = content
    update_display(content, display_id=place)


def table(header: str, row: str, rows: Iterable[Sequence]) -> None:
    """Show rows, each formatted by ``row``, as a table."""
    lines = [header, "|:--|" + "--:|" * (header.count("|") - 2)]
    lines += [row.format(*values) for values in rows]
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
        top.tick_params(length=0, pad=1)
        top.spines[:].set_visible(False)
    ax.tick_params(length=0, pad=2)
    ax.spines[:].set_visible(False)


def plot_rows(
    blocks: dict[str, Tensor], rows: Sequence = (), size: float = 0.25
) -> Figure:
    """Draw tiled images side by side, with a title above each.

    Args:
        blocks: Title: images (columns, rows, 1, 28, 28).
        rows: Labels of the first block's rows.
        size: Of an image, in inches.
    """
    height = max(images.shape[1] for images in blocks.values())
    fig = Figure(figsize=(WIDTH, size * height + 0.3))
    widths = [len(images) for images in blocks.values()]
    axes = fig.subplots(1, len(blocks), squeeze=False, width_ratios=widths)
    for ax, (title, images) in zip(axes[0], blocks.items(), strict=True):
        draw(ax, images, rows=rows if ax is axes[0][0] else ())
        ax.set_title(title)
    return fig


def plot_epochs(samples: Tensor, large: int = 20) -> Figure:
    """Draw samples (epochs, 10, 1, 28, 28): the first epochs are larger."""
    first, others = samples[:large], samples[large:]
    sizes = [
        min(6.3 / len(part), 0.4) for part in (first, others) if len(part)
    ]
    heights = [10 * size + 0.3 for size in sizes]
    fig = Figure(figsize=(WIDTH, sum(heights)))
    axes = fig.subplots(len(sizes), 1, squeeze=False, height_ratios=heights)
    start = 1
    for ax, part in zip(axes[:, 0], (first, others), strict=False):
        draw(ax, part, range(start, start + len(part)), range(10))
        ax.set(xlabel="epoch", anchor="W")
        start += len(part)
    return fig


def plot_training(history: Tensor, held_out: Tensor) -> Figure:
    """Plot both terms of the loss against the number of steps.

    Args:
        history: At every step, (epochs, steps, 2).
        held_out: On test images after every epoch, (epochs, 2).
    """
    fig = Figure(figsize=(WIDTH, 2.5))
    left, right = fig.subplots(1, 2, width_ratios=(1.15, 1))
    steps = np.arange(history[..., 0].numel()) + 1
    ends = steps[history.shape[1] - 1 :: history.shape[1]]
    terms, test = history.flatten(0, 1), held_out
    blue, red, green = COLORS[0], COLORS[1], "#0a8a70"
    for ax, name, color, of_batch, of_test in (
        (left, "loss", blue, terms.sum(dim=1), test.sum(dim=1)),
        (right, "reconstruction term", red, terms[:, 0], test[:, 0]),
        (right, "KL term", green, terms[:, 1], test[:, 1]),
    ):
        label = f"{name}, each batch"
        ax.plot(steps, of_batch, color, lw=0.4, label=label)
        ax.plot(ends, of_test, "k", lw=0.9, path_effects=HALO)
        ax.set(xlabel="number of steps", xlim=(0, steps[-1]))
        ax.grid(lw=0.3)
    left.plot([], [], "k", lw=0.9, label="test images, after each epoch")
    left.set(ylabel="nats per image", yscale="log")
    ticks = [80, 90, 100, 120, 150, 200, 300, 400, 600]
    left.set_yticks(ticks, ticks)
    left.minorticks_off()
    low = min(terms.sum(dim=1).min().item(), test.sum(dim=1).min().item())
    left.set_ylim(0.97 * low, 1.03 * terms.sum(dim=1).max().item())
    right.set_ylim(0)
    for ax in (left, right):
        for line in ax.legend(loc="upper right").get_lines():
            line.set_linewidth(1.5)
    return fig


def plot_latent_spaces(
    spaces: dict[str, tuple[Tensor, Tensor]],
    labels: Tensor,
    frame: float = 4.0,
) -> Figure:
    """Draw up to four 2-D latent spaces on the same axes.

    Every point is the mean of an image's posterior; those beyond ±``frame``
    are triangles on the border. The histograms are of codes z drawn from the
    posteriors, one for each image.

    Args:
        spaces: Title: mu, logvar of the same images, (N, 2) each.
        labels: The images' classes, (N,).
        frame: Half the width of the frame.
    """
    side, strip, left, top = 2.58, 0.3, 0.27, 0.24  # inches
    row = top + strip + side + 0.27
    height = (len(spaces) + 1) // 2 * row + 0.55
    fig = Figure(figsize=(WIDTH, height), layout="none")
    for number, (title, (mu, logvar)) in enumerate(spaces.items()):
        x = left + number % 2 * (WIDTH / 2 + 0.03)
        y = height - (number // 2 + 1) * row + 0.27

        def axes(
            dx: float,
            dy: float,
            w: float,
            h: float,
            x: float = x,
            y: float = y,
        ) -> Axes:
            box = (x + dx) / WIDTH, (y + dy) / height, w / WIDTH, h / height
            return fig.add_axes(box)

        ax = axes(0, 0, side, side)
        outside = plot_codes(ax, mu, logvar, labels, frame)
        above = axes(0, side, side, strip)
        beside = axes(side, 0, strip, side)
        z = mu + (0.5 * logvar).exp() * torch.randn(
            mu.shape, generator=torch.Generator().manual_seed(0)
        )
        for margin, codes, across in (
            (above, z[:, 0], False),
            (beside, z[:, 1], True),
        ):
            plot_margin(margin, codes.numpy(), frame, across)
        letter = "abcd"[number]
        above.set_title(f"({letter}) {title}", loc="left", pad=3)
        above.set_title(f"{outside:,} outside", loc="right", pad=3)
    digits = [Patch(color=c, label=str(i)) for i, c in enumerate(COLORS)]
    lines = [
        Circle(
            (0, 0), ec="0.2", fill=False, ls="--", label="prior, 1 and 2 s.d."
        ),
        Circle(
            (0, 0), ec=COLORS[0], fill=False, lw=1.5, label="class, 1 s.d."
        ),
        Circle(
            (0, 0),
            ec="k",
            fill=False,
            lw=0.6,
            label="posterior of one image, 1 s.d.",
        ),
    ]
    for handles, y in ((digits, 0.26), (lines, 0.02)):
        fig.legend(
            handles=handles,
            ncols=len(handles),
            loc="lower center",
            bbox_to_anchor=(0.5, y / height),
            handlelength=1.6,
            columnspacing=1.2,
            borderaxespad=0,
        )
    return fig


def plot_codes(
    ax: Axes, mu: Tensor, logvar: Tensor, labels: Tensor, frame: float
) -> int:
    """Draw one latent space; return how many means are outside the frame."""
    mu, sigma = mu.numpy(), (0.5 * logvar).exp().numpy()
    labels, colors = labels.numpy(), np.array(COLORS)
    order = np.random.default_rng(0).permutation(len(mu))  # no class on top
    inside = (np.abs(mu) <= frame).all(axis=1)
    ax.set(xlim=(-frame, frame), ylim=(-frame, frame), aspect=1)
    ax.set_xticks(range(-int(frame), int(frame) + 1, 2))
    ax.set_yticks(range(-int(frame), int(frame) + 1, 2))
    ax.tick_params(length=2, pad=2)
    _draw_classes(ax, mu, labels, order[inside[order]])
    border = np.clip(mu, -frame, frame)
    furthest = np.abs(mu).argmax(axis=1)
    for axis, sign, marker in (
        (0, -1, "<"),
        (0, 1, ">"),
        (1, -1, "v"),
        (1, 1, "^"),
    ):
        here = ~inside & (furthest == axis) & (sign * mu[:, axis] > 0)
        if not here.any():
            continue
        ax.scatter(
            *border[here].T,
            c=colors[labels[here]],
            marker=marker,
            s=7,
            lw=0,
            clip_on=False,
            rasterized=True,
            zorder=3,
        )
    for radius in (1, 2):
        ax.add_patch(
            Circle((0, 0), radius, fill=False, ls="--", lw=0.7, ec="0.2")
        )
    for i in order[:30]:
        ax.add_patch(
            Ellipse(mu[i], *2 * sigma[i], fill=False, lw=0.6, zorder=4)
        )
    extent = np.abs(mu).max()
    if extent < frame / 40:  # a dot: show it magnified
        inset = ax.inset_axes((0.7, 0.03, 0.27, 0.27))
        inset.set(xlim=(-extent, extent), ylim=(-extent, extent))
        inset.set(xticks=[], yticks=[])
        inset.set_title(
            f"the dot, {frame / extent:,.0f} times", size=8, pad=2
        )
        _draw_classes(inset, mu, labels, order)
        ax.annotate(
            "",
            (0.04, -0.06),
            (0.7, 0.27),
            textcoords="axes fraction",
            arrowprops={"arrowstyle": "->", "lw": 0.6, "shrinkB": 1},
        )
    return int((~inside).sum())


def _draw_classes(
    ax: Axes, mu: np.ndarray, labels: np.ndarray, order: np.ndarray
) -> None:
    """Draw points, and an ellipse for each class (1 s.d.)."""
    colors = np.array(COLORS)[labels[order]]
    ax.scatter(
        *mu[order].T, c=colors, s=1.1, lw=0, alpha=0.55, rasterized=True
    )
    centres = np.array([mu[labels == c].mean(axis=0) for c in range(10)])
    for digit, (color, centre) in enumerate(
        zip(COLORS, centres, strict=True)
    ):
        values, vectors = np.linalg.eigh(np.cov(mu[labels == digit].T))
        width, height = 2 * np.sqrt(np.maximum(values, 0))
        angle = np.degrees(np.arctan2(vectors[1, 0], vectors[0, 0]))
        ellipse = Ellipse(centre, width, height, angle=angle, fill=False)
        ellipse.set(ec=color, lw=1.4, zorder=5, path_effects=HALO)
        ax.add_patch(ellipse)
        others = np.delete(centres, digit, axis=0)
        apart = np.linalg.norm(others - centre, axis=1).min()
        limit = ax.get_xlim()[1]
        if apart > limit / 8 and np.abs(centre).max() < limit:
            ax.text(
                *centre,
                str(digit),
                ha="center",
                va="center",
                size=10,
                path_effects=HALO,
                zorder=7,
            )


def plot_margin(
    ax: Axes, codes: np.ndarray, frame: float, across: bool
) -> None:
    """A histogram of codes (N,) beside the density of N(0, 1)."""
    edges = np.linspace(-frame, frame, 41)
    counts, _ = np.histogram(codes, edges)
    density = counts / len(codes) / (edges[1] - edges[0])
    x = np.linspace(-frame, frame, 200)
    normal = np.exp(-0.5 * x**2) / np.sqrt(2 * np.pi)
    ax.stairs(
        density,
        edges,
        fill=True,
        color="0.75",
        orientation="horizontal" if across else "vertical",
    )
    ax.plot(*((normal, x) if across else (x, normal)), "k", lw=0.8)
    across_limits, along_limits = (0, 0.46), (-frame, frame)
    if not across:
        across_limits, along_limits = along_limits, across_limits
    ax.set(xlim=across_limits, ylim=along_limits)
    ax.axis("off")


def plot_planes(
    models: dict[str, network.CVAE], label: int, extent: float
) -> Figure:
    """Draw what models with a 2-D latent space decode.

    Above, one label at a grid of z, both coordinates from -extent to extent;
    below, two samples from the prior for each class.
    """
    fig = Figure(figsize=(WIDTH, 2.85))
    axes = fig.subplots(2, len(models), height_ratios=(5, 1.1))
    steps = torch.linspace(-extent, extent, 9)
    z = torch.cartesian_prod(steps, -steps)  # columns, then rows from above
    for column, (title, model) in enumerate(models.items()):
        upper, lower = axes[:, column]
        where = next(model.parameters()).device
        images = model.sample(
            torch.full((len(z),), label, device=where), z.to(where)
        )
        upper.imshow(
            tile(images.unflatten(0, (9, 9))),
            extent=(-extent, extent) * 2,
            vmin=0,
            vmax=1,
        )
        upper.set_title(title)
        upper.set_xticks((-extent, 0, extent))
        upper.set_yticks((-extent, 0, extent) if not column else ())
        draw(lower, prior_samples(model, 2)[0].unflatten(0, (-1, 2)))
    return fig


def plot_scored(
    images: Tensor,
    drawn: Tensor,
    above: Sequence[str],
    below: Sequence[str],
) -> Figure:
    """Draw images (N, 1, 28, 28) over their reconstructions, with labels."""
    fig = Figure(figsize=(WIDTH, 1.62))
    pairs = torch.stack([images, drawn], dim=1)
    draw(fig.subplots(), pairs, below, ["image", "drawn"], above)
    return fig


def plot_losses(losses: dict[str, np.ndarray], threshold: float) -> Figure:
    """Draw histograms of losses in the same bins, on a logarithmic axis."""
    fig = Figure(figsize=(WIDTH, 1.9))
    ax = fig.subplots()
    values = np.log10(np.concatenate(list(losses.values())))
    bins = np.linspace(values.min(), values.max(), 90)
    for (name, of_set), color in zip(losses.items(), COLORS, strict=False):
        ax.hist(np.log10(of_set), bins, alpha=0.7, label=name, color=color)
    ax.axvline(np.log10(threshold), c="k", lw=0.8, ls="--", label="threshold")
    ticks = [20, 50, 100, 200, 500, 1000, 2000, 5000]
    ax.set_xticks(np.log10(ticks), ticks)
    ax.set(
        xlabel="reconstruction loss, nats (logarithmic)",
        xlim=(bins[0], bins[-1]),
    )
    ax.set(ylabel="images per bin")
    ax.legend()
    return fig


def fit_judge(images: Tensor, labels: Tensor) -> Pipeline:
    """Fit 5-nearest neighbours on 50 principal components."""
    judge = make_pipeline(PCA(50, random_state=0), KNeighborsClassifier(5))
    return judge.fit(images.flatten(1).cpu(), labels.cpu())


def recognised(judge: Pipeline, images: Tensor, labels: Tensor) -> np.ndarray:
    """Whether the judge assigns images to the class of their label: (N,)."""
    return judge.predict(images.flatten(1).cpu()) == labels.cpu().numpy()


def prior_samples(
    model: network.CVAE, per_class: int, seed: int = 0
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
    return f"{100 * share:.1f} ± {100 * error:.1f} %"


def distance_from_prior(mu: Tensor, logvar: Tensor, labels: Tensor) -> float:
    """Estimate the mean over y of KL(q(z|y) || N(0, I)) in 2-D, in nats.

    One z is drawn for each image; the entropy of the z of a class is
    Kozachenko and Leonenko's estimate, from the distance of each to its
    fifth-nearest neighbour.

    Args:
        mu: Means of the posteriors, (N, 2).
        logvar: Their logarithmic variances, (N, 2).
        labels: The classes, (N,).
    """
    noise = torch.randn(mu.shape, generator=torch.Generator().manual_seed(0))
    codes = (mu + (0.5 * logvar).exp() * noise).double()
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
    density with these moments is nearer to the prior. Arguments as in
    `distance_from_prior`, in any dimension.
    """
    bounds = []
    for label in labels.unique():
        codes, variances = mu[labels == label], logvar[labels == label].exp()
        mean, cov = codes.mean(dim=0), codes.T.cov(correction=0)
        cov = cov + variances.mean(dim=0).diag()
        both = cov.trace() + mean.square().sum() - len(cov) - cov.logdet()
        bounds.append(0.5 * both.item())
    return float(np.mean(bounds))


def pca_error(pca: PCA, images: Tensor) -> Tensor:
    """Squared error per pixel of images behind principal components: (N,)."""
    pixels = images.flatten(1).cpu().double()
    rest = pca.inverse_transform(pca.transform(pixels)) - pixels.numpy()
    return torch.from_numpy(rest).square().mean(dim=1)


def separation(
    normal: Tensor, anomalous: Tensor, threshold: Tensor
) -> tuple[float, ...]:
    """How well scores (N,) and (M,) separate two datasets.

    Returns:
        AUROC, number of pairs in the wrong order (ties count half), medians
        of both, the share of normal images above the threshold and that of
        anomalous ones not above it.
    """
    truth = np.repeat([0, 1], [len(normal), len(anomalous)])
    auroc = roc_auc_score(truth, torch.cat([normal, anomalous]))
    wrong = (1 - auroc) * len(normal) * len(anomalous)
    above = (normal > threshold).double().mean().item()
    missed = (anomalous <= threshold).double().mean().item()
    medians = normal.median().item(), anomalous.median().item()
    return auroc, wrong, *medians, above, missed
