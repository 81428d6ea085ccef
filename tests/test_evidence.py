"""Evidence: a bad sample spoils no other, nothing an explainer does lasts, and no number depends on the batch."""

import random
from dataclasses import replace
from typing import ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from interpeval.bench.evidence import ModelEvidence
from interpeval.bench.micro_batch import MicroBatch
from interpeval.datasets.base import Batch
from interpeval.datasets.philox import derived_keys, uniform
from interpeval.metrics.base import Inputs
from interpreted import Interpreted
from small_subject import Grad, Pictures, SmallNet
from small_subject import see as see_pictures

DATASET = Pictures(count=7)
IDS = DATASET.ids
HEIGHT, WIDTH = 9, 9


def explainer_of(function, **members):
    """An explainer with this function as its `attribute`."""
    return type("Mine", (), {"attribute": lambda self, *args, **kwargs: function(*args, **kwargs), **members})()


def see(explainer, *, rows=range(7), model=None, micro_batch=64, seed=0):
    return ModelEvidence(
        model=SmallNet() if model is None else model,
        explainer=explainer if explainer is None or hasattr(explainer, "attribute") else explainer_of(explainer),
        dataset=DATASET,
        batch=DATASET.take(rows),
        seed=seed,
        micro_batch=micro_batch,
    )


def by_image(model, inputs, targets):
    """A function of each image alone, without arithmetic that depends on the batch."""
    return inputs * 2 + targets.view(-1, 1, 1, 1)


def marked(images, rows):
    """Which images are those of these rows of the dataset; copies of them too."""
    wanted = DATASET.take(list(rows)).images
    return torch.tensor([any(torch.equal(image, one) for one in wanted) for image in images])


def faults(evidence):
    return [(fault.kind, fault.ids) for fault in evidence.faults]


def same(first, second):
    return torch.equal(first.nan_to_num(nan=-12345.0), second.nan_to_num(nan=-12345.0))


GOOD = see(by_image).attributions("label")


# ---------------------------------------------------------------------- samples that fail


@pytest.mark.parametrize("micro_batch", [1, 2, 3, 64])
@pytest.mark.parametrize("bad", [[], [0], [6], [2, 3], [0, 2, 4, 6], [0, 1, 2, 3, 4, 5, 6]])
def test_an_exception_makes_only_its_samples_invalid(bad, micro_batch):
    def attribute(model, inputs, targets):
        if marked(inputs, bad).any():
            raise ValueError("not this one")
        return by_image(model, inputs, targets)

    evidence = see(attribute, micro_batch=micro_batch)
    found = evidence.attributions("label")
    good = [row for row in range(7) if row not in bad]
    assert all(torch.equal(found[row], GOOD[row]) for row in good)
    assert bool(found[bad].isnan().all())
    assert faults(evidence) == ([("exception", tuple(IDS[row] for row in bad))] if bad else [])
    assert [fault.message for fault in evidence.faults] == (["ValueError: not this one"] if bad else [])


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_a_single_number_that_is_not_finite_makes_its_sample_invalid(value):
    def attribute(model, inputs, targets):
        result = by_image(model, inputs, targets)
        result[marked(inputs, [1, 5]), 2, 3, 4] = value
        return result

    evidence = see(attribute)
    found = evidence.attributions("label")
    good = [0, 2, 3, 4, 6]
    assert torch.equal(found[good], GOOD[good])
    assert bool(found[[1, 5]].isnan().all())
    assert bool(evidence.heatmaps("label")[[1, 5]].isnan().all())
    assert faults(evidence) == [("non-finite", (IDS[1], IDS[5]))]


def test_a_number_beyond_float32_is_not_finite():
    evidence = see(lambda model, inputs, targets: inputs.double() * 1e300)
    assert bool(evidence.attributions("label").isnan().all())
    assert faults(evidence) == [("non-finite", IDS)]


WRONG = {
    "too few rows": (lambda x: x[:-1], r"must return \(8, 1, h, w\) or \(8, 3, h, w\), returned \(7, 3, 9, 9\)"),
    "too many rows": (lambda x: torch.cat([x, x[:1]]), r"returned \(9, 3, 9, 9\)"),
    "two channels": (lambda x: x[:, :2], r"returned \(8, 2, 9, 9\)"),
    "no channel axis": (lambda x: x[:, 0], r"returned \(8, 9, 9\)"),
    "empty map": (lambda x: x[..., :0], r"returned \(8, 3, 9, 0\)"),
    "channels last": (lambda x: x.movedim(1, -1), r"returned \(8, 9, 9, 3\)"),
    "larger": (lambda x: x.repeat(1, 1, 2, 1), r"maps larger than the input \(9, 9\), returned \(8, 3, 18, 9\)"),
    "complex": (lambda x: x * 1j, r"must return real numbers, returned torch\.complex64"),
    "list": (lambda x: [x], "must return a tensor, returned list"),
    "array": (lambda x: x.numpy(), "must return a tensor, returned ndarray"),
    "none": (lambda x: None, "must return a tensor, returned NoneType"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_what_is_no_attribution_is_refused_with_what_it_was(wrong):
    change, message = WRONG[wrong]
    evidence = see(lambda model, inputs, targets: change(by_image(model, inputs, targets)))
    assert bool(evidence.attributions("label").isnan().all())
    assert evidence.heatmaps("label").shape == (7, HEIGHT, WIDTH)
    (fault,) = evidence.faults
    assert (fault.kind, fault.ids) == ("exception", IDS)
    with pytest.raises(AssertionError, match=message):
        raise AssertionError(fault.message)


def test_a_wrong_shape_for_one_sample_leaves_the_others_as_they_are():
    def attribute(model, inputs, targets):
        result = by_image(model, inputs, targets)
        return result[:, :2] if marked(inputs, [3]).any() else result

    evidence = see(attribute, micro_batch=4)
    found = evidence.attributions("label")
    good = [0, 1, 2, 4, 5, 6]
    assert torch.equal(found[good], GOOD[good])
    assert bool(found[3].isnan().all())
    assert faults(evidence) == [("exception", (IDS[3],))]


@pytest.mark.parametrize("bad", [0, 3, 6])
def test_a_failed_sample_takes_the_shape_of_the_others(bad):
    """Coarse maps of one channel, whose failed rows would be maps of the input's size."""

    def attribute(model, inputs, targets):
        if marked(inputs, [bad]).any():
            raise ValueError("no")
        return inputs[:, :1, ::3, ::3]

    found = see(attribute, micro_batch=1).attributions("label")
    assert found.shape == (7, 1, 3, 3)
    assert found.isnan().flatten(1).all(dim=1).nonzero().tolist() == [[bad]]


def test_maps_whose_shape_varies_are_never_dropped_in_silence():
    """One batch of a kind, the next of another: whichever is not kept must be said to be invalid."""

    def attribute(model, inputs, targets):
        return inputs[:, :1] if marked(inputs, [4, 5]).any() else inputs

    evidence = see(attribute, micro_batch=2)
    invalid = {IDS[row] for row in range(7) if evidence.attributions("label")[row].isnan().all()}
    assert invalid == {name for fault in evidence.faults for name in fault.ids}


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.uint8, torch.bool])
def test_attributions_of_another_type_become_float32(dtype):
    def attribute(model, inputs, targets):
        return (inputs > 0).to(dtype)

    evidence = see(attribute)
    found = evidence.attributions("label")
    assert found.dtype == torch.float32
    assert torch.equal(found, (DATASET.take(range(7)).images > 0).float())
    assert evidence.faults == []


def test_attributions_are_cut_off_from_the_graph():
    found = see(lambda model, inputs, targets: inputs.requires_grad_() * 2).attributions("label")
    assert not found.requires_grad
    assert found.grad_fn is None


def test_running_out_of_memory_is_no_fault_of_a_sample():
    def attribute(model, inputs, targets):
        if len(inputs) > 8:
            raise torch.OutOfMemoryError("full")
        return by_image(model, inputs, targets)

    dataset = Pictures(count=30)
    batch, sizes = dataset.take(range(30)), MicroBatch(64)
    evidence = ModelEvidence(
        model=SmallNet(), explainer=explainer_of(attribute), dataset=dataset, batch=batch, micro_batch=sizes
    )
    assert torch.equal(evidence.attributions("label"), by_image(None, batch.images, batch.labels))
    assert evidence.faults == []
    assert sizes.size <= 8


def test_ctrl_c_is_no_fault_of_a_sample():
    def attribute(model, inputs, targets):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        see(attribute).attributions("label")


# ---------------------------------------------------------------------- what an explainer leaves behind


def vandal(model, inputs, targets, keys=None, masks=None):
    """Change everything that can be reached, and then give a sound answer."""
    result = by_image(model, inputs, targets)
    inputs.zero_()
    targets.fill_(2)
    for further in (keys, masks):
        if further is not None:
            further.logical_not_() if further.dtype == torch.bool else further.zero_()
    model.train()
    model.conv.weight.data.zero_()
    model.relu.register_forward_hook(lambda module, args, output: output * 0)
    return result


@pytest.mark.parametrize("needs", [frozenset(), frozenset({"keys"}), frozenset({"keys", "masks"})])
@pytest.mark.parametrize("micro_batch", [1, 3, 64])
def test_an_explainer_that_changes_all_it_is_given_changes_nothing(needs, micro_batch):
    model = SmallNet()
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    evidence = see(explainer_of(vandal, needs=needs, control=True), model=model, micro_batch=micro_batch)
    keys = evidence.batch.keys.clone()
    assert torch.equal(evidence.attributions("label"), GOOD)
    assert torch.equal(evidence.attributions("predicted"), see(by_image).attributions("predicted"))
    expected = DATASET.take(range(7))
    assert torch.equal(evidence.batch.images, expected.images)
    assert torch.equal(evidence.batch.labels, expected.labels)
    assert torch.equal(evidence.batch.masks, expected.masks)
    assert torch.equal(evidence.batch.keys, keys)
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
    assert not any(module.training or module._forward_hooks for module in model.modules())
    (fault,) = evidence.faults
    assert fault.kind == "model changed"
    assert "hooks of `relu`" in fault.message
    assert "restored" in fault.message


def test_the_model_is_restored_after_an_exception_too():
    def attribute(model, inputs, targets):
        model.conv.weight.data.zero_()
        raise ValueError("no")

    model = SmallNet()
    weight = model.conv.weight.detach().clone()
    evidence = see(attribute, model=model)
    evidence.attributions("label")
    assert torch.equal(model.conv.weight, weight)
    assert {kind for kind, _ in faults(evidence)} == {"model changed", "exception"}


def test_a_tidy_explainer_is_not_accused():
    evidence = see(Grad())
    with evidence:
        evidence.attributions("label")
        evidence.attributions("predicted")
        list(evidence.explain(14, twice(evidence)))
    assert evidence.faults == []
    members = [member for module in evidence.model.modules() for member in vars(module).items()]
    assert not any(value for name, value in members if "hooks" in name)


def test_gradients_are_enabled_for_an_explainer_whatever_the_caller_does():
    with torch.no_grad():
        evidence = see(Grad())
        evidence.attributions("label")
        assert not torch.is_grad_enabled()
    assert evidence.faults == []


def global_state():
    numpy = np.random.get_state()  # the state that a stranger's explainer may change
    return (random.getstate(), numpy[0], numpy[1].tobytes(), *numpy[2:], torch.random.get_rng_state().numpy().tobytes())


# ---------------------------------------------------------------------- explainers that draw


def torch_noise(model, inputs, targets):
    return torch.randn_like(inputs)


def numpy_noise(model, inputs, targets):
    return torch.from_numpy(np.random.standard_normal(inputs.shape))  # what a stranger may do


def python_noise(model, inputs, targets):
    return torch.tensor([random.random() for _ in range(inputs.numel())]).view_as(inputs)


def dropout_noise(model, inputs, targets):
    return nn.functional.dropout(inputs, 0.5, training=True)


def torch_noise_under_its_own_seed(model, inputs, targets):
    torch.manual_seed(0)
    return torch.randn_like(inputs)


def noise_that_fails_on_the_first_sample(model, inputs, targets):
    if marked(inputs, [0]).any():
        raise ValueError("no")
    return torch.randn_like(inputs)


def noise_that_is_silent_on_the_first_sample(model, inputs, targets):
    return torch.randn_like(inputs) * ~marked(inputs, [0]).view(-1, 1, 1, 1)


def keyed_noise(model, inputs, targets, keys):
    return uniform(0, "mine", keys, 0, inputs.shape[2] * inputs.shape[3]).view(-1, 1, *inputs.shape[2:])


KEYED = explainer_of(keyed_noise, needs=frozenset({"keys"}))
NOISY = [torch_noise, numpy_noise, python_noise, dropout_noise]
LESS_OBVIOUS = [
    torch_noise_under_its_own_seed,
    noise_that_fails_on_the_first_sample,
    noise_that_is_silent_on_the_first_sample,
]
EVERY_KIND = [*NOISY, *LESS_OBVIOUS, KEYED, by_image]


@pytest.mark.parametrize("noise", NOISY, ids=lambda noise: noise.__name__)
def test_an_explainer_that_draws_from_global_generators_is_noticed(noise):
    evidence = see(noise)
    evidence.attributions("label")
    assert faults(evidence) == [("non-deterministic", ())]


@pytest.mark.parametrize("explainer", [by_image, Grad(), KEYED], ids=["by image", "gradient", "keyed"])
def test_a_deterministic_explainer_is_not_accused_of_drawing(explainer):
    evidence = see(explainer)
    evidence.attributions("label")
    assert evidence.faults == []


@pytest.mark.parametrize("explainer", EVERY_KIND, ids=lambda explainer: getattr(explainer, "__name__", "keyed"))
def test_numbers_do_not_depend_on_the_batch(explainer):
    """Micro-batches of 1, 3 and 64 rows, batches of one sample, another order, another state of the generators."""
    whole = see(explainer).heatmaps("label")
    for size in (1, 3):
        torch.manual_seed(size)
        assert same(see(explainer, micro_batch=size).heatmaps("label"), whole)
    alone = torch.cat([see(explainer, rows=[row]).heatmaps("label") for row in range(7)])
    assert same(alone, whole)
    order = [3, 0, 6, 5, 2, 1, 4]
    assert same(see(explainer, rows=order).heatmaps("label"), whole[order])
    distinct = 1 if explainer is torch_noise_under_its_own_seed else 7  # it begins anew whenever it is asked
    assert len({row.numpy().tobytes() for row in whole}) == distinct


def test_numbers_do_not_depend_on_how_images_lie_in_memory():
    """Convolutions of images whose channels lie together use other kernels, which round differently."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 32, 3), nn.ReLU(), nn.Conv2d(32, 32, 3), nn.Flatten(), nn.LazyLinear(4)).eval()
    batch = DATASET.take(range(7))
    model(batch.images)
    together = replace(batch, images=batch.images.to(memory_format=torch.channels_last))
    assert not together.images.is_contiguous()
    found = []
    for images in (batch, together):
        with ModelEvidence(
            model=model, explainer=Grad(), dataset=DATASET, batch=images, seed=0, micro_batch=8
        ) as evidence:
            found.append((evidence.logits, evidence.attributions("label")))
    with torch.no_grad():
        assert not torch.equal(model(together.images), found[0][0])
    for one, other in zip(*found, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("size", [1, 3])
def test_gradients_do_not_depend_on_the_batch_to_the_bit(size):
    """Convolutions of a handful of rows round differently, which batches of a fixed multiple of rows prevent."""
    whole = see(Grad()).attributions("label")
    assert torch.equal(see(Grad(), micro_batch=size).attributions("label"), whole)
    assert torch.equal(see(Grad(), rows=[5]).attributions("label")[0], whole[5])


@pytest.mark.parametrize("noise", NOISY, ids=lambda noise: noise.__name__)
def test_draws_depend_on_the_seed_of_the_run(noise):
    first, second = (see(noise, seed=seed).attributions("label") for seed in (0, 1))
    assert not any(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("explainer", EVERY_KIND, ids=lambda explainer: getattr(explainer, "__name__", "keyed"))
def test_global_generators_stay_as_they_were(explainer):
    evidence = see(explainer)
    torch.manual_seed(5)
    before = global_state()
    with evidence:
        evidence.attributions("label")
        list(evidence.explain(14, twice(evidence)))
        evidence.distractors(2)
    assert global_state() == before


def test_drawn_explanations_of_made_inputs_differ_from_draw_to_draw_and_not_with_the_batch():
    results = []
    for size in (1, 3, 64):
        evidence = see(torch_noise, micro_batch=size)
        results.append(torch.cat([maps for _, maps in evidence.explain(14, twice(evidence))]))
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])
    assert len({row.numpy().tobytes() for row in results[0]}) == 14


# ---------------------------------------------------------------------- explaining made inputs


def twice(evidence, targets=None):
    """Build two inputs of every sample, sample-major: itself, and itself brighter."""

    def build(rows):
        samples, draws = rows // 2, rows % 2
        return Inputs(
            images=evidence.batch.images[samples] + draws.view(-1, 1, 1, 1),
            targets=None if targets is None else targets[samples],
            keys=derived_keys(evidence.batch.keys[samples], "twice", draws),
            masks=evidence.batch.masks[samples],
        )

    return build


@pytest.mark.parametrize("micro_batch", [1, 3, 4, 64])
def test_faults_of_made_inputs_are_laid_to_their_samples(micro_batch):
    def attribute(model, inputs, targets):
        if any(torch.equal(image, bad + 1) for image in inputs for bad in DATASET.take([2, 5]).images):
            raise ValueError("too bright")
        result = inputs.clone()
        last = DATASET.take([6]).images[0] + 1
        result[torch.tensor([torch.equal(image, last) for image in inputs]), 0, 0, 0] = torch.nan
        return result

    evidence = see(attribute, micro_batch=micro_batch)
    found = list(evidence.explain(14, twice(evidence)))
    assert torch.equal(torch.cat([rows for rows, _ in found]), torch.arange(14))
    maps = torch.cat([part for _, part in found])
    assert maps.isnan().flatten(1).all(dim=1).nonzero()[:, 0].tolist() == [5, 11, 13]
    assert maps.isnan().flatten(1).any(dim=1).sum() == 3
    expected = see(by_image).batch.images.repeat_interleave(2, 0) + torch.tensor([0, 1] * 7).view(-1, 1, 1, 1)
    good = [row for row in range(14) if row not in {5, 11, 13}]
    assert torch.equal(maps[good], expected.sum(dim=1)[good])
    assert sorted(faults(evidence)) == [("exception", (IDS[2], IDS[5])), ("non-finite", (IDS[6],))]


@pytest.mark.parametrize("micro_batch", [1, 3, 64])
def test_targets_of_made_inputs_are_those_given_or_predicted(micro_batch):
    def attribute(model, inputs, targets):
        return torch.zeros_like(inputs) + targets.view(-1, 1, 1, 1)

    evidence = see(attribute, micro_batch=micro_batch)
    given = torch.tensor([0, 1, 2, 0, 1, 2, 0])
    maps = torch.cat([part for _, part in evidence.explain(14, twice(evidence, given))])
    assert torch.equal(maps[:, 0, 0], 3.0 * given.repeat_interleave(2))
    maps = torch.cat([part for _, part in evidence.explain(14, twice(evidence))])
    inputs = twice(evidence)(torch.arange(14)).images
    with torch.no_grad():
        predicted = SmallNet()(inputs).argmax(dim=1)
    assert torch.equal(maps[:, 0, 0], 3.0 * predicted)
    assert len(set(predicted.tolist())) > 1


def test_an_explainer_that_fails_on_all_samples_is_not_asked_about_made_inputs():
    calls = []

    def attribute(model, inputs, targets):
        calls.append(len(inputs))
        raise ValueError("no")

    evidence = see(attribute)
    evidence.attributions("predicted")
    before = len(calls)
    maps = torch.cat([part for _, part in evidence.explain(14, twice(evidence))])
    assert maps.shape == (14, HEIGHT, WIDTH)
    assert bool(maps.isnan().all())
    assert len(calls) == before


@pytest.mark.parametrize("explainer", [KEYED, by_image], ids=["keyed", "by image"])
def test_explanations_of_made_inputs_do_not_depend_on_the_batch(explainer):
    results = []
    for size in (1, 3, 64):
        evidence = see(explainer, micro_batch=size)
        results.append(torch.cat([maps for _, maps in evidence.explain(14, twice(evidence, evidence.batch.labels))]))
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])


def test_made_inputs_may_be_of_another_size():
    evidence = see(by_image)
    big = [
        maps
        for _, maps in evidence.explain(
            7, lambda rows: Inputs(evidence.batch.images[rows].repeat(1, 1, 2, 2), None, evidence.batch.keys[rows])
        )
    ]
    assert torch.cat(big).shape == (7, 18, 18)


# ---------------------------------------------------------------------- sharing


class Counting:
    """An explainer that remembers which (image, class) it was asked about."""

    def __init__(self):
        self.asked = []

    def attribute(self, model, inputs, targets):
        names = [next(i for i, one in enumerate(DATASET.take(range(7)).images) if torch.equal(one, x)) for x in inputs]
        self.asked += dict.fromkeys(zip(names, targets.tolist(), strict=True))  # once, if a batch was filled up with it
        return by_image(model, inputs, targets)


class Fixed(nn.Module):
    """Predicts class `row // 2 % 3` for row `row` of the dataset, by looking the image up."""

    def __init__(self):
        super().__init__()
        self.images = DATASET.take(range(7)).images

    def forward(self, inputs):
        rows = [next((i for i, one in enumerate(self.images) if torch.equal(one, x)), 0) for x in inputs]
        return nn.functional.one_hot(torch.tensor(rows) // 2 % 3, 3).float()


@pytest.mark.parametrize("rules", [("label", "predicted"), ("predicted", "label")])
def test_a_class_of_a_sample_is_explained_once_under_both_rules(rules):
    explainer = Counting()
    evidence = see(explainer, model=Fixed())
    assert evidence.targets("label").tolist() == [0, 1, 2, 0, 1, 2, 0]
    assert evidence.targets("predicted").tolist() == [0, 0, 1, 1, 2, 2, 0]
    found = {rule: evidence.attributions(rule) for rule in rules}
    for rule in rules:
        assert evidence.attributions(rule) is found[rule]
        assert torch.equal(found[rule], by_image(None, evidence.batch.images, evidence.targets(rule)))
    assert len(explainer.asked) == len(set(explainer.asked))
    assert set(explainer.asked) == {
        *enumerate(evidence.targets("label").tolist()),
        *enumerate(evidence.targets("predicted").tolist()),
    }
    assert len(explainer.asked) == 7 + 4


def test_known_attributions_are_not_computed_again():
    explainer = Counting()
    known = {"label": GOOD}
    batch = DATASET.take(range(7))
    evidence = ModelEvidence(model=Fixed(), explainer=explainer, dataset=DATASET, batch=batch, known=known)
    assert torch.equal(evidence.attributions("label"), GOOD)
    assert explainer.asked == []
    expected = by_image(None, batch.images, evidence.targets("predicted"))
    assert torch.equal(evidence.attributions("predicted"), expected)


def test_heatmaps_follow_reduction_and_rectification():
    images = DATASET.take(range(7)).images
    signed = explainer_of(lambda model, inputs, targets: inputs, reduction="max_abs")
    assert torch.equal(see(signed).heatmaps("label"), images.abs().amax(dim=1))
    cut = explainer_of(lambda model, inputs, targets: inputs, reduction="sum", rectified=True)
    assert torch.equal(see(cut).heatmaps("label"), images.sum(dim=1).clamp(min=0))


# ---------------------------------------------------------------------- the model


@pytest.mark.parametrize("micro_batch", [1, 3, 64])
def test_logits_and_predictions_are_those_of_the_model(micro_batch):
    evidence = see(None, micro_batch=micro_batch)
    images = DATASET.take(range(7)).images
    with torch.no_grad():
        expected = SmallNet()(images)
    assert torch.allclose(evidence.logits, expected, rtol=1e-5, atol=1e-6)
    assert torch.equal(evidence.logits, see(None).logits)  # to the bit, whatever the micro-batch
    found = list(evidence.predict(7, images.__getitem__))
    assert torch.equal(torch.cat([rows for rows, _ in found]), torch.arange(7))
    assert [len(rows) for rows, _ in found] == {1: [1] * 7, 3: [3, 3, 1], 64: [7]}[micro_batch]
    assert torch.equal(evidence.targets("predicted"), expected.argmax(dim=1))


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (nn.Identity(), r"`model` must return logits \(8, K\), returned \(8, 3, 9, 9\)"),
        (nn.Flatten(0), r"returned \(1944,\)"),
        (nn.LSTM(9, 3), r"."),
    ],
    ids=["images", "vector", "tuple"],
)
def test_a_model_that_returns_no_logits_is_refused(model, message):
    with pytest.raises((ValueError, RuntimeError), match=message):
        _ = see(None, model=model).logits


def test_the_model_is_of_fixed_size_exactly_if_it_refuses_twice_the_side():
    assert see(None).fixed_size is False
    assert see(None, model=nn.Sequential(nn.Flatten(), nn.Linear(243, 3))).fixed_size is True


def test_an_unknown_target_rule_is_refused():
    with pytest.raises(ValueError, match='`target` must be "predicted", "label" or "none", was \'best\''):
        see(None).targets("best")


def test_a_metric_of_explanations_cannot_be_asked_of_a_bare_model():
    with pytest.raises(ValueError, match="needs an explainer"):
        see(None).heatmaps("label")


def test_passes_are_charged_to_what_they_were_spent_on():
    with see(Grad(), micro_batch=3) as evidence:
        evidence.check_repeats()
        start = evidence.spent().passes
        evidence.attributions("predicted")
        cost = evidence.cost()
        assert (cost.forward, cost.backward) == (1, 1)
        shared = evidence.spent_explaining().passes
        assert (shared.forward, shared.backward) == (7, 7)
        total = evidence.spent().passes - start
        assert (total.forward, total.backward) == (7, 7)


def test_the_look_at_whether_an_explainer_repeats_itself_is_not_part_of_its_cost():
    with see(Grad()) as evidence:
        evidence.check_repeats()
        cost = evidence.cost()
    assert (cost.forward, cost.backward) == (1, 1)


def test_distractors_are_of_other_classes_and_the_same_for_any_batch():
    whole = see(None).distractors(2)
    assert whole.shape == (7, 2, 3, 9, 9)
    images, labels = DATASET.take(range(7)).images, DATASET.labels
    for row, drawn in enumerate(whole):
        found = [next(i for i, one in enumerate(images) if torch.equal(one, image)) for image in drawn]
        assert len(set(found)) == 2
        assert all(labels[i] != labels[row] for i in found)
        assert torch.equal(see(None, rows=[row]).distractors(2)[0], drawn)


def test_a_batch_of_one_sample_is_enough():
    evidence = see(by_image, rows=[4])
    assert isinstance(evidence.batch, Batch)
    assert torch.equal(evidence.attributions("label"), GOOD[4:5])


# ---------------------------------------------------------------------- interpreters, sums, gradients


@pytest.mark.parametrize("micro_batch", [1, 3, 64])
def test_an_interpretation_is_what_the_model_says_whatever_the_micro_batch(micro_batch):
    model = Interpreted()
    with torch.no_grad():
        expected = model.interpret(DATASET.take(range(7)).images)
    found = see(None, model=model, micro_batch=micro_batch).interpretation
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    assert all(torch.equal(*pair) for pair in zip(found, see(None, model=model).interpretation, strict=True))
    assert (found.logits.shape, found.activations.shape, found.weights.shape) == ((7, 3), (7, 4), (4, 3))
    assert not any(part.requires_grad for part in found[:2])


def test_an_interpretation_is_asked_for_once_and_its_passes_are_counted():
    with see(None, model=Interpreted(), micro_batch=3) as evidence:
        first = evidence.interpretation
        assert evidence.interpretation is first
        passes = evidence.spent().passes
    assert (passes.forward, passes.backward) == (7, 0)


def test_a_model_without_an_interpreter_has_no_interpretation():
    with pytest.raises(TypeError, match=r"`model` must have an interpreter, `interpret.*; SmallNet has none"):
        _ = see(None).interpretation


@pytest.mark.parametrize("micro_batch", [1, 3, 64])
@pytest.mark.parametrize("rule", ["predicted", "label"])
def test_attributions_should_add_up_to_what_the_explainer_states(rule, micro_batch):
    model = SmallNet()
    reference = torch.full((1, 3, HEIGHT, WIDTH), -0.5)
    with torch.no_grad():
        logits, at_reference = model(DATASET.take(range(7)).images), model(reference)[0]
    targets = logits.argmax(dim=1) if rule == "predicted" else DATASET.labels
    logit = logits.gather(1, targets[:, None])[:, 0].double()
    stated = {
        ("logit", -0.5): logit,
        ("difference", -0.5): logit - at_reference[targets].double(),
        ("difference", None): logit - model(torch.zeros_like(reference)).detach()[0, targets].double(),
    }
    for (sums_to, value), expected in stated.items():
        members = {} if value is None else {"reference_input": value}
        explainer = explainer_of(by_image, sums_to=sums_to, **members)
        found = see(explainer, micro_batch=micro_batch).expected_sums(rule)
        assert found.dtype == torch.float64
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_a_model_says_what_its_own_explanation_adds_up_to():
    class Own:
        sums_to = "own"

        def attribute(self, model, inputs, targets):
            return by_image(model, inputs, targets)

    model = SmallNet()
    model.own_sums_to = "logit"
    found = see(Own(), model=model)
    assert torch.equal(found.expected_sums("predicted"), found.logits.amax(dim=1).double())


@pytest.mark.parametrize("sums_to", [None, "own", "everything"])
def test_a_sum_that_nobody_states_is_refused(sums_to):
    with pytest.raises(ValueError, match='`sums_to` must be "logit" or "difference", was'):
        see(explainer_of(by_image, sums_to=sums_to)).expected_sums("predicted")


def test_a_whole_output_adds_up_to_nothing_known():
    with pytest.raises(ValueError, match='`target` must be "predicted" or "label"'):
        see(explainer_of(by_image, sums_to="logit")).expected_sums("none")


def squares(logits, rows):
    """An objective that mixes the logits of a row, and depends on its number."""
    return (logits.square().sum(dim=1) + logits.prod(dim=1)) * (1 + rows)


def expected_gradients(model, images):
    images = images.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(squares(model(images), torch.arange(len(images))).sum(), images)
    return gradient


@pytest.mark.parametrize("micro_batch", [1, 3, 64])
def test_gradients_are_those_of_the_objective_to_the_bit_whatever_the_micro_batch(micro_batch):
    images = DATASET.take(range(7)).images
    found = see(None, micro_batch=micro_batch).differentiate(squares)
    torch.testing.assert_close(found, expected_gradients(SmallNet(), images), rtol=1e-4, atol=1e-5)
    assert torch.equal(found, see(None).differentiate(squares))
    assert not found.requires_grad


def test_gradients_can_be_taken_at_other_images():
    images = DATASET.take(range(7)).images
    found = see(None).differentiate(squares, at=images + 0.5)
    torch.testing.assert_close(found, expected_gradients(SmallNet(), images + 0.5), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(found, see(None).differentiate(squares))


class FirstInPlace(SmallNet):
    """Begins by changing its own input."""

    def forward(self, inputs):
        return super().forward(nn.functional.relu(inputs, inplace=True))


def test_a_model_that_works_in_place_is_differentiated_and_spoils_no_image():
    evidence = see(None, model=FirstInPlace())
    images = evidence.batch.images.clone()
    found = evidence.differentiate(squares)
    leaf = images.clone().requires_grad_()
    (expected,) = torch.autograd.grad(squares(SmallNet()(leaf.relu()), torch.arange(7)).sum(), leaf)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert torch.equal(evidence.batch.images, images)
    with pytest.raises(RuntimeError, match="a leaf Variable that requires grad is being used in an in-place operation"):
        FirstInPlace()(images.requires_grad_())  # what the clone is for


@pytest.mark.parametrize("micro_batch", [3, 64])
def test_differentiating_is_counted_and_leaves_nothing_behind(micro_batch):
    model = SmallNet()
    with see(None, model=model, micro_batch=micro_batch) as evidence, torch.no_grad():
        evidence.differentiate(squares)
        passes = evidence.spent().passes
        assert not torch.is_grad_enabled()
    assert (passes.forward, passes.backward) == (7, 7)
    assert all(weight.grad is None and weight.requires_grad for weight in model.parameters())
    assert not evidence.batch.images.requires_grad


# --- label spaces -------------------------------------------------------------------------------------------------


class Mapped(Pictures):
    """Three classes for which a network of three has others: the first and last of its own, none, the last."""

    network_classes: ClassVar[Tensor] = torch.tensor([[True, False, True], [False, True, False], [False, False, True]])


def test_of_the_network_s_classes_that_count_as_a_label_the_likeliest_is_the_target():
    evidence = see_pictures(Grad(), dataset=Mapped(count=6))
    logits, labels = evidence.logits, evidence.batch.labels
    expected = [
        max((c for c in range(3) if Mapped.network_classes[label, c]), key=lambda c, row=row: float(logits[row, c]))
        for row, label in enumerate(labels.tolist())
    ]
    assert evidence.targets("label").tolist() == expected
    assert expected != labels.tolist()  # the map changes something
    assert see_pictures(Grad(), dataset=Pictures(count=6)).targets("label").tolist() == labels.tolist()


# --- the output as a whole ----------------------------------------------------------------------------------------


def test_without_a_target_the_sum_of_the_outputs_is_explained():
    evidence = see_pictures(Grad(), dataset=Pictures(count=4), micro_batch=3)
    found = evidence.attributions("none")
    images = evidence.batch.images.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(SmallNet()(images).sum(), images)
    torch.testing.assert_close(found, gradient * images.detach())
    assert not torch.allclose(found, evidence.attributions("predicted"), atol=1e-3)
    assert evidence.targets("none").tolist() == [0, 0, 0, 0]


def test_an_explainer_of_whole_outputs_is_given_the_model_itself():
    class Whole:
        target_free = True
        seen: ClassVar[list[type]] = []

        def attribute(self, model, inputs, targets):
            self.seen.append(type(model))
            return inputs

    evidence = see_pictures(Whole(), dataset=Pictures(count=2))
    evidence.attributions("none")
    assert set(Whole.seen) == {SmallNet}


def test_what_is_explained_as_a_whole_is_not_taken_for_a_class_and_the_other_way_round():
    """Class 0, that of target 0, is explained on its own."""
    evidence = see_pictures(Grad(), dataset=Pictures(count=3))
    first = {rule: evidence.attributions(rule) for rule in ("none", "label", "predicted")}
    evidence = see_pictures(Grad(), dataset=Pictures(count=3))
    then = {rule: evidence.attributions(rule) for rule in ("predicted", "label", "none")}
    assert all(torch.equal(first[rule], then[rule]) for rule in first)
    assert not torch.allclose(first["none"][0], first["label"][0], atol=1e-3)  # the label of sample 0 is 0
