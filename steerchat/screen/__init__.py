"""Drawing on a terminal: values as lines, answers that stream in columns, progress. Uses rich.

May import: values and system.
Start reading: render.py, which draws a stream of events; lines.py turns every other value into lines.
"""
