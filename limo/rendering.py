"""Renders chat templates, which are programs written by a model's authors, in a process with time and memory limits.

    text = render_template(template, messages, ask=True, tokens={"bos_token": "<s>"})

Templates are jinja, sandboxed by transformers: they reach no file and no network, but may loop without end.
A request to the process takes longer than rendering, so `render_ahead` renders many chats in one request.
"""

import resource
from collections.abc import Mapping, Sequence
from typing import Any

from limo.data import content_id
from limo.errors import UserError
from limo.processes import Died, TimedOut, Workers, serve_questions

SECONDS = 5.0  # of processor time for one prompt
MEMORY = 2**31  # bytes
LONGEST = 2**26  # characters
WORKERS = Workers("limo.rendering", 4)
KEPT, SHORT = 1024, 2**16  # number of texts that are kept, and the most characters of each
_texts = dict[str, str]()  # by the id of the request


class TemplateRefused(Exception):
    """Raised when the template rejects the messages; holds the template's message."""


def render_template(template: str, messages: Sequence[Any], ask: bool, tokens: Mapping[str, Any]) -> str:
    """Render a chat to text. With `ask`, the text ends with the start of the assistant's turn.

    Raises TemplateRefused if the template rejects the messages, jinja2.TemplateSyntaxError if it is not valid jinja,
    and UserError if it takes too long or too much memory.
    """
    from jinja2 import TemplateSyntaxError

    if kept := _texts.get(_name(template, messages, ask, tokens)):
        return kept
    try:
        ((kind, text, line),) = WORKERS.ask((template, [list(messages)], ask, dict(tokens)), SECONDS)
    except TimedOut:
        kind, text = "limit", f"more than {SECONDS:g} s"
    except Died:
        kind, text = "limit", "too much memory"
    if kind == "limit":
        raise UserError(f"the chat template takes {text} for a chat of {len(messages)} messages: use another one")
    if kind == "syntax":
        raise TemplateSyntaxError(text, line)
    if kind == "refused":
        raise TemplateRefused(text)
    _keep({_name(template, messages, ask, tokens): str(text)})
    return str(text)


def render_ahead(template: str, chats: Sequence[Sequence[Any]], ask: bool, tokens: Mapping[str, Any]) -> None:
    """Render several chats at once into the cache of `render_template`, which raises the errors when it is called."""
    try:
        found = WORKERS.ask((template, list(map(list, chats)), ask, dict(tokens)), SECONDS)
    except (TimedOut, Died):
        return
    names = (_name(template, chat, ask, tokens) for chat in chats)
    _keep({name: text for name, (kind, text, _) in zip(names, found, strict=False) if kind == "text"})


def _name(*question: Any) -> str:
    return content_id(question, 16)


def _keep(texts: Mapping[str, str]) -> None:
    if len(_texts) + len(texts) > KEPT:
        _texts.clear()
    _texts.update((name, text) for name, text in texts.items() if len(text) <= SHORT)


def render_all(question: tuple[str, list[list[Any]], bool, dict[str, Any]]) -> list[tuple[str, str, int]]:
    """Render chats in the worker process. Returns for each the kind of result, the text or the reason, and the line of
    an error; stops after LONGEST characters.
    """
    template, chats, ask, tokens = question
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, resource.RLIM_INFINITY))
    found, room = list[tuple[str, str, int]](), LONGEST
    for messages in chats:
        found.append(_answer(template, messages, ask, tokens))
        room -= len(found[-1][1])
        if room < 0:
            break
    return found


def _answer(template: str, messages: list[Any], ask: bool, tokens: dict[str, Any]) -> tuple[str, str, int]:
    from jinja2 import TemplateError, TemplateSyntaxError
    from transformers.utils.chat_template_utils import render_jinja_template

    try:
        rendered, _ = render_jinja_template([messages], chat_template=template, add_generation_prompt=ask, **tokens)
    except TemplateSyntaxError as error:
        return "syntax", str(error.message), error.lineno
    except (MemoryError, OverflowError):
        return "limit", "too much memory", 0
    except (
        TemplateError,
        ValueError,
        TypeError,
        RecursionError,
        ArithmeticError,
        LookupError,
        AttributeError,
    ) as error:
        return "refused", str(error), 0
    return ("text", rendered[0], 0) if len(rendered[0]) <= LONGEST else ("limit", f"{len(rendered[0]):,} characters", 0)


if __name__ == "__main__":
    serve_questions(render_all)
