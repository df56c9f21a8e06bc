"""The slash commands. A handler calls a verb of the session with the parsed arguments, and returns what to show.

May import: everything but the terminal package.
Start reading: steering.py.
"""

# ruff: noqa: F401, I001  # help and the menu list them in this order, the most used first
from . import steering, concepts, experiments, evaluation, conversation, notebook, verdicts, sessions, reports, plots
from . import learning, setup, doctor
