"""Weights of a zoo as a torch `Dataset`: networks as data, with their metrics and labels."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from contextlib import ExitStack
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd
import safetensors
import torch
from torch import Tensor
from torch.utils.data import Dataset

from zoo.shards import Header, check_file, unreadable
from zoo.storage import Store
from zoo.tables import SCHEMAS

if TYPE_CHECKING:
    from zoo.reader import Zoo

OPEN_FILES = 4
"""Files of weights that a data set keeps open; of each, only what is asked for is in memory."""

NO_LABEL = -1

PLACES = ("run_id", "config_id", "checkpoint", "checkpoint_index")
"""Columns of the table `runs` that say where weights are."""


class WeightItem(NamedTuple):
    """One network.

    Attributes:
        weights: Its state dict; or all its floating-point tensors as one vector [P], sorted by name.
        metrics: Float64 [M], the metrics asked for; NaN where one could not be had.
        label: Place of its configuration's label in `WeightDataset.classes`; `NO_LABEL` if it has none.
        run_id: Which run it is.
    """

    weights: dict[str, Tensor] | Tensor
    metrics: Tensor
    label: int
    run_id: str


class WeightDataset(Dataset[WeightItem]):
    """Networks of a zoo, in the order of the files they are in, so that one pass reads each file once.

    Each file is checked against the SHA-256 in its name when it is opened. Items are views of what is read: clone
    what is to be changed.

    Args:
        store: The zoo's store.
        rows: Runs with weights: `checkpoint` and `checkpoint_index`, indexed by run_id.
        metrics: Float64 [N, M].
        labels: Int64 [N].
        classes: Names of the labels.
        flat: Whether weights are one vector.
    """

    def __init__(
        self,
        store: Store,
        rows: pd.DataFrame,
        metrics: Tensor,
        labels: Sequence[int],
        classes: tuple[str, ...],
        flat: bool,
    ) -> None:
        self.classes, self.flat = classes, flat
        self.run_ids = tuple(map(str, rows.index))
        self._store, self._metrics, self._labels = store, metrics, list(labels)
        places = rows["checkpoint_index"].astype(int).tolist()
        self._places = list(zip(rows["checkpoint"].tolist(), places, strict=True))
        self._files: OrderedDict[str, _File] = OrderedDict()

    def __len__(self) -> int:
        """Number of networks."""
        return len(self.run_ids)

    def __getitem__(self, index: int) -> WeightItem:
        """One network.

        Raises:
            IndexError: If there are not so many.
            ValueError: If its file is damaged.
        """
        name, place = self._places[index]
        file, run_id = self._file(name), self.run_ids[index]
        file.header.place(run_id, place, name)
        weights = file.flat[place] if self.flat else file.weights(place)
        return WeightItem(weights, self._metrics[index], self._labels[index], run_id)

    def _file(self, name: str) -> _File:
        """The open file of that name; those used least lately are closed."""
        if name in self._files:
            self._files.move_to_end(name)
            return self._files[name]
        while len(self._files) >= OPEN_FILES:
            self._files.popitem(last=False)[1].close()
        self._files[name] = file = _File(self._store, name)
        return file

    def __getstate__(self) -> dict[str, object]:
        """Without open files: a worker of a `DataLoader` opens its own."""
        return self.__dict__ | {"_files": OrderedDict()}


class _File:
    """A file of weights, mapped into memory."""

    def __init__(self, store: Store, name: str) -> None:
        with ExitStack() as opening:
            path = opening.enter_context(store.local(name))
            check_file(path, name)
            try:
                opened = opening.enter_context(safetensors.safe_open(path, framework="pt"))
            except safetensors.SafetensorError as error:
                raise unreadable(name, error) from error
            self.header = Header.of(opened, name)
            self.tensors: dict[str, Tensor] = {key: opened.get_tensor(key) for key in sorted(opened.keys())}
            self._closing = opening.pop_all()

    def weights(self, place: int) -> dict[str, Tensor]:
        """The state dict of one run."""
        return {key: tensor[place] for key, tensor in self.tensors.items()}

    @cached_property
    def flat(self) -> Tensor:
        """All floating-point tensors of each run as one vector: [K, P]."""
        tensors = (tensor for tensor in self.tensors.values() if tensor.is_floating_point())
        return torch.cat([tensor.reshape(len(tensor), -1) for tensor in tensors], dim=1)

    def close(self) -> None:
        """Let the file go."""
        self._closing.close()


def weight_dataset(
    zoo: Zoo, runs: pd.DataFrame | None, metrics: Sequence[str], label: str | None, flat: bool
) -> WeightDataset:
    """See `Zoo.weights`."""
    if runs is None:
        columns = [*PLACES, *(name for name in metrics if name in SCHEMAS["runs"].names)]
        runs = zoo.table("runs", list(dict.fromkeys(columns)), [("status", "=", "done")]).set_index("run_id")
    rows = runs[runs["checkpoint"].notna()].sort_values(["checkpoint", "checkpoint_index"])
    found = (
        np.column_stack([_metric(zoo, rows, name) for name in metrics])
        if metrics
        else np.empty((len(rows), 0))
    )
    classes: tuple[str, ...] = ()
    labels = np.full(len(rows), NO_LABEL)
    if label is not None:
        table = zoo.table("labels", ["config_id", "task", "label"])
        if label not in (tasks := sorted(set(table["task"]))):
            raise ValueError(f"no task is named {label!r}; tasks of this zoo: {', '.join(tasks)}")
        answers = table[table["task"] == label].set_index("config_id")["label"]
        classes = tuple(sorted(set(answers)))
        numbers = rows["config_id"].map(answers).map({name: place for place, name in enumerate(classes)})
        labels = numbers.fillna(NO_LABEL).astype(int).to_numpy()
    return WeightDataset(
        zoo.store, rows, torch.from_numpy(found.astype(float)), labels.tolist(), classes, flat
    )


def _metric(zoo: Zoo, rows: pd.DataFrame, name: str) -> np.ndarray:
    """A metric of each run: of one of a pair, the mean over the run's pairs; or a column of `runs`."""
    if name in rows and pd.api.types.is_numeric_dtype(rows[name]):
        return rows[name].to_numpy(dtype=float)
    conditions = [("metric", "=", name), ("recipe", "=", zoo.metric_recipe)]
    found = zoo.table("metrics", ["run_id", "other_run_id", "split", "value"], conditions)
    if found.empty:
        raise ValueError(f"no metric or column of runs is named {name!r}; see z.table('metrics')")
    on_train = found["split"] == "train"
    found = found[on_train] if on_train.any() else found
    both = pd.concat(
        [found[["run_id", "value"]], found[["other_run_id", "value"]].set_axis(["run_id", "value"], axis=1)]
    )
    means = both.dropna(subset=["run_id"]).groupby("run_id")["value"].mean()
    return means.reindex(rows.index).to_numpy(dtype=float)
