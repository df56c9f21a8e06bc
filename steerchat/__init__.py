"""steerchat: see what goes on inside a language model by steering it while you talk to it."""

__version__ = "0.1.0"
