"""TRL's trainers with the toolkit's losses: what goes together in a batch, and what the loss makes of it.

`Supervised` is SFTTrainer with weights and with steps from `limo/batches.py`. `Pairwise` is DPOTrainer with any
function of the four log-probabilities as its loss. Both give the same loss and gradients however a step is split over
forward passes and ranks.
"""

import inspect
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers.trainer_pt_utils import BatchRebalanceSampler
from trl import DPOTrainer, SFTTrainer
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

from limo.batches import passes, steps_of
from limo.checkpoints import unmark
from limo.launch import first
from limo.losses import learned_positions, token_log_probs, token_loss, weighted_loss

SMALL = 4096  # positions times rows whose logits may be held at once on a CPU (800 MB at a vocabulary of 50,000)
PairLoss = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, float], torch.Tensor]


class Steps(BatchRebalanceSampler):  # type: ignore[misc]
    """The forward passes of this rank, step by step; transformers takes a sampler of this class for a batch sampler.

    `seen` tells how many optimizer steps are done, from which the epoch follows, so that a run that goes on sees the
    order that it would have seen. Index `len(lengths)` stands for a row that teaches nothing.
    """

    def __init__(
        self,
        lengths: Sequence[int],
        *,
        global_batch: int,
        ranks: int,
        rank: int,
        forwards: int,
        rows: int,
        tokens: int | None,
        seed: int,
        seen: Callable[[], int],
    ) -> None:
        self.lengths, self.global_batch, self.ranks, self.rank = lengths, global_batch, ranks, rank
        self.forwards, self.rows, self.tokens, self.seed, self.seen = forwards, rows, tokens, seed, seen
        self.steps = -(-len(lengths) // global_batch)

    def __iter__(self) -> Iterator[list[int]]:
        epoch = self.seen() // self.steps
        for step in steps_of(len(self.lengths), self.global_batch, self.seed, epoch):
            for groups in passes(step, self.lengths, self.ranks, self.forwards, self.rows, self.tokens):
                yield groups[self.rank] or [len(self.lengths)]

    def __len__(self) -> int:
        return self.steps * self.forwards


class Collator(DataCollatorForLanguageModeling):  # type: ignore[misc]
    """TRL's batches, and beside them the weight of every token and what the weighted loss is divided by."""

    def torch_call(self, examples: list[dict[str, Any]]) -> dict[str, Any]:
        """One padded or packed batch of rows with input_ids, labels and, for a weighted loss, weight and share."""
        batch: dict[str, Any] = super().torch_call(examples)
        if "weight" not in examples[0]:
            return batch
        weights = [torch.full((len(row["input_ids"]),), float(row["weight"])) for row in examples]
        if self.padding_free:
            weights = [torch.cat(weights)]
        length = batch["labels"].shape[1]
        padded = [torch.nn.functional.pad(w, (0, length - len(w))) for w in weights]
        batch["token_weights"] = torch.stack(padded)
        batch["share"] = torch.tensor(float(sum(row["share"] for row in examples)))
        return batch


class Kept:
    """What both trainers do about checkpoints and weights, before TRL's trainer among the base classes."""

    saved_as: torch.dtype | None = None  # set before the model is saved; None keeps what it was trained in
    args: Any
    state: Any
    control: Any
    model: Any
    accelerator: Any

    def _run_epoch(self, *args: Any, **rest: Any) -> None:
        """Nothing after the last step: transformers would take one more when it goes on from a checkpoint of that."""
        if self.state.global_step >= self.state.max_steps:
            self.control.should_training_stop = True
            return
        super()._run_epoch(*args, **rest)  # type: ignore[misc]

    def _save_checkpoint(self, *args: Any, **rest: Any) -> None:
        """A checkpoint that is written a second time is not whole until that has ended."""
        if first():
            unmark(Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}")
        super()._save_checkpoint(*args, **rest)  # type: ignore[misc]

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        """In `saved_as` where it is set: weights that were trained in float32 need not be kept in it."""
        if self.saved_as is None:
            super()._save(output_dir, state_dict)  # type: ignore[misc]
            return
        model = self.accelerator.unwrap_model(self.model, keep_torch_compile=False)
        weights = state_dict if state_dict is not None else model.state_dict()
        cast: dict[Any, torch.Tensor] = {}  # tied weights stay one tensor
        low = {
            name: cast.setdefault((w.data_ptr(), w.shape), w.to(self.saved_as)) if w.is_floating_point() else w
            for name, w in weights.items()
        }
        super()._save(output_dir, low)  # type: ignore[misc]
        config = Path(output_dir or self.args.output_dir) / "config.json"
        if first() and config.is_file():  # ranks that share a folder must not read what another is writing
            written = json.loads(config.read_text(encoding="utf-8")) | {"dtype": str(self.saved_as).split(".")[1]}
            config.write_text(json.dumps(written, indent=2) + "\n", encoding="utf-8")


class Supervised(Kept, SFTTrainer):  # type: ignore[misc]
    """SFTTrainer whose steps hold the same chains on any number of devices, with an optional weight for each row."""

    steps: Callable[[Callable[[], int]], Steps] | None = None  # set before training; None leaves the order to TRL

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        if self.steps is None:
            return super()._get_train_sampler(train_dataset)
        return self.steps(lambda: int(self.state.global_step))

    def _set_signature_columns_if_needed(self) -> None:
        super()._set_signature_columns_if_needed()
        for column in ("weight", "share"):
            if column not in self._signature_columns:
                self._signature_columns.append(column)

    def evaluation_loop(self, *args: Any, metric_key_prefix: str = "eval", **rest: Any) -> Any:
        """TRL's, with a loss that is the mean over all learned tokens, whatever the batches and ranks."""
        self._held_out = torch.zeros(2, dtype=torch.float64)
        out = super().evaluation_loop(*args, metric_key_prefix=metric_key_prefix, **rest)
        total, tokens = self._held_out.to(self.args.device, torch.float32)  # not every device has float64
        summed = self.accelerator.reduce(torch.stack([total, tokens]), "sum").tolist()
        if f"{metric_key_prefix}_loss" in out.metrics and summed[1]:
            out.metrics[f"{metric_key_prefix}_loss"] = summed[0] / summed[1]
        return out

    def prediction_step(self, model: Any, inputs: Any, *args: Any, **rest: Any) -> Any:
        """TRL's; rows that were put in twice to fill the last batch of a rank do not count."""
        state = self.accelerator.gradient_state
        if state.end_of_dataloader and state.remainder > 0:
            rows = self.args.eval_batch_size
            own = min(max(state.remainder - self.accelerator.process_index * rows, 0), rows)
            self._only(inputs, own)
        result = super().prediction_step(model, inputs, *args, **rest)
        tokens = int((inputs["labels"][:, 1:] != -100).sum()) if "labels" in inputs else 0
        if tokens and result[0] is not None:
            self._held_out += torch.tensor([float(result[0]) * tokens, tokens], dtype=torch.float64)
        return result

    def _only(self, inputs: Any, rows: int) -> None:
        """Unlearn all but the first rows of a batch, padded or packed."""
        labels = inputs["labels"] = inputs["labels"].clone()
        if "position_ids" in inputs and len(labels) == 1:
            starts = (inputs["position_ids"][0] == 0).nonzero()[:, 0].tolist()
            labels[:, starts[rows] if rows < len(starts) else labels.shape[1] :] = -100
        else:
            labels[rows:] = -100

    def _get_num_items_in_batch(self, batch_samples: list[Any], device: torch.device) -> Any:
        """What the step's loss is divided by: its learned tokens, or the sum of the rows' shares."""
        if not batch_samples or "share" not in batch_samples[0]:
            return super()._get_num_items_in_batch(batch_samples, device)
        total = sum(batch["share"] for batch in batch_samples).to(device)
        if self.args.world_size > 1:
            total = self.accelerator.gather(total).sum()
        return total

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """TRL's loss; weighted where rows have weights; on a CPU, only where something is learned.

        TRL projects to the vocabulary only where something is learned on GPUs; elsewhere it scores every position, tile
        by tile, which makes a step on short chains twice as slow. The loss is the same.
        """
        weights, share = inputs.pop("token_weights", None), inputs.pop("share", None)
        positions = self._few(model, inputs["labels"], return_outputs)
        if weights is None and positions is None:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        labels = inputs["labels"]
        if positions is None:
            out = model(**{**inputs, "use_cache": False}, fused_lm_head=True)
            log_probs, mine = out.log_probs, None if weights is None else weights[:, 1:]
            self._count(inputs, out.is_top1)
        else:
            rest = {key: value for key, value in inputs.items() if key != "labels"}
            logits = model(**rest, use_cache=False, logits_to_keep=positions).logits
            log_probs = token_log_probs(logits, labels[:, positions + 1])
            mine = None if weights is None else weights[:, positions + 1]
            self._count(inputs, (logits.detach().argmax(-1) == labels[:, positions + 1]).sum())
        whole = share if share is not None else (labels[:, 1:] != -100).sum()
        loss = weighted_loss(
            token_loss(log_probs, self.args.loss_type),
            mine,
            whole if num_items_in_batch is None else num_items_in_batch,
        )
        return loss * self.accelerator.num_processes if self._spread(num_items_in_batch) else loss

    def _spread(self, num_items_in_batch: Any) -> bool:
        """Whether the loss was divided by the tokens of all ranks, whose gradients will be averaged."""
        return bool(self.args.average_tokens_across_devices and num_items_in_batch is not None)

    def _few(self, model: Any, labels: torch.Tensor, return_outputs: bool) -> torch.Tensor | None:
        """The positions to project, where that is cheaper than what TRL does and gives the same."""
        special = return_outputs or self.label_smoother is not None or self.aux_loss_enabled
        # Several ranks must take the same way, since TRL's gathers its metrics from all
        if labels.device.type != "cpu" or special or self.accelerator.num_processes > 1:
            return None
        positions = learned_positions(labels)
        if len(positions) * len(labels) > SMALL:
            return None
        if not len(positions):  # a pass that teaches nothing
            positions = torch.zeros(1, dtype=torch.long)
        inner = self.accelerator.unwrap_model(model)
        inner = inner.get_base_model() if hasattr(inner, "get_base_model") else inner
        return positions if "logits_to_keep" in inspect.signature(type(inner).forward).parameters else None

    def _count(self, inputs: Mapping[str, Any], right: torch.Tensor) -> None:
        """TRL's own counts of tokens seen and of tokens predicted first."""
        mode = "train" if self.model.training else "eval"
        learned = (inputs["labels"][:, 1:] != -100).sum()
        seen = inputs["attention_mask"].sum() if "attention_mask" in inputs else torch.tensor(inputs["labels"].numel())
        counts = torch.stack([right.sum().to(learned), learned, seen.to(learned)])
        right_, learned_, seen_ = (int(x) for x in self.accelerator.reduce(counts, "sum"))
        if learned_:
            self._metrics[mode]["mean_token_accuracy"].append(right_ / learned_)
        if mode == "train":
            self._total_train_tokens += seen_
        self._metrics[mode]["num_tokens"] = [self._total_train_tokens]


class Pairwise(Kept, DPOTrainer):  # type: ignore[misc]
    """DPOTrainer whose loss is `pair_loss(chosen, rejected, reference_chosen, reference_rejected, beta)`.

    All four are summed log-probabilities (pairs,) in nats; it returns one loss for each pair.
    """

    def __init__(
        self, *args: Any, pair_loss: PairLoss, warm_loss: PairLoss | None = None, warm_steps: int = 0, **rest: Any
    ) -> None:
        """The first `warm_steps` optimizer steps take `warm_loss`."""
        self.held_out = list[list[float]]()  # rewards of chosen and rejected of each pair evaluated, in their order
        self.pair_loss, self.warm_loss, self.warm_steps = pair_loss, warm_loss, warm_steps
        super().__init__(*args, **rest)

    def _prepare_dataset(self, dataset: Any, *args: Any, **rest: Any) -> Any:
        """Rows that have token ids already stay as they are."""
        return dataset if "prompt_ids" in dataset.column_names else super()._prepare_dataset(dataset, *args, **rest)

    def _compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False) -> Any:
        """The mean of the pairs' losses, with TRL's own metrics of margins and accuracy."""
        ours = {"completion_mask", "ref_chosen_logps", "ref_rejected_logps"}
        batch = {key: value for key, value in inputs.items() if key not in ours}
        mask = inputs["completion_mask"]
        labels = inputs["input_ids"].masked_fill(mask == 0, -100)
        out = model(**{**batch, "use_cache": False}, labels=labels, fused_lm_head=True)
        chosen, rejected = out.log_probs.sum(1).chunk(2)
        if self.precompute_ref_logps:
            reference = inputs["ref_chosen_logps"], inputs["ref_rejected_logps"]
        else:
            reference = self.compute_ref_log_probs(self.ref_model if self.ref_model is not None else self.model, inputs)
        warm = self.model.training and self.state.global_step < self.warm_steps
        pair_loss = self.warm_loss if warm and self.warm_loss else self.pair_loss
        losses = pair_loss(chosen, rejected, *reference, self.beta)
        assert losses.shape == chosen.shape, f"a pair loss returns one value a pair, not {tuple(losses.shape)}"
        self._note(chosen.detach() - reference[0], rejected.detach() - reference[1])
        return (losses.mean(), out) if return_outputs else losses.mean()

    def _note(self, chosen: torch.Tensor, rejected: torch.Tensor) -> None:
        rewards = self.accelerator.gather_for_metrics(self.beta * torch.stack([chosen, rejected], 1))
        notes = self._metrics["train" if self.model.training else "eval"]
        if not self.model.training:
            self.held_out += rewards.float().tolist()
        notes["rewards/chosen"].append(rewards[:, 0].mean().item())
        notes["rewards/rejected"].append(rewards[:, 1].mean().item())
        notes["rewards/margins"].append((rewards[:, 0] - rewards[:, 1]).mean().item())
        notes["rewards/accuracies"].append((rewards[:, 0] > rewards[:, 1]).float().mean().item())
