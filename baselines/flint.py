"""FLINT, a classifier that is trained together with an interpreter of a few attributes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..datasets.base import Dataset
from .base import Interpretation, Reduction
from .gradient_graph import ModuleCalls, nodes_between
from .lenet import Lenet
from .model_checks import check_input_size, check_sides
from .option_checks import check_counts, check_word
from .relevance import relevance
from .relu_rule import set_rule
from .through_captum import gradients_enabled

Form = Literal["lenet", "resnet"]
Version = Literal["paper", "released"]

_N_ATTRIBUTES = {"lenet": 25, "resnet": 24}
_SLOPE = 0.01  # of leaky ReLUs below 0
_CODE_SIDE = 3  # cells on a side to which the attributes' feature maps are averaged

# [[epoch, weight], …]: from that epoch on (counted from 1) a term of the loss has that weight; before, it has 0.
_MNIST = {
    "epochs": 12,
    "batch_size": 16,
    "learning_rate": 1e-4,
    "optimizer": "adam",
    "schedule": "constant",
    "reconstruction": [[1, 0.8]],
    "output_fidelity": [[3, 0.5]],
    "conciseness": [[3, 0.1]],
    "diversity": [[4, 0.2]],
    "released_diversity": [[5, 0.2]],
    "spread": 1.0,
}
_RECIPES: Mapping[str, Mapping[str, Any]] = {
    "mnist": _MNIST,
    "fashion_mnist": _MNIST,
    "quickdraw": _MNIST
    | {
        "batch_size": 64,
        "reconstruction": [[1, 5.0]],
        "output_fidelity": [[3, 0.1]],
        "conciseness": [[2, 0.02], [3, 0.30]],
        "diversity": [[4, 0.1]],
        "released_diversity": [[4, 0.1]],
        "spread": 2.0,
    },
    # Not published: few samples and short trainings want larger steps.
    "digits": _MNIST | {"epochs": 20, "learning_rate": 1e-3},
    "digit_scenes": _MNIST
    | {
        "epochs": 2,
        "batch_size": 64,
        "learning_rate": 1e-3,
        "output_fidelity": [[1, 0.5]],
        "conciseness": [[1, 0.1]],
        "diversity": [[1, 0.2]],
        "released_diversity": [[1, 0.2]],
    },
}


class Flint(nn.Module):
    """Framework to Learn with INTerpretation: a predictor f, and an interpreter g that reads f's hidden layers.

    From the outputs `x_I` of some hidden layers of f, a dictionary of J attribute functions is made, and g is linear in
    them:

        φ(x) = Ψ(x_I),        g(x) = h(φ(x)) = W' φ(x) + b.

    A decoder d reads the attributes and restores the image. All are trained at once (`training_loss`); f goes on being
    the classifier, whose `(B, K)` logits `forward` returns, and `interpret` says what g makes of the same images.
    The share of attribute j in class c for one image is its relevance (`interpeval.baselines.relevance`)

        r_j,c(x) = α_j,c(x) / max_i |α_i,c(x)|,        α_j,c(x) = φ_j(x) W_j,c,

    and the explanation that this model gives of itself (`attribute`) is the sum of its attributes' maps, weighted so:

        a(x) = Σ_j r_j,c(x) A_j(x),

    where `A_j(x)` is the gradient of `φ_j` by the input (form `"lenet"`) or what guided backpropagation makes of it
    (form `"resnet"`, `attribute_maps`). Relevances are constants here: nothing is differentiated twice. As with other
    gradients the heatmap is the magnitude. The elements add up to nothing in particular.

    Two networks are published:

    * `"lenet"` for MNIST and Fashion-MNIST: two convolutions and two linear layers, 809,034 parameters for
      `(1, 28, 28)` and ten classes; the attributes (25; 32,921 parameters) read the feature map behind the pooling,
      the decoder has 2,773 parameters;
    * `"resnet"` for QuickDraw: a ResNet-18 without batch normalisation; the attributes (24) read the output of the
      third stage and that of the first block of the fourth.

    Both are built for any height and width that are multiples of 4. Where images have several channels, the decoder
    ends without ReLU, as in the form released for CIFAR-10, because such images are usually centred on 0. The decoder
    of `"resnet"` grows with the square of the number of pixels.

    The loss of a batch is

        CE(f(x), y) + γ·MSE(d(φ(x)), x) + β·H(f(x), g(x)) + δη·mean |φ| + δζ·(mean_x E(|φ(x)|) − μ E(mean_x |φ(x)|))

    with means over everything that there is: pixels in MSE, attributes in `mean |φ|` (the paper writes a norm, which is
    J times larger; its published weights belong to the mean), samples throughout. `H` is the cross-entropy of g under
    the class probabilities of f, which are constants in it: g follows f, not f g. In print the two are exchanged, which
    would draw all of g to the class that f finds likeliest. `E` is the entropy of a softmax. Weights depend on the
    epoch (`begin_epoch`); without epochs those of the last one hold.

    `version="paper"` and `"released"` differ in two points:

    * the entropies enter at epoch 4 in the paper, at 5 in the code for MNIST and Fashion-MNIST;
    * μ is 2 on QuickDraw in the paper, 1 throughout in the code.

    Both take the networks of the released code, where the attributes of `"lenet"` end in a leaky ReLU (0.01), so that
    they may be slightly negative. The paper has `φ ≥ 0`; with a ReLU most attributes die while training (20 of 25 did
    on `digits`).

    Args:
        image_shape: `(C, H, W)`; `H` and `W` multiples of 4. The network takes this size only.
        n_classes: number of logits.
        form: `"lenet"` or `"resnet"`.
        n_attributes: J; published are 25 for `"lenet"` and 24 for `"resnet"`, which is what `None` stands for.
        version: `"paper"` or `"released"`, see above.

    Raises:
        ValueError: a size or an option is not as stated.

    Reference:
        J. Parekh, P. Mozharovskyi, F. d'Alché-Buc, "A Framework to Learn with Interpretation", NeurIPS 2021.

    Example:
        >>> model = Flint((1, 28, 28), 10).eval()
        >>> images = torch.rand(2, 1, 28, 28)
        >>> model(images).shape, [tuple(part.shape) for part in model.interpret(images)]
        (torch.Size([2, 10]), [(2, 10), (2, 25), (25, 10)])
    """

    name: ClassVar[str] = "flint"
    cam_layer: ClassVar[str] = "predictor.features"
    """The predictor's last feature map, for Grad-CAM."""
    own_reduction: ClassVar[Reduction] = "max_abs"

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        n_classes: int,
        *,
        form: Form = "lenet",
        n_attributes: int | None = None,
        version: Version = "paper",
    ) -> None:
        super().__init__()
        channels, height, width = image_shape
        check_sides(image_shape, 4)
        check_word("form", form, ("lenet", "resnet"))
        check_word("version", version, ("paper", "released"))
        n_attributes = _N_ATTRIBUTES[form] if n_attributes is None else n_attributes
        check_counts(n_attributes=n_attributes)
        self.image_shape = (channels, height, width)
        self.form: Form = form
        self.version: Version = version
        self._epoch: int | None = None
        if form == "lenet":
            self.predictor = Lenet(image_shape, n_classes)
            self.attributes = _LeNetAttributes(n_attributes)
            self.decoder = _lenet_decoder(n_attributes, image_shape)
        else:
            self.predictor = _ResNet(channels, n_classes)
            self.attributes = _ResNetAttributes(n_attributes)
            self.decoder = _resnet_decoder(n_attributes, image_shape)
        self.forget = nn.Dropout(0.01)
        self.interpreter = nn.Linear(n_attributes, n_classes)

    @classmethod
    def recipe(cls, dataset_name: str) -> Mapping[str, Any]:
        """Return how to train on a dataset; unknown ones get the recipe of MNIST.

        `reconstruction` is γ, `output_fidelity` β, `conciseness` δη and `diversity` δζ, each a list of pairs (epoch,
        weight from then on); `released_diversity` is δζ under `version="released"`, `spread` is the paper's μ.
        """
        return dict(_RECIPES.get(dataset_name, _MNIST))

    def forward(self, inputs: Tensor) -> Tensor:
        """Return `(B, K)` logits of the predictor for `(B, C, H, W)` inputs.

        Raises:
            ValueError: the inputs are not of the size that the network was built for.
        """
        check_input_size(inputs, self.image_shape)
        return self.predictor(inputs)

    def interpret(self, inputs: Tensor) -> Interpretation:
        """Return logits of the interpreter, `(B, J)` activations of the attributes, and `(J, K)` weights."""
        return self._both(inputs)[1]

    def attribute(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """Return `(B, C, H, W)`, the maps of the attributes weighted by their relevance for `(B,)` targets."""
        with gradients_enabled():
            leaf = inputs.detach().clone().requires_grad_()
            _, found = self._both(leaf, for_maps=True)
            shares = relevance(found.activations.detach(), found.weights, targets).to(leaf)
            if self.form == "lenet":  # gradients of a sum are the sum of gradients
                (total,) = torch.autograd.grad((shares * found.activations).sum(), leaf)
                return total
            maps = _gradients(found.activations, leaf)
        return torch.einsum("bj,bj...->b...", shares, maps)

    def attribute_maps(self, inputs: Tensor) -> Tensor:
        """Return `(B, J, C, H, W)`, where in each image each attribute looks.

        For `"lenet"` the gradient of `φ_j` by the input; for `"resnet"` guided backpropagation, whose rule
        (`interpeval.baselines.relu_rule`) holds for the ReLUs inside the blocks of stages 1 to 3, while the first
        ReLU, those of stage 4 and those of the attributes keep their gradient, as in the released code.
        """
        with gradients_enabled():
            leaf = inputs.detach().clone().requires_grad_()
            _, found = self._both(leaf, for_maps=True)
            return _gradients(found.activations, leaf)

    def begin_epoch(self, epoch: int, recipe: Mapping[str, Any], dataset: Dataset) -> None:
        """Let the weights of the loss be those of this epoch, counted from 1."""
        del recipe, dataset
        self._epoch = epoch

    def training_loss(self, images: Tensor, labels: Tensor, recipe: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
        """Return the loss of one batch (see the class) and the `(B, K)` logits of the predictor."""
        logits, found = self._both(images)
        released = self.version == "released"
        entropies = diversity_loss(found.activations, spread=1.0 if released else recipe["spread"])
        terms = {
            "reconstruction": F.mse_loss(self.decoder(found.activations), images),
            "output_fidelity": output_fidelity_loss(logits, found.logits),
            "conciseness": found.activations.abs().mean(),
            "released_diversity" if released else "diversity": entropies,
        }
        loss = F.cross_entropy(logits, labels)
        for name, term in terms.items():
            weight = weight_at(recipe[name], self._epoch)
            if weight:
                loss = loss + weight * term
        return loss, logits

    def _both(self, inputs: Tensor, *, for_maps: bool = False) -> tuple[Tensor, Interpretation]:
        """Logits of the predictor, and what the interpreter says; `for_maps` changes gradients, not values."""
        check_input_size(inputs, self.image_shape)
        hidden = _hidden(self.predictor, inputs, for_maps)
        activations = self.attributes(*hidden[: self.attributes.n_read])
        logits, weights = self.interpreter(self.forget(activations)), self.interpreter.weight.detach().T
        return self.predictor.classifier(hidden[-1]), Interpretation(logits, activations, weights)


def output_fidelity_loss(predictor_logits: Tensor, interpreter_logits: Tensor) -> Tensor:
    """Make the interpreter follow the predictor: the mean of `−Σ_c softmax(f(x))_c log softmax(g(x))_c`.

    Args:
        predictor_logits: `(B, K)`; no gradient flows into them.
        interpreter_logits: `(B, K)`.

    Returns:
        Scalar, at least the mean entropy of the predictor's probabilities.

    Example:
        >>> output_fidelity_loss(torch.tensor([[0.0, 100.0]]), torch.tensor([[3.0, 3.0]]))  # ln 2
        tensor(0.6931)
    """
    return F.cross_entropy(interpreter_logits, predictor_logits.detach().softmax(dim=1))


def diversity_loss(activations: Tensor, *, spread: float = 1.0) -> Tensor:
    """Ask for few attributes per sample, and for all over the samples: `mean_x E(|φ(x)|) − μ E(mean_x |φ(x)|)`.

    Args:
        activations: `(B, J)` φ.
        spread: μ.

    Returns:
        Scalar; `E(v)` is the entropy of `softmax(v)`.

    Example:
        >>> diversity_loss(torch.tensor([[100.0, 0.0], [0.0, -100.0]]))  # −ln 2, the least
        tensor(-0.6931)
    """
    magnitudes = activations.abs()
    return _entropy(magnitudes).mean() - spread * _entropy(magnitudes.mean(dim=0))


def weight_at(schedule: Sequence[Sequence[float]], epoch: int | None) -> float:
    """Return the weight that holds at an epoch: that of the last pair (first epoch, weight) that has begun.

    Args:
        schedule: pairs in the order of their epochs.
        epoch: counted from 1; `None` is after the last one.

    Example:
        >>> [weight_at([[2, 0.02], [3, 0.3]], epoch) for epoch in (1, 2, 3, 9, None)]
        [0.0, 0.02, 0.3, 0.3, 0.3]
    """
    begun = [weight for first, weight in schedule if epoch is None or first <= epoch]
    return begun[-1] if begun else 0.0


def _hidden(predictor: Lenet | _ResNet, inputs: Tensor, for_maps: bool) -> tuple[Tensor, ...]:
    """What the interpreter reads: of a LeNet the feature map, `(B, 32, H/2, W/2)`, its gradients plain in any case."""
    if isinstance(predictor, Lenet):
        return (predictor.features(inputs),)
    return predictor.hidden(inputs, for_maps=for_maps)


class _LeNetAttributes(nn.Module):
    """`(B, 32, h, w)` to `(B, J)`."""

    n_read: ClassVar[int] = 1

    def __init__(self, n_attributes: int) -> None:
        super().__init__()
        self.read = nn.Conv2d(32, 64, 3, padding=1)
        self.combine = nn.Linear(64 * _CODE_SIDE**2, n_attributes)

    def forward(self, features: Tensor) -> Tensor:
        # Functions, not modules: explainers with a rule for ReLU refuse a model that has other activation modules, and
        # the predictor, which they explain, has none.
        codes = F.leaky_relu(self.read(features), _SLOPE)
        codes = F.adaptive_avg_pool2d(codes, _CODE_SIDE).flatten(1)
        return F.leaky_relu(self.combine(codes), _SLOPE)


class _ResNet(nn.Module):
    """The predictor for QuickDraw: ResNet-18 without batch normalisation, for small images."""

    def __init__(self, channels: int, n_classes: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(channels, 64, 3, padding=1, bias=False), nn.ReLU())
        self.stages = nn.Sequential(
            _Block(64, 64), _Block(64, 64), _Block(64, 128, 2), _Block(128, 128), _Block(128, 256, 2), _Block(256, 256)
        )
        self.last = _Block(256, 512, 2)
        self.features = _Block(512, 512)
        self.classifier = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, n_classes)
        )

    def forward(self, inputs: Tensor) -> Tensor:
        return self.classifier(self.hidden(inputs)[-1])

    def hidden(self, inputs: Tensor, *, for_maps: bool = False) -> tuple[Tensor, ...]:
        """The outputs of stage 3, of the first block of stage 4, and of its second one.

        Gradients `for_maps` follow the guided rule where it holds.
        """
        stem = self.stem(inputs)
        third = self.stages(stem)
        if for_maps:
            set_rule(nodes_between(stem, third) - {stem.grad_fn}, ModuleCalls(), "guided")
        first = self.last(third)
        return third, first, self.features(first)


class _Block(nn.Module):
    """Two convolutions beside a short cut."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        same = stride == 1 and inputs == outputs
        self.shortcut = nn.Identity() if same else nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False)
        self.relu2 = nn.ReLU()

    def forward(self, inputs: Tensor) -> Tensor:
        return self.relu2(self.conv2(self.relu1(self.conv1(inputs))) + self.shortcut(inputs))


class _ResNetAttributes(nn.Module):
    """`(B, 256, h, w)` and `(B, 512, h/2, w/2)` to `(B, J)`."""

    n_read: ClassVar[int] = 2

    def __init__(self, n_attributes: int) -> None:
        super().__init__()
        self.read_third = nn.Sequential(nn.Conv2d(256, 64, 3, stride=2, padding=1), nn.ReLU())
        self.read_fourth = nn.Sequential(nn.Conv2d(512, 64, 3, padding=1), nn.ReLU())
        self.join = nn.Sequential(
            nn.Conv2d(128, 64, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(_CODE_SIDE), nn.Flatten()
        )
        self.combine = nn.Linear(64 * _CODE_SIDE**2, n_attributes)
        self.activate = nn.ReLU()

    def forward(self, third: Tensor, fourth: Tensor) -> Tensor:
        both = torch.cat((self.read_third(third), self.read_fourth(fourth)), dim=1)
        return self.activate(self.combine(self.join(both)))


def _lenet_decoder(n_attributes: int, image_shape: tuple[int, int, int]) -> nn.Sequential:
    """`(B, J)` to `(B, C, H, W)`."""
    channels, height, width = image_shape
    return nn.Sequential(
        nn.Linear(n_attributes, 2 * (height // 4) * (width // 4)),
        nn.Unflatten(1, (2, height // 4, width // 4)),
        nn.ConvTranspose2d(2, 8, 3, stride=2, padding=1, output_padding=1),
        nn.ReLU(),
        nn.ConvTranspose2d(8, channels, 3, stride=2, padding=1, output_padding=1),
        _output(channels),
    )


def _resnet_decoder(n_attributes: int, image_shape: tuple[int, int, int]) -> nn.Sequential:
    """`(B, J)` to `(B, C, H, W)`."""
    channels, height, width = image_shape
    return nn.Sequential(
        nn.Linear(n_attributes, 2 * (height // 4) * (width // 4)),
        nn.Unflatten(1, (2, height // 4, width // 4)),
        nn.ConvTranspose2d(2, 4, 3, stride=2, padding=1, output_padding=1),
        nn.ReLU(),
        nn.ConvTranspose2d(4, 8, 3, stride=2, padding=1, output_padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(8 * height * width, channels * height * width),
        nn.Unflatten(1, image_shape),
        _output(channels),
    )


def _output(channels: int) -> nn.Module:
    return nn.ReLU() if channels == 1 else nn.Identity()


def _entropy(values: Tensor) -> Tensor:
    """Of the softmax over the last axis."""
    logarithms = values.log_softmax(dim=-1)
    return -(logarithms.exp() * logarithms).sum(dim=-1)


def _gradients(activations: Tensor, leaf: Tensor) -> Tensor:
    """`(B, J, C, H, W)`, the gradient of each activation by its image."""
    each = [torch.autograd.grad(column.sum(), leaf, retain_graph=True)[0] for column in activations.unbind(dim=1)]
    return torch.stack(each, dim=1)
