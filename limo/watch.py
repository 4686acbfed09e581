"""What happens beside training: the bar, checkpoints marked as whole, SIGTERM, and what the log keeps."""

import contextlib
import signal
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from limo.checkpoints import mark_whole, remove, steps_in
from limo.launch import any_rank, first, wait
from limo.progress import progress, say


class Ready(TrainerCallback):  # type: ignore[misc]
    """A last check, once the trainer has shared everything out and before the first step."""

    def __init__(self, check: Callable[[], None]) -> None:
        self.check = check

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Check."""
        self.check()


class Bar(TrainerCallback):  # type: ignore[misc]
    """Steps, rate, time left, loss and tokens per second; the last goes into the log as well."""

    def __init__(self, tokens_per_step: float) -> None:
        self.tokens_per_step = tokens_per_step
        self.note = ""

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Open the bar."""
        self.stack = contextlib.ExitStack()
        self.advance = self.stack.enter_context(progress("training", state.max_steps - state.global_step, "step"))
        self.logged = (time.monotonic(), state.global_step)

    def on_log(self, args: Any, state: Any, control: Any, logs: Mapping[str, Any] | None = None, **_: Any) -> None:
        """Note the loss, and add the speed since the last log to the log."""
        if not logs or "loss" not in logs:
            return
        now, (then, before) = time.monotonic(), self.logged
        rate = self.tokens_per_step * (state.global_step - before) / max(now - then, 1e-9)
        self.logged = (now, state.global_step)
        state.log_history[-1]["tokens_per_second"] = round(rate, 1)
        self.note = f"loss {float(logs['loss']):.4f}, {rate:,.0f} tokens/s"

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """One step on."""
        self.advance(1, self.note)

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Close the bar."""
        self.stack.close()


class Whole(TrainerCallback):  # type: ignore[misc]
    """Marks a checkpoint as whole once every rank has written its part, and only then removes older ones."""

    def __init__(self, limit: int | None, **made_with: Any) -> None:
        self.limit, self.made_with = limit, made_with

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """After the trainer has written."""
        wait()
        folder = Path(args.output_dir)
        if first():
            mark_whole(folder / f"checkpoint-{state.global_step}", **self.made_with)
            self._remove_old(folder, state)
        wait()

    def _remove_old(self, folder: Path, state: Any) -> None:
        if not self.limit:
            return
        best = Path(state.best_model_checkpoint).name if state.best_model_checkpoint else None
        old = sorted((p for p in folder.glob("checkpoint-*") if p.name != best), key=steps_in)
        for path in old[: -self.limit]:
            remove(path)


class Stop(TrainerCallback):  # type: ignore[misc]
    """On SIGTERM, as Slurm sends it: finish the step, save, stop. Ranks agree on the step after which they do."""

    def __init__(self) -> None:
        self.asked = self.stopped = False

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Listen, where signals can be listened to."""
        self.before: Callable[[int, Any], Any] | int | None = None
        if threading.current_thread() is threading.main_thread():
            self.before = signal.signal(signal.SIGTERM, self._ask)

    def _ask(self, *_: Any) -> None:
        if not self.asked:
            say("SIGTERM: saving after this step, then stopping")
        self.asked = True

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Save and stop if any rank was asked to."""
        if any_rank(self.asked) and state.global_step < state.max_steps:
            self.stopped = control.should_save = control.should_training_stop = True

    def on_epoch_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """What was saved as the step ended is not saved, nor evaluated, once more because an epoch ended as well."""
        if self.stopped:
            control.should_save = control.should_evaluate = control.should_log = False

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Listen no more."""
        if self.before is not None:
            signal.signal(signal.SIGTERM, self.before)
