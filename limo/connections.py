"""HTTP to chat servers: one request, and what came of it.

What a server says is read by `limo/replies.py`; what follows from it is decided by `limo/engine_openai.py`.
"""

import asyncio
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from limo.errors import UserError
from limo.replies import Failure, Reply, Stream, read_body, refusal
from limo.servers import Server

if TYPE_CHECKING:
    import httpx

CONNECT = 10.0  # seconds to reach a server


class Clients:
    """HTTP clients, one for each request under way.

    The pool of a single client looks through all of its connections at every request, which takes longer than the
    request. `timeout` is in seconds. Raises UserError if httpx is not installed.
    """

    def __init__(self, timeout: float) -> None:
        try:
            import httpx
        except ImportError:
            raise UserError("an OpenAI-compatible server needs httpx: pip install 'limo-toolkit[openai]'") from None
        self.timeout, self.secure = httpx.Timeout(timeout, connect=CONNECT), httpx.create_ssl_context()
        self.idle, self.made = list[httpx.AsyncClient](), list[httpx.AsyncClient]()

    async def post(
        self,
        server: Server,
        body: Mapping[str, Any],
        stream: bool,
        hidden: Callable[[str], str],
        lives: Callable[[Server], None],
    ) -> Reply:
        """What a server replies to a request. Raises Failure for everything that is no reply.

        `hidden` takes keys out of what the server says, `lives` is told of pieces that arrive.
        """
        import httpx

        url, headers = f"{server.url}/chat/completions", {**server.headers, "Content-Type": "application/json"}
        content = json.dumps(body)  # in ASCII: half a surrogate pair has no UTF-8, and is the server's to refuse
        try:
            with self._one() as client:
                async with client.stream("POST", url, content=content, headers=headers) as answer:
                    if answer.status_code == 200 and stream:
                        gathered = Stream(hidden)
                        async for piece in answer.aiter_bytes():
                            if gathered.feed(piece):
                                lives(server)
                        return gathered.ended()
                    await answer.aread()
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout) as error:
            raise Failure("unreachable", "unreachable", hidden(str(error)) or type(error).__name__) from None
        except httpx.TimeoutException:
            raise Failure("again", "timeout", f"no answer for {self.timeout.read:g} s", lost=True) from None
        except httpx.HTTPError as error:
            raise Failure("again", "cut off", hidden(str(error)) or type(error).__name__, lost=True) from None
        if answer.status_code != 200:
            raise refusal(answer.status_code, hidden(answer.text), answer.headers)
        return read_body(hidden(answer.text))

    async def alive(self, server: Server) -> bool:
        """Whether a server answers the question for its models, which costs nothing."""
        import httpx

        try:
            with self._one() as client:
                answer = await client.get(f"{server.url}/models", headers=server.headers, timeout=CONNECT)
        except httpx.HTTPError:
            return False
        return answer.status_code < 500

    async def close(self) -> None:
        """Close all connections."""
        await asyncio.gather(*(client.aclose() for client in self.made))

    @contextmanager
    def _one(self) -> "Iterator[httpx.AsyncClient]":
        """A client that nobody else uses meanwhile, with its connections from before."""
        import httpx

        if not self.idle:
            self.idle.append(httpx.AsyncClient(timeout=self.timeout, verify=self.secure))
            self.made += self.idle
        client = self.idle.pop()
        try:
            yield client
        finally:
            self.idle.append(client)
