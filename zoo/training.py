"""Train a stack: batches, learning rates, stop rule, divergence, and what is kept of each run.

Recipe `default`: a fixed number of sample passes; batches of equal size are cut from an endless sequence of
permutations; the last weights are kept. Recipe `paper` (Zhou et al., ICML 2024): whole epochs with a smaller
last batch, constant rate; the weights kept are those at which the training loss has moved by at most 1e-4
for 5 epochs and at least 30 are done, else those of the lowest training loss.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import islice, pairwise
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from zoo.config import Run, TrainConfig, seed_of
from zoo.datasets import Dataset, RunData, Split, select_alike
from zoo.engines import Engine, Progress
from zoo.engines.lanes import LaneEngine
from zoo.engines.loop import LoopEngine
from zoo.engines.stack import StackEngine
from zoo.models import image_shape, initial_model
from zoo.snapshots import Keeper, Snapshot, below, prefixed
from zoo.stacks import Stack

ENGINES: dict[str, type[Engine]] = {"loop": LoopEngine, "lanes": LaneEngine, "stack": StackEngine}

SECONDS_A_PIECE = 5.0
"""After how much training it is asked whether a snapshot is due."""

STOP_EPOCHS, STOP_PATIENCE, STOP_CHANGE = 30, 5, 1e-4
"""The published stop rule: least epochs, epochs without change, and what counts as no change (nats)."""


@dataclass
class RunResult:
    """A trained run.

    Attributes:
        run: Which run.
        status: "done" or "diverged".
        reason: Why it is not done.
        steps: Optimiser steps taken.
        final_loss: Mean batch loss of the last epoch in nats, its finite steps only.
        checkpoint_epoch: Epoch of the weights that were kept.
        history: Rows of the table history without ids.
        weights: State dict of the weights that were kept; None if the run diverged.
        scores: `<split>_loss` in nats and `<split>_error` in percent for train, validation and test.
        seconds: Its share of the stack's time.
    """

    run: Run
    status: str = "done"
    reason: str | None = None
    steps: int = 0
    final_loss: float | None = None
    checkpoint_epoch: int = 0
    history: list[dict[str, float]] = field(default_factory=list)
    weights: dict[str, Tensor] | None = None
    scores: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0


def batch_order(config: TrainConfig, seed: int) -> Iterator[list[Tensor]]:
    """The batches of a run, epoch by epoch.

    Args:
        config: Its configuration.
        seed: Its seed; the stream is keyed by (data, amount, batch size, seed).

    Yields:
        For each epoch a list of tensors [S, B] of indices below data_amount, B equal within a tensor.
    """
    amount, size = config.data_amount, config.batch_size
    key = seed_of("batch order", config.data_fingerprint, amount, size, seed)
    stream = np.random.Generator(np.random.Philox(key))
    left, steps = torch.empty(0, dtype=torch.int64), config.steps
    while steps > 0:
        order = torch.cat([left, torch.from_numpy(stream.permutation(amount))])
        count = min(steps, len(order) // size)
        epoch, left = [order[: count * size].view(count, size)], order[count * size :]
        if config.recipe == "paper":
            if len(left):
                epoch.append(left[None])
            count, left = count + len(epoch) - 1, left[:0]
        steps -= count
        yield epoch


def learning_rates(config: TrainConfig, start: int, count: int) -> Tensor:
    """Learning rates of `count` steps from step `start` on: linear warm-up, then the schedule, float64 [count]."""
    step = torch.arange(start, start + count, dtype=torch.float64)
    warm = torch.clamp((step + 1) / (config.warm_up * config.steps + 1), max=1.0)
    done = step / config.steps
    course = {
        "constant": torch.ones_like(done),
        "linear": 1 - done,
        "cosine": (1 + torch.cos(math.pi * done)) / 2,
    }
    return config.learning_rate * warm * course[config.schedule]


def has_settled(losses: list[float]) -> bool:
    """Whether the published stop rule holds after these epochs' training losses."""
    if len(losses) < STOP_EPOCHS:
        return False
    recent = losses[-STOP_PATIENCE - 1 :]
    return all(abs(b - a) <= STOP_CHANGE for a, b in pairwise(recent))


def train_stack(
    stack: Stack,
    dataset: Dataset,
    engine: str = "loop",
    device: str = "cpu",
    keeper: Keeper | None = None,
) -> list[RunResult]:
    """Train the runs of a stack and evaluate what is kept of them.

    Args:
        stack: Runs of equal shapes and steps.
        dataset: Their data set.
        engine: A key of `ENGINES`.
        device: Torch device.
        keeper: Where snapshots are kept; training goes on from the last one. None keeps none.

    Returns:
        A result for each run, in the stack's order.

    Raises:
        ValueError: If the data set is not the one that the configurations name.
    """
    began = time.perf_counter()
    data = select_alike(dataset, [run.config for run in stack.runs])
    shape = image_shape(dataset, stack.runs[0].config)
    models = [initial_model(run.config.architecture, run.config.width, shape, run.seed) for run in stack.runs]
    trainer = ENGINES[engine](models, [d.train for d in data], [run.config for run in stack.runs], device)
    results = _advance(stack, trainer, keeper)
    _score(results, data, trainer)
    for result in results:
        result.seconds = (time.perf_counter() - began) / len(results)
    return results


@dataclass
class _Course:
    """How far a stack is: the epochs and steps that its runs have taken, and what the epoch has brought so far.

    Attributes:
        epochs: Whole epochs taken.
        step: Steps taken in all.
        losses: [K, S] losses of the S steps of the epoch.
        wrong: [K, S] misclassified images of each.
        sizes: [S] images of each.
    """

    losses: Tensor
    wrong: Tensor
    sizes: Tensor
    epochs: int = 0
    step: int = 0

    @classmethod
    def at_start(cls, models: int) -> Self:
        none = torch.empty(models, 0)
        return cls(none, none.long(), none[0].long())

    def add(self, progress: Progress, size: int) -> None:
        """Take in S steps of batches of a size."""
        steps = progress.losses.shape[1]
        self.losses = torch.cat([self.losses, progress.losses], 1)
        self.wrong = torch.cat([self.wrong, progress.wrong], 1)
        self.sizes = torch.cat([self.sizes, torch.full((steps,), size)])
        self.step += steps

    def end_epoch(self) -> None:
        """An epoch is over."""
        start = self.at_start(len(self.losses))
        self.losses, self.wrong, self.sizes, self.epochs = (
            start.losses,
            start.wrong,
            start.sizes,
            self.epochs + 1,
        )


def _advance(stack: Stack, engine: Engine, keeper: Keeper | None) -> list[RunResult]:
    """Train to the end; the stack's runs take their steps side by side."""
    configs = [run.config for run in stack.runs]
    logs = [_Log(run, partial(engine.weights, lane)) for lane, run in enumerate(stack.runs)]
    course = _Course.at_start(len(logs))
    if keeper is not None and (snapshot := keeper.read()) is not None:
        course = _resume(snapshot, engine, logs)
    pace = 1 if keeper is not None else None
    orders = zip(*(batch_order(run.config, run.seed) for run in stack.runs), strict=True)
    for epoch in islice(orders, course.epochs, None):
        if not any(log.live for log in logs):
            break
        ahead = len(course.sizes)  # steps of this epoch that were taken before an interruption
        for segment in zip(*epoch, strict=True):
            batches = torch.stack(segment)
            first, ahead = min(ahead, batches.shape[1]), max(0, ahead - batches.shape[1])
            while first < batches.shape[1]:
                began = time.perf_counter()
                piece = batches[:, first : first + pace if pace else None]
                _, steps, size = piece.shape
                rates = _rates(configs, course.step, steps)
                course.add(engine.advance(piece, rates), size)
                first += steps
                if keeper is not None:
                    keeper.keep_if_due(partial(_snapshot, course, engine, logs))
                    pace = max(1, int(steps * SECONDS_A_PIECE / (time.perf_counter() - began)))
        last = _rates(configs, course.step - 1, 1)[:, 0].tolist()
        for lane, log in enumerate(logs):
            row = {"epoch": course.epochs + 1, "step": course.step, "learning_rate": last[lane]}
            log.end_epoch(row, course.losses[lane], course.wrong[lane], course.sizes)
            if not log.live:
                engine.stop(lane)
        course.end_epoch()
    return [log.end() for log in logs]


def _rates(configs: Sequence[TrainConfig], start: int, count: int) -> Tensor:
    """`learning_rates` of each configuration, [K, count]; of those alike they are made once."""
    own = {config: learning_rates(config, start, count) for config in set(configs)}
    return torch.stack([own[config] for config in configs])


def _snapshot(course: _Course, engine: Engine, logs: Sequence[_Log]) -> Snapshot:
    """All that training goes on from."""
    tensors = {"losses": course.losses, "wrong": course.wrong, "sizes": course.sizes}
    facts: dict[str, Any] = {"epochs": course.epochs, "step": course.step, "logs": []}
    for lane, log in enumerate(logs):
        own, kept = log.state()
        facts["logs"].append(own)
        tensors |= prefixed(f"kept.{lane}", kept) | prefixed(f"state.{lane}", engine.state(lane))
    return Snapshot(facts, tensors)


def _resume(snapshot: Snapshot, engine: Engine, logs: Sequence[_Log]) -> _Course:
    """Put engine and logs where the snapshot was taken."""
    facts, tensors = snapshot
    batches = tensors["losses"], tensors["wrong"], tensors["sizes"]
    course = _Course(*batches, facts["epochs"], facts["step"])
    for lane, (log, own) in enumerate(zip(logs, facts["logs"], strict=True)):
        log.restore(own, below(f"kept.{lane}", tensors))
        engine.restore(lane, below(f"state.{lane}", tensors))
        if not (log.live and torch.isfinite(course.losses[lane]).all()):
            engine.stop(lane)
    return course


_LOGGED = ("status", "reason", "steps", "final_loss", "checkpoint_epoch", "history")


class _Log:
    """What is kept of one run while it trains."""

    def __init__(self, run: Run, weights: Callable[[], dict[str, Tensor]]) -> None:
        self.live = True
        self._result, self._weights, self._best = RunResult(run), weights, math.inf

    def end_epoch(self, row: dict[str, float], losses: Tensor, wrong: Tensor, sizes: Tensor) -> None:
        """Take in an epoch: its history row so far, and of each of its S steps the loss, errors and images."""
        if not self.live:
            return
        result = self._result
        taken = int(torch.isfinite(losses).long().cumprod(0).sum())
        result.steps += taken
        images = int(sizes[:taken].sum())
        loss = float((losses[:taken].double() * sizes[:taken]).sum()) / max(1, images)
        result.final_loss = loss if taken else result.final_loss
        if taken < len(losses):
            self.live = False
            result.status, result.reason = "diverged", f"the loss is not finite at step {result.steps + 1}"
            result.weights = None
            return
        result.history.append(row | {"train_loss": loss, "train_error": 100 * int(wrong.sum()) / images})
        if result.run.config.recipe == "paper":
            self._keep_as_published(int(row["epoch"]))

    def _keep_as_published(self, epoch: int) -> None:
        losses = [row["train_loss"] for row in self._result.history]
        settled = has_settled(losses)
        if settled or losses[-1] < self._best:
            self._best = losses[-1]
            self._result.weights, self._result.checkpoint_epoch = self._weights(), epoch
        # What is kept no longer changes once the rule holds, so that training can end there.
        self.live = not settled

    def state(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """All that is logged, as JSON can hold it, and the weights that are kept so far."""
        facts = {name: getattr(self._result, name) for name in _LOGGED}
        return facts | {"live": self.live, "best": self._best}, self._result.weights or {}

    def restore(self, facts: dict[str, Any], weights: dict[str, Tensor]) -> None:
        """Be as `state` said."""
        self.live, self._best = facts["live"], facts["best"]
        for name in _LOGGED:
            setattr(self._result, name, facts[name])
        self._result.weights = weights or None

    def end(self) -> RunResult:
        """The result, the last weights kept where the recipe has not kept others."""
        result = self._result
        if result.status == "done" and result.weights is None:
            result.weights, result.checkpoint_epoch = self._weights(), len(result.history)
        return result


def _score(results: Sequence[RunResult], data: Sequence[RunData], engine: Engine) -> None:
    """Fill in the scores of the weights that were kept; the runs' images are the same, their labels may differ."""
    for name in ("train", "validation", "test"):
        kept = [place for place, result in enumerate(results) if result.weights is not None]
        if not kept:
            return
        splits = [getattr(data[place], name) for place in kept]
        split = Split(splits[0].images, torch.stack([own.labels for own in splits]))
        weights = [results[place].weights or {} for place in kept]
        for place, (loss, error) in zip(kept, engine.scores(weights, split), strict=True):
            result = results[place]
            if math.isfinite(loss):
                found = {
                    f"{name}_loss": loss,
                    f"{name}_error": error,
                    f"{name}_images": split.labels.shape[1],
                }
                result.scores |= found
                continue
            result.status = "diverged"
            result.reason = f"the {name} loss is not finite after step {result.steps}"
            result.weights, result.scores = None, {}
