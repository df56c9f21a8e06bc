"""Many settings and seeds at once: sweeps, controls, tuning, evaluation, the chance band, benchmarks.

May import: conversation and everything below.
Start reading: settings.py, then run.py.
"""
