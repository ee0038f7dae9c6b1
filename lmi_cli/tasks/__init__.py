"""Questions, summaries, scores: tasks take sources and a model, and return typed reports.

Tasks combine ``sources``, ``text`` and ``engine`` and yield events; they print nothing.
"""
