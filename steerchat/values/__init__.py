"""What everything passes around: errors, recipes, pairs and events, pages of tables and text.

May import: Only the standard library; no other package of steerchat.
Start reading: results.py, whose events every screen draws.
"""
