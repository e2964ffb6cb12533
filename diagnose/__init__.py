"""Diagnosis of trained networks from tables alone: labels, features, diagnosers, protocols, leaderboard.

Tables in, tables out; nothing here imports torch or ray.
"""

from diagnose.baselines import DIAGNOSERS, Diagnoser, register
from diagnose.evaluate import ZooTables, benchmark
from diagnose.features import FEATURE_SETS, FeatureSet, feature_table
from diagnose.labels import label
from diagnose.leaderboard import aggregate, markdown
from diagnose.md_tree import MDTreeClassifier
from diagnose.protocols import PROTOCOLS, Split, answered, limited, random_cells, transfer
from diagnose.structures import STRUCTURES, Tree

__all__ = [
    "DIAGNOSERS",
    "FEATURE_SETS",
    "PROTOCOLS",
    "STRUCTURES",
    "Diagnoser",
    "FeatureSet",
    "MDTreeClassifier",
    "Split",
    "Tree",
    "ZooTables",
    "aggregate",
    "answered",
    "benchmark",
    "feature_table",
    "label",
    "limited",
    "markdown",
    "random_cells",
    "register",
    "transfer",
]
