"""Acceptance statistics, all derived from `accepted_counts`.

`accepted_counts[d, a]` is the number of rounds that drafted a chain of d events and accepted the first a of them, int64
(max_draft_length + 1, max_draft_length + 1). A round ends with one more event, from the adjusted distribution or the
target's. (Of a tree d and a are depths, so that rates per step are right and those per drafted event are not: see
SamplingStats.)
"""

from __future__ import annotations

import torch
from torch import Tensor


def _drafted_accepted(accepted_counts: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return counts, drafted and accepted in float64.

    drafted (rows, 1) and accepted (1, columns) broadcast against counts.
    """
    if accepted_counts.dim() != 2 or bool(accepted_counts.triu(1).any()):
        raise ValueError(
            f"accepted_counts of shape {tuple(accepted_counts.shape)} must be (drafted, accepted), "
            "without a round that accepts more than it drafts"
        )
    counts = accepted_counts.double()
    drafted = torch.arange(counts.shape[0], dtype=torch.float64, device=counts.device).unsqueeze(1)
    accepted = torch.arange(counts.shape[1], dtype=torch.float64, device=counts.device).unsqueeze(0)
    return counts, drafted, accepted


def acceptance_rate(accepted_counts: Tensor) -> float:
    """Return alpha = num_accepted / num_drafted; NaN without drafts.

    Events after the first rejection count as drafted.

    Source: TPP-SD (arXiv 2507.09252), section 5.

    Example:
        >>> counts = torch.tensor([[0, 0, 0], [0, 0, 0], [1, 2, 7]])  # ten rounds of two drafted events
        >>> acceptance_rate(counts)
        0.8
    """
    counts, drafted, accepted = _drafted_accepted(accepted_counts)
    return float((counts * accepted).sum() / (counts * drafted).sum())


def step_acceptance(accepted_counts: Tensor) -> float:
    """Return num_accepted / num_tested, which compares with 1 - TV; NaN without drafts.

    num_tested = sum min(accepted + 1, drafted).

    Example:
        >>> counts = torch.tensor([[0, 0, 0], [0, 0, 0], [1, 2, 7]])  # ten rounds of two drafted events
        >>> round(step_acceptance(counts), 3)
        0.842
    """
    counts, drafted, accepted = _drafted_accepted(accepted_counts)
    return float((counts * accepted).sum() / (counts * torch.minimum(accepted + 1, drafted)).sum())


def events_per_round(accepted_counts: Tensor) -> float:
    """Return sum (accepted + 1) / num_rounds, events per target pass; NaN without rounds.

    Events beyond `t_end` are not cut off yet.

    Example:
        >>> counts = torch.tensor([[0, 0, 0], [0, 0, 0], [1, 2, 7]])  # ten rounds of two drafted events
        >>> events_per_round(counts)
        2.6
    """
    counts, _, accepted = _drafted_accepted(accepted_counts)
    return float((counts * (accepted + 1)).sum() / counts.sum())


def acceptance_by_position(accepted_counts: Tensor) -> Tensor:
    """Return P(event j accepted | it was drafted and all before it were accepted), j = 1, 2, ...

    Returns:
        float64 (max_draft_length,), NaN where never tested.

    Example:
        >>> counts = torch.tensor([[0, 0, 0], [0, 0, 0], [1, 2, 7]])  # ten rounds of two drafted events
        >>> acceptance_by_position(counts)
        tensor([0.9000, 0.7778], dtype=torch.float64)
    """
    counts, drafted, accepted = _drafted_accepted(accepted_counts)
    positions = torch.arange(1, counts.shape[0], device=counts.device).view(-1, 1, 1)
    tested = (counts * ((drafted >= positions) & (accepted >= positions - 1))).sum((1, 2))
    passed = (counts * ((drafted >= positions) & (accepted >= positions))).sum((1, 2))
    return passed / tested


def optimal_acceptance(target_masses: Tensor, draft_masses: Tensor, num_candidates: int) -> float:
    """Return the largest probability with which any exact rule can accept one of K i.i.d. candidates.

    min over sets H of 1 + target(H) - draft(H)^K: by max-flow min-cut (Strassen) the best coupling of X ~ target with K
    draws from the draft has P(X among them) = 1 - max over G of [target(G) - P(some draw is in G)], and H is the
    complement of G. The minimum is attained where target / draft lies below a level (Neyman-Pearson). K = 1 gives 1 -
    TV.

    Args:
        target_masses, draft_masses: probabilities of the same cells, (cells,); for densities, of cells so small that
            the ratio hardly varies within one.
        num_candidates: K.

    Example:
        >>> target, draft = torch.tensor([0.5, 0.5]), torch.tensor([0.9, 0.1])
        >>> [round(optimal_acceptance(target, draft, k), 3) for k in (1, 2, 4)]
        [0.6, 0.69, 0.844]
    """
    order = (target_masses.double() / draft_masses.double().clamp_min(1e-300)).argsort()
    target, draft = (
        torch.cat([m.new_zeros(1), m[order].cumsum(0)]) for m in (target_masses.double(), draft_masses.double())
    )
    return float((1 + target - draft**num_candidates).min())
