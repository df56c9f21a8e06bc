"""The notebook in SQLite: pairs, experiments, conversations, ratings.

May import: values and system.
Start reading: store.py; journal.py writes a conversation as it happens.
"""
