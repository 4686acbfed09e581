"""What tests in other processes need: a judge whose score follows from the words, and a command that fails."""

import hashlib
import json
from collections.abc import Iterator
from typing import Any

from limo.engines.protocol import Completion, Request, Sampling, Take
from limo.errors import UserError


class Judge:
    """Gives each prompt of `limo.discover.fitness.judge_answers` a score from 1 to 10, the same for the same words."""

    fingerprint = "judging"

    def complete(self, take: Take, sampling: Sampling) -> Iterator[tuple[Request, Completion]]:
        """See `limo.engines.protocol.Engine.complete`."""
        while requests := take(8):
            for request in requests:
                asked = request.prompt[-1]["content"]
                code = asked.partition("code ")[2][:9]
                score = 1 + hashlib.sha256(asked.encode()).digest()[0] % 10
                yield request, Completion(f'Because. {{"code": "{code}", "score": {score}}}', 9, "stop")


def fail_with(*, given: dict[str, Any]) -> None:
    """Ends a command with what it was given."""
    raise UserError(json.dumps(given))
