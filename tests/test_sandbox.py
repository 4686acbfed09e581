"""Candidate losses: known ones are read as they are meant, and no text does anything but arithmetic."""

import importlib.util
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from limo.discover.candidate import Candidate, LossRefused
from limo.discover.checks import check_candidate, check_text, probe_loss, train_alike
from limo.training import preference
from limo.training.preference import PairLogProbs
from tests.conftest import ROOT
from tests.test_preference import of

BETA = 0.05
HEAD = "def f(chosen, rejected, reference_chosen, reference_rejected, beta):\n"
RHO = "    rho = (chosen - rejected) - (reference_chosen - reference_rejected)\n    x = beta * rho\n    u = x / 0.05\n"


def body(text: str) -> str:
    """A candidate with these lines after x, u and rho."""
    return HEAD + RHO + "".join(f"    {line}\n" for line in text.splitlines())


def sampled(n: int = 16, seed: int = 1) -> PairLogProbs:
    generator = torch.Generator().manual_seed(seed)
    return PairLogProbs(*(torch.randn(n, generator=generator, dtype=torch.float64) for _ in range(4)))


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
    text, known, pairs = body(AS_TEXT[name]), of(name), sampled()
    loss = Candidate(text)
    assert loss.__name__ == "f"
    assert loss(pairs, BETA).tolist() == pytest.approx(known(pairs, BETA).tolist(), rel=1e-9)
    assert Candidate(loss.code)(pairs, BETA).equal(loss(pairs, BETA)), "the text that is kept is the same loss"
    report = check_text(text, BETA)
    assert report.refused == "" and train_alike(report.probes, probe_loss(known, BETA))
    assert bool(report.problems) == (name == "discopop")
    assert report.slope is not None and (report.slope > 0) == (name == "discopop")


def test_losses_that_differ_by_a_constant_or_a_factor_train_alike_and_others_do_not() -> None:
    probes = {name: check_text(body(text), BETA).probes for name, text in AS_TEXT.items()}
    assert not any(train_alike(probes[a], probes[b]) for a in probes for b in probes if a < b)
    same = check_text(body("a = 3 * torch.log(1 + torch.exp(-x.clamp(min=-80))) + 7\nreturn a"), BETA)
    assert "not finite" in same.refused or train_alike(same.probes, probes["dpo"])
    assert train_alike(check_text(body("return 3 * F.softplus(-x) + 7"), BETA).probes, probes["dpo"])
    decides = check_text(body("return torch.where(x.mean() > 0, hinge(x), logistic(x))"), BETA)
    assert not train_alike(decides.probes, probes["slic"]), "a decision by the batch is seen"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("return x", "has no lower loss"),
        ("return -x * 0", "has no lower loss"),
        ("return torch.exp(-x)", "not finite at beta rho"),
        ("return (1 - torch.sigmoid(u)) * logistic(x) + torch.sigmoid(u) * torch.exp(-x)", "not finite at beta rho"),
        ("return torch.log(x)", "not finite at random inputs"),
        ("return F.softplus(-x) / 0", "not finite"),
        ("return F.softplus(-x).detach()", "has no slope"),
        ("return F.softplus(-(chosen - reference_chosen))", "no slope in the policy"),
        ("return torch.sqrt(torch.abs(x - x)) + logistic(x)", "slope that is not finite"),
        ("return logistic(x) + 0.01 * torch.sqrt(torch.abs(x))", "slope that is not finite at rho = 0"),
        ("return 1.0", "gives ()"),
        ("return (x * 0).sum()", "one value per pair"),
        ("return F.softplus(-x) * torch.arange(10)", "is not known"),
        ("y = x", "ends without a return"),
        ("return z", "'z' has no value"),
        ("if x > 0:\n    return x\nreturn -x", "If is not allowed"),
        ("return x\nreturn -x", "Return is not allowed"),
        ("y = (9.0 ** 9) ** 9\ny = y ** 9\nreturn logistic(x) + y", "line 6"),
        ("return F.relu(-x, True)", "relu takes 1 to 1 values"),
    ],
)
def test_a_loss_that_would_not_train_is_refused_with_its_reason(text: str, reason: str) -> None:
    assert reason in check_text(body(text), BETA).refused


def test_losses_that_the_published_validator_refuses_pass() -> None:
    free = check_text(body("return F.softplus(-beta * (chosen - rejected))"), BETA)
    assert free.refused == "" and free.slope == pytest.approx(-0.025), "a loss need not use the reference"
    whole = HEAD + "    return F.softplus(-beta * (chosen - rejected)) + 0 * torch.softmax(chosen)\n"
    assert check_text(whole, BETA).refused == "", "nor treat pairs alone"


# Statements between ;; before a return that is fine by itself
LINES = r"""
import os ;; from os import system ;; __import__('os').system('touch CANARY') ;; y = importlib.import_module(x) ;;
exec('open(1)') ;; y = eval('1') ;; compile('1', '', 'eval') ;; open('CANARY', 'w') ;; y = open('/etc/passwd') ;;
y = getattr(torch, 'save') ;; setattr(torch, 'mean', beta) ;; globals() ;; y = locals() ;; y = vars(torch) ;;
y = __builtins__ ;; y = x.__class__ ;; y = ().__class__.__bases__ ;; y = x.__class__.__mro__[1].__subclasses__() ;;
y = f.__globals__ ;; y = f.__code__ ;; y = torch ;; torch.save(x, beta) ;; y = torch.load(x) ;;
y = torch.hub.load(x, x) ;; y = torch.ops.aten.add(x, x) ;; y = torch.os.system(x) ;; y = torch.sys.exit(0) ;;
y = torch._C._abort() ;; y = torch.from_file(x) ;; y = torch.compile(x) ;; torch.manual_seed(0) ;;
torch.set_num_threads(1000) ;; torch.set_default_dtype(x) ;; torch.sigmoid = torch.exp ;;
torch.nn.functional.softplus = 1 ;; torch = x ;; F = x ;; self.beta = 1 ;; y = self.model ;; chosen.add_(1) ;;
reference_chosen.zero_() ;; torch.add(x, x, out=chosen) ;; y = F.elu(x, 1.0, True) ;; y = chosen.data ;;
y = chosen.grad_fn ;; chosen.register_hook(x) ;; x.sum().backward() ;; y = x.numpy() ;; y = x.untyped_storage() ;;
chosen[0] = 5 ;; del chosen ;; global torch ;; nonlocal y ;; y = lambda: 1 ;; y: open('CANARY', 'w') = 1 ;;
y = [1 for _ in range(10)] ;; y = sum(i for i in range(10)) ;; y = {i: i for i in range(9)} ;; y = (z := x) ;;
y = f'{x.__class__}' ;; y = '{0.__class__}'.format(x) ;; y = '%s' % x ;; y = b'x' ;; y = 'x' * 10000000000 ;;
y = [0] * 10000000000 ;; y, z = x, x ;; y = torch.add(*x) ;; y = torch.add(**x) ;; y = torch.cat([1 - x, 1 + x]) ;;
raise SystemExit ;; assert exit() ;; exit() ;; print(x) ;; y = input() ;; yield x ;; y = 10 ** 10 ** 10 ;;
y = 1 << 100000000 ;; y = 1j ;; y = (-8.0) ** 0.5 ;; y = 1e999 ;; y = x @ x ;; y = x // 0 ;;
y = torch.ones(100000, 100000) ;; y = x.repeat(1000000000) ;; y = torch.outer(x, x) ;; y = x.expand(100000, 100000) ;;
y = x[:, None] * x[None, :] ;; y = torch.randn(10) ;; __x = 1 ;; _y = x ;; х = x ;; y = x.＿＿class＿＿ ;;
y = 0 < x < 1 ;;
y = x is None ;; y = 1 in x ;; y = ... ;; y = None ;; y = (1).to_bytes(10) ;; y = math.exp(x) ;;
y = math.factorial(100000000) ;; type X = int
"""
DEEP = "z = {}" + "\nz = z * z" * 40
BLOCKS = {
    "nested function": "def g():\n    return 1",
    "class": "class A:\n    pass",
    "while": "while True:\n    pass",
    "while count": "i = 0\nwhile i < 10:\n    i += 1",
    "huge range": "for i in range(1000000000):\n    x = x + i",
    "range of a value": "for i in range(beta):\n    x = x + i",
    "for over a tensor": "for i in x:\n    x = x + i",
    "for else": "for i in range(2):\n    x = x\nelse:\n    x = x",
    "try": "try:\n    y = 1\nexcept Exception:\n    y = 2",
    "with": "with torch.no_grad():\n    y = x",
    "match": "match x:\n    case 1:\n        return x",
    "written huge": f"y = {'9' * 5000}",
    "null byte": "y = 1\x00",
    "whole numbers out of truths": DEEP.format("True + True"),
    "whole numbers out of minus": DEEP.format("-True - True"),
    "work": "for i in range(16):\n    for j in range(16):\n        for k in range(16):\n            x = x + i * j",
}
FINE = "return F.softplus(-x)"
WHOLE = {
    "import": "import os\n" + body(FINE),
    "second function": body(FINE) + "\ndef g():\n    return 1\n",
    "code beside": "open('CANARY', 'w')\n" + body(FINE),
    "assignment beside": "y = 1\n" + body(FINE),
    "decorator": "@open('CANARY', 'w')\n" + body(FINE),
    "default value": body(FINE).replace("beta)", "beta=open('CANARY', 'w'))", 1),
    "keyword-only": body(FINE).replace("beta)", "beta, *, y=1)", 1),
    "star arguments": "def f(*chosen):\n    return chosen\n",
    "async": "async " + body(FINE),
    "await": "async " + body("await chosen"),
    "type parameters": body(FINE).replace("def f(", "def f[T: open('CANARY', 'w')](", 1),
    "no function": "1 + 1\n",
    "nothing": "",
    "not Python": "def f(:\n",
    "other arguments": "def f(os, sys, path, open, exec):\n    return os\n",
    "deep brackets": HEAD + "    return " + "(" * 300 + "chosen" + ")" * 300 + "\n",
    "deep operators": HEAD + "    return " + "-" * 2000 + "chosen\n",
    "very long": HEAD + "    return " + "+".join(["chosen"] * 5000) + "\n",
    "too long": HEAD + "    " + "#" * 30_000 + "\n" + body(FINE).removeprefix(HEAD),
    "very deep minus": HEAD + "    return " + "-" * 19_000 + "chosen\n",
    "very deep methods": HEAD + "    return chosen" + ".mean()" * 2500 + "\n",
    "very deep not": HEAD + "    return " + "not " * 4000 + "chosen\n",
    "very deep powers": HEAD + "    return " + "2**" * 6000 + "1\n",
    "very long comparison": HEAD + "    return " + "1<" * 9000 + "1\n",
    "very deep lambda": HEAD + "    return " + "lambda:" * 2500 + "1\n",
    "very deep blocks": HEAD + "".join(" " * (4 + i) + "if 1:\n" for i in range(99)) + " " * 104 + "return chosen\n",
    "half a surrogate pair": HEAD + "    return \ud800\n",
}
ATTACKS = {line.strip(): body(f"{line.strip()}\n{FINE}") for line in LINES.split(";;")}
ATTACKS |= {name: body(f"{text}\n{FINE}{' + z' if 'z = z' in text else ''}") for name, text in BLOCKS.items()} | WHOLE


@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_is_refused_in_one_line(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)

    def state() -> tuple[object, ...]:
        functions = torch.sigmoid, torch.nn.functional.softplus
        return dict(os.environ), functions, torch.get_num_threads(), torch.get_rng_state().tolist()

    before, start = state(), time.monotonic()
    report = check_text(ATTACKS[name], BETA)
    assert report.refused and "\n" not in report.refused and not report.code, report
    assert time.monotonic() - start < 10 and state() == before
    assert not list(tmp_path.iterdir()) and capsys.readouterr().out == ""


def test_the_corpus_is_large_and_stands_around_a_loss_that_passes() -> None:
    assert len(ATTACKS) >= 140 and check_text(body(FINE), BETA).refused == ""


def test_the_text_that_is_kept_does_nothing_when_it_is_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    evil = body(FINE).replace("chosen,", "chosen: open('CANARY', 'w'),", 1).replace("):", ") -> exit():", 1)
    report = check_text(evil, BETA)
    assert report.refused == "" and report.code.startswith(HEAD)
    (tmp_path / "kept.py").write_text(report.code)
    spec = importlib.util.spec_from_file_location("kept", tmp_path / "kept.py")
    assert spec and spec.loader
    spec.loader.exec_module(importlib.util.module_from_spec(spec))
    assert {path.name for path in tmp_path.iterdir()} <= {"kept.py", "__pycache__"}


def test_a_candidate_changes_no_input() -> None:
    loss = Candidate(body("chosen = chosen * 0\nx += 5\nrho = -rho\nreturn F.softplus(-x)"))
    pairs, before = sampled(4), sampled(4)
    loss(pairs, BETA)
    assert all(torch.equal(a, b) for a, b in zip(vars(pairs).values(), vars(before).values(), strict=True))


def run_without_rights(code: str, stdout: int | None = subprocess.PIPE) -> "subprocess.CompletedProcess[str]":
    """Code in a process that has dropped its rights as the one that checks candidates does."""
    begin = "import mmap, os, socket, sys, torch\nfrom limo.discover.checks import *\n"
    begin += "import limo.discover.checks as s; check_text(s.WARM_UP, 1.0)\n"
    # A build of torch for CUDA maps tens of GB of address space
    begin += "big = mmap.mmap(-1, 20 << 30, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, prot=mmap.PROT_READ)\n"
    begin += "drop_rights(3)\n"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    call = [sys.executable, "-c", begin + code]
    return subprocess.run(call, stdout=stdout, stderr=subprocess.PIPE, text=True, timeout=120, env=environment)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("open('/etc/passwd')", "Too many open files"),
        ("open('{tmp}/canary', 'w').write('x')", "Too many open files"),
        ("socket.socket()", "Too many open files"),
        ("os.pipe()", "Too many open files"),
        ("os.fork()", "Resource temporarily unavailable"),
        ("import threading; threading.Thread(target=print).start()", "can't start new thread"),
        ("os.execv('/bin/true', ['true'])", ""),
        ("torch.ones(1_000_000_000)", "memory"),
        ("x = 'a' * 10_000_000_000", "MemoryError"),
        ("while True: pass", ""),
    ],
)
def test_the_process_has_no_rights(code: str, reason: str, tmp_path: Path) -> None:
    """The second guard, without the first."""
    done = run_without_rights(code.replace("{tmp}", str(tmp_path)))
    assert done.returncode != 0 and reason in done.stderr and "drop_rights" not in done.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_the_process_has_the_memory_that_a_check_needs_and_no_file_to_write_to(tmp_path: Path) -> None:
    text = body(AS_TEXT["aqfl"])
    done = run_without_rights(f"report = check_text({text!r}, 0.05)\nassert not report.refused, report\n")
    assert done.returncode == 0, done.stderr
    with (tmp_path / "out.txt").open("w") as out:
        done = run_without_rights("os.write(1, b'x')", out.fileno())
    assert done.returncode != 0 and (tmp_path / "out.txt").stat().st_size == 0


@pytest.mark.slow
def test_a_check_in_a_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-canary")
    fine = check_candidate(body(FINE), BETA)
    assert (fine.name, fine.refused, fine.code) == ("f", "", Candidate(body(FINE)).code)
    assert fine.slope == pytest.approx(-0.025)
    assert json.loads(json.dumps(fine.probes)) == pytest.approx(probe_loss(preference.dpo, BETA), abs=1e-5)
    assert "one function" in check_candidate(ATTACKS["import"], BETA).refused
    for limit in ("STARTING", "SECONDS"):
        monkeypatch.setattr(f"limo.discover.checks.{limit}", 0.1)
    assert "was killed" in check_candidate(body(FINE), BETA).refused


def test_refusals_name_their_line() -> None:
    with pytest.raises(LossRefused, match=r"^line 5: Import is not allowed$"):
        Candidate(body("import os\nreturn x"))(sampled(), BETA)
