"""Whether credit lies where the outcome was decided: coefficients against audited effects."""

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
from jaxtyping import Bool, Float, Int

from rlvr.evaluation.effects import Effects
from rlvr.evaluation.intervals import Estimate, estimate, interval

_RESAMPLES = 2000
_NOTHING = Estimate(np.nan, np.nan, np.nan)
_OfSums = Callable[[np.ndarray], np.ndarray]

Agreement = dict[str, Estimate]  # by figure; NaN: there is nothing to tell it from


def agreements(effects: Effects) -> dict[str, dict[str, Agreement]]:
    """By method and side, with 95 % intervals of a bootstrap over responses; of one, none.

    ``correlation``: of the ranks of c_t · A_i and Δ_t, among all tokens. ``auc``: how probably a
    decisive token has a larger |c_t| than another one of its response. ``ndcg``: how high the
    decisive tokens stand in their response when it is ordered by |c_t|, each counted by |Δ_t|.
    ``uniform`` has an auc of 0.5, and an ndcg that says what chance gives. ``gradient_share``: see
    there.
    """
    sides = effects.sides()
    return {
        name: {side: _agreement(own, own.coefficients[name]) for side, own in sides.items()}
        for name in effects.coefficients
    }


def figures(found: Mapping[str, Mapping[str, Agreement]]) -> dict[str, float]:
    """``METHOD/figure`` over all tokens, where it is known.

    ``correlation_low`` is the lower end of the correlation's interval.
    """
    told: dict[str, float] = {}
    for name, by_side in found.items():
        told |= {f"{name}/{figure}": e.value for figure, e in by_side["all"].items()}
        told[f"{name}/correlation_low"] = by_side["all"]["correlation"].low
    return {name: value for name, value in told.items() if not np.isnan(value)}


def _agreement(effects: Effects, coefficients: Float[np.ndarray, "K"]) -> Agreement:
    gain = np.abs(effects.delta) * effects.decisive
    by_response = [effects.response == r for r in np.unique(effects.response)]
    size = np.abs(coefficients)
    areas = [auc(size[own], effects.decisive[own]) for own in by_response]
    orders = [ndcg(size[own], gain[own]) for own in by_response]
    credit = coefficients * effects.advantage
    return {
        "correlation": rank_correlation(credit, effects.delta, effects.response),
        "auc": _mean(areas),
        "ndcg": _mean(orders),
        "gradient_share": gradient_share(effects, coefficients),
    }


def _mean(values: list[float]) -> Estimate:
    known = np.array([v for v in values if not np.isnan(v)])
    if len(known) < 2:
        return replace(_NOTHING, value=float(known[0])) if len(known) else _NOTHING
    return estimate(known)


def rank_correlation(
    x: Float[np.ndarray, "K"], y: Float[np.ndarray, "K"], cluster: Int[np.ndarray, "K"]
) -> Estimate:
    """Spearman's, equal values sharing their ranks; the bootstrap draws whole clusters."""
    if len(x) < 2:
        return _NOTHING
    a, b = (_ranks(v) - (len(v) + 1) / 2 for v in (x, y))
    terms = np.stack([np.ones_like(a), a, b, a * a, b * b, a * b])
    return _of_sums(terms, cluster, _correlation)


def gradient_share(effects: Effects, coefficients: Float[np.ndarray, "K"]) -> Estimate:
    """Of the gradient, what pushes decisive tokens their way, less what pushes them the other way.

    Σ_decisive g_t sign(Δ_t) / Σ |g_t| with g_t = c_t A_i (1 − π_t), the gradient on a token's own
    logit: where the policy is sure there is none, whatever the coefficient.
    """
    g = coefficients * effects.advantage * effects.doubt
    terms = np.stack([g * np.sign(effects.delta) * effects.decisive, np.abs(g)])
    return _of_sums(terms, effects.response, _share)


def _share(sums: Float[np.ndarray, "2 ..."]) -> Float[np.ndarray, "..."]:
    part, whole = sums
    with np.errstate(invalid="ignore"):
        return part / whole


def _of_sums(
    terms: Float[np.ndarray, "k K"], cluster: Int[np.ndarray, "K"], figure: _OfSums
) -> Estimate:
    """``figure`` of the terms' sums [k]; the bootstrap draws whole clusters."""
    _, place = np.unique(cluster, return_inverse=True)
    sums = np.stack([np.bincount(place, weights=t) for t in terms], axis=1)
    value = float(figure(sums.sum(axis=0)))
    if np.isnan(value) or len(sums) < 2:
        return replace(_NOTHING, value=value)
    drawn = np.random.default_rng(0).multinomial(
        len(sums), np.full(len(sums), 1 / len(sums)), size=_RESAMPLES
    )
    return interval(value, figure((drawn @ sums).T))


def _correlation(sums: Float[np.ndarray, "6 ..."]) -> Float[np.ndarray, "..."]:
    """Pearson's from n, Σx, Σy, Σx², Σy², Σxy; NaN where a side does not vary."""
    n, x, y, xx, yy, xy = sums
    a, b = n * xx - x * x, n * yy - y * y
    varies = (a > 1e-9 * n * xx) & (b > 1e-9 * n * yy)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(varies, (n * xy - x * y) / np.sqrt(a * b), np.nan)


def auc(score: Float[np.ndarray, "n"], label: Bool[np.ndarray, "n"]) -> float:
    """P(score of a labelled > score of another), equal ones by half; NaN of one kind alone."""
    positive = int(label.sum())
    negative = len(label) - positive
    if not positive or not negative:
        return np.nan
    ranks = float(_ranks(score)[label].sum())
    return (ranks - positive * (positive + 1) / 2) / (positive * negative)


def _ranks(x: Float[np.ndarray, "n"]) -> Float[np.ndarray, "n"]:
    from scipy.stats import rankdata  # takes a second, which a run without audits does not need

    return np.asarray(rankdata(x), dtype=np.float64)


def ndcg(score: Float[np.ndarray, "n"], gain: Float[np.ndarray, "n"]) -> float:
    """Σ gain / log2(1 + place) over the best order's, places from 1; NaN without a gain.

    Equal scores have every order alike: each of them has the mean gain of all.
    """
    if not gain.any():
        return np.nan
    discount = 1 / np.log2(np.arange(2, len(gain) + 2))
    _, place = np.unique(-score, return_inverse=True)
    mean = np.bincount(place, weights=gain) / np.bincount(place)
    found = mean[np.sort(place)] @ discount
    return float(found / (np.sort(gain)[::-1] @ discount))
