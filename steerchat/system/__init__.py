"""The machine: folders, settings, and reading files that may be hostile.

May import: values.
Start reading: settings.py.
"""
