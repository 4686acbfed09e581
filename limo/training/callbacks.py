"""Callbacks of a training: progress bar, marking checkpoints as whole, SIGTERM, early end, and averaged weights."""

import contextlib
import json
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback

from limo.console import progress, say
from limo.data import replacing
from limo.machine import is_main, rank, world_size
from limo.training.checkpoints import MARK, list_checkpoints, mark_whole
from limo.training.launch import any_rank, wait


class Bar(TrainerCallback):  # type: ignore[misc]
    """Steps, rate, time left, loss and tokens per second; the last goes into the log as well."""

    def __init__(self, tokens_per_step: float) -> None:
        self.tokens_per_step, self.note = tokens_per_step, ""

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Open the bar."""
        self.stack = contextlib.ExitStack()
        self.advance = self.stack.enter_context(progress("training", state.max_steps - state.global_step, "step"))
        self.logged = (time.monotonic(), state.global_step)

    def on_log(self, args: Any, state: Any, control: Any, logs: Mapping[str, Any] | None = None, **_: Any) -> None:
        """Remember the loss for the bar, and add the speed since the last log to the log."""
        if not logs or "loss" not in logs:
            return
        now, (then, before) = time.monotonic(), self.logged
        rate = self.tokens_per_step * (state.global_step - before) / max(now - then, 1e-9)
        self.logged = (now, state.global_step)
        state.log_history[-1]["tokens_per_second"] = round(rate, 1)
        self.note = f"loss {float(logs['loss']):.4f}, {rate:,.0f} tokens/s"

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Advance by one step."""
        self.advance(1, self.note)

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Close the bar."""
        self.stack.close()


class UntilAccuracy(TrainerCallback):  # type: ignore[misc]
    """Ends the training when a log first reports a token accuracy of at least `share` (arXiv 2602.11149)."""

    def __init__(self, share: float) -> None:
        self.share = share

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Stop at once if the training had already reached the accuracy before the checkpoint was written."""
        logged = [entry for entry in state.log_history if "loss" in entry]
        self.on_log(args, state, control, logged[-1] if logged else None)

    def on_log(self, args: Any, state: Any, control: Any, logs: Mapping[str, Any] | None = None, **_: Any) -> None:
        """Stop if the accuracy is reached; all ranks see the same accuracy."""
        reached = float((logs or {}).get("mean_token_accuracy", 0.0))
        if reached >= self.share:
            say(f"token accuracy {reached:.4f} after step {state.global_step}: training ends")
            control.should_training_stop = True


class LogWindow(TrainerCallback):  # type: ignore[misc]
    """Saves in each checkpoint the sums of loss and token accuracy since the last log, so that a resumed training logs
    the same values.
    """

    FILE = "window-{}.json"  # of each rank

    def __init__(self, trainer: Any, last: Path | None) -> None:
        self.trainer, self.last = trainer, last

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Restore the sums of the checkpoint. If the number of ranks has changed, every rank gets their mean, as the
        log averages the loss over ranks.
        """
        files = list(self.last.glob(self.FILE.format("*"))) if self.last else []
        if self.last and len(files) == world_size():
            files = [self.last / self.FILE.format(rank())]
        found = [json.loads(file.read_text(encoding="utf-8")) for file in files]
        if found:
            self.trainer._tr_loss += sum(one["loss"] for one in found) / len(found)
            self.trainer._globalstep_last_logged = found[0]["since"]
            self.trainer._total_train_tokens = found[0]["tokens"]
            self.trainer._metrics["train"].update(found[0]["metrics"])

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Write this rank's sums since the last log into the checkpoint."""
        trainer = self.trainer
        sums = {
            "loss": trainer._tr_loss.item(),
            "since": trainer._globalstep_last_logged,
            "tokens": trainer._total_train_tokens,
            "metrics": {name: [float(value) for value in values] for name, values in trainer._metrics["train"].items()},
        }
        with replacing(Path(args.output_dir) / f"checkpoint-{state.global_step}" / self.FILE.format(rank())) as file:
            json.dump(sums, file)


class Average(TrainerCallback):  # type: ignore[misc]
    """The mean of the trained weights over the steps of the last `share` of a training.

    A mean of late weights varies less between trainings than the last weights do (Izmailov et al. 2018, arXiv
    1803.05407; Sanyal et al. 2023, arXiv 2306.03241). It takes memory for one float32 copy of the trained weights.
    Checkpoints of these steps hold the mean, so that a resumed training has the same one.
    """

    FILE = "average.safetensors"

    def __init__(self, share: float, last: Path | None) -> None:
        self.share, self.last = share, last
        self.count, self.means = 0, dict[str, torch.Tensor]()

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        """Read the mean of the checkpoint that the training resumes from."""
        from safetensors import safe_open

        path = self.last / self.FILE if self.last else None
        if path and path.is_file():
            device = next(model.parameters()).device
            with safe_open(path, "pt", device=str(device)) as file:
                self.count = int(file.metadata()["count"])
                self.means = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        """Add the weights of this step to the mean."""
        if state.global_step <= state.max_steps * (1 - self.share):
            return
        self.count += 1
        for name, weight in self._trained(model):
            value = weight.detach().float()
            if name in self.means:
                self.means[name].lerp_(value, 1 / self.count)
            else:
                self.means[name] = value.clone()

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Write the mean of the weights so far into the checkpoint."""
        from safetensors.torch import save_file

        if self.count and is_main():
            path = Path(args.output_dir) / f"checkpoint-{state.global_step}" / self.FILE
            save_file(self.means, path, {"count": str(self.count)})

    def load_into(self, model: Any) -> None:
        """Copy the mean into the model's weights."""
        with torch.no_grad():
            for name, weight in self._trained(model):
                weight.copy_(self.means[name])

    @staticmethod
    def _trained(model: Any) -> Iterator[tuple[str, "torch.nn.Parameter"]]:
        return ((name.removeprefix("module."), w) for name, w in model.named_parameters() if w.requires_grad)


class Checkpoints(TrainerCallback):  # type: ignore[misc]
    """Marks a checkpoint as whole once every rank has written its part, and only then removes older ones.

    On SIGTERM, which Slurm sends, all ranks finish the same step, save a checkpoint and stop.
    Ctrl-C ends the training at once, or, if a library has caught the interrupt, after the step.
    """

    def __init__(self, check: Callable[[], None], limit: int | None, **made_with: Any) -> None:
        self.check, self.limit, self.made_with = check, limit, made_with
        self.asked = self.stopped = self.interrupted = False

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Check the trainer; handle SIGTERM, where Python allows it."""
        self.check()
        main = threading.current_thread() is threading.main_thread()
        self.before = signal.signal(signal.SIGTERM, self._ask) if main else None
        self.before_interrupt = signal.signal(signal.SIGINT, self._interrupt) if main else None

    def _interrupt(self, *_: Any) -> None:
        self.interrupted = True
        raise KeyboardInterrupt

    def _ask(self, *_: Any) -> None:
        if not self.asked:
            say("SIGTERM: saving after this step, then stopping")
        self.asked = True

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Save and stop if any rank has received a signal."""
        if self.interrupted:
            raise KeyboardInterrupt
        if any_rank(self.asked) and state.global_step < state.max_steps:
            self.stopped = control.should_save = control.should_training_stop = True

    def on_epoch_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Avoid a second save or evaluation when the epoch ends with the step."""
        if self.stopped:
            control.should_save = control.should_evaluate = control.should_log = False

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Mark the checkpoint, then remove those above the limit; the best one, which transformers loads, stays."""
        wait()
        if is_main():
            folder = Path(args.output_dir)
            mark_whole(folder / f"checkpoint-{state.global_step}", **self.made_with)
            best = Path(state.best_model_checkpoint).name if state.best_model_checkpoint else None
            for path in [p for p in list_checkpoints(folder) if p.name != best][self.limit :] if self.limit else ():
                (path / MARK).unlink(missing_ok=True)  # a partly removed checkpoint must not be taken for whole
                shutil.rmtree(path, ignore_errors=True)
        wait()

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Restore the earlier handling of SIGTERM."""
        if self.before is not None:
            signal.signal(signal.SIGTERM, self.before)
            signal.signal(signal.SIGINT, self.before_interrupt)
