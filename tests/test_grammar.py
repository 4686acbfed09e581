"""New losses from parts of known ones: reproducible, no duplicates, and every one can be read."""

from random import Random

import pytest
import torch

from limo.discover import proposers as grammar
from limo.discover.candidate import Candidate
from limo.discover.checks import check_text, train_alike
from limo.training.preference import PairLogProbs
from tests.test_preference import of

BETA = 0.05
PARENTS = [(known, float(fitness)) for fitness, known in enumerate(grammar.KNOWN.values())]


def family(seed: int, n: int) -> list[str]:
    children: list[str] = []
    for number in range(n):
        parents = [*PARENTS, *((child, 1.0) for child in children)]
        children.append(grammar.breed(parents, Random(f"{seed}/{number}"), []))
    return children


@pytest.mark.parametrize("name", grammar.KNOWN)
def test_a_known_expression_is_the_loss_of_its_name(name: str) -> None:
    generator = torch.Generator().manual_seed(0)
    pairs = PairLogProbs(*(torch.randn(16, generator=generator, dtype=torch.float64) for _ in range(4)))
    ours = Candidate(grammar.write(grammar.KNOWN[name], name))(pairs, BETA)
    known = of(name)(pairs, BETA)
    if name == "ipo":
        known = BETA**2 * known
    if name == "kto_pair":  # without the means over the batch
        c, r = pairs.chosen - pairs.reference_chosen, pairs.rejected - pairs.reference_rejected
        known = (torch.sigmoid(-BETA * c) + torch.sigmoid(BETA * r)) / 2
    assert ours.tolist() == pytest.approx(known.tolist(), rel=1e-9)


def test_a_seed_repeats_its_losses_which_are_new_and_can_be_read() -> None:
    found = family(3, 40)
    assert found == family(3, 40) and found[:5] != family(4, 5)
    probes = [grammar.probe_expression(expression) for expression in [*grammar.KNOWN.values(), *found]]
    assert not any(train_alike(a, b) for at, a in enumerate(probes) for b in probes[:at])
    assert max(len(grammar.list_parts(expression)) for expression in found) <= grammar.MAX_PARTS
    refused = sum(bool(check_text(grammar.write(expression, "grown_1"), BETA).refused) for expression in found)
    assert 0 < refused < 36, "the checks find that some are not losses; many are"


def test_a_factor_and_a_constant_make_no_new_loss() -> None:
    scaled = grammar.probe_expression("3 * (logistic(x) + 2)")
    assert train_alike(scaled, grammar.probe_expression("logistic(x)"))
    seen = [grammar.probe_expression(expression) for expression in family(0, 3)]
    child = grammar.breed(PARENTS, Random("0/0"), seen)
    assert not any(train_alike(grammar.probe_expression(child), other) for other in seen)


def test_better_parents_have_more_children() -> None:
    parents = [("hinge(x)", 0.1), ("logistic(x)", 0.9)]
    children = [grammar.breed(parents, Random(n), []) for n in range(60)]
    counts = {kind: sum(kind in child for child in children) for kind in ("hinge", "logistic")}
    assert counts["logistic"] > counts["hinge"], counts
