"""How well classes and tags are predicted: accuracy, F1, mean average precision, area under the ROC curve."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.special import expit

from mmjax.config import ConfigError
from mmjax.contract import Artifact, Matrix, Table
from mmjax.data.split import SplitView
from mmjax.evals._predictions import Predicted, Predictions
from mmjax.ops.classification import by_class, confusion, frequencies, multilabel_summary, single_summary


class Classification(Predicted):
    """A `label...` is one class of several: `accuracy`, `balanced_accuracy`, `f1_macro`, `map`, `auroc`; of `ordinal` ones
    also `mae`, by how many classes the answer is wrong. `tags...` are any number: `f1_micro`, `f1_macro`, `map`, `auroc`,
    answered where the logit is above 0.

    Beside each stand `chance` (even guesses), `majority` (always the most frequent class of the training split, tags by
    their frequency) and, in the final evaluation, `only_<m>`: this model given one modality alone.

    Args:
        target, output: what is predicted, and the output if it is not `<target>/logits`.
        ordinal: whether the logits are those of a head of `kind="ordinal"`.
        train: the split that the majority is taken from.
        alone: whether each modality is also tried alone.
        by: a field of the source's examples, such as "subject": the figures of each group and their means, see `Predicted`.
        save: whether the predictions are kept as an artifact.
        shown: how many classes the confusion matrix shows at most, those with most examples.
    """

    def __init__(
        self,
        target: str = "label",
        output: str | None = None,
        ordinal: bool = False,
        train: str = "train",
        alone: bool = True,
        by: str | None = None,
        save: bool = False,
        shown: int = 40,
    ):
        self.multilabel = target.split("_", 1)[0] == "tags"
        if self.multilabel:
            self.kind, self.operation = "tags", "multi_hot()"
        if ordinal and self.multilabel:
            raise ConfigError(f"classification: ordinal=True is for labels, not for {target!r}.")
        super().__init__(target, output, train, alone, by, save)
        self.ordinal, self.shown = ordinal, shown

    def measure(self, outputs: np.ndarray, targets: np.ndarray) -> dict[str, float]:
        """The summary that fits the target."""
        if self.multilabel:
            return multilabel_summary(outputs, targets)
        if not self.ordinal:
            return single_summary(outputs, targets)
        answered = (outputs > 0).sum(axis=1)
        found = single_summary(ordinal_scores(outputs), targets)
        return {**found, "mae": float(np.abs(answered - targets).mean())}

    def constants(self, seen: np.ndarray, found: Predictions) -> dict[str, np.ndarray]:
        """The frequencies of classes in the training split, as logits."""
        if self.multilabel:
            share = seen.mean(axis=0)
        elif self.ordinal:
            share = (seen[:, None] > np.arange(found.outputs.shape[1])[None]).mean(axis=0)
        else:
            share = frequencies(seen, found.outputs.shape[1])
        share = np.clip(share, 1e-6, 1 - 1e-6)
        return {"majority": np.tile(np.log(share / (1 - share)), (len(found.targets), 1))}

    def known(self, found: Predictions) -> dict[str, dict[str, float]]:
        """What even guesses are expected to reach."""
        if self.multilabel:
            return {"chance": {"auroc": 0.5}}
        classes = found.outputs.shape[1] + self.ordinal
        return {"chance": {"accuracy": 1 / classes, "balanced_accuracy": 1 / classes, "auroc": 0.5}}

    def answers(self, found: Predictions) -> tuple[Bool[np.ndarray, "N C"], Bool[np.ndarray, "N C"]]:
        """Which classes are answered, and which hold."""
        if self.multilabel:
            return found.outputs > 0, found.targets
        scores = ordinal_scores(found.outputs) if self.ordinal else found.outputs
        classes = np.arange(scores.shape[1])[None]
        return scores.argmax(axis=1)[:, None] == classes, found.targets[:, None] == classes

    def names(self, view: SplitView, count: int) -> list[str]:
        """What the classes are called."""
        return list(view.classes(self.target) or map(str, range(count)))

    def most_frequent(self, number: Int[np.ndarray, " C"]) -> list[int]:
        """The classes that a matrix shows, of which there are so many examples each."""
        return sorted(np.argsort(-number, kind="stable")[: self.shown].tolist())

    def pictures(self, found: Predictions, view: SplitView) -> Iterator[tuple[str, Artifact]]:
        """Every class that has examples, the worst first; and of single classes what they are taken for."""
        taken, right = self.answers(found)
        names = self.names(view, taken.shape[1])
        precision, recall, f1 = by_class(taken, right)
        number = right.sum(axis=0)
        order = [int(c) for c in np.lexsort((-number, f1)) if number[c]]
        rows = [[names[c], int(number[c]), float(precision[c]), float(recall[c]), float(f1[c])] for c in order]
        columns = ["class", "examples", "precision", "recall", "F1"]
        if not self.multilabel:
            counts = confusion(taken.argmax(axis=1), found.targets, len(names))
            wrong = np.where(np.eye(len(names), dtype=bool), 0, counts)
            rows = [[*row, names[int(wrong[c].argmax())] if wrong[c].any() else ""] for c, row in zip(order, rows, strict=True)]
            columns.append("else most often taken for")
        yield "classes", Table(columns, rows)
        if not self.multilabel:
            shown = self.most_frequent(number)
            shares = counts[np.ix_(shown, shown)] / np.maximum(number[shown], 1)[:, None]
            label = "share of a class's examples (rows) taken for a class (columns)"
            yield "confusion", Matrix(shares.tolist(), [names[c] for c in shown], [names[c] for c in shown], label)


def ordinal_scores(logits: Float[np.ndarray, "N K"]) -> Float[np.ndarray, "N C"]:
    """Scores of K + 1 ordered classes from logits of being above each of the first K.

    Probabilities, but the class that has its thresholds passed (Cao et al., 2020, eq. 1) always comes first.
    """
    above = np.pad(expit(logits.astype(np.float64)), ((0, 0), (1, 1)), constant_values=((0, 0), (1, 0)))
    answered = (logits > 0).sum(axis=1)[:, None] == np.arange(logits.shape[1] + 1)[None]
    return np.maximum(above[:, :-1] - above[:, 1:], 0) + answered
