"""The machine: folders, settings, other processes, and reading files that may be hostile.

May import: values.
Start reading: settings.py.
"""
