"""Diagnosis of trained networks from tables alone: labels, features, diagnosers, protocols, leaderboard.

Tables in, tables out; nothing here imports torch or ray.
"""

from diagnose.baselines import DIAGNOSERS, Diagnoser, full_board, register
from diagnose.evaluate import ZooTables, benchmark
from diagnose.features import FEATURE_SETS, FeatureSet, feature_costs, feature_table
from diagnose.gaussian_process import MDGaussianProcess
from diagnose.labels import label
from diagnose.leaderboard import aggregate, markdown
from diagnose.md_tree import MDTreeClassifier
from diagnose.protocols import (
    PROTOCOLS,
    PROTOCOLS_FROM_NOISY,
    Split,
    answered,
    leave_one_data_set_out,
    limited,
    random_cells,
    seeds_of,
    transfer,
)
from diagnose.structures import STRUCTURES, Tree

__all__ = [
    "DIAGNOSERS",
    "FEATURE_SETS",
    "PROTOCOLS",
    "PROTOCOLS_FROM_NOISY",
    "STRUCTURES",
    "Diagnoser",
    "FeatureSet",
    "MDGaussianProcess",
    "MDTreeClassifier",
    "Split",
    "Tree",
    "ZooTables",
    "aggregate",
    "answered",
    "benchmark",
    "feature_costs",
    "feature_table",
    "full_board",
    "label",
    "leave_one_data_set_out",
    "limited",
    "markdown",
    "random_cells",
    "register",
    "seeds_of",
    "transfer",
]
