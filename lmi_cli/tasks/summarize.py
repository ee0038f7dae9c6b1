"""Summarise a document in one reading: a question that is always the same."""

SUMMARY_QUESTION = "Summarize the text above in three sentences."
"""The wording that measured best; see ``docs/prompts.md``."""
