"""The engine that runs vLLM in this process: one machine, several GPUs, no server to start.

    engine: {_target_: limo.engine_vllm.VLLMEngine, model: Qwen/Qwen3-32B, dtype: bfloat16, tensor_parallel: 4}

vLLM needs a GPU and could not be installed where this was written: this file follows the documentation of
`AsyncLLM`, `AsyncEngineArgs` and `SamplingParams`, and has not been run. tests/test_engines.py puts it to the same
tests as the other engines wherever vLLM is installed. A vLLM server behind `limo/engine_openai.py` is the way that has
been tried, as far as its protocol goes.

Prompts are rendered here, token by token as in training, so text of control tokens stays text. Left out: several
machines (use servers), LoRA adapters, multimodal models.
"""

from collections.abc import Iterator
from functools import cached_property
from itertools import count
from pathlib import Path
from typing import Any

from limo.background import Loop, driven
from limo.engine import Completion, Request, Sampling, Take, loading, random_key
from limo.errors import UserError
from limo.model import fingerprint, load_tokenizer, model_folder
from limo.render import prompt_ids, turn_end


class VLLMEngine:
    """A model under vLLM behind the `Engine` protocol.

    Args: `model` as `limo.model.model_folder` takes it, `dtype` of the weights, `tensor_parallel` GPUs that share one
    copy of the model, `data_parallel` copies, `context` tokens to make room for (None is all that the model has),
    `concurrency` requests under way, `gpu_memory` the share of each GPU's memory that vLLM may take, `options` further
    arguments of vLLM's `AsyncEngineArgs`. The model is loaded at the first request that needs it. Raises UserError if
    vLLM is not installed.
    """

    def __init__(
        self,
        *,
        model: str,
        dtype: str,
        tensor_parallel: int = 1,
        data_parallel: int = 1,
        context: int | None = None,
        concurrency: int = 512,
        gpu_memory: float = 0.9,
        trust_remote_code: bool = False,
        options: dict[str, Any] | None = None,
    ) -> None:
        if min(tensor_parallel, data_parallel, concurrency) < 1 or not 0 < gpu_memory <= 1:
            raise UserError(
                "engine: tensor_parallel, data_parallel, concurrency must be at least 1, gpu_memory in (0, 1]"
            )
        self.path, self.dtype, self.concurrency, self.options = model, dtype, concurrency, options or {}
        self.arguments = {
            "dtype": dtype,
            "tensor_parallel_size": tensor_parallel,
            "data_parallel_size": data_parallel,
            "max_model_len": context,
            "gpu_memory_utilization": gpu_memory,
            "trust_remote_code": trust_remote_code,
            **self.options,
        }
        self._numbers = count()

    @cached_property
    def folder(self) -> Path:
        """Of the model, downloaded or converted if need be."""
        return model_folder(self.path)

    @cached_property
    def fingerprint(self) -> str:
        """See `Engine.fingerprint`."""
        quantized = self.options.get("quantization")
        return f"vllm/{self.dtype}/{f'{quantized}/' if quantized else ''}{fingerprint(self.folder)}"

    @cached_property
    def tokenizer(self) -> Any:
        """The model's tokenizer, by which prompts are rendered."""
        return load_tokenizer(self.folder, bool(self.arguments["trust_remote_code"]))

    @cached_property
    def _loop(self) -> Loop:
        return Loop()

    @cached_property
    def _running(self) -> Any:
        """vLLM itself, begun in the loop in which it then works."""

        async def start() -> Any:
            try:
                from vllm.engine.arg_utils import AsyncEngineArgs
                from vllm.v1.engine.async_llm import AsyncLLM
            except ImportError:
                raise UserError("this engine needs vLLM and a GPU: pip install 'limo-toolkit[vllm]'") from None
            return AsyncLLM.from_engine_args(AsyncEngineArgs(model=str(self.folder), **self.arguments))

        return self._loop.run(start())

    def __del__(self) -> None:
        """Free the GPUs for the next engine."""
        if "_running" in vars(self):
            self._running.shutdown()
            self._loop.close()

    def complete(self, take: Take, sampling: Sampling) -> Iterator[tuple[Request, Completion]]:
        """See `Engine.complete`. A prompt that leaves no room in the context is refused with the reason."""
        if not (first := take(self.concurrency)):
            return
        with loading.timed():
            running = self._running

        async def answer(request: Request) -> Completion:
            return await self._answer(running, request, sampling)

        yield from driven(self._loop, answer, self.concurrency, take, first)

    async def _answer(self, running: Any, request: Request, sampling: Sampling) -> Completion:
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        ids, context = prompt_ids(self.tokenizer, request.prompt), int(running.model_config.max_model_len)
        room = min(sampling.max_tokens, context - len(ids))
        if room < 1:
            return Completion("", 0, "refused", f"the prompt has {len(ids)} tokens, the model takes {context}")
        settings = SamplingParams(
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            max_tokens=room,
            seed=random_key(request, sampling) >> 65,  # 63 bits
            stop=list(sampling.stop),
            stop_token_ids=[turn_end(self.tokenizer)],
            skip_special_tokens=False,
            spaces_between_special_tokens=False,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )
        found, number = None, str(next(self._numbers))
        try:
            async for output in running.generate(
                prompt={"prompt_token_ids": ids}, sampling_params=settings, request_id=number
            ):
                found = output.outputs[0]
        except ValueError as error:  # of this request alone; an engine that has died raises another one
            return Completion("", 0, "refused", f"vLLM refused the request: {str(error).splitlines()[0]}")
        if found is None or found.finish_reason not in ("stop", "length"):
            why = found.finish_reason if found else "no output"
            return Completion("", 0, "refused", f"vLLM ended the completion with {why!r}")
        end = self.tokenizer.decode([turn_end(self.tokenizer)])
        return Completion(found.text.removesuffix(end), len(found.token_ids), found.finish_reason)
