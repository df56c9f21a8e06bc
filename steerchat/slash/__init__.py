"""A slash command, declared once: help, completion, parsing and the shell derive from its signature.

May import: values and system.
Start reading: registry.py.
"""
