"""The lessons: their files, the tutor, progress, demonstrations and replays.

May import: experiments and everything below.
Start reading: lesson.py, then tutor.py.
"""
