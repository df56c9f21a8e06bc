"""Pairs of the history for other programs: CSV with the columns of `pair_view`, and Markdown."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence

from ..storage.store import Store
from ..values.text import only_text
from .chapters import listing
from .markdown import to_markdown


def as_csv(store: Store, pair_ids: Sequence[int]) -> str:
    """A header and one line for each pair, with texts quoted as RFC 4180 says."""
    out = io.StringIO()
    table = csv.DictWriter(out, store.columns, lineterminator="\n")
    table.writeheader()
    for row in store.rows(pair_ids):
        table.writerow({name: only_text(value) if isinstance(value, str) else value for name, value in row.items()})
    return out.getvalue()


def as_markdown(store: Store, pair_ids: Sequence[int]) -> str:
    """Each pair whole, with its measures."""
    return to_markdown(listing(store.chosen(pair_ids)))


FORMS = {"csv": as_csv, "markdown": as_markdown}
