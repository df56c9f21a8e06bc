"""Pairs, experiments and conversations as Markdown, HTML, JSON, CSV and notebook cells.

May import: experiments, screen and what is below.
Start reading: chapters.py.
"""
