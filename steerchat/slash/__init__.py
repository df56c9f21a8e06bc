"""Slash commands: each is declared once, and its signature gives parsing, help, completion and the shell's options.

May import: values and system; it draws nothing and runs no command.
Start reading: registry.py.
"""
