"""Models that think, from the pool to the report: their templates open the think block in the prompt."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from limo.chat import carry_opening, loss_text, prompt_ids
from limo.data import chat, read_jsonl
from limo.recipe import compose, run_section
from tests.test_audit import FAMILIES, built, tokenizer_of

SAID = "Two and three are five.\n</think>\n\nIt is \\boxed{5}."  # by a model whose prompt ends in <think>
# QwQ-32B's template in short: turns as of Qwen2.5, and a thought that is always opened
QWQ = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content.split('</think>')[-1].lstrip('\\n') }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n{% endif %}"
)
OPENED = {"R1-Distill": "<think>\n", "Qwen3.5, thinking": "<think>\n", "QwQ": "<think>\n", "Qwen3": "", "Qwen2.5": ""}


def thinking(name: str) -> Any:
    return built(QWQ, FAMILIES["Qwen3"]) if name == "QwQ" else tokenizer_of(name)


@pytest.mark.parametrize("name", list(OPENED))
def test_a_completion_carries_what_its_prompt_opened(name: str) -> None:
    tokenizer, asked, opened = thinking(name), chat("What is 2 + 3?"), OPENED[name]
    assert tokenizer.decode(prompt_ids(tokenizer, asked)).endswith(opened)
    assert carry_opening(tokenizer, asked, SAID) == opened + SAID
    assert carry_opening(tokenizer, asked, f"<think>\n{SAID}") == f"<think>\n{SAID}", "never twice"
    begun = [*asked, {"role": "assistant", "content": "<think>\nTwo"}]
    assert carry_opening(tokenizer, begun, " and three") == " and three", "an unfinished turn has it already"


@pytest.fixture
def server() -> Iterator[str]:
    """Answers every prompt of token ids with SAID."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            assert all(isinstance(number, int) for number in body["prompt"])
            usage = {"prompt_tokens": len(body["prompt"]), "completion_tokens": 20}
            reply = json.dumps({"choices": [{"text": SAID, "finish_reason": "stop"}], "usage": usage}).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(reply)))
            self.end_headers()
            self.wfile.write(reply)

        def log_message(self, format: str, *args: Any) -> None:
            """Nothing."""

    made = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=made.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{made.server_address[1]}/v1"
    made.shutdown()


def save_model(folder: Path, tokenizer: Any) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = LlamaConfig(vocab_size=len(tokenizer), max_position_embeddings=512, **sizes)
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["R1-Distill", "QwQ", "Qwen3.5, thinking"])
def test_a_thinking_model_from_the_pool_to_the_report(name: str, server: str, tmp_path: Path) -> None:
    tokenizer, model = thinking(name), tmp_path / "model"
    save_model(model, tokenizer)
    for file, numbers in (("pool", range(6)), ("held_out", range(6, 8)), ("dev", range(8, 10))):
        lines = (json.dumps({"problem": f"What is {n} + {5 - n}?", "answer": "5"}) + "\n" for n in numbers)
        (tmp_path / f"{file}.jsonl").write_text("".join(lines))
    recipe = compose(
        "recipe=base",
        "name=mine",
        f"runs={tmp_path}/runs",
        f"student={model}",
        "engine=server",
        f"engine.base_urls=[{server}]",
        "engine.send=tokens",
        "k=4",
        "curate.stages.difficulty.at_most=2",
        "curate.stages.difficulty.early_stop=false",
        f"+curate.pool.mine={{_target_: limo.sources.file, path: {tmp_path}/pool.jsonl}}",
        f"++measured.held_out={{path: {tmp_path}/held_out.jsonl}}",
        f"++measured.dev={{path: {tmp_path}/dev.jsonl}}",
        "~curate.stages.near_dedup",
        "curate.order=[exact_dedup,decontaminate,difficulty,solve,write_out,verify,box,quality,tokens,steps,true_steps,fit,best_chain,choose]",
        "curate.stages.fit.dtype=float32",
        "curate.stages.quality.languages=null",
        "train.args.num_train_epochs=1",
        "train.args.bf16=false",
        "train.max_length=256",
    )
    run_section(recipe, "curate")
    folder = tmp_path / "runs" / "mine"
    chains = list(read_jsonl(folder / "curated.jsonl"))
    assert len(chains) == 4 and {row.completion for row in chains} == {f"<think>\n{SAID}"}
    assert loss_text(tokenizer, chains[0]) == SAID, "what the prompt opens is not learned again"
    run_section(recipe, "train")
    run_section(recipe, "eval")
    graded = [json.loads(line) for line in (folder / "eval" / "chosen" / "held_out.jsonl").read_text().splitlines()]
    assert [(c["verdict"], c["extracted"]) for row in graded for c in row["completions"]] == [("correct", "5")] * 2
    assert "&lt;think&gt;" in (folder / "report.html").read_text()
