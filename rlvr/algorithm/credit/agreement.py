"""How far credit methods agree: on coefficients, and on the gradient that follows from them."""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from rlvr.algorithm.aggregation import at_least_float32
from rlvr.algorithm.credit.base import Features, Ranks
from rlvr.types import TokenBatch

PerToken = Float[Tensor, "N"]

_CHUNK = 1 << 26  # elements of logits, or of sketched errors, that exist at a time
_BUCKETS = 4096
_FLAT = 1e-12  # share of the second moment below which a variance is rounding


def correlation(x: PerToken, y: PerToken, member: Bool[Tensor, "N"], ranks: Ranks) -> float | None:
    """Pearson's, over the members of all ranks; None where x or y is constant. Collective."""
    x, y = (v[member].double() - 1 for v in (x, y))  # about 0, so that no digit is lost
    moments = torch.stack([torch.ones_like(x), x, y, x * x, y * y, x * y]).sum(1)
    n, x1, y1, x2, y2, xy = ranks.all_reduce(moments).tolist()
    if not n:
        return None
    variances = x2 - x1 * x1 / n, y2 - y1 * y1 / n
    if variances[0] <= _FLAT * x2 or variances[1] <= _FLAT * y2:
        return None
    rho = (xy - x1 * y1 / n) / (variances[0] * variances[1]) ** 0.5
    return min(max(rho, -1.0), 1.0) if rho == rho else rho


def gradient_cosines(
    weights: Sequence[PerToken],
    batch: TokenBatch,
    features: Features,
    ranks: Ranks,
    buckets: int = _BUCKETS,
) -> list[float | None]:
    """Cosines of the first method's gradient of lm_head with the others', None for a gradient of 0.

    The gradient of a method that gives token t the weight a_t = A_i c_t is
    G = Σ_t a_t (onehot(y_t) − p_t) h_tᵀ, [V, d]. Its rows are added up in ``buckets``, each with a
    sign (a count sketch S), so that one product with lm_head serves all methods. That is exact for
    a vocabulary that is no larger. Beyond, ⟨SG, SG'⟩ has mean ⟨G, G'⟩ and a deviation of at most
    √(2 / buckets) ‖G‖ ‖G'‖, 0.022 for 4,096; less where methods agree, for their sketch is the
    same. Collective.
    """
    stacked = at_least_float32(torch.stack(list(weights)))
    stacked = torch.where(features.scored, stacked, 0.0)
    with features.policy.head() as head:
        sketch = _Sketch(head, buckets)
        total = stacked.new_zeros(len(stacked), sketch.buckets, head.shape[1])
        for places, states in features.hidden():
            weighs = (stacked[:, places] != 0).any(0)
            rows = zip(*(x[weighs].split(_CHUNK // buckets) for x in (places, states)), strict=True)
            for n, h in rows:
                error = sketch.errors(n, h, batch.target[n], features)
                h = at_least_float32(h)
                for own, a in zip(total, stacked[:, n], strict=True):
                    own.addmm_((error * a[:, None]).T, h)
    total = ranks.all_reduce(total)
    norms = [float((own * own).sum(dtype=torch.float64)) ** 0.5 for own in total]
    dots = [float((total[0] * own).sum(dtype=torch.float64)) for own in total[1:]]
    return [
        None if norm == 0 or norms[0] == 0 else dot / (norms[0] * norm)
        for dot, norm in zip(dots, norms[1:], strict=True)
    ]


class _Sketch:
    """Sums over the vocabulary by buckets, each of its tokens with a random sign."""

    def __init__(self, head: Float[Tensor, "V d"], buckets: int) -> None:
        self._head = head
        size = len(head)
        self.buckets = min(size, buckets)
        if size <= buckets:
            self._bucket, self._sign = torch.arange(size), torch.ones(size)
        else:  # the same on every rank
            dice = torch.Generator().manual_seed(size)
            self._bucket = torch.randperm(size, generator=dice) % buckets
            self._sign = torch.randint(0, 2, (size,), generator=dice) * 2.0 - 1
        self._bucket, self._sign = (x.to(head.device) for x in (self._bucket, self._sign))

    def errors(
        self,
        n: Int[Tensor, "n"],
        hidden: Float[Tensor, "n d"],
        target: Int[Tensor, "n"],
        features: Features,
    ) -> Float[Tensor, "n buckets"]:
        """S (onehot(y) − p), from a slice of the vocabulary at a time.

        Logits are rounded as those of the scoring pass, against whose normaliser they stand.
        """
        normaliser = at_least_float32(features.log_normaliser[n])
        own = -torch.expm1(at_least_float32(features.logp[n]))
        sketch = normaliser.new_zeros(len(n), self.buckets)
        start = 0
        for rows in self._head.split(max(_CHUNK // max(len(n), 1), 1)):
            logits = at_least_float32(hidden @ rows.T) / features.temperature
            error = -(logits.to(normaliser.dtype) - normaliser[:, None]).exp()
            here = torch.nonzero((target >= start) & (target < start + len(rows)))[:, 0]
            error[here, target[here] - start] = own[here]
            part = slice(start, start + len(rows))
            sketch.index_add_(1, self._bucket[part], error * self._sign[part].to(error.dtype))
            start = part.stop
        return sketch
