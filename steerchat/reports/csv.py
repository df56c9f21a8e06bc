"""The history for other programs: CSV with the columns of `pair_view`, and Markdown."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence

from ..storage.store import Store
from ..values.text import only_text
from .chapters import listing
from .markdown import to_markdown


def as_csv(store: Store, pair_ids: Sequence[int]) -> str:
    """A line a pair under a line of names; a text that has line breaks is in quotation marks, as RFC 4180 says."""
    rows = store.rows(pair_ids)
    if not rows:
        return ""
    out = io.StringIO()
    table = csv.DictWriter(out, list(rows[0]), lineterminator="\n")
    table.writeheader()
    table.writerows(
        {name: only_text(one) if isinstance(one, str) else one for name, one in row.items()} for row in rows
    )
    return out.getvalue()


def as_markdown(store: Store, pair_ids: Sequence[int]) -> str:
    """Each pair whole, with what was measured."""
    return to_markdown(listing(store.chosen(pair_ids)))


FORMS = {"csv": as_csv, "markdown": as_markdown}
