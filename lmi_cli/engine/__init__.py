"""Prefill, score and decode as one loop over token blocks.

Works on token ids and yields events; knows neither text nor terminal.
"""

CHUNK = 1024
"""Tokens in one forward pass: enough for matrix products at their full rate, few enough for small
tensors."""

OFFLOADED_CHUNK = 4096
"""The same where weights lie on another device: each pass fetches all of them, so it should do
more."""

MOST_CHUNK = 2**16
"""The largest number of tokens in one forward pass; more would only take memory."""

ANSWER_TOKENS = 256
"""Longest answer, in tokens, unless the user says otherwise."""

SPECULATE = ("auto", "suffix", "none")
"""Whether tokens are drafted (:mod:`lmi_cli.engine.drafts`): ``auto`` drafts where no answer can
change by it."""

MEASURES = ("likelihood", "certainty")
"""How well a model foresees a question (:mod:`lmi_cli.engine.foresight`); the first is the
default."""

CONTRAST = 0.5
"""Weight of :class:`lmi_cli.engine.batch.Contrast` in answers, unless the user says otherwise."""
