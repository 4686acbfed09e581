"""What several tests share: a tiny random model of our own making, and commands run as a person runs them."""

import json
import os
import subprocess
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from curation.evidence.controls import Controls
from curation.run import Limits, curate
from limo.data import Dropped, Example, Row, chat
from limo.engines.protocol import Completion
from limo.engines.serve import LocalServer
from limo.machine import quiet_deepspeed, set_environment
from limo.model import model_folder
from limo.recipe import trust
from tests.forked import run_forked

set_environment()
os.environ["HF_HUB_OFFLINE"] = "1"
trust("tests,programs")  # whose stages and engines recipes of the tests name
os.environ["CUDA_VISIBLE_DEVICES"] = ""  # on a machine with GPUs the suite proves the same as on one without
ROOT = Path(__file__).resolve().parent.parent

CHATML = (
    "{%- for m in messages -%}{{- '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' -}}{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\n' -}}{%- endif -%}"
)


def build_tiny(folder: Path, seed: int = 0) -> Path:
    """A Llama of 125,000 random parameters with a byte-level tokenizer of its own, saved in `folder`."""

    quiet_deepspeed()
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<pad>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    raw.train_from_iterator(["The answer is \\boxed{12}. Solve the problem step by step: 12 + 3 ="] * 20, trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, eos_token="<|im_end|>", pad_token="<pad>")
    tokenizer.chat_template = CHATML
    tokenizer.save_pretrained(folder)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
        tie_word_embeddings=False,
    )
    torch.manual_seed(seed)
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache of the session's own: tests neither read nor fill the user's."""
    folder = tmp_path_factory.mktemp("cache")
    os.environ["LIMO_CACHE"] = str(folder)
    return folder


@pytest.fixture(autouse=True)
def _own_state(cache: Path) -> None:
    """Every test has that cache."""


@pytest.fixture(scope="session")
def run(cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run `python -m ...` from a folder's point of view; returns the finished process with its texts."""
    texts = tmp_path_factory.mktemp("texts")

    def call(*arguments: str, cwd: Path = ROOT, **environment: str) -> subprocess.CompletedProcess[str]:
        return run_forked(arguments, cwd, {**os.environ, "PYTHONPATH": str(ROOT), **environment}, texts)

    return call


@pytest.fixture(scope="session")
def data() -> Path:
    """Real pools and benchmarks, where LIMO_DATA names their folder."""
    folder = os.environ.get("LIMO_DATA")
    if not folder:
        pytest.skip("LIMO_DATA is not set: no real data to test on")
    return Path(folder).resolve()


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def example(key: str, completion: str = "", answer: str = "5", **more: Any) -> Example:
    """A row; its problem is what its id says before a slash."""
    problem = key.partition("/")[0]
    more = {"source": "s", "problem": problem} | more
    return Example(key, chat(f"problem {problem}"), answer, completion, **more)


def curate_pool(
    folder: Path, stages: Mapping[str, Any], kinds: Sequence[str] = (), **more: Any
) -> list[dict[str, Any]]:
    """Curate the rows of `pool.jsonl` in a folder into its `run`, with controls of the rows before the last stage."""
    pool = {"p": {"_target_": "limo.sources.file", "path": str(folder / "pool.jsonl")}}
    controls = Controls([*stages][-1], list(kinds), 0)  # type: ignore[arg-type]
    given = {"out": str(folder / "run"), "system": "", "pool": pool, "controls": controls, "pairs": None}
    return curate(**{**given, "stages": dict(stages), "budget": Limits(None, None), **more})  # type: ignore[arg-type]


def split(rows: Iterable[Row]) -> tuple[list[Example], list[Dropped]]:
    """What stays and what was set aside."""
    listed = list(rows)
    return [r for r in listed if isinstance(r, Example)], [r for r in listed if isinstance(r, Dropped)]


@pytest.fixture(scope="session")
def vllm_python() -> str:
    """The Python of an environment that has vLLM, where LIMO_VLLM names it (make test-vllm does)."""
    python = os.environ.get("LIMO_VLLM")
    if not python:
        pytest.skip("LIMO_VLLM is not set: no vLLM to test with (make test-vllm)")
    os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", f"0-{(os.cpu_count() or 1) - 1}")
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
    return str(Path(python).absolute())


EAGER = ["--max-model-len", "512", "--max-num-seqs", "64", "--dtype", "float32", "--enforce-eager"]
EAGER += ["--gpu-memory-utilization", "0.4"]  # of this machine's memory, which others may use as well


@pytest.fixture(scope="session")
def vllm_served(vllm_python: str, cache: Path) -> Iterator[tuple[str, Path]]:
    """The address of a real vLLM with the embedded model in float32, and the model's folder."""
    folder = model_folder("embedded:smollm2-135m-instruct")
    server = LocalServer("vllm", str(folder), (1, 1), EAGER, vllm_python, 600)
    yield server.start(), folder
    server.stop()


Reply = str | Completion
Script = Callable[[Mapping[str, Sequence[Reply]] | Callable[[str, int], Reply]], dict[str, Any]]


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Script:
    """Makes an engine's node for a recipe from replies by question, or from a function of question and index.

    `asked` says what was really asked of it.
    """
    import limo.engines.protocol

    def node(replies: Mapping[str, Sequence[Reply]] | Callable[[str, int], Reply]) -> dict[str, Any]:
        reply = replies if callable(replies) else lambda question, index: replies[question][index]
        made: list[limo.engines.protocol.Scripted] = []
        name = f"script{next(_numbers)}"

        def engine() -> limo.engines.protocol.Scripted:
            made.append(limo.engines.protocol.Scripted(reply, name, batch_size=3))
            return made[-1]

        monkeypatch.setattr(limo.engines.protocol, name, engine, raising=False)
        monkeypatch.setattr(limo.engines.protocol, f"{name}_made", made, raising=False)
        return {"_target_": f"limo.engines.protocol.{name}"}

    return node


def asked(node: Mapping[str, Any]) -> list[tuple[str, int]]:
    """What the engines of a scripted node were really asked: question and index."""
    import limo.engines.protocol

    made = getattr(limo.engines.protocol, node["_target_"].rpartition(".")[2] + "_made")
    return [(r.prompt[-1]["content"], r.index) for engine in made for r in engine.asked]


_numbers = count()
