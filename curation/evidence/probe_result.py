"""The results of a probe (`probe.py`): `runs/<name>/probe.json`, the printed table, and the warnings of a run."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from curation.evidence.flaws import FLAWS
from curation.stage import NO_SCORES, reads
from curation.stages.pairs import WRONG
from eval.intervals import wilson
from limo.console import Table, print_table, terminal
from limo.data import replacing
from limo.run import lasting

FILE = "probe.json"


@dataclass(frozen=True, slots=True)
class Decided:
    """How often a score prefers the untouched chain to one with a flaw; a tie counts half."""

    share: float
    low: float  # of the 95 % interval (Wilson)
    high: float
    pairs: int

    @property
    def reversed(self) -> bool:
        """Whether the score prefers the flaw."""
        return self.high < 0.5

    @property
    def blind(self) -> bool:
        """Whether the score decides no better than chance."""
        return self.low <= 0.5 <= self.high

    def __str__(self) -> str:
        return f"{100 * self.share:.0f} ({100 * self.low:.0f}-{100 * self.high:.0f})"


def decided(points: Sequence[float]) -> Decided | None:
    """The mean points of pairs with its interval: 1 for the untouched chain, 0.5 for a tie, 0 for the flaw."""
    if not points:
        return None
    share = sum(points) / len(points)
    return Decided(share, *wilson(share, len(points)), len(points))


Found = dict[str, dict[str, Decided]]  # by score, by flaw


def chosen_by(stages: Mapping[str, Any]) -> dict[str, str]:
    """The score by which each choosing stage of a recipe chooses."""
    chosen = {name: str(node["by"]) for name, node in stages.items() if _is_choosing(node)}
    return {name: by for name, by in chosen.items() if by not in NO_SCORES}


def _is_choosing(node: Mapping[str, Any]) -> bool:
    return "by" in node and node["by"] in reads(node)


def warnings(found: Mapping[str, Mapping[str, Decided]], chosen: Mapping[str, str]) -> Iterator[str]:
    """A line for each choosing stage whose score prefers a flaw, or does not notice one."""
    for stage, by in chosen.items():
        decided = {flaw: d for flaw, d in found.get(by, {}).items() if flaw != WRONG}
        worse = [flaw for flaw, d in decided.items() if d.reversed]
        blind = [flaw for flaw, d in decided.items() if d.blind]
        if worse:
            yield f"'{stage}' chooses by {by}, which prefers chains with: {', '.join(worse)}"
        if blind:
            yield f"'{stage}' chooses by {by}, which does not notice: {', '.join(blind)}"


def read_probe(folder: Path, stages: Mapping[str, Any]) -> Found:
    """The results of a run's probe, if it was made with these stages; otherwise empty."""
    try:
        kept = json.loads((folder / FILE).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    if kept["stages"] != _settings(stages):
        return {}
    return {name: {flaw: Decided(**d) for flaw, d in by.items()} for name, by in kept["scores"].items()}


def _settings(stages: Mapping[str, Any]) -> Any:
    """The settings of a recipe that its probe depends on: all but those of the choosing stages."""
    scoring = {name: node for name, node in stages.items() if not _is_choosing(node)}
    return json.loads(json.dumps(lasting(scoring)))


def keep_probe(folder: Path, found: Found, caught: Any, chains: int, stages: Mapping[str, Any]) -> None:
    """Write `probe.json` into a run's folder. `caught` is the share of flawed chains that each stage drops, `chains`
    the number of chains that got flaws.
    """
    plain = {name: {flaw: asdict(d) for flaw, d in by.items()} for name, by in found.items()}
    kept = {"chains": chains, "scores": plain, "dropped": caught, "stages": _settings(stages)}
    with replacing(folder / FILE) as file:
        json.dump(kept, file, indent=1)


def tabulate_probe(found: Mapping[str, Mapping[str, Decided]], chains: int) -> Table:
    """The share of pairs, in %, that each score decides correctly, with its 95 % interval."""
    flaws = [flaw for flaw in (*FLAWS, WRONG) if any(flaw in by for by in found.values())]
    rows = [(name, *(str(by[flaw]) if flaw in by else "" for flaw in flaws)) for name, by in found.items()]
    title = f"How often each score prefers the untouched chain, in % of pairs ({chains} chains; 50 is blind)"
    return Table(("score", *flaws), rows, range(1, len(flaws) + 1), title)


def print_probe(found: Found, caught: Mapping[str, Mapping[str, int]], chains: int, chosen: Mapping[str, str]) -> None:
    """Print the table, what the recipe's stages drop, and warnings."""
    console = terminal(160)
    print_table(tabulate_probe(found, chains), console)
    for name, counts in caught.items():
        listed = ", ".join(f"{flaw}: {count}" for flaw, count in counts.items())
        console.print(f"The stage '{name}' drops {listed}", markup=False, soft_wrap=True)
    for line in warnings(found, chosen):
        console.print(f"warning: {line}", markup=False, soft_wrap=True)
