"""The columns of every table of a zoo: name, Arrow type, unit and meaning."""

from __future__ import annotations

from typing import NamedTuple

import pyarrow as pa

FAILURE_TASKS = ("temperature", "width", "data")
"""The published questions: Q1 temperature too small or too large; Q2 width, or data, against temperature."""

REMEDY_TASKS = ("remedy", "remedy_whole")
"""The whole question, what would help most: within a factor of two on each axis, or on the whole axis."""

REMEDIES = ("inc_temperature", "dec_temperature", "width", "data", "labels", "nothing")
"""Its answers."""


class Column(NamedTuple):
    """One column: its name, Arrow type, unit and meaning."""

    name: str
    type: pa.DataType
    unit: str
    meaning: str


_text, _integer, _real, _flag = pa.string(), pa.int64(), pa.float64(), pa.bool_()

_CONFIG_ID = Column(
    "config_id", _text, "", "configuration: hash of all that changes the weights but the seed"
)
_RUN_ID = Column("run_id", _text, "", "run: <config_id>-<seed>")
_SEED = Column("seed", _integer, "", "seed of initial weights and batch order")
PROVENANCE = (
    Column("package_version", _text, "", "version of mdzoo that made the row"),
    Column("torch_version", _text, "", "version of torch that made the row"),
    Column("device", _text, "", "device the row was computed on: cpu or a GPU's name"),
    Column("host", _text, "", "host name of the worker"),
)

_SELECTION = (
    Column("zoo", _text, "", "zoo diagnosed, by the name in its spec"),
    Column("training_zoo", _text, "", "zoo learned from; several are joined by +"),
    Column("task", _text, "", "question: temperature, width, data, remedy or remedy_whole"),
    Column("protocol", _text, "", "training/test selection"),
    Column("level", _integer, "", "size of the training side: cells or zoos, or the limit"),
)
_ENTRANT = (
    Column("diagnoser", _text, "", "name of the diagnoser"),
    Column("features", _text, "", "feature set it reads"),
    Column(
        "track",
        _text,
        "",
        "single (one checkpoint), twin (several runs of a configuration) or hidden (sees settings)",
    ),
)
_MEASURES = (
    Column("accuracy", _real, "percent", "correct diagnoses; null answers are wrong"),
    Column(
        "balanced_accuracy", _real, "percent", "mean over the true labels of the share diagnosed correctly"
    ),
    Column("accuracy_clear", _real, "percent", "accuracy where the label is beyond doubt; null: none is"),
    Column("accuracy_ambiguous", _real, "percent", "accuracy where it is not; null: all are"),
    Column("answered", _real, "percent", "configurations with an answer"),
    Column("log_loss", _real, "nats", "minus the log probability of the true label; null: gives none"),
    Column(
        "calibration_error", _real, "percent", "expected calibration error over ten bins; null: gives none"
    ),
    Column("regret", _real, "percent", "accuracy lost by acting on the diagnosis, mean"),
)

COLUMNS: dict[str, tuple[Column, ...]] = {
    "configs": (
        _CONFIG_ID,
        Column("dataset", _text, "", "name of the data set"),
        Column("data_fingerprint", _text, "", "hash of its images and labels"),
        Column("image_size", _integer, "pixels", "height and width after pooling; null: as they are"),
        Column("architecture", _text, "", "architecture by name"),
        Column("width", _integer, "channels", "channels or units of the first layer"),
        Column("parameters", _integer, "", "trainable parameters"),
        Column("batch_size", _integer, "images", "images a step"),
        Column("data_amount", _integer, "images", "training images"),
        Column("sample_passes", _integer, "images", "length of training, repetitions counted"),
        Column("learning_rate", _real, "", "peak learning rate"),
        Column("weight_decay", _real, "", "L2 coefficient"),
        Column("momentum", _real, "", "momentum of SGD"),
        Column("schedule", _text, "", "course of the learning rate"),
        Column("warm_up", _real, "share of steps", "linear rise of the learning rate"),
        Column("label_noise", _real, "share", "share of the training labels redrawn"),
        Column("noise_seed", _integer, "", "which draw of the label noise"),
        Column("recipe", _text, "", "training recipe"),
        Column("recipe_version", _integer, "", "its version"),
        Column("precision", _text, "", "number format of training"),
        Column("canonical_json", _text, "", "the configuration as hashed for config_id"),
        Column("seeds", pa.list_(_integer), "", "seeds planned"),
        Column("package_version", _text, "", "version of mdzoo that made the row"),
    ),
    "runs": (
        _RUN_ID,
        _CONFIG_ID,
        _SEED,
        Column("status", _text, "", "done, diverged (loss became NaN or infinite) or failed (an error)"),
        Column("reason", _text, "", "why a run is not done: the step of divergence or a traceback"),
        Column("steps", _integer, "steps", "optimiser steps taken"),
        Column("checkpoint_epoch", _integer, "epochs", "epoch of the saved weights"),
        Column("final_loss", _real, "nats", "mean batch loss of the last epoch, its finite steps only"),
        Column("train_loss", _real, "nats", "cross-entropy on the run's training images and labels"),
        Column("train_error", _real, "percent", "error on the run's training images and labels"),
        Column(
            "validation_loss", _real, "nats", "cross-entropy on the half of the test set that features read"
        ),
        Column("validation_error", _real, "percent", "error on that half"),
        Column("test_loss", _real, "nats", "cross-entropy on the half of the test set that labels read"),
        Column("test_error", _real, "percent", "error on that half"),
        Column("train_images", _integer, "images", "training images it was scored on"),
        Column("validation_images", _integer, "images", "size of that half"),
        Column("test_images", _integer, "images", "size of that half"),
        Column(
            "checkpoint",
            _text,
            "",
            "file of its weights below the zoo's root; null if not done, or not in this release",
        ),
        Column("checkpoint_index", _integer, "", "position of the run along the leading axis in that file"),
        Column(
            "weights_sha256",
            _text,
            "",
            "SHA-256 of its weights: names, types, shapes and bytes of its tensors, sorted by name",
        ),
        Column("engine", _text, "", "engine that trained the run"),
        Column("recipe", _text, "", "training recipe"),
        Column("seconds", _real, "s", "training and evaluation of this run"),
        *PROVENANCE,
    ),
    "history": (
        _RUN_ID,
        _CONFIG_ID,
        _SEED,
        Column("epoch", _integer, "epochs", "epoch, from 1; one row for each data_amount of sample passes"),
        Column("step", _integer, "steps", "optimiser steps taken at its end"),
        Column("learning_rate", _real, "", "learning rate of its last step"),
        Column("train_loss", _real, "nats", "mean loss of its batches, as they were trained on"),
        Column("train_error", _real, "percent", "mean error of its batches, as they were trained on"),
        Column("recipe", _text, "", "training recipe"),
        *PROVENANCE,
    ),
    "metrics": (
        _CONFIG_ID,
        _RUN_ID,
        Column(
            "other_run_id",
            _text,
            "",
            "the other run of a pair; the run itself if it has no twin; null for a metric of one run",
        ),
        Column("step", _integer, "steps", "training step of the weights"),
        Column("metric", _text, "", "name of the metric"),
        Column("recipe", _text, "", "metric recipe: default or paper"),
        Column("recipe_parameters", _text, "", "its numbers for this metric, as JSON; null: it has none"),
        Column(
            "split",
            _text,
            "",
            "images it was measured on: train or validation; null: none, or those that the recipe says",
        ),
        Column("value", _real, "the metric's", "the estimate; null if it cannot be had"),
        Column("values", pa.list_(_real), "the metric's", "values behind it, as along a curve"),
        Column("standard_error", _real, "the metric's", "standard error of the estimate; null if not random"),
        Column("low", _real, "the metric's", "lower end of the 95% interval over the random draws"),
        Column("high", _real, "the metric's", "upper end"),
        Column(
            "sampling_error",
            _real,
            "the metric's",
            "standard error that comes from which images were drawn, beside standard_error; null: not known",
        ),
        Column("samples", _integer, "images", "images it was measured on"),
        Column("iterations", _integer, "", "probes, power iterations or optimiser steps"),
        Column("converged", _flag, "", "whether the estimate met its tolerance; null if it has none"),
        Column(
            "reason",
            _text,
            "",
            "why value is null, a code of docs/metrics.md; or failed and the error",
        ),
        Column(
            "sample_passes",
            _real,
            "images",
            "cost: forward passes of one image, a backward pass counted as 2",
        ),
        Column("seconds", _real, "s", "time it took"),
        *PROVENANCE,
    ),
    "labels": (
        _CONFIG_ID,
        Column("task", _text, "", "question: temperature (Q1), width or data (Q2), remedy or remedy_whole"),
        Column(
            "label",
            _text,
            "",
            "failure source: small, large / width, batch / data, batch / a remedy; or optimal",
        ),
        Column("gap", _real, "percent", "distance between the two rooms for improvement that decide"),
        Column(
            "confidence", _real, "", "share of the resampled seeds that give this label; null for one run"
        ),
        Column(
            "rfi_inc_temperature", _real, "percent", "room for improvement by smaller batch or larger rate"
        ),
        Column(
            "rfi_dec_temperature", _real, "percent", "room for improvement by larger batch or smaller rate"
        ),
        Column("rfi_width", _real, "percent", "room for improvement by larger width"),
        Column("rfi_data", _real, "percent", "room for improvement by more data"),
        Column("rfi_labels", _real, "percent", "room for improvement by cleaner labels"),
        Column("near_inc_temperature", _real, "percent", "rfi_inc_temperature within a factor of two"),
        Column("near_dec_temperature", _real, "percent", "rfi_dec_temperature within a factor of two"),
        Column("near_width", _real, "percent", "rfi_width within a factor of two"),
        Column("near_data", _real, "percent", "rfi_data within a factor of two"),
        Column("near_labels", _real, "percent", "rfi_labels by the next cleaner labels of the grid"),
        Column("test_accuracy", _real, "percent", "mean over the runs"),
        Column("runs", _integer, "", "finished runs behind that mean"),
        Column("package_version", _text, "", "version of mdzoo that made the row"),
    ),
    "splits": (
        *_SELECTION,
        Column("draws", pa.list_(_integer), "", "seeds of the draws that make it"),
        Column("split_id", _text, "", "selection: hash of the configurations on either side"),
        Column("training", pa.list_(_text), "", "config_id of the configurations learned from"),
        Column("test", pa.list_(_text), "", "config_id of those diagnosed"),
    ),
    "predictions": (
        *_SELECTION,
        Column("draw", _integer, "", "seed of the draw; null: of every draw that makes the selection"),
        Column("split_id", _text, "", "selection: hash of the configurations on either side"),
        *_ENTRANT,
        Column("training_rows", _integer, "", "configurations learned from"),
        _CONFIG_ID,
        Column("label", _text, "", "true failure source"),
        Column(
            "predicted", _text, "", "diagnosed failure source; null where the diagnoser failed or abstained"
        ),
        Column("probability", _real, "", "probability it gives to that; null if it gives none"),
        Column("label_probability", _real, "", "probability it gives to the true one; null if it gives none"),
        Column(
            "regret", _real, "percent", "accuracy lost by acting on it: best room less that of the answer"
        ),
        Column("clear", _flag, "", "whether the label is beyond doubt, see diagnose.cases"),
        Column("reason", _text, "", "why predicted is null: abstained, or the error"),
        Column("seconds", _real, "s", "fit and prediction of the whole selection"),
        Column("package_version", _text, "", "version of mdzoo that made the row"),
    ),
    "scores": (
        *_SELECTION,
        Column("draw", _integer, "", "seed of the draw"),
        Column("split_id", _text, "", "selection: hash of the configurations on either side"),
        *_ENTRANT,
        Column("training_rows", _integer, "", "configurations learned from"),
        Column("test_rows", _integer, "", "configurations diagnosed"),
        *_MEASURES,
        Column("seconds", _real, "s", "fit and prediction"),
        Column("package_version", _text, "", "version of mdzoo that made the row"),
    ),
    "leaderboard": (
        Column(
            "release", _text, "", "frozen benchmark whose selections these are, and their hash; null: none"
        ),
        *_SELECTION,
        *_ENTRANT,
        Column(
            "accuracy", _real, "percent", "correct diagnoses, mean over the draws; null answers are wrong"
        ),
        Column("low", _real, "percent", "lower end of its 95% interval"),
        Column("high", _real, "percent", "upper end"),
        Column("spread", _real, "percent", "standard deviation over the draws; null for one draw"),
        Column("versus", _text, "", "diagnoser it is compared with, on the same draws and configurations"),
        Column("difference", _real, "percent", "accuracy less that diagnoser's"),
        Column("difference_low", _real, "percent", "lower end of its 95% interval, paired"),
        Column("difference_high", _real, "percent", "upper end"),
        *_MEASURES[1:],
        Column("models", _real, "", "trained models that its features take, per configuration"),
        Column("sample_passes", _real, "images", "cost of its features, per configuration"),
        Column("seconds", _real, "s", "fit and prediction, mean over the draws"),
        Column("draws", _integer, "", "number of draws"),
        Column("training_rows", _real, "", "configurations learned from, mean over the draws"),
        Column("test_rows", _real, "", "configurations diagnosed, mean over the draws"),
        Column("package_version", _text, "", "version of mdzoo that made the row"),
    ),
    "rankings": (
        Column("zoo", _text, "", "zoo diagnosed; null: all"),
        Column("task", _text, "", "question; null: all that the diagnosers answer"),
        *_ENTRANT,
        Column("boards", _integer, "", "selections (protocol x level) on which it is compared"),
        Column("mean_accuracy", _real, "percent", "mean over them"),
        Column("mean_rank", _real, "", "mean over them of its rank, 1 the best"),
        Column(
            "win_rate", _real, "percent", "of the pairings with another on one selection, half for a draw"
        ),
        Column("elo", _real, "", "Elo rating from those pairings"),
        Column("elo_low", _real, "", "lower end of its 95% interval"),
        Column("elo_high", _real, "", "upper end"),
        Column("cliques", _text, "", "letters shared by those whose mean ranks do not differ significantly"),
        Column("package_version", _text, "", "version of mdzoo that made the row"),
    ),
}
