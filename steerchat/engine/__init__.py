"""Generation: rows of one batch, hooks that steer each row, sampling, and reading activations of answers.

May import: values and system; torch and transformers.
Start reading: engine.py, then hooks.py.
"""
