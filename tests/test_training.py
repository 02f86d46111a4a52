"""The report's loss and training: exactness, and what bad input gets."""

from types import SimpleNamespace as Report

import pytest
import torch
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import checks
from network import CVAE

IMAGES, LABELS = torch.rand(300, 1, 28, 28), torch.arange(300) % 10


def train(report: Report, **changes: object) -> torch.Tensor:
    arguments = {
        "model": CVAE(2, width=16),
        "images": IMAGES,
        "labels": LABELS,
        "epochs": 1,
        "batch_size": 100,
    }
    return report.train(**arguments | changes)


@pytest.mark.parametrize("size", [1, 10, 79])
def test_reconstruction_loss_is_as_exact_as_torchs(
    report: Report, size: float
) -> None:
    """Against torch's own in double precision, gradients too."""
    torch.manual_seed(0)
    logits = size * (2 * torch.rand(50, 1, 28, 28) - 1)
    logits.requires_grad_()
    images = torch.rand(50, 1, 28, 28).round(decimals=1)
    exact = F.binary_cross_entropy_with_logits(
        logits.double(), images.double(), reduction="none"
    ).sum((1, 2, 3))
    ours = report.reconstruction_loss(logits, images)
    assert ours.dtype == torch.float32
    torch.testing.assert_close(ours.double(), exact, rtol=1e-6, atol=0)
    (found,) = torch.autograd.grad(ours.sum(), logits)
    (wanted,) = torch.autograd.grad(exact.sum(), logits)
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-6)


def test_reconstruction_loss_is_finite_for_any_logit(report: Report) -> None:
    logits = torch.tensor([-1e4, 1e4]).repeat_interleave(784)
    logits = logits.view(2, 1, 28, 28).requires_grad_()
    images = torch.tensor([1.0, 0]).view(2, 1, 1, 1).expand_as(logits)
    loss = report.reconstruction_loss(logits, images)
    loss.sum().backward()
    assert loss.tolist() == pytest.approx([784 * 1e4, 784 * 80], rel=1e-3)
    assert logits.grad.isfinite().all()


def test_a_term_of_weight_0_costs_no_gradient(report: Report) -> None:
    model = CVAE(2, width=16)
    terms = report.loss_terms(model, IMAGES, LABELS)
    report.weighted([term.mean() for term in terms], (0, 1)).backward()
    assert model.decoder.last.weight.grad is None
    assert model.encoder.last.weight.grad.any()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": LABELS[:250]}, r"a label for each.*300.*250"),
        ({"images": IMAGES[:0], "labels": LABELS[:0]}, "at least one"),
        ({"images": 255 * IMAGES}, "images: expected 0 to 1"),
        ({"images": IMAGES * torch.nan}, "images: .*nan"),
        ({"images": IMAGES.double()}, "images: .*float64"),
        ({"images": IMAGES.numpy()}, "images: .*ndarray"),
        ({"labels": LABELS.tolist()}, "labels: .*list"),
        ({"labels": LABELS.int()}, "labels: .*int32"),
        ({"labels": LABELS + 1}, "labels: expected 0 to 9"),
        ({"epochs": 0}, "epochs: .*got 0"),
        ({"epochs": -1}, "epochs: .*got -1"),
        ({"epochs": 1.5}, "epochs: .*got 1.5"),
        ({"batch_size": 301}, "batch_size: .*300, the number .*got 301"),
        ({"batch_size": 0}, "batch_size: .*got 0"),
        ({"batch_size": "100"}, "batch_size: .*got '100'"),
        ({"weights": (1.0,)}, "weights: expected two"),
        ({"weights": (0, 0)}, "weights: .*not both 0"),
        ({"weights": (-1, 1)}, "weights: "),
        ({"weights": (1, torch.nan)}, "weights: "),
        ({"weights": 1.0}, "weights: "),
        ({"learning_rate": 0}, "learning_rate: "),
        ({"learning_rate": torch.inf}, "learning_rate: "),
        ({"distorted": 1.5}, "distorted: "),
    ],
)
def test_training_refuses_in_words_of_its_own(
    report: Report, changes: dict, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        train(report, **changes)


@pytest.mark.parametrize("rate", [10.0, 1e6])
def test_a_training_that_diverges_is_stopped(
    report: Report, rate: float
) -> None:
    """Whether its loss is 10 ** 10 or NaN."""
    torch.manual_seed(0)
    with pytest.raises(FloatingPointError, match="smaller learning rate"):
        train(report, learning_rate=rate, epochs=20)


def test_divergence_is_seen_in_what_is_optimised_only(
    report: Report,
) -> None:
    terms = torch.tensor([[90.0, 1e9], [80.0, torch.nan]])
    report.stop_if_diverged(terms, (1.0, 0.0), epoch=0)
    for weights in ((1.0, 1e-3), (0.0, 1.0)):
        with pytest.raises(FloatingPointError, match="epoch 1"):
            report.stop_if_diverged(terms, weights, epoch=0)


def test_an_interrupt_leaves_products_exact(report: Report) -> None:
    with pytest.raises(KeyboardInterrupt), report.rounded_products():
        assert torch.get_float32_matmul_precision() == "medium"
        raise KeyboardInterrupt
    assert torch.get_float32_matmul_precision() == "highest"


def test_rounding_stays_in_the_products(
    report: Report, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With bfloat16, which is slow where a CPU lacks it, but works."""
    monkeypatch.setattr(checks, "BFLOAT16", True)
    model, noise = CVAE(2, width=100), torch.Generator()

    def terms() -> tuple[torch.Tensor, torch.Tensor]:
        return report.loss_terms(model, IMAGES, LABELS, noise.manual_seed(0))

    exact = terms()
    with report.rounded_products():
        rounded = terms()
        sum(rounded).mean().backward()
    for one, other in zip(exact, rounded, strict=True):
        assert other.dtype == torch.float32
        assert not torch.equal(one, other)
        torch.testing.assert_close(other, one, rtol=0.01, atol=0.01)
    assert all(p.grad.dtype == torch.float32 for p in model.parameters())


def test_evaluation_leaves_the_random_stream_alone(report: Report) -> None:
    """Of whatever device: it draws from a generator of its own."""
    model = CVAE(2, width=16)
    before = torch.get_rng_state()
    report.evaluate(model, IMAGES, LABELS)
    assert torch.equal(torch.get_rng_state(), before)


class NoDoubles(TorchDispatchMode):
    """Fail where an operation gives float64, which MPS does not have."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **kwargs or {})
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor):
                assert tensor.dtype != torch.float64, func
        return result


def test_no_double_precision_is_used(report: Report) -> None:
    with NoDoubles():
        model = CVAE(2, mean_image=IMAGES.mean(dim=0), width=16)
        train(report, model=model, distorted=1.0)
        report.evaluate(model, IMAGES, LABELS)
        model.sample(LABELS)
