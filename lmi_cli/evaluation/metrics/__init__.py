"""Metrics of answers, a module for each family; ``table`` has them by name.

Each takes an answer and one right answer, or all of them, and returns a number from 0 to 1.
"""
