"""How many tokens a sliding window takes in memory."""


def window_capacity(window: int, chunk: int) -> int:
    """Tokens that a cache holds for a window of ``window`` tokens read in chunks of ``chunk``.

    A chunk needs the ``window - 1`` tokens before its first query and room for itself. The room is
    at least an eighth of the window, so that moving the window back to the front of its buffer,
    once the room is used up, costs little for each token.
    """
    return window - 1 + max(chunk, window // 8)
