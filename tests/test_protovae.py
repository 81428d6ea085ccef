"""The self-explaining model ProtoVAE."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence

from interpeval.baselines import protovae
from interpeval.baselines.own import Own
from interpeval.baselines.protovae import ProtoVae, mixture_divergence, orthonormality, randomly_flipped_and_moved
from interpeval.bench import weights
from interpeval.bench.conformance import parametrize_with_checks
from reference import protovae as slow
from reference import relevance as slow_relevance

SMALL = (1, 8, 8)


def small(seed: int = 0, shape: tuple[int, int, int] = SMALL, **options: object) -> ProtoVae:
    """Random weights and random statistics of batch normalisation."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        model = ProtoVae(shape, 3, **{"latent": 6, "prototypes_per_class": 2, **options})
        for module in model.modules():
            if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
                module.running_mean.normal_(0, 0.1), module.running_var.uniform_(0.5, 2)
                module.weight.uniform_(0.5, 2), module.bias.normal_(0, 0.1)
    return model


def random_images(count: int, shape: tuple[int, int, int] = SMALL) -> Tensor:
    return torch.rand(count, *shape, generator=torch.Generator().manual_seed(1))


def parameters_of(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def convolutions(sizes: list[tuple[int, int, int]]) -> int:
    """Parameters of (inputs, outputs, kernel) convolutions with their biases and batch normalisations."""
    return sum(i * o * k * k + 3 * o for i, o, k in sizes)


MNIST = [(1, 32, 3), (32, 64, 3)]
CIFAR = [(3, 32, 3), (32, 64, 3), (64, 128, 3), (128, 256, 3)]
SVHN = [*CIFAR, (32, 32, 4), (64, 64, 4), (128, 128, 4), (256, 256, 4)]
TO_14_AND_28 = [(32, 32, 3), (32, 32, 4)]
TO_32 = [(256, 128, 3), (128, 128, 4), (128, 64, 3), (64, 64, 4), (64, 32, 3), (32, 32, 4), *TO_14_AND_28]
FROM_MNIST = [(64, 32, 3), (32, 32, 4), *TO_14_AND_28]
FROM_QUICKDRAW = [(128, 64, 3), (64, 64, 4), (64, 32, 3), (32, 32, 4), *TO_14_AND_28]


@pytest.mark.parametrize(
    ("shape", "options", "encoder", "flat", "decoder", "latent", "prototypes"),
    [
        ((1, 28, 28), {}, MNIST, 3136, FROM_MNIST, 256, 50),
        ((1, 28, 28), {"prototypes_per_class": 10}, MNIST, 3136, FROM_MNIST, 256, 100),
        ((1, 28, 28), {"form": "quickdraw"}, [*MNIST, (64, 128, 3)], 1152, FROM_QUICKDRAW, 512, 100),
        ((3, 32, 32), {}, CIFAR, 1024, TO_32, 512, 100),
        ((3, 32, 32), {"form": "svhn"}, SVHN, 1024, TO_32, 512, 50),
    ],
    ids=["mnist", "fashion_mnist", "quickdraw", "cifar", "svhn"],
)
def test_the_published_networks_have_their_layers_and_prototypes(
    shape, options, encoder, flat, decoder, latent, prototypes
) -> None:
    model = ProtoVae(shape, 10, **options)
    assert parameters_of(model.features) == convolutions(encoder)
    assert parameters_of(model.head) == (flat + 1) * 2 * latent + (2 * latent + 1) * 2 * latent
    last = (decoder[-1][1] * 9 + 1) * shape[0]
    assert parameters_of(model.decoder) == (latent + 1) * flat + 2 * flat + convolutions(decoder) + last
    assert tuple(model.prototypes.shape) == (prototypes, latent)
    assert parameters_of(model.classifier) == prototypes * 10
    assert model.decoder(torch.zeros(2, latent)).shape == (2, *shape)


def test_the_decoder_of_drawings_goes_from_3_over_6_12_and_14_to_28_pixels() -> None:
    sides: list[int] = []
    model = ProtoVae((1, 28, 28), 2, form="quickdraw")
    for layer in model.decoder:
        if isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d)):
            layer.register_forward_hook(lambda _module, _inputs, output: sides.append(output.shape[-1]))
    model.decoder(torch.zeros(2, 512))
    assert sides == [3, 6, 6, 12, 14, 28, 28]


def test_initial_values_are_as_published() -> None:
    model = ProtoVae((1, 28, 28), 10)
    uniform = [layer.weight for layer in (*model.features, *model.head) if isinstance(layer, (nn.Conv2d, nn.Linear))]
    uniform += [layer.weight for layer in model.decoder if isinstance(layer, nn.ConvTranspose2d)]
    assert len(uniform) == 6
    for weight in uniform:
        assert 0.078 < weight.max() <= 0.08
        assert -0.08 <= weight.min() < -0.078
        assert weight.std().item() == pytest.approx(0.08 / math.sqrt(3), rel=0.08)
    for layer in model.decoder:
        if isinstance(layer, nn.Conv2d) and layer.out_channels > 1:
            assert layer.weight.std().item() == pytest.approx(math.sqrt(2 / (layer.out_channels * 9)), rel=0.03)
            assert (layer.bias == 0).all()
    assert model.prototypes.std().item() == pytest.approx(1, rel=0.03)
    for k in range(10):
        assert model.classifier.weight[k].tolist() == [1.0 if j // 5 == k else -0.5 for j in range(50)]


def test_pixels_from_0_to_1_reach_the_network_as_minus_1_to_1() -> None:
    model, seen = small().eval(), []
    model.features[0].register_forward_hook(lambda _module, inputs, _output: seen.append(inputs[0]))
    images = torch.tensor([0.0, 0.5, 0.75, 1.0]).repeat(16).view(1, 1, 8, 8)
    model(images)
    assert seen[0].flatten()[:4].tolist() == [-1.0, 0.0, 0.5, 1.0]


def test_the_similarity_is_that_of_the_distance_not_of_its_square() -> None:
    model = small().double().eval()
    latents = torch.randn(3, 6, dtype=torch.float64)
    latents[0] = model.prototypes[4].detach()
    expected = [slow.similarities(z, model.prototypes.detach().numpy()) for z in latents.numpy()]
    found = model.similarities(latents).detach()
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    assert found[0, 4].item() == pytest.approx(math.log(1e4))


def test_logits_are_similarities_of_the_mean_through_the_classifier() -> None:
    model, images = small().double().eval(), random_images(4).double()
    mean, _ = model.encode(images)
    torch.testing.assert_close(model(images), model.similarities(mean) @ model.classifier.weight.T)


def test_variances_are_kept_between_1e_minus_8_and_1e8() -> None:
    model = small().double().eval()
    with torch.no_grad():
        model.head[-1].weight.zero_()
        model.head[-1].bias.copy_(torch.tensor([0.0] * 6 + [-50.0, 50.0, 18.0, -18.0, 0.0, 1.0]))
    _, log_variance = model.encode(random_images(1).double())
    torch.testing.assert_close(
        log_variance[0].exp(), torch.tensor([1e-8, 1e8, math.exp(18), math.exp(-18), 1, math.e], dtype=torch.float64)
    )


@pytest.mark.parametrize("stochastic", [True, False])
def test_the_four_losses_are_the_published_ones_restated(stochastic: bool) -> None:
    model, images, labels = (
        small(stochastic=stochastic).double(),
        random_images(5).double(),
        torch.tensor([2, 0, 1, 2, 2]),
    )
    with torch.no_grad():
        mean, log_variance = model.encode(images)
        torch.manual_seed(7)
        latents = mean + (log_variance / 2).exp() * torch.randn(5, 6, dtype=torch.float64) if stochastic else mean
        decoded = model.decoder(latents)
        torch.manual_seed(7)
        terms, logits = model.losses(images, labels)
        torch.manual_seed(7)
        total, _ = model.training_loss(images, labels, {})
    expected = slow.losses(
        *(tensor.numpy() for tensor in (mean, log_variance, latents, decoded, images)),
        labels.tolist(),
        model.prototypes.detach().numpy(),
        model.classifier.weight.detach().numpy(),
        2,
    )
    np.testing.assert_allclose([float(term) for term in terms], expected, rtol=1e-10)
    assert float(total) == pytest.approx(sum(expected), rel=1e-10)
    torch.testing.assert_close(logits, model.classify(latents).detach())


def test_latents_are_drawn_in_training_only_and_in_the_released_form_not_at_all() -> None:
    images, labels = random_images(4), torch.tensor([0, 1, 2, 0])

    def varies(model: ProtoVae) -> bool:
        first, second = (model.losses(images, labels)[0].reconstruction for _ in range(2))
        return not torch.equal(first, second)

    assert varies(small())
    assert not varies(small().eval())
    assert not varies(small(stochastic=False))


def test_the_divergence_is_that_of_torch_distributions() -> None:
    mean, log_variance, prototypes = torch.randn(3, 4), torch.randn(3, 4), torch.randn(3, 2, 4)
    weights_ = torch.rand(3, 2)
    posterior = Normal(mean[:, None], (log_variance / 2).exp()[:, None])
    divergences = kl_divergence(posterior, Normal(prototypes, torch.ones(()))).mean(2)
    expected = ((divergences * weights_).sum(1) / weights_.sum(1)).mean()
    torch.testing.assert_close(mixture_divergence(mean, log_variance, prototypes, weights_), expected)


def test_the_divergence_is_0_where_the_latent_has_its_prototypes_distribution() -> None:
    mean = torch.randn(3, 4)
    found = mixture_divergence(mean, torch.zeros(3, 4), mean[:, None].expand(3, 2, 4), torch.rand(3, 2))
    assert float(found) == 0


def test_orthonormality_is_least_where_centred_prototypes_are_as_orthonormal_as_they_can_be() -> None:
    """Three orthonormal vectors less their mean have the Gram matrix 1 - 1/3; its distance from 1 is 1."""
    frames = torch.linalg.qr(torch.randn(2, 7, 3, dtype=torch.float64)).Q.mT
    assert float(orthonormality(frames)) == pytest.approx(1)
    assert float(orthonormality(frames + 5)) == pytest.approx(1)  # the mean does not count
    assert float(orthonormality(2 * frames)) == pytest.approx(math.sqrt(3**2 + 3**2 + 1))


@pytest.mark.parametrize("form", ["mnist", "quickdraw", "cifar", "svhn"])
def test_training_reaches_every_parameter_and_the_prototypes_of_all_classes(form: str) -> None:
    shape = (1, 12, 12) if form == "quickdraw" else (1, 16, 16)
    model = small(shape=shape, form=form)
    model.training_loss(random_images(6, shape), torch.tensor([0, 1, 2, 0, 1, 2]), {})[0].backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert (parameter.grad != 0).any(), name
    assert (model.prototypes.grad != 0).any(1).all()


def test_without_draws_the_variance_is_trained_by_the_divergence_alone() -> None:
    """The gradient with respect to ln σ² of the mean of `(σ² - 1 - ln σ²) / 2` over samples and elements."""
    model, images, labels = small(stochastic=False), random_images(6), torch.tensor([0, 1, 2, 0, 1, 2])
    kept: list[Tensor] = []
    model.head.register_forward_hook(lambda _module, _inputs, output: (output.retain_grad(), kept.append(output))[0])
    model.training_loss(images, labels, {})[0].backward()
    log_variance, gradient = kept[0].detach()[:, 6:], kept[0].grad[:, 6:]
    torch.testing.assert_close(gradient, (log_variance.exp() - 1) / 2 / log_variance.numel())


def test_a_start_on_a_prototype_has_finite_gradients() -> None:
    model = small(stochastic=False)
    with torch.no_grad():
        model.head[-1].weight.zero_()
        model.head[-1].bias[:6] = model.prototypes[0]
    model.training_loss(random_images(3), torch.tensor([0, 1, 2]), {})[0].backward()
    assert all(bool(parameter.grad.isfinite().all()) for parameter in model.parameters())


def slow_attribution(model: ProtoVae, image: np.ndarray, target: int) -> np.ndarray:
    """One block of convolutions more than one is the same again: a network of one, layer by layer."""
    first, _, norm, _, second, _, norm2, _ = model.features
    scale = [(n.weight / (n.running_var + n.eps).sqrt()).detach().numpy()[:, None, None] for n in (norm, norm2)]
    shift = [n.bias.detach().numpy()[:, None, None] - s * n.running_mean.numpy()[:, None, None]
             for n, s in zip((norm, norm2), scale, strict=True)]  # fmt: skip

    def run(layer: nn.Module, value: np.ndarray) -> np.ndarray:
        return layer(torch.from_numpy(value)[None])[0].detach().numpy()

    def pool(value: np.ndarray) -> np.ndarray:
        channels, height, width = value.shape
        return value.reshape(channels, height // 2, 2, width // 2, 2).mean((2, 4))

    x0 = 2 * image - 1
    x1 = np.maximum(run(first, x0), 0)
    x2 = scale[0] * pool(x1) + shift[0]
    x3 = np.maximum(run(second, x2), 0)
    x4 = (scale[1] * pool(x3) + shift[1]).ravel()
    (weight1, bias1), (weight2, bias2) = (
        [parameter.detach().numpy() for parameter in model.head[place].parameters()] for place in (1, 3)
    )
    x5 = np.maximum(weight1 @ x4 + bias1, 0)
    latent = (weight2 @ x5 + bias2)[: model.latent]
    prototypes, classifier = model.prototypes.detach().numpy(), model.classifier.weight.detach().numpy()
    counted = [
        classifier[target, j] * s * (j // model.prototypes_per_class == target)
        for j, s in enumerate(slow.similarities(latent, prototypes))
    ]
    started = slow.start_of_relevance(latent, prototypes, counted)
    relevance = slow_relevance.linear(x5, weight2[: model.latent], bias2[: model.latent], started)
    relevance = slow_relevance.linear(x4, weight1, bias1, relevance).reshape(64, *x3[0, ::2, ::2].shape)
    relevance = slow_relevance.average_pool(x3, relevance)
    options = {"stride": 1, "padding": 1}
    relevance = slow_relevance.convolution(x2, second.weight.detach().numpy(), relevance, **options)
    relevance = slow_relevance.average_pool(x1, relevance)
    return slow_relevance.convolution(x0, first.weight.detach().numpy(), relevance, bounds=(-1.0, 1.0), **options)


def test_the_own_explanation_is_prototypical_relevance_restated() -> None:
    model, images = small(shape=(1, 4, 4)).double().eval(), random_images(2, (1, 4, 4)).double()
    with torch.no_grad():
        model.classifier.weight.add_(torch.randn(3, 6) / 10)
    found = model.attribute(images, torch.tensor([2, 0])).numpy()
    for b, target in enumerate((2, 0)):
        expected = slow_attribution(model, images[b].numpy(), target)
        np.testing.assert_allclose(found[b], expected, rtol=1e-7, atol=1e-9 * np.abs(expected).max())


def test_a_classes_explanation_is_the_sum_of_its_prototypes_maps_and_of_no_other() -> None:
    model, images = small().double().eval(), random_images(3).double()
    targets = torch.tensor([1, 1, 0])
    before = model.attribute(images, targets)
    with torch.no_grad():
        similarities = model.similarities(model.encode(images)[0])
        total = torch.zeros_like(before)
        for b in range(3):
            maps = []
            for j in (2 * targets[b], 2 * targets[b] + 1):
                # A map less its scale: relevance of the similarity itself.
                raw = model._relevance(
                    images[b : b + 1], lambda z, j=j: nn.functional.one_hot(j, 6) * model.similarities(z)
                )
                shown = model.prototype_maps(images[b : b + 1], j[None])
                torch.testing.assert_close(shown, raw / raw.abs().max())
                maps.append(model.classifier.weight[targets[b], j] * raw[0])
            total[b] = sum(maps)
        model.prototypes[4:] += 1
        torch.testing.assert_close(model.attribute(images, targets), before)
    assert similarities.shape == (3, 6)
    torch.testing.assert_close(total, before)


def test_putting_the_pooling_before_the_normalisation_changes_no_latent() -> None:
    model, images = small().double().eval(), random_images(3).double()
    reordered = protovae._pooled_first(model.features)
    assert [type(layer).__name__ for layer in reordered] == ["Conv2d", "ReLU", "AvgPool2d", "BatchNorm2d"] * 2
    torch.testing.assert_close(reordered(images), model.features(images))


@parametrize_with_checks([Own()], small().eval(), random_images(4))
def test_the_own_explanation_conforms(check) -> None:
    check()


def test_decoded_prototypes_are_images_the_decoder_draws_of_the_prototypes() -> None:
    model = small().eval()
    images = model.decoded_prototypes()
    assert images.shape == (6, 1, 8, 8)
    torch.testing.assert_close(2 * images - 1, model.decoder(model.prototypes))
    assert not images.requires_grad
    assert model.prototype_classes().tolist() == [0, 0, 1, 1, 2, 2]


def test_moved_and_flipped_images_are_the_windows_of_the_padded_image() -> None:
    image = torch.arange(1.0, 17).view(1, 1, 4, 4)
    padded = nn.functional.pad(image, (1, 1, 1, 1))
    windows = [padded[0, :, i : i + 4, j : j + 4] for i in range(3) for j in range(3)]
    windows += [window.flip(2) for window in windows]
    moved = randomly_flipped_and_moved(image.repeat(400, 1, 1, 1), padding=1)
    counts = [int((moved == window).all((1, 2, 3)).sum()) for window in windows]
    assert sum(counts) == 400
    assert min(counts) > 5


def test_a_recipe_asks_for_augmentation_where_it_was_published() -> None:
    assert {name: ProtoVae.recipe(name)["augment"] for name in ("cifar10", "svhn", "mnist")} == {
        "cifar10": True, "svhn": False, "mnist": False,
    }  # fmt: skip
    model, images = small().eval(), random_images(32)
    plain, augmented = (model.training_loss(images, torch.zeros(32).long(), {"augment": a})[0] for a in (False, True))
    assert not torch.isclose(plain, augmented, rtol=1e-4)


@pytest.mark.parametrize(
    ("shape", "options", "message"),
    [
        ((1, 30, 28), {}, "multiples of 4 for form `mnist`"),
        ((1, 32, 32), {"form": "quickdraw"}, "8 n \\+ 4 for form `quickdraw`"),
        ((3, 24, 24), {"form": "svhn"}, "multiples of 16 for form `svhn`"),
        ((3, 32, 32), {"form": "celeba"}, "`form` must be one of"),
        ((3, 32, 32), {"latent": 0}, "`latent` must be at least 1"),
    ],
)
def test_impossible_arguments_are_refused(shape, options, message) -> None:
    with pytest.raises(ValueError, match=message):
        ProtoVae(shape, 2, **options)


def test_inputs_of_another_size_and_pixels_outside_of_0_to_1_are_refused() -> None:
    with pytest.raises(ValueError, match=r"`inputs` must be \(B, 1, 8, 8\), was \(2, 1, 8, 12\)"):
        small().eval()(torch.zeros(2, 1, 8, 12))
    with pytest.raises(ValueError, match=r"must have pixels in \[0, 1\]"):
        small().training_loss(random_images(2) * 2 - 1, torch.tensor([0, 1]), {})


def nearest(images: Tensor, others: Tensor) -> Tensor:
    return (images[:, None] - others).abs().mean((2, 3, 4)).argmin(1)


@pytest.mark.parametrize("stochastic", [True, False])
def test_a_handful_of_samples_is_learnt_and_by_the_published_form_drawn(stochastic: bool, tmp_path) -> None:
    bars = torch.zeros(3, *SMALL)
    bars[0, 0, 1, 1:7], bars[1, 0, 2:6, 2:6], bars[2, 0, 1:7, 3] = 1, 1, 1
    images, labels = bars.repeat(4, 1, 1, 1), torch.arange(3).repeat(4)
    model = ProtoVae(SMALL, 3, latent=8, prototypes_per_class=2, stochastic=stochastic)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(80):
        loss, _ = model.training_loss(images, labels, {})
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        drawn = model.decode(model.encode(images)[0])[:3]
        model.eval()
        assert torch.equal(model(bars).argmax(1), torch.arange(3))
        prototypes = model.decoded_prototypes()
    if stochastic:
        assert torch.equal(nearest(drawn, bars), torch.arange(3))
        assert nearest(prototypes, bars).tolist() == [0, 0, 1, 1, 2, 2]
    weights.save(model, tmp_path / "model.safetensors", {})
    restored = ProtoVae(SMALL, 3, latent=8, prototypes_per_class=2).eval()
    weights.load(restored, tmp_path / "model.safetensors")
    assert torch.equal(restored(bars), model(bars))
    assert torch.equal(restored.decoded_prototypes(), prototypes)
