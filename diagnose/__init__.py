"""Diagnosis of trained networks from tables alone: labels, features, diagnosers, protocols, leaderboard.

Tables in, tables out; nothing here imports torch or ray.
"""

from diagnose.baselines import DIAGNOSERS, Diagnoser, full_board, register
from diagnose.boards import BOTH_DIRECTIONS, PUBLISHED_PROTOCOLS, ZOO_PROTOCOLS, Board, boards
from diagnose.cases import Cases, ZooTables, cases_of
from diagnose.entrants import fingerprint, installed_entrants, load_entrant
from diagnose.evaluate import answers, benchmark
from diagnose.examine import Examination, examine, reference_of
from diagnose.features import FEATURE_SETS, FeatureSet, feature_costs, feature_table
from diagnose.gaussian_process import MDGaussianProcess
from diagnose.labels import label
from diagnose.leaderboard import aggregate
from diagnose.md_tree import MDTreeClassifier
from diagnose.pages import markdown
from diagnose.protocols import (
    PROTOCOLS,
    PROTOCOLS_ALL,
    PROTOCOLS_FROM_NOISY,
    Split,
    leave_one_data_set_out,
    limited,
    random_cells,
    seeds_of,
    transfer,
)
from diagnose.published_cases import published_cases
from diagnose.rankings import rankings
from diagnose.scores import scores
from diagnose.structures import STRUCTURES, Tree

__all__ = [
    "BOTH_DIRECTIONS",
    "DIAGNOSERS",
    "FEATURE_SETS",
    "PROTOCOLS",
    "PROTOCOLS_ALL",
    "PROTOCOLS_FROM_NOISY",
    "PUBLISHED_PROTOCOLS",
    "STRUCTURES",
    "ZOO_PROTOCOLS",
    "Board",
    "Cases",
    "Diagnoser",
    "Examination",
    "FeatureSet",
    "MDGaussianProcess",
    "MDTreeClassifier",
    "Split",
    "Tree",
    "ZooTables",
    "aggregate",
    "answers",
    "benchmark",
    "boards",
    "cases_of",
    "examine",
    "feature_costs",
    "feature_table",
    "fingerprint",
    "full_board",
    "installed_entrants",
    "label",
    "leave_one_data_set_out",
    "limited",
    "load_entrant",
    "markdown",
    "published_cases",
    "random_cells",
    "rankings",
    "reference_of",
    "register",
    "scores",
    "seeds_of",
    "transfer",
]
