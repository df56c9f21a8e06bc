"""The highest scores of a vocabulary."""

from __future__ import annotations

from torch import Tensor

# Scores that are looked at together, for their highest alone. torch's topk looks at each of a row on one core.
_RUN = 32


def likeliest(scores: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The highest scores of each row, the highest first.

    Args:
        scores: (rows, vocabulary)
        count: how many.

    Returns:
        scores and tokens, each (rows, count).
    """
    runs = scores.shape[1] // _RUN
    if scores.shape[1] % _RUN or count > runs // 4:
        return scores.topk(count, dim=-1)
    # A run that holds one of the highest scores is one of the runs with the highest maxima.
    in_runs = scores.unflatten(1, (runs, _RUN))
    best = in_runs.amax(dim=-1).topk(count, dim=-1, sorted=False).indices
    found = in_runs.gather(1, best[..., None].expand(-1, -1, _RUN)).flatten(1)
    values, places = found.topk(count, dim=-1)
    return values, best.gather(1, places // _RUN) * _RUN + places % _RUN
