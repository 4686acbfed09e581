"""A judge for searches in processes of their own: a score that hangs on the words it is shown."""

import hashlib
from collections.abc import Iterator

from limo.engine import Completion, Request, Sampling, Take


class Judge:
    """Gives each prompt of `limo.duel` a score from 1 to 10, the same for the same words."""

    fingerprint = "judging"

    def complete(self, take: Take, sampling: Sampling) -> Iterator[tuple[Request, Completion]]:
        """See `limo.engine.Engine.complete`."""
        while requests := take(8):
            for request in requests:
                asked = request.prompt[-1]["content"]
                code = asked.partition("code ")[2][:9]
                score = 1 + hashlib.sha256(asked.encode()).digest()[0] % 10
                yield request, Completion(f'Because. {{"code": "{code}", "score": {score}}}', 9, "stop")
