"""The rules that find a benchmark's problems in a text: ours, and those that ours is compared with."""

import re
from collections.abc import Callable, Iterable, Sequence


class WhiteSpaceRuns:
    """open-r1's rule (`scripts/decontaminate.py`): runs of eight words between white space, in lower case."""

    def __init__(self, texts: Iterable[str]) -> None:
        self.index: dict[str, set[int]] = {}
        for at, text in enumerate(texts):
            for run in self._runs(text):
                self.index.setdefault(run, set()).add(at)

    def held(self, text: str) -> dict[int, str]:
        """The known texts that a text shares a run with."""
        return {at: "same" for run in self._runs(text) for at in self.index.get(run, ())}

    def _runs(self, text: str) -> list[str]:
        words = re.sub(r"\s+", " ", text.lower().strip()).split(" ")
        return [" ".join(words[at : at + 8]) for at in range(len(words) - 7)]


def rules(problems: Sequence[str]) -> dict[str, Callable[[str], dict[int, str]]]:
    """Each rule as a function from a text to the known problems in it, with the verdict."""
    from curation.matching.known import Known, WordRuns
    from curation.matching.similar import tokens

    ours, words = Known(problems), WordRuns(problems, 8)
    latex = WhiteSpaceRuns([" ".join(tokens(text)) for text in problems])
    return {
        "ours": lambda text: {hit.at: hit.kind for hit in ours.matches(text)},
        "words-8": lambda text: {hit.at: hit.kind for hit in words.matches(text)},
        "open-r1": WhiteSpaceRuns(problems).held,
        "open-r1, our tokens": lambda text: latex.held(" ".join(tokens(text))),
    }
