"""Which products a model's linear layers use on this machine, measured anew and shown."""

from __future__ import annotations

from ..conversation.chat import Chat
from ..values.errors import ModelError
from ..values.page import Page, Table


def choose_again(chat: Chat) -> Page:
    """Load the model once more, which times every backend for it, and show the times.

    Raises ModelError when there is nothing to choose, as on a GPU.
    """
    from ..engine.linear import ROWS
    from ..models.kernel_times import forget_times, machine

    forget_times(chat.session.engine.fingerprint)
    kernels = chat.switch_model(chat.loader.name).kernels
    if kernels is None or not kernels.times:
        raise ModelError(
            "this model's products are not chosen by measuring",
            "those of a CPU are, for any but tiny models, unless other programs keep the machine too busy",
        )
    rows, objects = [], []
    for (out, size, bits), times in kernels.times.items():
        for name, seconds in times.items():
            best = [min(other[place] for other in times.values()) for place in range(len(ROWS))]
            cells = [f"{s * 1e6:.0f}{' *' if s == least else ''}" for s, least in zip(seconds, best, strict=True)]
            rows.append((f"{out} x {size}", str(bits), name, *cells))
            objects.append(
                {"weight": [out, size], "bits": bits, "backend": name, "seconds": dict(zip(ROWS, seconds, strict=True))}
            )
    headings = ("weight", "bits", "backend", *(f"{count} rows" if count > 1 else "1 row" for count in ROWS))
    facts = machine()
    where = f"{facts['cpu']}, {facts['instructions']}, {facts['threads']} threads, torch {facts['torch']}"
    table = Table(headings, rows, right=frozenset(range(3, len(headings))))
    return Page([f"Microseconds of one product; * is the quickest. {where}", table, kernels.description], objects)
