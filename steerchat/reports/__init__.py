"""Reports of the history and of experiments: Markdown, JSON, HTML, CSV, and HTML for notebook cells.

May import: every package but commands, serve, terminal and api.
Start reading: report.py, then chapters.py.
"""
