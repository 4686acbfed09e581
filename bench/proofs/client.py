"""How many completions a second one client with one ledger takes, against a fake server on loopback.

    python -m bench.proofs.client [--requests 5000] [--latency 0.05] [--addresses 1]

The server answers at once after `--latency` seconds, so what is measured is the client: rendering, HTTP, the ledger's
commit of each sample. The engine, the ledger and the server share this machine's cores.
"""

import argparse
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

from limo.data import chat
from limo.engines.ledger import Cached
from limo.engines.protocol import Sampling, sample
from limo.engines.server import ServerEngine
from tests.faulty import faulty


def main() -> None:
    """Print the rate of a first run, which samples, and of a second, which the ledger answers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=5000)
    parser.add_argument("--latency", type=float, default=0.05)
    parser.add_argument("--addresses", type=int, default=1)
    args = parser.parse_args()
    sampling = Sampling(n=8, temperature=1.0, top_p=1.0, max_tokens=2000, seed=0)
    prompts = [
        chat(f"Problem {i}: what is {i} + {i}? " + "Think step by step. " * 20) for i in range(args.requests // 8)
    ]
    with ExitStack() as stack, tempfile.TemporaryDirectory() as folder:
        urls = [stack.enter_context(faulty(latency=args.latency)).url for _ in range(args.addresses)]
        engine = Cached(ServerEngine(model="m", base_urls=urls, concurrency=256), Path(folder))
        for what in ("sampled", "from the ledger"):
            begun = time.monotonic()
            sample(engine, prompts, sampling, what)
            seconds = time.monotonic() - begun
            count = sampling.n * len(prompts)
            print(f"{what}: {count:,} completions in {seconds:.1f} s, {count / seconds:,.0f} a second")


if __name__ == "__main__":
    main()
