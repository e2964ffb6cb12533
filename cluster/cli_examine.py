"""The verb `examine` of the program `mdzoo`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cluster.terminal import Json, import_modules, show

if TYPE_CHECKING:
    from diagnose.examine import Examination

BATCH = 256


def examine(
    model: Annotated[
        Path,
        typer.Argument(help="Its weights: safetensors, or a state dict of torch.save.", show_default=False),
    ],
    architecture: Annotated[
        str, typer.Option(help="mlp, cnn, resnet18, or one that --import registers.", show_default=False)
    ],
    width: Annotated[int, typer.Option(min=1, help="Its width.", show_default=False)],
    data: Annotated[
        str,
        typer.Option(
            help="What it was trained on: digits, fashion-mnist, ..., or parquet:DIR.", show_default=False
        ),
    ],
    twin: Annotated[
        Path | None, typer.Option(help="The same network from another seed: more can be seen of two.")
    ] = None,
    against: Annotated[
        str, typer.Option(help="Zoo or release to compare it with, the more alike the better.")
    ] = "demo",
    out: Annotated[Path | None, typer.Option(help="File of a picture, as examined.png.")] = None,
    image_size: Annotated[int | None, typer.Option(min=1, help="Pixels its images were pooled to.")] = None,
    data_amount: Annotated[
        int | None, typer.Option(min=1, help="Training images, class-balanced; all if not given.")
    ] = None,
    label_noise: Annotated[
        float, typer.Option(min=0, max=0.99, help="Share of labels redrawn, as in a zoo's spec.")
    ] = 0.0,
    data_dir: Annotated[Path | None, typer.Option(help="Where the data set is read from.")] = None,
    modules: Annotated[
        list[str] | None, typer.Option("--import", help="Python module that registers architectures.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Say what is wrong with a network that is in no zoo, what to change first, and how far to trust that."""
    from torch.utils.data import DataLoader, TensorDataset

    from diagnose.examine import examine as look
    from zoo.config import TrainConfig
    from zoo.datasets import DataSource, Split, load_dataset, select
    from zoo.foreign import load_model
    from zoo.models import image_shape

    import_modules(modules or [])
    dataset = load_dataset(DataSource(data), data_dir)
    config = TrainConfig(
        dataset.name,
        dataset.fingerprint,
        architecture,
        width,
        batch_size=1,
        data_amount=data_amount or len(dataset.train_labels),
        sample_passes=1,
        image_size=image_size,
        label_noise=label_noise,
    )
    shape, images = image_shape(dataset, config), select(dataset, config)

    def loader(split: Split) -> DataLoader[tuple[object, ...]]:
        return DataLoader(TensorDataset(split.images, split.labels), BATCH)

    models = [load_model(path, architecture, width, shape) for path in (model, twin) if path is not None]
    found = look(
        *models,
        train_loader=loader(images.train),
        test_loader=loader(images.validation),
        against=against,
    )
    if out is not None:
        found.plot().savefig(out, dpi=110)
    if as_json:
        show(_facts(found), as_json)
    else:
        print(found.text)


def _facts(found: Examination) -> dict[str, object]:
    """The findings for a program."""
    remedy, distance = found.remedy, found.distance
    return {
        "answer": remedy.answer,
        "probabilities": dict(remedy.probabilities),
        "gains": dict(remedy.gains),
        "held_out": remedy.held_out,
        "percentile": distance.percentile,
        "trust": "no" if distance.is_too_far else "doubt" if distance.is_far else "yes",
        "not_seen": list(distance.missing),
        "track": found.track,
        "zoo": found.reference.name,
        "seconds": round(found.seconds, 1),
    }
