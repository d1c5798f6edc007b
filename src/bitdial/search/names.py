"""What names of columns say: which way a metric is better, what is a seed, what is lambda, what to look at first."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

from bitdial.errors import BitdialError, suggest

_LARGER = re.findall(
    r"\w+",
    "accuracy acc psnr ssim vmaf f1 auc auroc map iou miou dice bleu rouge precision recall specificity sensitivity r2 "
    "reward return score throughput fps similarity correlation top1 top5 likelihood elbo ndcg mrr kappa mcc",
)
_SMALLER = re.findall(
    r"\w+",
    "loss losses error errors err mse rmse mae mape nll bpp bits perplexity ppl wer cer fid lpips kl seconds second "
    "secs sec time runtime duration latency memory bytes size energy flops bitops macs cost regret brier ece "
    "distortion rate divergence",
)
_FIRST = re.findall(
    r"\w+", "value accuracy acc top1 psnr ssim f1 auc auroc map iou miou dice bleu perplexity ppl wer mse loss error"
)
"""What a run is mostly judged by, the most telling first; "value" is Optuna's own name for it."""
MOST = 0.8
"""A metric that so many of the runs have is one that most have."""
_COST = re.findall(
    r"\w+", "bpp bits bitops macs flops size bytes memory latency seconds second secs time runtime duration"
)
"""What is spent, for the other side of a Pareto front, the most telling first."""
_NAMING = re.findall(
    r"\w+",
    "name names id uuid run title tag notes description comment dir folder path file log logs output url host hostname "
    "time date created started timestamp commit group",
)
_HELD_OUT = {"val", "valid", "validation", "dev", "eval", "test"}
_ASIDE = {"epoch", "epochs", "step", "steps", "iteration", "lr", "time", "seconds", "runtime", "memory", "timestamp"}
_SEED = re.compile(r"(^|[^a-z])seeds?$|(^|_)seed(_|$)", re.IGNORECASE)
_LAMBDA = {"lambda", "lambdavalue", "lmbda", "lam", "lagrangian", "lagrange", "lambdard", "rdlambda", "\u03bb"}


def words(name: str) -> list[str]:
    """Return the words of a name in small letters: of ``"val/topFive_acc"`` val, top, five, acc."""
    return re.findall(r"[^\W_]+", re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).lower())


def larger_is_better(metric: str) -> bool | None:
    """Say which way a metric is better by the last word of its name that tells; None: no word does."""
    for word in reversed(words(metric)):
        if word in _LARGER or word in _SMALLER:
            return word in _LARGER
    return None


def is_seed(parameter: str) -> bool:
    """Whether a parameter is a seed: ``seed``, ``random_seed``, ``training.seed``."""
    return bool(_SEED.search(re.split(r"[./]", parameter)[-1]))


def names_a_run(parameter: str) -> bool:
    """Whether a parameter of this name may hold what a run is called, or where or when it was."""
    return not {*_NAMING}.isdisjoint(words(re.split(r"[./]", parameter)[-1]))


def find_lambda(parameters: Sequence[str], varied: Iterable[str]) -> str | None:
    """Return the parameter that is the lambda of rate and distortion, one that varies if there is one."""
    found = [name for name in parameters if "".join(words(re.split(r"[./]", name)[-1])) in _LAMBDA]
    varied = {*varied}
    return next((name for name in found if name in varied), next(iter(found), None))


def default_metric(finite: Mapping[str, int]) -> str:
    """Choose what to look at: what most runs have, and among those what runs are mostly judged by, of held-out data.

    Args:
        finite: of each metric, how many runs have a finite number of it.
    """
    most = max(finite.values())
    common = [name for name, count in finite.items() if count and count >= MOST * most]

    def rank(name: str) -> tuple[bool, bool, int, bool, int]:
        parts = words(name)
        known = min((_FIRST.index(word) for word in parts if word in _FIRST), default=len(_FIRST))
        trained = bool({"train", "training"} & {*parts})
        return bool(_ASIDE & {*parts}), trained, known, not _HELD_OUT & {*parts}, -finite[name]

    return min(common or finite, key=rank)


def cost_metric(metric: str, finite: Mapping[str, int]) -> str | None:
    """Choose a metric of what is spent to set against another; None: no name tells of one."""
    found = [
        (min(_COST.index(word) for word in parts), -finite[name], name)
        for name in finite
        if name != metric and finite[name] and (parts := [word for word in words(name) if word in _COST])
    ]
    return min(found)[2] if found else None


def find(name: str, known: Sequence[str], what: str) -> str:
    """Return the known name that is meant: the very name, or the one whose last part it is (``psnr``: ``val/psnr``).

    Raises:
        BitdialError: there is none, or several; it names the nearest ones.
    """
    if name in known:
        return name
    ends = [each for each in known if isinstance(name, str) and words(each)[-len(words(name)) :] == words(name) != []]
    if len(ends) == 1:
        return ends[0]
    if ends:
        raise BitdialError(f"expected one {what}, got '{name}', which may be {_listed(ends)}; write its whole name")
    hint = suggest(str(name), known)
    raise BitdialError(f"expected a {what} that the runs have, got '{name}'{hint}; there are {_listed(known)}")


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - 8} more" if len(names) > 8 else ""
    return (", ".join(f"'{name}'" for name in names[:8]) or "none") + more
