"""The command line, the interactive chat, completion and subcommands of the shell.

May import: everything.
Start reading: cli.py, then repl.py.
"""
