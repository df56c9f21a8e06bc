"""One conversation and its verbs, and what a slash command is given (Chat).

May import: measures and everything below.
Start reading: session.py.
"""
