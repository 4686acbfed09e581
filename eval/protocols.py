"""Presets with published decoding settings for evaluation: `eval.protocol=limo_v2`.

The system message is still the recipe's, since it belongs to the model.
"""

from dataclasses import dataclass, replace

from limo.engines.protocol import Sampling
from limo.errors import UserError
from limo.recipe import suggest

NEXT_PROBLEM = "\nProblem:"  # a model that starts another problem after worked examples has given its answer


@dataclass(frozen=True, slots=True)
class Protocol:
    """Published decoding settings. Benchmarks with fewer than `small_below` problems get several samples per
    problem.
    """

    small_n: int
    small_temperature: float
    small_below: int
    top_p: float
    max_tokens: int


PROTOCOLS = {
    # arXiv 2502.03387v1, section 4.2: AIME24, AMC23 and CHMath 16 samples at 0.7, all others greedy; 32,768 tokens
    "limo_v1": Protocol(small_n=16, small_temperature=0.7, small_below=50, top_p=1.0, max_tokens=32_768),
    # arXiv 2502.03387v3, section 4: the same sets, 4 samples at 0.6
    "limo_v2": Protocol(small_n=4, small_temperature=0.6, small_below=50, top_p=1.0, max_tokens=32_768),
    # arXiv 2405.03548, section 3.2: greedy, 2,048 tokens
    "mammoth2": Protocol(small_n=1, small_temperature=0.0, small_below=0, top_p=1.0, max_tokens=2_048),
}


def sampling_for(protocol: str | None, sampling: Sampling, problems: int, shots: int = 0) -> Sampling:
    """The decoding settings of a benchmark: the recipe's sampling, or the protocol's with the recipe's seed."""
    if shots and NEXT_PROBLEM not in sampling.stop:
        sampling = replace(sampling, stop=(*sampling.stop, NEXT_PROBLEM))
    if protocol is None:
        return sampling
    if protocol not in PROTOCOLS:
        raise UserError(f"there is no protocol '{protocol}'{suggest(protocol, PROTOCOLS)}")
    p = PROTOCOLS[protocol]
    small = problems < p.small_below
    return replace(
        sampling,
        n=p.small_n if small else 1,
        temperature=p.small_temperature if small else 0.0,
        top_p=p.top_p,
        max_tokens=p.max_tokens,
    )
