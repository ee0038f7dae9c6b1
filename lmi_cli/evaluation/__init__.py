"""Evaluation: records of data sets, prompts in given words, metrics, predictions and results.

Knows neither model nor terminal, and imports none of our packages but ``disk``.
"""
