"""The numbers that publications report, beside which measured ones are shown.

`published.csv` holds every number as it was printed (`source` to `note`), followed by the names of ours that it
corresponds to (`our_dataset` to `our_variant`) and its value on our scale (`our_value`: a share where a percentage was
printed). An empty name says that nothing of ours is the same thing: an ablation, another training of a network, a
setting, a loss. A number is compared with a measured one only where all names agree.

The file is made from a JSON list of objects with the keys `PRINTED`:

    python -m interpeval.leaderboards.published published.json leaderboards/published.csv
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import click
from pydantic import BaseModel, ConfigDict

from ..datasets.limited_reading import MEBIBYTE, read_json, read_text
from .csv_table import plain_cell, quoted_cell
from .files import write_whole
from .record import CLASS_MEAN, Record

PRINTED = ("source", "table", "dataset", "model", "explainer", "metric", "value", "std", "unit", "note")
"""What a publication says."""
PUBLISHED_CSV = Path(__file__).with_name("published.csv")

_DATASETS = {
    "CIFAR-10": "cifar10",
    "CIFAR-10 validation (whole set)": "cifar10",
    "COCO": "coco",
    "FashionMNIST": "fashion_mnist",
    "ImageNet": "imagenet",
    "ImageNet val": "imagenet",
    "MNIST": "mnist",
    "MS-COCO": "coco",
    "MS-COCO val": "coco",
    "QuickDraw": "quickdraw",
    "SVHN": "svhn",
    "VOC": "voc",
    "fMNIST": "fashion_mnist",
}
_MODELS = {
    "BASE-f (LeNet)": "lenet",
    "Blackbox CNN (SITE-CNN backbone)": "site_backbone",
    "Decision Tree": "decision_tree",
    "FLINT": "flint",
    "FLINT (LeNet)": "flint",
    "FLINT (ResNet)": "flint",
    "FLINT-f (LeNet)": "flint",
    "FLINT-f (ResNet)": "flint",
    "FLINT-g (LeNet)": "flint",
    "FLINT-g (ResNet)": "flint",
    "Logistic Regression": "logistic_regression",
    "NAM": "nam",
    "ProtoPNet": "protopnet",
    "ProtoVAE": "protovae",
    "Random Forest": "random_forest",
    "ResNet-18 backbone (black box)": "site_backbone",
    "ResNet18 Baseline": "resnet18_gap",
    "ResNet18 GMP": "resnet18_gmp",
    "SENN": "senn",
    "SITE": "site",
    "SITE (ResNet-18 backbone)": "site",
    "SITE-CNN": "site",
    "XGBoost": "xgboost",
}
_EXPLAINERS = {
    "Contrastive Excitation Backprop (cMWP)": "contrastive_excitation_backprop",
    "DeConvNet": "deconvnet",
    "EP": "extremal_perturbation",
    "Elementwise Grad-CAM": "elementwise_gradcam",
    "Excitation BP": "excitation_backprop",
    "FullGrad": "fullgrad",
    "Grad CAM": "gradcam",
    "Grad-CAM": "gradcam",
    "Gradient": "gradient",
    "Guided BP": "guided_backprop",
    "Guided Saliency": "guided_backprop",
    "Integrated Gradients": "integrated_gradients",
    "Linear Approx.": "linear_approximation",
    "RELAX": "relax",
    "RISE": "rise",
    "SITE": "own",
    "Saliency": "gradient",
    "Smooth Saliency": "smoothgrad",
    "U-RELAX": "u_relax",
}
_MOST = 64 * MEBIBYTE
_ANY_OBJECT = "target=none,truth=all"  # RELAX's: an encoder's map against everything that is annotated
_METRICS = {
    "CH": ("content_heatmap", ""),
    "F1-Overall": ("f1", "overall"),
    "F1-PerClass": ("f1", "per_class"),
    "NQH": ("negative_quadrants_heatmap", ""),
    "PG": ("pointing_game", CLASS_MEAN),
    "SPG": ("stochastic_pointing_game", ""),
    "Top-1 Acc": ("accuracy", ""),
    "accuracy": ("accuracy", ""),
    "accuracy (untransformed validation set)": ("accuracy", ""),
    "fidelity of g to f (test)": ("fidelity", ""),
    "pointing game": ("pointing_game", "target=none,tolerance=1,truth=all"),
    "relevance rank": ("relevance_rank", _ANY_OBJECT),
    "self-consistency v_X(I)": ("self_consistency", "masked"),
    "top k": ("top_k", _ANY_OBJECT),
    **{f"accuracy under FGSM L_inf eps={eps}": ("fgsm_accuracy", f"eps={eps}") for eps in (1, 2, 8, 16, 32, 64)},
    **{f"top-{k} accuracy of g for class predicted by f": ("top_k_fidelity", f"k={k}") for k in (2, 3, 4)},
}
_SCALES = {"%": 0.01, "% (unit not printed)": 0.01, "fraction": 1.0, "cosine in [-1,1]": 1.0}


class Published(BaseModel):
    """One number of a publication; the fields are the columns of `published.csv`, in its order.

    Attributes:
        source: the publication.
        table: where in it.
        dataset: name as printed, as are all up to `metric`; empty where none is.
        model: name of the model.
        explainer: name of the explainer.
        metric: name of the metric, or of a setting.
        value: the number; `None` where a dash is printed.
        std: standard deviation over runs, where printed.
        unit: of value and std.
        note: what else is printed beside it.
        our_dataset: name of ours that it corresponds to; empty where none does, as in all that follow.
        our_model: name of the model.
        our_explainer: name of the explainer; empty also for metrics of the model alone.
        our_metric: name of the metric.
        our_variant: which of its numbers.
        our_value: the number on the scale of our metric.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    source: str
    table: str
    dataset: str
    model: str
    explainer: str
    metric: str
    value: float | None = None
    std: float | None = None
    unit: str
    note: str
    our_dataset: str
    our_model: str
    our_explainer: str
    our_metric: str
    our_variant: str
    our_value: float | None = None

    @property
    def our_names(self) -> tuple[str, str, str, str, str]:
        """Dataset, model, explainer, metric and variant of ours."""
        return self.our_dataset, self.our_model, self.our_explainer, self.our_metric, self.our_variant

    @property
    def is_comparable(self) -> bool:
        """Whether a number of ours can be the same thing."""
        named = bool(self.our_dataset and self.our_model and self.our_metric)
        return named and bool(self.our_explainer) == bool(self.explainer) and self.our_value is not None

    @property
    def citation(self) -> str:
        """Publication, table, and what stands beside the number."""
        spread = "" if self.std is None else f"standard deviation {self.std:g} {self.unit}"
        return "; ".join(filter(None, [f"{self.source}, {self.table}: {self.model}", spread, self.note]))

    def record(self, like: Record) -> Record:
        """Return it as a row of a leaderboard, of the metric, direction and version of a measured row.

        Nothing is taken from the measured row that the publication does not say: no digests, counts or versions.
        """
        dataset, model, explainer, metric, variant = self.our_names
        nothing = dict.fromkeys(("dataset_revision", "model_digest", "explainer_params"), "")
        nothing |= dict.fromkeys(("interpeval", "torch", "captum", "device"), "")
        return Record(
            dataset=dataset,
            model=model,
            explainer=explainer,
            metric=metric,
            metric_version=like.metric_version,
            variant=variant,
            value=self.our_value,
            higher_is_better=like.higher_is_better,
            seed=0,
            kind="reported",
            source=self.citation,
            **dict.fromkeys(("n", "n_invalid", "n_degenerate", "n_no_truth"), 0),
            **nothing,
        )


COLUMNS = tuple(Published.model_fields)
"""The columns of `published.csv`, in order."""


def read_published(path: str | Path = PUBLISHED_CSV) -> list[Published]:
    """Read `published.csv`.

    Raises:
        ValueError: if it is not such a table.
        OSError: if it cannot be read.

    Example:
        >>> site = [row for row in read_published() if row.model == "SITE (ResNet-18 backbone)"]
        >>> site[0].our_names, site[0].our_value
        (('cifar10', 'site', 'own', 'self_consistency', 'masked'), 0.886)
    """
    try:
        text = read_text(Path(path), most=_MOST)
        header, *rows = list(csv.reader(io.StringIO(text, newline=""), strict=True)) or [[]]
    except (ValueError, csv.Error) as error:
        raise ValueError(f"{path}: must be comma separated values, but {error}") from error
    if tuple(header) != COLUMNS:
        raise ValueError(f"{path}: the columns must be {', '.join(COLUMNS)}, were {', '.join(header)}")
    numbers = {"value", "std", "our_value"}
    return [
        Published.model_validate(
            {
                name: (cell or None) if name in numbers else plain_cell(cell)
                for name, cell in zip(COLUMNS, row, strict=True)
            }
        )
        for row in rows
    ]


def reported_beside(records: Iterable[Record]) -> list[Record]:
    """Return what publications report of the same dataset, model, explainer, metric and variant as a measured row."""
    measured: dict[tuple[str, ...], Record] = {}
    for record in records:
        if record.kind == "measured":
            names = (record.dataset, record.model, record.explainer, record.metric, record.variant)
            measured.setdefault(names, record)
    comparable = (row for row in published() if row.is_comparable)
    return [row.record(measured[row.our_names]) for row in comparable if row.our_names in measured]


@cache
def published() -> tuple[Published, ...]:
    """Return the numbers of `published.csv`, which is read once."""
    return tuple(read_published())


def named_as_ours(printed: Mapping[str, Any]) -> Published:
    """Add the names of ours to one printed number.

    Args:
        printed: with the keys `PRINTED`; numbers may be `None`, and so may names.

    Raises:
        ValueError: if keys are missing or too many.
    """
    if set(printed) != set(PRINTED):
        raise ValueError(f"a published number must have the keys {', '.join(PRINTED)}, had {', '.join(printed)}")
    text = {name: printed[name] or "" for name in PRINTED if name not in {"value", "std"}}
    metric, variant = _METRICS.get(text["metric"], ("", ""))
    if metric == "accuracy" and text["model"].startswith("FLINT-g"):
        variant = "interpreter"
    scale = _SCALES.get(text["unit"])
    value = printed["value"]
    return Published(
        **text,
        value=value,
        std=printed["std"],
        our_dataset=_DATASETS.get(text["dataset"], ""),
        our_model=_MODELS.get(text["model"], ""),
        our_explainer=_EXPLAINERS.get(text["explainer"], ""),
        our_metric=metric,
        our_variant=variant,
        our_value=round(value * scale, 9) if metric and value is not None and scale is not None else None,
    )


def write_published(numbers: Iterable[Mapping[str, Any]], path: str | Path) -> int:
    """Write printed numbers with our names as `published.csv`, in their order, and return how many.

    Raises:
        ValueError: if one of them is not as it must be.
        OSError: if the file cannot be written.
    """
    rows = [named_as_ours(printed) for printed in numbers]
    lines = [COLUMNS, *(row.model_dump().values() for row in rows)]
    write_whole(path, "".join(",".join(map(quoted_cell, cells)) + "\n" for cells in lines).encode())
    return len(rows)


@click.command()
@click.argument("printed", type=click.Path(exists=True, path_type=Path))
@click.argument("table", type=click.Path(path_type=Path))
def main(printed: Path, table: Path) -> None:
    """Write the numbers of the JSON list PRINTED, with our names, as the CSV file TABLE."""
    count = write_published(read_json(printed, most=_MOST), table)
    click.echo(f"{count} numbers written to {click.format_filename(table)}")


if __name__ == "__main__":
    main()
