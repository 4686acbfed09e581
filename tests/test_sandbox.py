"""Candidate losses: known ones are read as they are meant, and no text does anything but arithmetic."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from limo import preference
from limo.allowed import Refused
from limo.candidate import candidate
from limo.preference import margin
from limo.sandbox import checked, look
from limo.walk import MAX_FUEL
from tests.conftest import ROOT

BETA = 0.05
HEAD = "def f(chosen, rejected, reference_chosen, reference_rejected, beta):\n"
RHO = "    rho = (chosen - rejected) - (reference_chosen - reference_rejected)\n    x = beta * rho\n    u = x / 0.05\n"


def body(text: str) -> str:
    """A candidate with these lines after x, u and rho."""
    return HEAD + RHO + "".join(f"    {line}\n" for line in text.splitlines())


# As a person, or a model, would write them
AS_TEXT = {
    "dpo": "return F.softplus(-x)",
    "slic": "return torch.relu(1 - x)",
    "ipo": "return (rho - 1 / (2 * beta)) ** 2",
    "kto_pair": (
        "c = chosen - reference_chosen\nr = rejected - reference_rejected\n"
        "above = c.mean().clamp(min=0).detach()\nbelow = torch.clamp(r.mean(), min=0).detach()\n"
        "return (torch.sigmoid(beta * (below - c)) + torch.sigmoid(beta * (r - above))) / 2"
    ),
    "dbaql": "v = torch.sigmoid(u.var())\nreturn v * logistic(x / 0.9) + (1 - v) * exponential(0.9 * x)",
    "aql": (
        "m = 0.5 + 0.01 * (torch.sigmoid(u.mean()) - 0.5)\nq = torch.sigmoid(0.05 * m - x)\n"
        "return q * F.softplus(-x) + (1 - q) * F.relu(1 - x)"
    ),
    "padll": "return 0.9 * (1 - 0.5 * (rho < 0).float()) * torch.nn.functional.softplus(-x)",
    "aqfl": (
        "a = u.std() * torch.sigmoid(-u).mean()\na += 0.05 * (torch.sigmoid(u.mean()) - a)\n"
        "r = torch.sigmoid(0.1 * (u - a).abs())\nreturn r * logistic(x) + (1 - r) * hinge(x)"
    ),
    "cell": "return 0.5 * logistic(x) + 0.5 * exponential(x)",
    "discopop": "s = torch.sigmoid(u)\nreturn (1 - s) * -F.logsigmoid(x) + s * exponential(x)",
    "pfl": "return torch.where(chosen > rejected, 0.5 * logistic(u), 2 * hinge(u))",
}


@pytest.mark.parametrize("name", AS_TEXT)
def test_a_known_loss_as_text_is_that_loss_and_passes(name: str) -> None:
    loss = candidate(body(AS_TEXT[name]))
    draw = torch.Generator().manual_seed(1)
    inputs = [torch.randn(16, generator=draw, dtype=torch.float64) for _ in range(4)]
    known = getattr(preference, name)
    tau = {"tau": 0.05} if name in ("dbaql", "aql", "aqfl", "discopop", "pfl") else {}
    assert loss(*inputs, BETA).tolist() == pytest.approx(known(*inputs, BETA, **tau).tolist(), rel=1e-9)
    report = look(body(AS_TEXT[name]), BETA)
    assert report.refused == ""
    assert bool(report.warnings) == (name == "discopop")
    if name == "discopop":
        assert "wrong way: slope +0.0392" in report.warnings[0]


def test_the_published_form_is_read_too() -> None:
    text = '''
"""A loss."""
def logistic_log_loss(
    self,
    policy_chosen_logps: torch.FloatTensor,
    policy_rejected_logps: torch.FloatTensor,
    reference_chosen_logps: torch.FloatTensor,
    reference_rejected_logps: torch.FloatTensor,
) -> torch.FloatTensor:
    pi_logratios = policy_chosen_logps - policy_rejected_logps
    ref_logratios = reference_chosen_logps - reference_rejected_logps
    logits = pi_logratios - ref_logratios
    losses = -F.logsigmoid(self.beta * logits)
    for i in range(3):
        losses = losses + 0.0 * i
    return losses if self.beta > 0 else -losses
'''
    loss = candidate(text)
    inputs = [torch.randn(4) for _ in range(4)]
    assert loss.name == "logistic_log_loss"
    assert torch.allclose(loss(*inputs, 0.1), preference.dpo(*inputs, 0.1))


def test_what_the_published_validator_gets_wrong() -> None:
    twice = "c = beta * (chosen - reference_chosen)\nreturn torch.cat([1 - c, 1 + c])"
    assert "List is not allowed" in look(body(twice), BETA).refused, "KTO as published gives two values a pair"
    assert "one value a pair" in look(body("return (x * 0).sum()"), BETA).refused
    free = look(body("return F.softplus(-beta * (chosen - rejected))"), BETA)
    assert free.refused == "" and free.slope == pytest.approx(-0.025), "a loss need not use the reference"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("return x", "costs as much as"),
        ("return -x * 0", "costs as much as"),
        ("return torch.exp(-x)", "not finite at beta rho"),
        ("return (1 - torch.sigmoid(u)) * logistic(x) + torch.sigmoid(u) * torch.exp(-x)", "not finite at beta rho"),
        ("return torch.log(x)", "not finite at random inputs"),
        ("return F.softplus(-x) / 0", "not finite"),
        ("return F.softplus(-x).detach()", "has no slope"),
        ("return F.softplus(-(chosen - reference_chosen))", "no slope in the policy"),
        ("return torch.sqrt(torch.abs(x - x)) + logistic(x)", "slope that is not finite"),
        ("return 1.0", "gives ()"),
        ("y = x", "returns nothing"),
        ("if beta > 1:\n    return x", "without a return"),
        ("return z", "'z' has no value"),
        ("if x > 0:\n    return x\nreturn -x", "torch.where decides pair by pair"),
    ],
)
def test_a_loss_that_would_not_train_is_refused_with_its_reason(text: str, said: str) -> None:
    assert said in look(body(text), BETA).refused


PLACE = "    order = torch.softmax(chosen)\n    return F.softplus(-beta * (chosen - rejected)) + 0 * order\n"


def test_a_loss_by_place_in_the_batch_is_refused() -> None:
    assert "not known" in look(body("return F.softplus(-x) * torch.arange(10)"), BETA).refused
    assert look(HEAD + PLACE, BETA).refused == "", "one that depends on the whole batch is not"


RETURN = "\n    return F.softplus(-x)"
ATTACKS = {
    "import": "import os\n" + body("return x"),
    "import inside": body("import os\nreturn F.softplus(-x)"),
    "from import": body("from os import system\nsystem('touch CANARY')\nreturn x"),
    "import by builtin": body("__import__('os').system('touch CANARY')\nreturn x"),
    "importlib": body("y = importlib.import_module(x)\nreturn x"),
    "exec": body("exec('open(1)')\nreturn x"),
    "eval": body("y = eval('1')\nreturn x"),
    "compile": body("compile('1', '', 'eval')\nreturn x"),
    "open for writing": body("open('CANARY', 'w')\nreturn x"),
    "open for reading": body("y = open('/etc/passwd')\nreturn x"),
    "getattr": body("y = getattr(torch, 'save')\nreturn x"),
    "setattr": body("setattr(torch, 'mean', beta)\nreturn x"),
    "globals": body("globals()\nreturn x"),
    "locals": body("y = locals()\nreturn x"),
    "vars": body("y = vars(torch)\nreturn x"),
    "builtins": body("y = __builtins__\nreturn x"),
    "dunder class": body("y = x.__class__\nreturn x"),
    "subclasses": body("y = ().__class__.__bases__\nreturn x"),
    "dunder subscript": body("y = x.__class__.__mro__[1].__subclasses__()\nreturn x"),
    "function globals": body("y = f.__globals__\nreturn x"),
    "code object": body("y = f.__code__\nreturn x"),
    "torch module": body("y = torch\nreturn x"),
    "torch.save": body("torch.save(x, beta)\nreturn x"),
    "torch.load": body("y = torch.load(x)\nreturn x"),
    "torch.hub": body("y = torch.hub.load(x, x)\nreturn x"),
    "torch.ops": body("y = torch.ops.aten.add(x, x)\nreturn x"),
    "torch.os": body("y = torch.os.system(x)\nreturn x"),
    "torch.sys": body("y = torch.sys.exit(0)\nreturn x"),
    "torch._C": body("y = torch._C._abort()\nreturn x"),
    "torch.from_file": body("y = torch.from_file(x)\nreturn x"),
    "torch.compile": body("y = torch.compile(x)\nreturn x"),
    "torch.manual_seed": body("torch.manual_seed(0)\nreturn x"),
    "torch.set_num_threads": body("torch.set_num_threads(1000)\nreturn x"),
    "torch.set_default_dtype": body("torch.set_default_dtype(x)\nreturn x"),
    "monkey patch": body("torch.sigmoid = torch.exp\nreturn x"),
    "monkey patch deep": body("torch.nn.functional.softplus = 1\nreturn x"),
    "shadow torch": body("torch = x\nreturn x"),
    "shadow F": body("F = x\nreturn x"),
    "self attribute": body("self.beta = 1\nreturn x"),
    "other attribute of self": body("y = self.model\nreturn x"),
    "in place": body("chosen.add_(1)\nreturn x"),
    "in place zero": body("reference_chosen.zero_()\nreturn x"),
    "in place by out": body("torch.add(x, x, out=chosen)\nreturn x"),
    "data": body("y = chosen.data\nreturn x"),
    "grad_fn": body("y = chosen.grad_fn\nreturn x"),
    "hook": body("chosen.register_hook(x)\nreturn x"),
    "backward": body("x.sum().backward()\nreturn x"),
    "numpy": body("y = x.numpy()\nreturn x"),
    "storage": body("y = x.untyped_storage()\nreturn x"),
    "subscript write": body("chosen[0] = 5\nreturn x"),
    "delete": body("del chosen\nreturn x"),
    "global": body("global torch\nreturn x"),
    "nonlocal": body("nonlocal y\nreturn x"),
    "lambda": body("y = lambda: 1\nreturn x"),
    "nested function": body("def g():\n    return 1\nreturn x"),
    "class": body("class A:\n    pass\nreturn x"),
    "second function": body("return F.softplus(-x)") + "\ndef g():\n    return 1\n",
    "code beside": "open('CANARY', 'w')\n" + body("return x"),
    "assignment beside": "y = 1\n" + body("return x"),
    "decorator": "@torch.compile\n" + body("return x"),
    "default value": HEAD.replace("beta", "beta=open('CANARY', 'w')") + "    return chosen\n",
    "keyword-only": "def f(chosen, rejected, reference_chosen, reference_rejected, beta, *, y=1):\n    return chosen\n",
    "star arguments": "def f(*chosen):\n    return chosen\n",
    "async": "async " + body("return x"),
    "await": "async def f(chosen, rejected, reference_chosen, reference_rejected, beta):\n    await chosen\n",
    "yield": body("yield x"),
    "comprehension": body("y = [1 for _ in range(10)]\nreturn x"),
    "generator": body("y = sum(i for i in range(10))\nreturn x"),
    "dict comprehension": body("y = {i: i for i in range(9)}\nreturn x"),
    "walrus": body("y = (z := x)\nreturn x"),
    "f-string": body("y = f'{x.__class__}'\nreturn x"),
    "format": body("y = '{0.__class__}'.format(x)\nreturn x"),
    "percent format": body("y = '%s' % x\nreturn x"),
    "bytes": body("y = b'x'\nreturn x"),
    "string repeat": body("y = 'x' * 10000000000\nreturn x"),
    "list repeat": body("y = [0] * 10000000000\nreturn x"),
    "tuple unpack": body("y, z = x, x\nreturn x"),
    "star call": body("y = torch.add(*x)\nreturn x"),
    "star star call": body("y = torch.add(**x)\nreturn x"),
    "while": body("while True:\n    pass\nreturn x"),
    "while count": body("i = 0\nwhile i < 10:\n    i += 1\nreturn x"),
    "huge range": body("for i in range(1000000000):\n    x = x + i\nreturn x"),
    "range of a value": body("for i in range(beta):\n    x = x + i\nreturn x"),
    "for over a tensor": body("for i in x:\n    x = x + i\nreturn x"),
    "for else": body("for i in range(2):\n    x = x\nelse:\n    x = x\nreturn x"),
    "try": body("try:\n    y = 1\nexcept Exception:\n    y = 2\nreturn x"),
    "raise": body("raise SystemExit"),
    "assert": body("assert exit()\nreturn x"),
    "with": body("with torch.no_grad():\n    y = x\nreturn x"),
    "exit": body("exit()\nreturn x"),
    "print": body("print(x)\nreturn x"),
    "input": body("y = input()\nreturn x"),
    "match": body("match x:\n    case 1:\n        return x\nreturn x"),
    "huge integer": body("y = 10 ** 10 ** 10\nreturn x"),
    "written huge": body(f"y = {'9' * 5000}\nreturn x"),
    "shift": body("y = 1 << 100000000\nreturn x"),
    "complex": body("y = 1j\nreturn x"),
    "negative root": body("y = (-8.0) ** 0.5\nreturn x + y"),
    "infinity": body("y = 1e999\nreturn x"),
    "matmul": body("y = x @ x\nreturn x"),
    "floor division": body("y = x // 0\nreturn x"),
    "memory by ones": body("y = torch.ones(100000, 100000)\nreturn x"),
    "memory by repeat": body("y = x.repeat(1000000000)\nreturn x"),
    "memory by outer": body("y = torch.outer(x, x)\nreturn x"),
    "memory by expand": body("y = x.expand(100000, 100000)\nreturn x"),
    "memory by subscript": body("y = x[:, None] * x[None, :]\nreturn x"),
    "random numbers": body("y = torch.randn(10)\nreturn x"),
    "deep brackets": HEAD + "    return " + "(" * 300 + "chosen" + ")" * 300 + "\n",
    "deep operators": HEAD + "    return " + "-" * 2000 + "chosen\n",
    "very long": HEAD + "    return " + "+".join(["chosen"] * 5000) + "\n",
    "too long": HEAD + "    " + "#" * 30_000 + "\n    return chosen\n",
    "dunder name": body("__x = 1\nreturn x"),
    "private name": body("_y = x\nreturn x"),
    "look-alike name": body("\u0445 = x\nreturn x"),
    "fullwidth dunder": body("y = x.\uff3f\uff3fclass\uff3f\uff3f\nreturn x"),
    "null byte": body("y = 1\x00\nreturn x"),
    "type parameters": "def f[T](chosen, rejected, reference_chosen, reference_rejected, beta):\n    return chosen\n",
    "type alias": "type X = int\n" + body("return x"),
    "chained comparison": body("y = 0 < x < 1\nreturn x"),
    "is": body("y = x is None\nreturn x"),
    "in": body("y = 1 in x\nreturn x"),
    "ellipsis": body("y = ...\nreturn x"),
    "none": body("y = None\nreturn x"),
    "method of a number": body("y = (1).to_bytes(10)\nreturn x"),
    "no function": "1 + 1\n",
    "nothing": "",
    "not Python": "def f(:\n",
    "other arguments": "def f(os, sys, path, open, exec):\n    return os\n",
    "math of a batch": body("y = math.exp(x)\nreturn x"),
    "math.factorial": body("y = math.factorial(100000000)\nreturn x"),
    "whole numbers out of truths": body(
        "z = True + True\nfor i in range(16):\n    for j in range(16):\n        z = z * z\nreturn F.softplus(-x) + z"
    ),
    "whole numbers out of minus": body(
        "z = -True - True\nfor i in range(16):\n    for j in range(16):\n        z = z * z\nreturn F.softplus(-x) + z"
    ),
    "very deep minus": HEAD + "    return " + "-" * 19_000 + "chosen\n",
    "very deep methods": HEAD + "    return chosen" + ".mean()" * 2500 + "\n",
    "very deep not": HEAD + "    return " + "not " * 4000 + "chosen\n",
    "very deep powers": HEAD + "    return " + "2**" * 6000 + "1\n",
    "very long comparison": HEAD + "    return " + "1<" * 9000 + "1\n",
    "very deep lambda": HEAD + "    return " + "lambda:" * 2500 + "1\n",
    "very deep blocks": HEAD + "".join(" " * (4 + i) + "if 1:\n" for i in range(99)) + " " * 104 + "return chosen\n",
    "half a surrogate pair": HEAD + "    return \ud800\n",
    "fuel": body(
        "for i in range(16):\n    for j in range(16):\n        for k in range(16):\n            x = x + i * j\nreturn x"
    ),
}


@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_is_refused_in_one_line(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    before = (
        dict(os.environ),
        torch.sigmoid,
        torch.nn.functional.softplus,
        torch.get_num_threads(),
        torch.get_rng_state(),
    )
    start = time.monotonic()
    report = look(ATTACKS[name], BETA)
    assert report.refused and "\n" not in report.refused, report
    assert time.monotonic() - start < 10
    assert not list(tmp_path.iterdir()) and capsys.readouterr().out == ""
    after = (
        dict(os.environ),
        torch.sigmoid,
        torch.nn.functional.softplus,
        torch.get_num_threads(),
        torch.get_rng_state(),
    )
    assert before[:4] == after[:4] and torch.equal(before[4], after[4])


def test_the_corpus_is_large_and_every_attack_fails_for_what_it_is() -> None:
    assert len(ATTACKS) >= 100
    assert look(body("return F.softplus(-x)"), BETA).refused == "", "what the attacks stand around is fine by itself"
    assert (
        "more than" in look(ATTACKS["fuel"], BETA).refused and str(MAX_FUEL)[0] in look(ATTACKS["fuel"], BETA).refused
    )


def test_annotations_are_never_evaluated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    evil = HEAD.replace("chosen,", "chosen: open('CANARY', 'w'),", 1).replace("):", ") -> exit():")
    assert look(evil + RHO + "    return F.softplus(-x)\n", BETA).refused == "" and not list(tmp_path.iterdir())


def test_a_candidate_changes_no_input() -> None:
    loss = candidate(body("chosen = chosen * 0\nx += 5\nrho = -rho\nreturn F.softplus(-x)"))
    inputs = [torch.randn(4) for _ in range(4)]
    kept = [i.clone() for i in inputs]
    loss(*inputs, BETA)
    assert all(torch.equal(a, b) for a, b in zip(inputs, kept, strict=True))


def test_values_beyond_bounds_are_refused_when_they_are_met() -> None:
    grow = candidate(body("y = 2.0\nfor i in range(12):\n    y = y ** y\nreturn x + y"))
    with pytest.raises(Refused, match="line 7"):
        grow(*[torch.randn(4) for _ in range(4)], BETA)


def isolated(code: str) -> subprocess.CompletedProcess[str]:
    """Code in a process that has closed its doors as the one that looks at candidates does."""
    begin = (
        "import os, socket, sys, torch\nfrom limo.sandbox import _close_doors, _warm_up\n_warm_up()\n_close_doors(3)\n"
    )
    return subprocess.run(
        [sys.executable, "-c", begin + code],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("open('/etc/passwd')", "Too many open files"),
        ("open('{tmp}/canary', 'w').write('x')", "Too many open files"),
        ("socket.socket()", "Too many open files"),
        ("os.pipe()", "Too many open files"),
        ("os.fork()", "Resource temporarily unavailable"),
        ("import threading; threading.Thread(target=print).start()", "can't start new thread"),
        ("os.execv('/bin/true', ['true'])", ""),
        ("torch.ones(10_000_000_000)", "memory"),
        ("x = 'a' * 10_000_000_000", "MemoryError"),
        ("while True: pass", ""),
    ],
)
def test_the_process_has_no_rights(code: str, said: str, tmp_path: Path) -> None:
    """The second wall, with the first one taken away."""
    done = isolated(code.replace("{tmp}", str(tmp_path)))
    assert done.returncode != 0 and said in done.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_file_that_is_open_already_cannot_grow(tmp_path: Path) -> None:
    code = "import os, torch\nfrom limo.sandbox import _close_doors\n_close_doors(3)\nos.write(1, b'x')"
    with (tmp_path / "out.txt").open("w") as out:
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        done = subprocess.run([sys.executable, "-c", code], stdout=out, stderr=subprocess.PIPE, env=environment)
    assert done.returncode != 0 and (tmp_path / "out.txt").stat().st_size == 0


@pytest.mark.slow
def test_a_look_in_a_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-canary")
    fine = checked(body("return F.softplus(-x)"), BETA, 5)
    assert (fine.name, fine.refused) == ("f", "") and fine.slope == pytest.approx(-0.025)
    assert "not allowed" in checked(ATTACKS["import"], BETA, 5).refused
    assert json.loads(json.dumps(fine.__dict__))["name"] == "f"
    rho: Any = margin(*[torch.ones(1)] * 4)
    assert rho.item() == 0
