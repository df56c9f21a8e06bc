"""Steering for other programs: an OpenAI-compatible server whose clients share one batch, and its page.
Start reading: web.py, then rows.py.
"""
