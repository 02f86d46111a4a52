"""How the report draws and judges: figures, tables, the judge of samples.

Nothing here knows of the experiments: images, codes and losses come as
arguments, and each ``plot_…`` returns a figure.
"""

import base64
import hashlib
import html
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
# Read when the modules are imported: the text of the code that runs, without
# its docstrings.
NETWORK_CODE = "\n\n".join(
    re.sub(r'(?s)\n *""".*?"""', "", textwrap.dedent(getsource(part))).strip()
    for part in (
        network.CVAE.encode,
        network.reparametrise,
        network.CVAE.decode,
    )
)
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


def show(fig: Figure, name: str, number: int, place: str = "") -> None:
    """Save a figure as ``figures/NAME.svg`` and show it with its caption.

    The caption, HTML, is the figure's label.

    Args:
        fig: The figure.
        name: The file's name, without its suffix.
        number: Of the figure, for its caption.
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
        f'width="{width}"><figcaption>Figure {number}: '
        f"{fig.get_label()}</figcaption></figure>"
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


def show_code(code: str) -> None:
    """Show Python code as it is shown in a Markdown cell."""
    display(Markdown(f"```python\n{code}\n```"))


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
        top.tick_params(length=0, pad=1, labelsize=7)
        top.spines[:].set_visible(False)
    ax.tick_params(length=0, pad=2)
    ax.spines[:].set_visible(False)


def plot_rows(
    blocks: dict[str, Tensor], caption: str, size: float = 0.25
) -> Figure:
    """Draw tiled images side by side, with a title above each.

    Args:
        blocks: Title: images (columns, rows, 1, 28, 28).
        caption: HTML.
        size: Of an image, in inches.
    """
    height = max(images.shape[1] for images in blocks.values())
    fig = Figure(figsize=(WIDTH, size * height + 0.3))
    widths = [len(images) for images in blocks.values()]
    axes = fig.subplots(1, len(blocks), squeeze=False, width_ratios=widths)
    for ax, (title, images) in zip(axes[0], blocks.items(), strict=True):
        draw(ax, images)
        ax.set_title(title)
    fig.set_label(caption)
    return fig


def plot_epochs(samples: Tensor, large: int = 16) -> Figure:
    """Draw samples (epochs, 10, 1, 28, 28): the first epochs are larger."""
    height = 2.75  # inches
    fig = Figure(figsize=(WIDTH, height), layout="none")
    half = max(large, len(samples) + large + 1) // 2  # ends the upper block
    beside = 0.2 + 0.235 * large + 0.3
    small = min(0.105, (WIDTH - beside) / max(half - large, 1))
    for start, end, x, y, size in (
        (0, large, 0.2, 0.35, 0.235),
        (large, half, beside, 0.65 + 10 * small, small),
        (half, len(samples), beside, 0.35, small),
    ):
        if len(part := samples[start:end]):
            box = x, y, size * len(part), 10 * size
            ax = fig.add_axes(np.divide(box, 2 * (WIDTH, height)))
            every = 1 if size > 0.2 else 4
            numbers = np.arange(start + 1, start + 1 + len(part))
            names = [str(n) if n % every == 0 else "" for n in numbers]
            draw(ax, part, names, () if start else range(10))
    fig.text(0.5, 0.01, "epoch", ha="center")
    fig.set_label("A sample for each class after every epoch.")
    return fig


def plot_training(history: Tensor, held_out: Tensor) -> Figure:
    """Plot both terms of the loss against the number of steps.

    Args:
        history: At every step, (epochs, steps, 2).
        held_out: On test images after every epoch, (epochs, 2).
    """
    fig = Figure(figsize=(WIDTH, 2.3))
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
    fig.set_label(
        "The loss at every step (left, logarithmic) and its two terms "
        "(right). Black: 2,000 test images after each epoch."
    )
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
    row = top + strip + side + 0.2
    height = (len(spaces) + 1) // 2 * row + 0.55
    fig = Figure(figsize=(WIDTH, height), layout="none")
    for number, (title, (mu, logvar)) in enumerate(spaces.items()):
        x = left + number % 2 * (WIDTH / 2 + 0.03)
        y = height - (number // 2 + 1) * row + 0.2

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
        z = draw_codes(mu, logvar)
        for margin, codes, across in (
            (above, z[:, 0], False),
            (beside, z[:, 1], True),
        ):
            plot_margin(margin, codes.numpy(), frame, across)
        letter = "abcd"[number]
        above.set_title(f"({letter}) {title}", loc="left", pad=3)
        sigma = (0.5 * logvar).exp().median().item()
        width = f"= {sigma:.2g}" if sigma >= 0.001 else "< 0.001"
        text = f"$\\sigma {width}$; {outside:,} outside"
        above.set_title(text, loc="right", pad=3)
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
    fig.set_label(
        "The means of all test images (triangles: outside the frame). σ: "
        "median width of the posteriors. Margins: codes z drawn from them "
        "(grey), density of N(0, 1). <b>(a)</b> Precise codes, not held near "
        "the prior. <b>(b)</b> All means are at 0, every posterior is "
        "practically the prior: z says nothing. <b>(c)</b> Narrow posteriors "
        "together fill the prior; the classes lie on top of each other. "
        "<b>(d)</b> Told no labels, z has to say the class: they separate."
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
        inset.set_title(f"$\\times$ {frame / extent:,.0f}", size=8, pad=2)
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
        if apart > limit / 5 and np.abs(centre).max() < limit:
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
    fig = Figure(figsize=(WIDTH, 2.6))
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
    fig.set_label(
        "Above: what the models draw for one label at each z from −2 to 2. "
        "Below: two samples from the prior for each class."
    )
    return fig


def plot_scored(
    images: Tensor,
    losses: Tensor,
    drawn: Tensor,
    labels: Tensor,
    names: Sequence[str],
    caption: str,
) -> Figure:
    """Draw images over their reconstructions, ten in a row.

    Args:
        images: (N, 1, 28, 28).
        losses: Printed below, (N,).
        drawn: Reconstructions, (N, 1, 28, 28).
        labels: With which they were drawn, (N,).
        names: Printed above, N.
        caption: HTML.
    """
    pairs = torch.stack([images, drawn], dim=1)
    rows = len(images) // 10
    fig = Figure(figsize=(WIDTH, 1.42 * rows))
    scores = zip(labels, losses, strict=True)
    below = [f"label {label}\n{loss:.0f}" for label, loss in scores]
    for row, ax in enumerate(fig.subplots(rows, 1, squeeze=False)[:, 0]):
        part = slice(10 * row, 10 * row + 10)
        draw(ax, pairs[part], below[part], ["image", "drawn"], names[part])
    fig.set_label(caption)
    return fig


def plot_losses(
    digits: Tensor, garments: Tensor, threshold: Tensor
) -> Figure:
    """Draw histograms of losses (N,), (M,), logarithmic, in the same bins."""
    fig = Figure(figsize=(WIDTH, 1.7))
    ax = fig.subplots()
    values = torch.cat([digits, garments]).log10()
    bins = np.linspace(values.min().item(), values.max().item(), 90)
    for name, losses, color in (
        ("MNIST", digits, COLORS[0]),
        ("Fashion-MNIST", garments, COLORS[1]),
    ):
        ax.hist(losses.log10().numpy(), bins, alpha=0.7, label=name, fc=color)
    label = f"threshold, {threshold:.0f} nats"
    ax.axvline(np.log10(threshold), c="k", lw=0.8, ls="--", label=label)
    ticks = [10, 20, 50, 100, 200, 500, 1000, 2000, 5000]
    ax.set_xticks(np.log10(ticks), ticks)
    ax.set(xlabel="reconstruction loss, nats (logarithmic)")
    ax.set(ylabel="images per bin", xlim=(bins[0], bins[-1]))
    ax.legend()
    fig.set_label(
        "Reconstruction losses of all test images of both datasets."
    )
    return fig


def first_of_each_class(*data: tuple[Tensor, Tensor]) -> Tensor:
    """The first image of every class of datasets: (10 * N, 1, 28, 28)."""
    return torch.stack(
        [
            images[labels == label][0]
            for images, labels in data
            for label in range(10)
        ]
    )


def first_five(
    scores: Tensor, images: Tensor, labels: Tensor, classes: Sequence[str]
) -> tuple[Tensor, list[str]]:
    """The five images with the lowest scores (N,), and their classes."""
    chosen = scores.topk(5, largest=False).indices.to(images.device)
    return images[chosen], [classes[label] for label in labels[chosen]]


def with_parts(
    parts: Iterable[str], latent_dim: int, mean_image: Tensor, seed: int
) -> network.CVAE:
    """A CVAE with only some parts: the others are frozen or shared.

    Args:
        parts: Some of "shifts" (biases of the classes in all hidden layers,
            not in the first alone), "start" (they differ at the start, which
            is at the mean image), "scales" and "maps".
        latent_dim: Dimension of z.
        mean_image: (1, 28, 28), on the device of the network.
        seed: Of its weights.
    """
    torch.manual_seed(seed)
    start = mean_image if "start" in parts else None
    model = network.CVAE(latent_dim, mean_image=start).to(mean_image.device)
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


@torch.no_grad()
def judge_model(
    judge: Pipeline, model: network.CVAE, images: Tensor, labels: Tensor
) -> tuple[float, float]:
    """`distance_at_least` of images, and the share recognised of samples."""
    distance = distance_at_least(*model.encode(images, labels), labels)
    return distance, recognised(judge, *prior_samples(model, 1000)).mean()


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


def fit_linear(images: Tensor, sizes: Iterable[int]) -> dict[str, PCA]:
    """Principal components of images (N, 1, 28, 28), some numbers of them."""
    pixels = images.flatten(1).cpu().double().numpy()
    return {
        f"PCA, {n} components": PCA(n, random_state=0).fit(pixels)
        for n in sizes
    }


def model_scores(
    images: Tensor, loss: Tensor, drawn: Tensor
) -> dict[str, Tensor]:
    """Anomaly scores (N,) of a model: larger means more anomalous.

    Args:
        images: (N, 1, 28, 28).
        loss: Their reconstruction losses, (N,).
        drawn: Their reconstructions, (N, 1, 28, 28).
    """
    mse = (drawn - images).square().mean(dim=(1, 2, 3))
    rest = loss - pixel_entropy(images)
    return {
        "CVAE, reconstruction loss": loss.cpu(),
        "CVAE, loss minus pixel entropy": rest.cpu(),
        "CVAE, pixel MSE": mse.cpu(),
    }


def linear_scores(
    images: Tensor, linear: dict[str, PCA]
) -> dict[str, Tensor]:
    """Anomaly scores (N,) of principal components, from `fit_linear`."""
    pixels, scores = images.flatten(1).cpu().double().numpy(), {}
    for name, pca in linear.items():
        rest = pca.inverse_transform(pca.transform(pixels)) - pixels
        errors = torch.from_numpy(rest).square().mean(dim=1)
        scores[f"{name}, pixel MSE"] = errors
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
