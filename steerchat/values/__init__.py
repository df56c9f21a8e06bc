"""Values that all packages exchange: errors, recipes, answers, pairs and events, pages and their text.

May import: the standard library and rich's character widths; no other package of steerchat.
Start reading: results.py, whose events every screen draws; recipe.py says what steering is.
"""
