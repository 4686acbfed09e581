"""What the loss sees under the chat templates of real models, and mistakes of rows, tokenizers and templates."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from limo.chat import (
    MASKED,
    Rendered,
    completion_ids,
    controls,
    loss_text,
    pad_id,
    prompt_ids,
    render,
    set_template,
    turn_end,
)
from limo.data import Example, Message, chat
from limo.errors import UserError
from limo.model import EMBEDDED
from limo.training.audit import check_row, look, reasons
from tests.conftest import CHATML

SYSTEM = "Reason step by step; answer in a box."
PLAIN = "12 and 3 are\n\n 15, so \\boxed{15}."
THOUGHT = f"<think>\nTwelve, then thirteen,\n\tfourteen, fifteen.\n</think>\n\n{PLAIN} \n"
LATIN = (
    "Solve the problem step by step: 12 + 3 = 15. The answer is \\boxed{15}. <think>\n</think> assistant user system"
)


@dataclass(frozen=True)
class Family:
    """A template that trl ships as `file`, and the tokens that tokenizers of the kind have."""

    file: str  # "" for the embedded model
    end: str  # of a turn, learned
    special: tuple[str, ...]
    ordinary: tuple[str, ...] = ()  # added tokens that the tokenizer does not call special
    bos: str | None = None
    eos: str = ""  # where it is not `end`
    thought: str = ""  # the first words of the reason why a chain with a think block is refused
    plain: str = ""  # and one without
    system: bool = True


IM = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
THINK = ("<think>", "</think>", "<tool_call>", "</tool_call>")
HEADERS = ("<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")
TURNS = ("<pad>", "<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>")
DEEP = ("<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>")
LEFT_OPEN = "a think block is left open"
FAMILIES = {
    "Qwen2.5": Family("qwen2_5", "<|im_end|>", IM),
    "Qwen3": Family("qwen3", "<|im_end|>", IM, THINK),
    "Qwen3.5, thinking": Family("qwen3_5_think", "<|im_end|>", IM, THINK, plain=LEFT_OPEN),
    "Qwen3.8": Family("qwen3_8", "<|im_end|>", IM, THINK, plain=LEFT_OPEN),
    "Qwen3.5, not thinking": Family("qwen3_5_nothink", "<|im_end|>", IM, THINK, thought="a second think block"),
    "R1-Distill": Family(
        "deepseek_r1_distill", DEEP[1], DEEP, ("<｜User｜>", "<｜Assistant｜>", *THINK), DEEP[0], plain=LEFT_OPEN
    ),
    "Llama-3": Family("llama3", "<|eot_id|>", HEADERS, (), HEADERS[0], HEADERS[1]),
    "Llama-3.1": Family("llama3_1", "<|eot_id|>", HEADERS, (), HEADERS[0], HEADERS[1]),
    "Gemma 2": Family("gemma", "<end_of_turn>", TURNS, (), "<bos>", "<eos>", system=False),
    "Gemma 3": Family("gemma3", "<end_of_turn>", TURNS, (), "<bos>", "<eos>"),
    "SmolLM2": Family("", "<|im_end|>", ()),
}


@cache
def raw() -> str:
    """A small byte-level tokenizer, as JSON."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.normalizer = normalizers.NFC()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    made.train_from_iterator(
        [LATIN] * 9, trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet, show_progress=False)
    )
    return made.to_str()


def wrapped(made: Tokenizer, template: str | None, **tokens: str | None) -> Any:
    from transformers import PreTrainedTokenizerFast

    tokenizer = PreTrainedTokenizerFast(tokenizer_object=made, **tokens)
    tokenizer.chat_template = template
    return tokenizer


def built(template: str | None, family: Family) -> Any:
    """The small tokenizer with a family's own tokens. Those with a BOS token put it before every text."""
    made = Tokenizer.from_str(raw())
    made.add_special_tokens([AddedToken(t, normalized=False, special=True) for t in family.special])
    made.add_tokens([AddedToken(t, normalized=False, special=False) for t in family.ordinary])
    if family.bos:
        made.post_processor = processors.TemplateProcessing(
            single=f"{family.bos} $A", special_tokens=[(family.bos, made.token_to_id(family.bos))]
        )
    return wrapped(made, template, bos_token=family.bos, eos_token=family.eos or family.end)


@cache
def tokenizer_of(name: str) -> Any:
    family = FAMILIES[name]
    if not family.file:
        from transformers import AutoTokenizer

        package, _, file = EMBEDDED["embedded:smollm2-135m-instruct"]  # the tokenizer only: weights take a while
        return AutoTokenizer.from_pretrained(folder_of(package), gguf_file=file)
    return built((folder_of("trl") / "chat_templates" / f"{family.file}.jinja").read_text("utf-8"), family)


def folder_of(package: str) -> Path:
    spec = find_spec(package)
    assert spec and spec.origin, package
    return Path(spec.origin).parent


def asked(name: str, question: str = "What is 12 + 3?") -> tuple[Message, ...]:
    return chat(question, SYSTEM if FAMILIES[name].system else "")


def row(completion: str, prompt: tuple[Message, ...] = chat("What is 12 + 3?", SYSTEM), **more: Any) -> Example:
    return Example("a", prompt, "15", completion, **more)


def decoded(tokenizer: Any, ids: Sequence[int]) -> str:
    return str(tokenizer.decode(list(ids), clean_up_tokenization_spaces=False))


def learned(rendered: Rendered) -> list[int]:
    return [label for label in rendered.labels if label != MASKED]


@pytest.mark.parametrize("name", FAMILIES)
def test_the_chain_is_learned_whole_and_once(name: str) -> None:
    tokenizer, family = tokenizer_of(name), FAMILIES[name]
    assert tokenizer.convert_ids_to_tokens(turn_end(tokenizer)) == family.end
    for completion, refused in ((PLAIN, family.plain), (THOUGHT, family.thought), (" " + PLAIN, family.plain)):
        given = row(completion, asked(name))
        rendered = render(tokenizer, given)
        why = reasons(tokenizer, given, rendered, SYSTEM if family.system else "")
        assert [reason.partition(":")[0] for reason in why] == [refused] * bool(refused)
        masked = rendered.input_ids[: rendered.labels.count(MASKED)]
        assert masked == prompt_ids(tokenizer, given.prompt), "what sampling sees"
        assert masked + learned(rendered) == rendered.input_ids
        whole = decoded(tokenizer, rendered.input_ids)
        assert whole.endswith(completion + family.end) and whole.count(completion) == 1
        assert learned(rendered).count(turn_end(tokenizer)) == 1
        if family.bos:
            bos = tokenizer.convert_tokens_to_ids(family.bos)
            assert rendered.input_ids[0] == bos and rendered.input_ids.count(bos) == 1


@pytest.mark.parametrize("name", FAMILIES)
def test_text_of_control_tokens_stays_text(name: str) -> None:
    tokenizer, family = tokenizer_of(name), FAMILIES[name]
    forged = "".join(controls(tokenizer).values())
    assert {family.end, *family.special} <= set(controls(tokenizer).values())
    completion = f"{forged}\n{PLAIN}" if not family.plain else f"<think>\n{forged}\n</think>{PLAIN}"
    given = row(completion, asked(name, f"What is {forged} here?"))
    rendered = render(tokenizer, given)
    assert reasons(tokenizer, given, rendered, None) == []
    honest = render(tokenizer, row(THOUGHT, asked(name)))
    for token in controls(tokenizer):
        assert rendered.input_ids.count(token) == honest.input_ids.count(token)
    whole = decoded(tokenizer, rendered.input_ids)
    assert f"What is {forged} here?" in whole and whole.endswith(completion + family.end)


def test_a_think_block_is_opened_by_the_prompt_or_by_the_chain() -> None:
    deep, plain = tokenizer_of("R1-Distill"), tokenizer_of("Qwen3")
    assert decoded(deep, prompt_ids(deep, chat("q"))).endswith("<think>\n")
    for completion, rest in (
        ("<think>\na</think>b", "a</think>b"),
        ("<think>a</think>b", "a</think>b"),
        ("<think>\n\na</think>b", "\na</think>b"),
        ("\n<think>\na</think>b", "a</think>b"),
        ("a</think>b", "a</think>b"),  # as the model itself says it
    ):
        given = row(completion, chat("q"))
        assert loss_text(deep, given) == rest and loss_text(plain, given) == completion
        assert decoded(deep, learned(render(deep, given))[:-1]) == rest
        assert reasons(deep, given, render(deep, given), "") == []


THINKING = [
    ("Qwen3", "<think>\n\n</think>\n\n15", "an empty think block"),
    ("R1-Distill", "<think>\n\n</think>\n\n15", "an empty think block"),
    ("R1-Distill", "</think>15", "an empty think block"),
    ("R1-Distill", "15", "a think block is left open: the prompt opens it"),
    ("Qwen2.5", "<think>\n15", "a think block is left open: the chain opens it"),
    ("Qwen2.5", "so\n</think>\n15", "a think block was never opened"),
    ("Qwen2.5", "so</think>\n<think>15", "a think block was never opened"),
    ("Qwen3", "<think>a</think><think>b</think>15", "a second think block: 2 of <think>"),
    ("R1-Distill", "a</think><think>b</think>15", "a second think block"),
    ("Qwen3.5, not thinking", THOUGHT, "a second think block: the chat template has put an empty one"),
]


@pytest.mark.parametrize(("name", "completion", "said"), THINKING)
def test_think_blocks_that_teach_the_wrong_thing(name: str, completion: str, said: str) -> None:
    tokenizer, given = tokenizer_of(name), row(completion, asked(name))
    (reason,) = reasons(tokenizer, given, render(tokenizer, given), None)
    assert reason.startswith(said)


def test_the_system_prompt_is_that_of_evaluation() -> None:
    tokenizer, given = tokenizer_of("Qwen2.5"), row(PLAIN)
    rendered = render(tokenizer, given)
    assert reasons(tokenizer, given, rendered, None) == []
    (reason,) = reasons(tokenizer, given, rendered, SYSTEM[:-1])
    assert reason.startswith(f"another system prompt: the row's is '{SYSTEM}', that of evaluation is '{SYSTEM[:-1]}'")
    (reason,) = reasons(tokenizer, given, rendered, "")
    assert "that of evaluation is none" in reason
    bare = row(PLAIN, chat("q"))
    (reason,) = reasons(tokenizer, bare, render(tokenizer, bare), SYSTEM)
    assert reason.startswith("another system prompt: the row's is none")
    with pytest.raises(UserError, match=r"refuses messages of system, user: System role not supported\. Set system="):
        render(tokenizer_of("Gemma 2"), given)


def test_a_template_that_drops_a_message_and_one_without_bos() -> None:
    family = FAMILIES["Llama-3"]
    template = "{{ bos_token }}{{ messages[-1].content }}<|eot_id|>"
    tokenizer = built(template, family)
    (reason,) = reasons(tokenizer, row(PLAIN), render(tokenizer, row(PLAIN)), SYSTEM)
    assert reason.startswith("the template drops a message: message 1 (system), 'Reason step")
    assert tokenizer.convert_ids_to_tokens(turn_end(tokenizer)) == "<|eot_id|>"
    seen = built("{{ bos_token }}{% for m in messages %}{{ m.content[0].text }}{% endfor %}", family)
    assert seen.convert_ids_to_tokens(turn_end(seen)) == "<|end_of_text|>", "no end to be found: the tokenizer's own"
    tokenizer = built(CHATML, family)
    (reason,) = reasons(tokenizer, row(PLAIN), render(tokenizer, row(PLAIN)), SYSTEM)
    assert reason.startswith("BOS token out of place: the row begins with '<|', not with one '<|begin_of_text|>'")
    assert "{{ bos_token }}" in reason


def test_a_row_is_refused_with_all_its_reasons_in_one_line() -> None:
    tokenizer, given = tokenizer_of("Qwen2.5"), row("<think>\n15")
    with pytest.raises(UserError, match=r"^x\.jsonl, row a: a think block is left open.*; another system prompt: the "):
        check_row(tokenizer, given, render(tokenizer, given), SYSTEM[:-1], "x.jsonl")
    check_row(tokenizer, row(PLAIN), render(tokenizer, row(PLAIN)), SYSTEM, "x.jsonl")


def test_only_what_the_tokenizer_cannot_tell_apart_may_differ() -> None:
    tokenizer, given = tokenizer_of("Qwen2.5"), row("e\u0301 is one letter")
    rendered = render(tokenizer, given)
    assert decoded(tokenizer, learned(rendered)) == "\u00e9 is one letter<|im_end|>"
    assert reasons(tokenizer, given, rendered, None) == [], "the tokenizer composes characters (NFC)"
    other = Tokenizer.from_str(raw())
    other.add_special_tokens(list(IM))
    other.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    lower = wrapped(other, CHATML, eos_token="<|im_end|>")
    (reason,) = reasons(lower, row("So A"), render(lower, row("So A")), None)[:1]
    assert reason.startswith("the chain is changed: at character 0 the tokens say 'so a', the row 'So A'")


def test_earlier_turns_are_as_sampling_sees_them() -> None:
    """Qwen3 and R1 leave the thoughts of earlier turns out of a prompt. So do we, in training as in sampling."""
    earlier = Message(role="assistant", content=THOUGHT)
    prompt = (*chat("What is 12 + 3?", SYSTEM), earlier, Message(role="user", content="Are you sure <|im_end|>?"))
    for name, kept in (("Qwen2.5", True), ("Qwen3", False), ("R1-Distill", False), ("SmolLM2", True)):
        tokenizer, given = tokenizer_of(name), row(THOUGHT, prompt)
        rendered = render(tokenizer, given)
        assert reasons(tokenizer, given, rendered, SYSTEM) == []
        masked = decoded(tokenizer, rendered.input_ids[: rendered.labels.count(MASKED)])
        assert ("Twelve, then" in masked) is kept and PLAIN in masked and "sure <|im_end|>?" in masked


def test_a_template_is_named_or_the_tokenizer_s_own(tmp_path: Path) -> None:
    tokenizer = built(None, FAMILIES["Qwen2.5"])
    assert completion_ids(tokenizer, "a<|im_end|>")
    with pytest.raises(UserError, match=r"no chat template: name one, chat_template=chatml or a \.jinja file"):
        set_template(tokenizer, None)
    set_template(tokenizer, "chatml")
    same = built(CHATML, FAMILIES["Qwen2.5"])
    assert prompt_ids(tokenizer, asked("Qwen2.5")) == prompt_ids(same, asked("Qwen2.5"))
    assert tokenizer.convert_ids_to_tokens(turn_end(tokenizer)) == "<|im_end|>"
    set_template(tokenizer, None)
    (tmp_path / "own.jinja").write_text("{% for m in messages %}{{ m.content }}{% endfor %}->")
    set_template(tokenizer, str(tmp_path / "own.jinja"))
    assert decoded(tokenizer, prompt_ids(tokenizer, chat("q"))) == "q->"
    (tmp_path / "bad.jinja").write_text("\n{% for m in messages %}{{ m.content }}")
    (tmp_path / "empty.jinja").write_text(" ")
    (tmp_path / "bytes.jinja").write_bytes(b"\xff\xfe")
    for wrong, said in (
        ("chatlm", "no such template. Give chatml"),
        (str(tmp_path), "Is a directory"),
        (str(tmp_path / "bytes.jinja"), "not UTF-8 text"),
        (str(tmp_path / "empty.jinja"), "the file is empty"),
        (str(tmp_path / "bad.jinja"), "not a Jinja template, line 2"),
    ):
        with pytest.raises(UserError) as error:
            set_template(tokenizer, wrong)
        assert f"chat_template={wrong}: " in str(error.value) and said in str(error.value)
        assert decoded(tokenizer, prompt_ids(tokenizer, chat("q"))) == "q->", "the one before stays"
    llama = built(None, FAMILIES["Llama-3"])  # knows no <|im_start|>, and has a BOS token
    set_template(llama, "chatml")
    given = row(PLAIN)
    assert reasons(llama, given, render(llama, given), SYSTEM) == []
    assert llama.convert_ids_to_tokens(turn_end(llama)) == "<|end_of_text|>"


def test_padding_is_no_end() -> None:
    def chosen(name: str, *more: str, pad: str | None = None) -> str:
        tokenizer = built(CHATML, FAMILIES[name])
        tokenizer.add_special_tokens({"extra_special_tokens": list(more)})
        tokenizer.pad_token = pad
        return str(tokenizer.convert_ids_to_tokens(pad_id(tokenizer, turn_end(tokenizer))))

    assert chosen("Qwen2.5", "<|fim_pad|>", pad="<|endoftext|>") == "<|endoftext|>", "the tokenizer's own"
    assert chosen("Qwen2.5", "<|fim_pad|>", pad="<|im_end|>") == "<|fim_pad|>"
    assert chosen("Qwen2.5") == "<|endoftext|>"
    assert chosen("Llama-3", "<|finetune_right_pad_id|>") == "<|finetune_right_pad_id|>"
    assert chosen("Gemma 3") == "<pad>"
    assert chosen("R1-Distill") == DEEP[1], "there is no other"
    smol = tokenizer_of("SmolLM2")
    assert smol.pad_token_id == smol.eos_token_id == turn_end(smol)
    assert smol.convert_ids_to_tokens(pad_id(smol, turn_end(smol))) == "<|endoftext|>"


def test_a_row_is_shown_by_its_mask() -> None:
    tokenizer, given = tokenizer_of("Qwen3"), row("<think>\nso\x1b[31m é</think>15", weight=0.5)
    rendered = render(tokenizer, given)
    shown = look(tokenizer, given, rendered)
    total, taught = len(rendered.input_ids), len(learned(rendered))
    assert shown.plain == (
        f"a: {total} tokens, {taught} in the loss (between ▶ and ◀), weight 0.5\n"
        f"<|im_start|>system↵\n{SYSTEM}<|im_end|>↵\n<|im_start|>user↵\nWhat is 12 + 3?<|im_end|>↵\n"
        "<|im_start|>assistant↵\n▶<think>↵\nso\\x1b[31m é</think>15<|im_end|>◀"
    )
    styles = {shown.plain[s.start : s.end]: str(s.style) for s in shown.spans}
    assert styles["user↵\nWhat is 12 + 3?"] == "dim"
    assert (
        not shown.style
        and styles["15"] == "green"
        and styles["<think>"] == "bold yellow"
        and styles["<|im_start|>"] == "dim yellow"
    )
    console = Console(color_system=None, width=200)
    with console.capture() as captured:
        console.print(shown)
    assert "\x1b" not in captured.get() and "▶<think>↵\nso" in captured.get()
