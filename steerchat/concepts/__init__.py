"""Concepts: contrast pairs on disk, concept vectors, extraction, import and export.

May import: models, engine, system and values; torch.
Start reading: concept.py, then extract.py.
"""
