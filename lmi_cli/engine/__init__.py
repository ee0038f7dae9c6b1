"""Prefill, score and decode as one loop over token blocks.

Works on token ids and yields events; knows neither text nor terminal.
"""
