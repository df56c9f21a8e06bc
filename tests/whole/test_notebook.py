"""A notebook shows a pair, a sweep and a concept's pairs in two dimensions."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest
from tiny import write_concepts

from steerchat.reports import cells  # noqa: F401  # declares what notebooks show
from steerchat.system import folders
from steerchat.values.chart import Matrix
from steerchat.values.errors import UsageError

CELLS = [
    """
import steerchat
from pathlib import Path
from steerchat.system import folders
folders.packaged = lambda name: Path("{shipped}")
model = steerchat.load(max_tokens=6)
model.steer("happy 2 4.0")
pair = model.pair("How are you?")
pair
""",
    """sweep = model.strengths("How are you?", repeats=2, tokens=4)
sweep""",
    "sweep.plot()",
    """points = model.contrast("happy", [0, 3])
points""",
    "points.plot()",
    "model.why(pair)",
    'model.concept("sad"), model.cosines().plot().savefig("cosines.pdf")',
]


@pytest.mark.slow
@pytest.mark.subprocess
def test_a_notebook_shows_pairs_sweeps_and_points(tmp_path: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch):
    nbclient, nbformat = pytest.importorskip("nbclient"), pytest.importorskip("nbformat")
    shipped = write_concepts(tmp_path / "shipped")
    shutil.copy(folders.packaged("vectors") / "texts" / "lexicons.toml", shipped / "texts")
    for name, value in (("HOME", tmp_path / "home"), ("MODEL", tiny_folder), ("DEVICE", "cpu")):
        monkeypatch.setenv(f"STEERCHAT_{name}", str(value))
    codes = [nbformat.v4.new_code_cell(cell.replace("{shipped}", str(shipped)).strip()) for cell in CELLS]
    book = nbformat.v4.new_notebook(cells=codes)
    nbclient.NotebookClient(book, timeout=120, resources={"metadata": {"path": str(tmp_path)}}).execute()
    shown = [
        next(output["data"] for output in cell.outputs if output.output_type == "execute_result")
        for cell in book.cells[:6]
    ]
    assert "steered: happy 2 x 4" in shown[0]["text/html"]
    assert shown[1]["text/html"].count("<svg") >= 3 and "<script" not in shown[1]["text/html"]
    assert "<svg" in shown[2]["image/svg+xml"] and shown[3]["text/html"].count("<svg") == 2
    assert "contrast pairs of happy" in shown[4]["image/svg+xml"]
    # The token strip: surprise, the concept in both answers, and the text with each token's probability.
    assert shown[5]["text/html"].count("<svg") == 2 and 'class="text tokens"' in shown[5]["text/html"]
    assert (tmp_path / "cosines.pdf").read_bytes().startswith(b"%PDF")


def test_without_the_library_a_value_says_how_to_get_its_figure(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(UsageError, match="not installed"):
        Matrix("cosines", "concept", ["happy"], [("happy", [1.0])]).plot()
