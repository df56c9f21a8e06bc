"""Drawing: columns, tables, streamed answers. Apart from the terminal package, the only one that knows rich.

May import: values and system.
Start reading: render.py.
"""
