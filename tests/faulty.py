"""A chat server that fails in every way that servers do. It answers on loopback, counts what it did, and ends itself.

    with faulty(share=0.2, kinds=["429", "hang"]) as server:
        engine = ServerEngine(model="m", base_urls=[server.url], ...)
        server.counts()

A request fails by chance with one of `kinds`, or surely where its text holds `[[kind]]`. A completion is `made` once
the work is done, which a provider charges, and `delivered` once the client has all of it.
"""

import argparse
import asyncio
import gzip
import json
import random
import re
import subprocess
import sys
import urllib.request
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from tests.conftest import ROOT

LIFE = 300  # seconds after which a server ends itself, whatever becomes of the test
BEFORE = (
    "429",
    "429-inf",
    "429-none",
    "500",
    "503",
    "reset",
    "401",
    "402",
    "404",
    "307",
    "400",
    "context",
    "echo",
    "endless",
)
HOSTILE = ("nested", "nested-error", "nested-event", "huge", "bomb", "comments", "flood", "parts-null")
LOST = ("hang", "cut", "not-json", "truncated", "empty", "error-200")
ODD = ("wrong-count", "no-count", "negative-count", "twice")
USAGES: dict[str, Any] = {  # further kinds: what stands for the tokens, of prompt and completion alike
    **{"usage-huge": 10**20, "usage-float-huge": 1e20, "usage-float": 9.0, "usage-text": "9", "usage-true": True},
    **{"usage-null": None, "usage-zero": 0, "usage-negative": -900},
}


class Faulty:
    """The server's state."""

    def __init__(self, share: float, kinds: Sequence[str], seed: int, latency: float) -> None:
        self.share, self.kinds, self.random, self.latency = share, list(kinds), random.Random(seed), latency
        self.faults, self.made, self.delivered = Counter[str](), Counter[str](), Counter[str]()
        self.bodies: list[dict[str, Any]] = []
        self.under_way = self.most_under_way = 0

    async def connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Requests of one connection, one after the other."""
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            while await self.request(reader, writer):
                await writer.drain()
        writer.close()

    async def request(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """One request. Returns whether the connection goes on."""
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        length = re.search(r"content-length: (\d+)", head, re.I)
        body = await reader.readexactly(int(length[1]) if length else 0)
        if head.startswith("GET /counts"):
            names = ("faults", "made", "delivered", "bodies", "most_under_way")
            respond(writer, 200, {name: getattr(self, name) for name in names})
            return True
        if head.startswith("GET "):
            down = self.share >= 1 and self.kinds == ["503"]
            respond(writer, 503 if down else 200, {"object": "list", "data": []})
            return True
        asked = json.loads(body)
        self.bodies = [*self.bodies[-2:], asked]
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        try:
            return await self.chat(asked, head, writer)
        finally:
            self.under_way -= 1

    async def chat(self, asked: dict[str, Any], head: str, writer: asyncio.StreamWriter) -> bool:
        """Answer, or fail."""
        text = asked["messages"][-1]["content"] if "messages" in asked else f"ids {asked['prompt'][-3:]}"
        named = re.search(r"\[\[([\w-]+)\]\]", text)
        fault = named[1] if named else ""
        if not fault and self.random.random() < self.share:
            fault = self.random.choice(self.kinds)
        self.faults[fault or "none"] += 1
        if fault == "stuck" or (fault == "room" and asked["max_tokens"] > 60):
            said = "This model's maximum context length is 64 tokens and your request has 4 input tokens"
            respond(writer, 400, {"error": {"message": said}})
            return True
        if fault in BEFORE:
            await asyncio.sleep(self.latency / 2)
            return await before(fault, head, asked, writer)
        await asyncio.sleep(self.latency)
        name = f"{text}/{asked.get('seed')}"
        self.made[name] += 1
        if fault == "hang":
            await asyncio.sleep(30)
            return False
        if fault in HOSTILE:
            return await attack(fault, writer)
        whole = completion(asked, text, fault)
        if fault in LOST:
            return lose(fault, whole, writer)
        send(whole, asked.get("stream", False), writer)
        await writer.drain()
        self.delivered[name] += 1
        return True


def spellings(text: str) -> list[str]:
    """A text as servers and their gateways usually echo it."""
    return [text, text.upper(), text.lower(), json.dumps({"headers": {"authorization": text}})]


async def before(fault: str, head: str, asked: dict[str, Any], writer: asyncio.StreamWriter) -> bool:
    """A fault before any work."""
    error = {"error": {"message": f"{fault} it is", "type": fault}}
    if fault == "reset":
        writer.transport.abort()
        return False
    if fault == "echo":
        key = re.search(r"authorization: (.*)\r", head, re.I)
        said = "bad header authorization: " + ", ".join(spellings(key[1]) if key else [])
        respond(writer, 400 if "refuse" in str(asked["messages"]) else 500, {"error": {"message": said}})
    elif fault == "context":
        said = "This model's maximum context length is 100 tokens. However, your request has 900 input tokens."
        respond(writer, 400, {"error": {"message": said, "code": "context_length_exceeded"}})
    elif fault.startswith("429"):
        wait = {"429": "0.05", "429-inf": "inf"}.get(fault)
        respond(writer, 429, error, {"Retry-After": wait} if wait else {})
    elif fault == "endless":
        respond(writer, 429, error, {"Retry-After": "86400"})
    else:
        respond(writer, int(fault), error)
    return True


async def attack(fault: str, writer: asyncio.StreamWriter) -> bool:
    """A reply that is made to hurt: too deep, too large, or without end."""
    deep = b"[" * 100_000
    match fault:
        case "nested":
            respond(writer, 200, b'{"choices": ' + deep)
        case "nested-error":
            respond(writer, 400, b'{"error": ' + deep)
        case "nested-event":
            respond(writer, 200, b"data: {" + deep + b"\n\n", {"Content-Type": "text/event-stream"})
        case "bomb":
            respond(writer, 200, gzip.compress(b" " * 50_000_000), {"Content-Encoding": "gzip"})
        case "parts-null":
            respond(
                writer,
                200,
                {
                    "choices": [
                        {
                            "index": 0,
                            "message": {"content": None, "refusal": "I would rather not."},
                            "finish_reason": "stop",
                        }
                    ]
                },
            )
            return True
        case _:
            head = "HTTP/1.1 200 X\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
            writer.write(head.encode())
            piece = {
                "comments": b": still here\n\n",
                "flood": b'data: {"choices": []}\n\n' * 500,
                "huge": b" " * 65536,
            }[fault]
            with suppress(ConnectionError):
                for _ in range(20_000):
                    writer.write(f"{len(piece):x}\r\n".encode() + piece + b"\r\n")
                    await writer.drain()
                    await asyncio.sleep(0.05 if fault == "comments" else 0)
            return False
    await writer.drain()
    return True


def completion(asked: dict[str, Any], text: str, fault: str) -> dict[str, Any]:
    """A whole completion that depends on prompt and seed, with what is odd about it."""
    said = f"Reply to {text} with {asked.get('seed')}."
    message: dict[str, Any] = {"role": "assistant", "content": said}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    if "prompt" in asked:
        choice = {"index": 0, "text": said, "finish_reason": "stop"}
    count: Any = {"wrong-count": 10**9, "negative-count": -3}.get(fault, len(said.split()))
    whole: dict[str, Any] = {"object": "chat.completion", "choices": [choice]}
    whole["usage"] = {"prompt_tokens": 7, "completion_tokens": count}
    if fault == "no-count":
        del whole["usage"]
    if fault in USAGES:
        whole["usage"] = {"prompt_tokens": USAGES[fault], "completion_tokens": USAGES[fault]}
    if fault == "usage-list":
        whole["usage"] = [7, 9]
    if fault == "hidden":
        whole["usage"]["completion_tokens"] = 4_800
    if fault == "null":
        message["content"] = None
    if fault == "twice":
        whole["choices"] = [choice, choice]
    if fault == "empty":
        whole["choices"] = []
    if fault == "filter":
        choice["finish_reason"] = "content_filter"
    if fault == "length":
        choice["finish_reason"] = "length"
    if fault == "separator":
        message["content"] = "one\u2028two\x85three\x0bfour"
    if fault == "parts":
        message["content"] = [{"type": "text", "text": "It "}, "is ", {"type": "text", "text": "4."}]
    if fault == "reasoning":
        message |= {"reasoning_content": "Let me see.", "content": "It is 4."}
    return whole


def lose(fault: str, whole: dict[str, Any], writer: asyncio.StreamWriter) -> bool:
    """Send less than the whole, or something else."""
    data = json.dumps(whole, ensure_ascii=False).encode()
    if fault == "cut":
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(data) + data[: len(data) // 2])
    elif fault == "truncated":  # well-formed HTTP, half of the content
        whole["choices"][0]["finish_reason"] = None
        send(whole, True, writer, ends=False)
        return True
    elif fault == "not-json":
        respond(writer, 200, b"<html>Bad gateway</html>")
        return True
    elif fault == "error-200":
        respond(writer, 200, {"error": {"message": "upstream failed", "code": 502}})
        return True
    else:
        respond(writer, 200, whole)
        return True
    writer.close()
    return False


def send(whole: dict[str, Any], stream: bool, writer: asyncio.StreamWriter, ends: bool = True) -> None:
    """A completion as one body, or as a stream of its words."""
    if not stream or whole["choices"][0].get("message", {"content": ""})["content"] is None:
        respond(writer, 200, whole)
        return
    events = []
    for choice in whole["choices"]:
        message = choice["message"]
        if "reasoning_content" in message:
            events.append({"choices": [{"index": 0, "delta": {"reasoning_content": message["reasoning_content"]}}]})
        half = len(message["content"]) // 2
        for piece in (message["content"][:half], message["content"][half:]):
            events.append({"choices": [{"index": 0, "delta": {"content": piece}}]})
        events.append({"choices": [{"index": 0, "delta": {}, "finish_reason": choice["finish_reason"]}]})
        break  # a second choice would be the next event's second one
    if len(whole["choices"]) > 1:
        events = [{"choices": [*event["choices"], *event["choices"]]} for event in events]
    if not ends:
        events = events[:2]
    elif "usage" in whole:
        events.append({"choices": [], "usage": whole["usage"]})
    data = "".join(f"data: {json.dumps(event, ensure_ascii=False)}\n\n" for event in events) + "data: [DONE]\n\n"
    respond(writer, 200, data.encode("utf-8", "replace"), {"Content-Type": "text/event-stream"})


def respond(writer: asyncio.StreamWriter, status: int, body: Any, headers: dict[str, str] | None = None) -> None:
    """A response with a whole body."""
    data = body if isinstance(body, bytes) else json.dumps(body, ensure_ascii=False).encode("utf-8", "replace")
    lines = [f"HTTP/1.1 {status} X", f"Content-Length: {len(data)}", *(f"{k}: {v}" for k, v in (headers or {}).items())]
    writer.write("\r\n".join(lines).encode() + b"\r\n\r\n" + data)


class Running:
    """A faulty server in a process of its own."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        assert process.stdout
        self.process, self.port = process, int(process.stdout.readline())
        self.url = f"http://127.0.0.1:{self.port}/v1"

    def counts(self) -> Any:
        """What it has done so far."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/counts", timeout=10) as answer:
            return json.load(answer)

    def stop(self) -> None:
        """End it."""
        self.process.kill()
        self.process.wait()


@contextmanager
def faulty(
    share: float = 0.0, kinds: Sequence[str] = ("500",), seed: int = 0, latency: float = 0.0, port: int = 0
) -> Iterator[Running]:
    """A faulty server while the block runs; `share` of its requests fail with one of `kinds`."""
    settings = ["--share", str(share), "--kinds", *kinds, "--seed", str(seed), "--latency", str(latency)]
    command = [sys.executable, "-m", "tests.faulty", *settings, "--port", str(port)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        running = Running(process)
        try:
            yield running
        finally:
            running.stop()


async def serve(state: Faulty, port: int) -> None:
    """Answer until the server's life is over."""
    server = await asyncio.start_server(state.connection, "127.0.0.1", port, limit=2**24, backlog=1024)
    sys.stdout.write(f"{server.sockets[0].getsockname()[1]}\n")
    sys.stdout.flush()
    with suppress(TimeoutError):
        await asyncio.wait_for(server.serve_forever(), LIFE)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--share", type=float, default=0.0)
    parser.add_argument("--kinds", nargs="+", default=["500"])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--latency", type=float, default=0.0)
    parser.add_argument("--port", type=int, default=0)
    given = parser.parse_args()
    asyncio.run(serve(Faulty(given.share, given.kinds, given.seed, given.latency), given.port))
