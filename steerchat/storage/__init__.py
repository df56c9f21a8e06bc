"""The history in SQLite: pairs, experiments, conversations and ratings.

May import: values and system.
Start reading: the tables in migrations.py, then store.py; journal.py logs a conversation while it happens.
"""
