"""New losses from the parts of known ones: reproducible, no doubles, and every one is read."""

from random import Random
from typing import Any

import pytest
import torch

from limo import grammar, preference
from limo.candidate import candidate
from limo.sandbox import look

BETA = 0.05
FUNCTION = {"kto": "kto_pair"}
PARENTS = [(tree, fitness) for fitness, tree in enumerate(grammar.KNOWN.values())]


def family(seed: int, n: int) -> list[Any]:
    seen: list[Any] = []
    for number in range(n):
        seen.append(grammar.child([*PARENTS, *((t, 1.0) for t in seen)], Random(f"{seed}/{number}"), seen))
    return seen


@pytest.mark.parametrize("name", [n for n in grammar.KNOWN if n not in ("kto", "ipo")])
def test_a_known_tree_is_the_loss_of_its_name(name: str) -> None:
    """KTO's tree has no means over the batch, and IPO's is scaled by beta squared: both are other functions."""
    inputs = [torch.randn(16, generator=torch.Generator().manual_seed(at), dtype=torch.float64) for at in range(4)]
    more = {"tau": 0.05} if name == "discopop" else {}
    want = getattr(preference, name)(*inputs, BETA, **more)
    got = candidate(grammar.text(grammar.KNOWN[name], name))(*inputs, BETA)
    assert got.tolist() == pytest.approx(want.tolist(), rel=1e-9)


def test_the_tree_of_ipo_is_it_times_beta_squared() -> None:
    inputs = [torch.randn(8, generator=torch.Generator().manual_seed(at), dtype=torch.float64) for at in range(4)]
    tree = candidate(grammar.text(grammar.KNOWN["ipo"], "ipo"))(*inputs, BETA)
    assert tree.tolist() == pytest.approx((BETA**2 * preference.ipo(*inputs, BETA)).tolist(), rel=1e-9)


def test_the_same_seed_grows_the_same_losses_and_another_seed_others() -> None:
    assert family(0, 20) == family(0, 20)
    assert family(0, 20) != family(1, 20)


def test_there_are_no_doubles() -> None:
    grown = family(3, 120)
    signatures = [grammar.signature(tree) for tree in [*grammar.KNOWN.values(), *grown]]
    assert len(set(signatures)) == len(signatures)
    assert max(grammar.size(tree) for tree in grown) <= grammar.MOST
    scaled = ("mul", 3.0, ("add", ("logistic", "x"), 2.0))
    assert grammar.signature(scaled) == grammar.signature(("logistic", "x")), "an optimizer would not see it"


def test_every_tree_is_read_and_means_what_it_says() -> None:
    """By its text on tensors and by the grammar's own arithmetic, which decides what is a double."""
    grown = family(5, 120)
    refused = 0
    for tree in grown:
        loss = candidate(grammar.text(tree, "grown_1"))
        c, r = (torch.tensor(v, dtype=torch.float64) for v in zip(*grammar.PROBES, strict=True))
        zero = torch.zeros_like(c)
        found = loss(c, r, zero, zero, 1.0)
        own = [grammar._value(tree, {"c": a, "r": b, "x": a - b, "free": a - b}) for a, b in grammar.PROBES]
        assert found.shape == (len(own),)
        assert found.tolist() == pytest.approx(own, rel=1e-6, abs=1e-9), tree
        refused += bool(look(grammar.text(tree, "grown_1"), BETA).refused)
    assert 0 < refused < 110, "some are no losses, which looking at them finds; many are"


def test_better_parents_have_more_children() -> None:
    parents = [(("hinge", "x"), 0.1), (("logistic", "x"), 0.9)]
    from_best = sum("logistic" in repr(grammar.crossed(*[t for t, _ in parents], Random(n))) for n in range(50))
    assert from_best
    drawn = [grammar.child(parents, Random(n)) for n in range(60)]
    counts = {kind: sum(kind in repr(tree) for tree in drawn) for kind in ("hinge", "logistic")}
    assert counts["logistic"] > counts["hinge"], counts
