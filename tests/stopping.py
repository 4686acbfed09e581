"""Early stopping replayed over recorded attempts."""

from curation.stages.stopping import Window


def attempts_needed(outcomes: str, window: Window) -> int:
    """How many attempts of a recorded sequence the rule needs: "r" is right, "u" unknown, anything else wrong.

    >>> attempts_needed("wrwrrwrr", Window(8, 1, 3, "drop"))
    7
    """
    attempts = 0
    while more := window.further(outcomes[:attempts].count("r"), outcomes[:attempts].count("u"), attempts):
        attempts += more
    return attempts
