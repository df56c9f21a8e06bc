"""From a name to a loaded model: find, fetch, describe, check memory, load.

May import: engine, system and values; torch and transformers.
Start reading: find.py, then load.py.
"""
