"""The script for a GPU, at sizes that a CPU can do: every step of it runs, and it resumes."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT


@pytest.mark.slow
def test_the_script_for_a_gpu_runs_from_end_to_end(tiny: Path, tmp_path: Path) -> None:
    call = [sys.executable, str(ROOT / "bench" / "gpu.py"), str(tmp_path / "out"), "--tiny", str(tiny)]
    done = subprocess.run(call, capture_output=True, text=True, timeout=580, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    summary = (tmp_path / "out" / "RESULTS.md").read_text()
    for part in ("no GPU", "## demo-curate: ", "TRL padded", "losses of zero3: ", "losses of cpu: "):
        assert part in summary, summary
    assert "DIFFER" not in summary
    again = subprocess.run(call, capture_output=True, text=True, timeout=60, cwd=ROOT)
    assert again.returncode == 0 and "limo.train" not in again.stdout, "nothing runs twice"
