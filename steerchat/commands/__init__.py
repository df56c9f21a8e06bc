"""The slash commands. A handler turns parsed arguments into a verb of the session, and returns what to show."""

from . import conversation, experiments, notebook, setup, steering

__all__ = ["conversation", "experiments", "notebook", "setup", "steering"]
