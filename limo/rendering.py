"""Renders a chat template, which is a program of whoever made the model, in a process with limits of time and memory.

    text = render_template(template, messages, ask=True, tokens={"bos_token": "<s>"})

Templates are jinja, sandboxed by transformers: they reach no file and no network, and may still loop without end.
"""

import resource
from collections.abc import Mapping, Sequence
from typing import Any

from limo.errors import UserError
from limo.processes import Died, TimedOut, Workers, serve

SECONDS = 5.0  # of processor time for one prompt
MEMORY = 2**31  # bytes
LONGEST = 2**26  # characters
WORKERS = Workers("limo.rendering", 4)


class Refused(Exception):
    """The template does not take these messages, in its own words."""


def render_template(template: str, messages: Sequence[Any], ask: bool, tokens: Mapping[str, Any]) -> str:
    """The text of a chat; with `ask`, up to the start of the assistant's turn.

    Raises Refused where the template refuses the messages, jinja2.TemplateSyntaxError where it is not one, and
    UserError where it takes too long or too much memory.
    """
    from jinja2 import TemplateSyntaxError

    try:
        kind, text, line = WORKERS.ask((template, list(messages), ask, dict(tokens)), SECONDS)
    except TimedOut:
        kind, text = "limit", f"more than {SECONDS:g} s"
    except Died:
        kind, text = "limit", "too much memory"
    if kind == "limit":
        raise UserError(f"the chat template takes {text} for a chat of {len(messages)} messages: use another one")
    if kind == "syntax":
        raise TemplateSyntaxError(text, line)
    if kind == "refused":
        raise Refused(text)
    return str(text)


def answer(question: tuple[str, list[Any], bool, dict[str, Any]]) -> tuple[str, str, int]:
    """What became of a chat, with its text or the reason."""
    from jinja2 import TemplateError, TemplateSyntaxError
    from transformers.utils.chat_template_utils import render_jinja_template

    template, messages, ask, tokens = question
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, resource.RLIM_INFINITY))
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
    serve(answer)
