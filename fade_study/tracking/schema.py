"""The names of everything that runs hold in MLflow: :data:`RECORDED` lists them all, with their meanings."""

from __future__ import annotations

from typing import Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray

SCHEMA = "3"
"""Version of the record, the value of the tag :data:`VERSION`; raised when names or meanings change."""
Kind = Literal["search", "validation", "comparison", "benchmark", "analysis", "evaluation", "training"]

# Tags
KIND = "fade.kind"
VERSION = "fade.schema"
COMMIT = "fade.commit"
NAME = "fade.name"
STUDY = "fade.study_id"
STUDY_NAME = "fade.study"
BUILDERS = "fade.builders"
CONTINUED_BY = "fade.continued_by"
SEARCHER = "fade.searcher"
BEST = "fade.best_architecture"
ERROR = "fade.error"
WARNING = "fade.warning"
ANALYZED = "fade.analyzed"
EVALUATED = "fade.evaluated"
TRAINED = "fade.trained"
PARENT = "mlflow.parentRunId"
"""MLflow's tag for the parent of a child run."""
RUN_NAME = "mlflow.runName"
"""MLflow's tag for the name of a run, which also renames a run that exists."""
NOTE = "mlflow.note.content"
"""MLflow's tag for the description of a run or an experiment, in Markdown."""
THIS_RUN = "ID_OF_THIS_RUN"
"""What a description says for the id of its run. Delivery replaces it, since the server may give the id later."""
TABLES = "mlflow.loggedArtifacts"
"""MLflow's tag that lists the tables of a run."""
INHERITED = ("mlflow.user", "mlflow.source.name", "mlflow.source.type", "mlflow.source.git.commit")
"""MLflow's tags that child runs copy from the outermost run."""

# Artifacts
CONFIG = "config.yaml"
RECORD = "search.json"
OUTCOME = "outcome.json"
HYPER = "hyper_architecture.json"

# Metrics
NON_FINITE = "non_finite_values"


class Entry(NamedTuple):
    """Something that a run holds, or several things of one meaning."""

    what: Literal["metric", "param", "tag", "artifact", "input", "model"]
    name: str
    """Its name, with variable parts in braces."""
    meaning: str


class Group(NamedTuple):
    """Runs that hold the same entries."""

    title: str
    kinds: tuple[str, ...]
    """Values of the tag ``fade.kind`` of these runs."""
    description: str
    entries: tuple[Entry, ...]


RECORDED = (
    Group(
        "All runs",
        (*get_args(Kind), "hyper", "scratch"),
        "Every run holds these.",
        (
            Entry("tag", KIND, "Kind of the run"),
            Entry("tag", VERSION, "Version of this record"),
            Entry("tag", NAME, "Name by which the run is found again if the server's answer to its creation was lost"),
            Entry("tag", NOTE, "Description, in Markdown: what came out, pictures, and what to do next"),
            Entry("tag", RUN_NAME, "Name, such as that of the study, `gen3 hyper` or `gen3 scratch seed0`"),
            Entry("artifact", "pictures/{name}.png", "Small copies of figures for the description"),
            Entry("metric", NON_FINITE, "Number of metrics so far that were NaN or infinite and therefore left out"),
        ),
    ),
    Group(
        "Parent runs",
        get_args(Kind),
        "Each command makes one run that holds these; each training (in a comparison, each search) is a child of it.",
        (
            Entry("param", "config.{setting}", "Settings, by their dotted names"),
            Entry("param", "package.{name}", "Versions of fade_study and of the packages that it trains with"),
            Entry("param", "device", "Device that trains"),
            Entry("tag", COMMIT, "Git commit of the code, with `-dirty` if it was changed; `unknown` outside of git"),
            Entry("tag", BUILDERS, "The user's own builders of cells, as JSON by type of cell"),
            Entry("artifact", CONFIG, "Settings"),
            Entry("input", "{data}", "Name and digest of the data set"),
        ),
    ),
    Group(
        "Analyses of searches",
        ("search", "comparison", "analysis", "evaluation"),
        "Searches, comparisons (of their searcher `fade`), and the commands `-e analyze` and `-e evaluate`. "
        "Metrics by generation are those of a single search.",
        (
            Entry("tag", ANALYZED, "Id of the run that `-e analyze` analyzes"),
            Entry("tag", EVALUATED, "Id of the run that `-e evaluate` evaluates"),
            Entry("metric", "trend/slope", "Slope of the accuracies over generations"),
            Entry("metric", "trend/slope_{bound}", "Bounds `low` and `high` of its confidence interval"),
            Entry("metric", "trend/gain", "Gain in accuracy over the whole search"),
            Entry("metric", "trend/evaluations", "Number of evaluations"),
            Entry("metric", "trend/pearson", "Pearson correlation of accuracy with generation"),
            Entry("metric", "trend/kendall_p", "p-value of the Mann-Kendall test, for one search"),
            Entry("metric", "trend/signs_p", "p-value of the sign test, for several searches"),
            Entry("metric", "movement", "By generation: length of an anchor's last step, mean over rows"),
            Entry("metric", "snap_distance", "By generation: distance of anchors to their cells, mean over rows"),
            Entry("metric", "revisited", "By generation: share of anchors that returned to a cell that they had left"),
            Entry("metric", "coverage", "By generation: share of all cells that a row has held so far, mean over rows"),
            Entry(
                "artifact",
                "figures/{name}.{format}",
                "Figures of trajectory, movement, coverage and accuracy, as `png` and as `svg`; of a single search "
                "also of the architectures by generation, with the best one framed",
            ),
        ),
    ),
    Group(
        "`search`",
        ("search",),
        "A search: `-e search` makes one for each seed.",
        (
            Entry("tag", STUDY_NAME, "Name of the study"),
            Entry("tag", STUDY, "Identity of the study, which its child runs hold as well"),
            Entry("tag", BEST, "Key of the architecture with the best validation accuracy from scratch"),
            Entry("tag", CONTINUED_BY, "Id of the run that continued the study and holds its complete record"),
            Entry("metric", "anchor/row{i}/{feature}", "By generation: coordinates of the anchor"),
            Entry("metric", "alpha/row{i}/anchor", "By generation: alpha of the anchor's cell"),
            Entry("metric", "alpha/row{i}/largest", "By generation: largest alpha of the row"),
            Entry("metric", "alpha_entropy/row{i}", "By generation: entropy of the row's alphas"),
            Entry("metric", "collisions", "By generation: number of columns that repeat a cell of their row"),
            Entry("metric", "one_shot_accuracy", "By generation: one-shot accuracy, mean over random paths"),
            Entry("metric", "hyper_seconds", "By generation: seconds of the trainings of the hyper-architecture"),
            Entry("metric", "accuracy/test", "By evaluated generation: test accuracy from scratch, mean over seeds"),
            Entry("metric", "accuracy/validation", "By evaluated generation: validation accuracy, mean over seeds"),
            Entry("metric", "accuracy/{split}_sd", "By evaluated generation: standard deviations over seeds"),
            Entry("metric", "best/validation_accuracy", "Best validation accuracy from scratch"),
            Entry("metric", "best/test_accuracy", "Test accuracy of the architecture that has it"),
            Entry("metric", "answer/test_accuracy", "With `final_seeds`: its test accuracy, trained anew"),
            Entry("metric", "answer/gain", "With `final_seeds`: gain over the first generation's anchor architecture"),
            Entry("metric", "answer/gain_{bound}", "Bounds `low` and `high` of its confidence interval"),
            Entry("metric", "answer/over_random", "With `final_seeds`: lead over random searches of the same cost"),
            Entry("metric", "answer/over_random_{bound}", "Bounds `low` and `high` of its confidence interval"),
            Entry("metric", "steps", "With `final_seeds`: training steps of the whole search"),
            Entry("metric", "seconds", "Seconds of the whole search"),
            Entry("model", "best", "With `final_seeds`: network of the best architecture, with the first seed"),
            Entry("artifact", "figures/best_architecture.{format}", "Best architecture, with its test accuracy"),
            Entry("artifact", "figures/anchor_cells.{format}", "The anchors' cells in the last generation"),
            Entry("artifact", "figures/alpha_last_generation.{format}", "Alphas of the last generation"),
            Entry("artifact", RECORD, "The search as analyses read it: anchors, cells and evaluations"),
            Entry("artifact", "ranks.json", "Best-ranked architectures of each generation, a table written at the end"),
        ),
    ),
    Group(
        "`comparison`",
        ("comparison",),
        "A comparison of searchers: `-e compare`.",
        (
            Entry(
                "metric", "searcher/{name}/final_accuracy", "Test accuracy of final architectures, mean over searches"
            ),
            Entry(
                "metric", "searcher/{name}/final_accuracy_{bound}", "Bounds `low` and `high` of its confidence interval"
            ),
            Entry("metric", "searcher/{name}/p_vs_{baseline}", "p-value of the difference from the baseline (Holm)"),
            Entry("metric", "searcher/{name}/win_rate", "Share of seeds with which it beats the baseline"),
            Entry(
                "metric",
                "searcher/{name}/evaluated_accuracy",
                "Test accuracy of the first architecture that each generation trains from scratch, mean over searches",
            ),
            Entry("metric", "searcher/{name}/seconds", "Seconds of a search, mean over searches"),
            Entry(
                "metric",
                "simulated/spearman",
                "Mean correlation of simulated FaDE-ranks with accuracy in first generations of FaDE (tabular mode)",
            ),
            Entry("metric", "seconds", "Seconds of the whole comparison"),
            Entry("artifact", "standings.json", "Standings of the searchers, a table"),
            Entry("artifact", "finals.json", "Final accuracies by seed and searcher, a table"),
            Entry("artifact", "report.txt", "Summary that the command prints"),
        ),
    ),
    Group(
        "`search` within a comparison",
        ("search",),
        "A child of a comparison for each searcher and seed.",
        (
            Entry("tag", SEARCHER, "Name of the searcher"),
            Entry("param", "searcher", "Name of the searcher"),
            Entry("param", "seed", "Seed of the search"),
            Entry("param", "recipe", "Hash of everything that determines the search except its seed"),
            Entry("metric", "accuracy/{split}", "By training steps: accuracy of each evaluated architecture"),
            Entry("metric", "best/test_accuracy", "By training steps: test accuracy of the best so far"),
            Entry("metric", "final_accuracy", "Test accuracy of the final architecture, trained anew"),
            Entry("artifact", OUTCOME, "Cost and final architecture"),
        ),
    ),
    Group(
        "`validation`",
        ("validation",),
        "A validation of FaDE-ranks: `-e validate`. Metrics are means over its hyper-architectures.",
        (
            Entry("metric", "fade/spearman", "Spearman correlation of FaDE-ranks with accuracy from scratch"),
            Entry("metric", "fade/partial_spearman", "The same, given operations and longest path"),
            Entry(
                "metric",
                "straight_through/spearman",
                "The same for the paper's estimator, if `straight_through` has settings",
            ),
            Entry("metric", "{estimator}/spearman_{bound}", "Bounds `low` and `high` of the interval; p-value `p`"),
            Entry(
                "metric", "{estimator}/partial_spearman_{bound}", "Bounds `low` and `high` of the interval; p-value `p`"
            ),
            Entry("metric", "fade/kendall", "Kendall correlation"),
            Entry("metric", "fade/ceiling", "Noise ceiling of the Spearman correlation"),
            Entry("metric", "fade/relative", "Spearman correlation divided by its ceiling"),
            Entry("metric", "fade/row{i}/spearman", "Spearman correlation of a row's alphas with marginal accuracies"),
            Entry("metric", "fade/precision_{k}", "Share of the k best-ranked that are among the k best"),
            Entry("metric", "fade/regret_{k}", "Accuracy lost by choosing among the k best-ranked"),
            Entry("metric", "fade/best_rank_{k}", "Best true rank among the k best-ranked"),
            Entry("metric", "ground_truth/{quantity}", "Size and reliability of the ground truth"),
            Entry("metric", "audit/{quantity}", "How well sums of marginal accuracies predict the ground truth"),
            Entry("metric", "predictor/{name}/spearman", "Spearman correlation of a predictor"),
            Entry("metric", "predictor/{name}/seconds", "Cost of a predictor"),
            Entry("metric", "curve/repetitions/spearman", "By number of supernets: Spearman correlation"),
            Entry("metric", "one_shot_accuracy", "One-shot accuracy, mean over supernets"),
            Entry("metric", "seconds", "Seconds of the whole validation"),
            Entry("artifact", "predictors.{format}", "All predictors, as `json` (a table) and as `csv`"),
            Entry("artifact", "architectures.{format}", "All architectures, as `json` (a table) and as `csv`"),
            Entry(
                "artifact",
                "ground_truth.json",
                "Trainings from scratch, if there was no table: one for the setting `tables`",
            ),
            Entry("artifact", "report.txt", "Summary that the command prints"),
            Entry(
                "artifact",
                "regimes.jsonl",
                "What was found, as searches tell it from `fade_study/benchmarks/regimes.jsonl`",
            ),
            Entry("artifact", "figures/{name}.{format}", "Figures, as `png` and as `svg`"),
        ),
    ),
    Group(
        "`training`",
        ("training",),
        "A training of one architecture: `-e train`.",
        (
            Entry("tag", TRAINED, "Id of the run of the search"),
            Entry("tag", BEST, "Key of the architecture"),
            Entry("metric", "accuracy/{split}", "Accuracies `test` and `validation`, mean over seeds"),
            Entry("metric", "accuracy/{split}_sd", "Standard deviations over seeds"),
            Entry("model", "best", "The network with the best validation accuracy"),
        ),
    ),
    Group(
        "`benchmark`",
        ("benchmark",),
        "Measurements of cost: `-e benchmark` and `-e scale`.",
        (
            Entry("metric", "headline/{quantity}", "Medians of the most important ratios"),
            Entry("metric", "headline/{quantity}/{kind}", "Medians of the most important ratios"),
            Entry("metric", "headline/{preset}/{kind}/{quantity}", "Medians of the most important costs on a GPU"),
            Entry("metric", "scale/{quantity}/{kind}", "Results of `-e scale`"),
            Entry("artifact", "benchmark.json", "All ratios, a table"),
            Entry("artifact", "figures/costs.{format}", "Cost against width, depth and batch size"),
        ),
    ),
    Group(
        "`hyper`",
        ("hyper",),
        "A child for each training of a hyper-architecture.",
        (
            Entry("param", "cell/row{i}/column{j}", "Keys of the cells"),
            Entry("param", "generation", "Generation; in a validation, the number of the hyper-architecture"),
            Entry("param", "seed", "Seed of the training"),
            Entry("metric", "alpha/row{i}/column{j}", "By epoch: alphas"),
            Entry("metric", "loss/weights", "By epoch: mean loss of the weight steps"),
            Entry("metric", "loss/alpha", "By epoch: mean loss of the alpha steps, if there are any"),
            Entry("metric", "accuracy/validation", "By epoch: one-shot accuracy of one random path"),
            Entry("metric", "one_shot_accuracy", "One-shot accuracy, mean over random paths"),
            Entry("metric", "seconds", "Seconds of the training"),
            Entry("tag", STUDY, "Identity of the study"),
            Entry("tag", WARNING, "Reason the alphas are unreliable, if they are"),
            Entry("artifact", HYPER, "Keys of the cells, by row"),
            Entry("artifact", "effects.json", "Marginal effects of the columns, with standard errors"),
            Entry("artifact", "figures/alpha.png", "Alphas over the epochs"),
        ),
    ),
    Group(
        "`scratch`",
        ("scratch",),
        "A child for each training from scratch.",
        (
            Entry("param", "architecture", "Key of the architecture"),
            Entry("param", "recipe", "Hash of data, network and training settings"),
            Entry("param", "seed", "Seed of the training"),
            Entry(
                "param",
                "generation",
                "Generation that it was trained for, if any; others may share the architecture",
            ),
            Entry("metric", "loss/weights", "By epoch: mean loss"),
            Entry("metric", "accuracy/validation", "By epoch: validation accuracy"),
            Entry("metric", "accuracy/test", "Test accuracy"),
            Entry("metric", "parameters", "Number of weights"),
            Entry("metric", "flops", "Floating point operations of a forward pass of one image"),
            Entry("metric", "seconds", "Seconds of the training"),
            Entry("tag", STUDY, "Identity of the study, if it belongs to one"),
            Entry("tag", ERROR, "Error message, if the training failed"),
        ),
    ),
)
"""Everything that runs hold, except what MLflow adds."""


def alpha_metrics(alpha: NDArray[np.float64]) -> dict[str, float]:
    """Alphas ``(d, w)`` by their metric names."""
    return {f"alpha/row{i}/column{j}": value for (i, j), value in np.ndenumerate(alpha)}
