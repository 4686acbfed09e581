"""TRL's trainers with the toolkit's losses: which rows form a batch, and how the loss is computed from it.

`ChainTrainer` is SFTTrainer with row weights and with steps from `training/batches.py`. `PairTrainer` is DPOTrainer
with any pair loss. Both give the same loss and gradients however a step is split over forward passes and ranks, stop at
the first loss or gradient norm that is not finite, and never save weights that are not finite.
"""

import inspect
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from transformers.trainer_pt_utils import BatchRebalanceSampler
from trl import DPOTrainer, SFTTrainer
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

from limo.errors import UserError
from limo.machine import is_main, rank, world_size
from limo.training.batches import Shape, split_epoch, split_step
from limo.training.launch import any_rank
from limo.training.preference import PairLogProbs, PairLoss, dpo
from limo.training.settings import Supervised

SMALL = 4096  # positions times rows whose logits may be held at once on a CPU (800 MB at a vocabulary of 50,000)


def loss_positions(labels: torch.Tensor) -> torch.Tensor:
    """The positions (n,) whose next token is a loss token in at least one row of `labels` (rows, length), which are
    -100 for other tokens.
    """
    return (labels[:, 1:] != -100).any(0).nonzero()[:, 0]


def token_log_probs(logits: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """Log-probabilities (rows, n) in nats of tokens `wanted` (rows, n), 0 where that is -100."""
    negative = torch.nn.functional.cross_entropy(
        logits.float().flatten(0, 1), wanted.flatten(), ignore_index=-100, reduction="none"
    )
    return -negative.view(wanted.shape)


def token_loss(log_probs: torch.Tensor, kind: str) -> torch.Tensor:
    """The loss of each token in nats: `nll`, or `dft`, which scales by the probability (arXiv 2508.05629, eq. 9)."""
    return -log_probs if kind == "nll" else -log_probs * log_probs.exp().detach()


def weighted_loss(losses: torch.Tensor, weights: torch.Tensor | None, whole: Any) -> torch.Tensor:
    """The sum of token `losses` (rows, n), each times its weight, divided by `whole`; 0 if `whole` is 0.

    `whole` belongs to the complete optimizer step, so that the loss does not depend on how the step is split.
    """
    total = (losses if weights is None else losses * weights).sum()
    divisor = torch.as_tensor(whole, device=total.device, dtype=total.dtype)
    return total / torch.where(divisor == 0, torch.ones_like(divisor), divisor)


class Steps(BatchRebalanceSampler):  # type: ignore[misc]
    """The batch sampler of this rank: yields the rows of each forward pass, step by step.

    The epoch follows from `seen`, the number of finished optimizer steps. The index `len(lengths)` is the row without
    labels.
    """

    def __init__(self, settings: Supervised, lengths: Sequence[int], shape: Shape, seen: Callable[[], int]) -> None:
        self.settings, self.lengths, self.shape, self.seen = settings, lengths, shape, seen
        self.steps = -(-len(lengths) // settings.global_batch)

    def __iter__(self) -> Iterator[list[int]]:
        epoch = self.seen() // self.steps
        for step in split_epoch(len(self.lengths), self.settings.global_batch, self.settings.seed, epoch):
            for groups in split_step(step, self.lengths, world_size(), self.shape):
                yield groups[rank()] or [len(self.lengths)]

    def __len__(self) -> int:
        return self.steps * self.shape.forwards


class Collator(DataCollatorForLanguageModeling):  # type: ignore[misc]
    """Makes TRL's batches. For a weighted loss they also hold the weight of each token, and what each row adds to the
    loss's divisor.
    """

    def torch_call(self, examples: list[dict[str, Any]]) -> dict[str, Any]:
        """One padded or packed batch of rows with input_ids, labels and, for a weighted loss, weight and share."""
        batch: dict[str, Any] = super().torch_call(examples)
        if "weight" not in examples[0]:
            return batch
        weights = [torch.full((len(row["input_ids"]),), float(row["weight"])) for row in examples]
        if self.padding_free:
            weights = [torch.cat(weights)]
        length = batch["labels"].shape[1]
        batch["token_weights"] = torch.stack([torch.nn.functional.pad(w, (0, length - len(w))) for w in weights])
        batch["share"] = torch.tensor(float(sum(row["share"] for row in examples)))
        return batch


class FiniteTrainer:
    """Checks of steps and checkpoints that both trainers share; a base class before TRL's trainer."""

    args: Any
    state: Any
    control: Any
    model: Any
    accelerator: Any
    finite = True  # the losses of this step on this rank

    def _run_epoch(self, *args: Any, **rest: Any) -> None:
        """Do nothing after the last step: transformers would do one more when resuming from that step's checkpoint."""
        if self.control.should_training_stop or self.state.global_step >= self.state.max_steps:
            self.control.should_training_stop = True
            return
        super()._run_epoch(*args, **rest)  # type: ignore[misc]

    def create_optimizer(self, *args: Any, **rest: Any) -> Any:
        """TRL's optimizer. Raises UserError for values that torch refuses, such as a learning rate below zero."""
        try:
            return super().create_optimizer(*args, **rest)  # type: ignore[misc]
        except ValueError as error:
            raise UserError(f"train.args: {error}") from None

    def training_step(self, *args: Any, **rest: Any) -> Any:
        """TRL's forward and backward pass; notes whether the loss is finite."""
        loss = super().training_step(*args, **rest)  # type: ignore[misc]
        self.finite = self.finite and bool(loss.isfinite().all())
        return loss

    def _get_grad_norm(self, *args: Any, **rest: Any) -> Any:
        """The gradient norm, once in each step. Raises UserError on all ranks if it or a loss is not finite.

        Under fp16, overflowing gradients are normal: the step is skipped.
        """
        norm = super()._get_grad_norm(*args, **rest)  # type: ignore[misc]
        fault = "the loss" if any_rank(not self.finite) else ""
        if not fault and norm is not None and not self.args.fp16 and not math.isfinite(float(norm)):
            fault = "the gradient norm"
        if fault:
            error = UserError(
                f"training diverged: {fault} of step {self.state.global_step + 1} is not finite. Lower "
                f"train.args.learning_rate ({self.args.learning_rate:g}) or lengthen train.args.warmup_steps, and give "
                "the run a new name="
            )
            error.silent = not is_main()
            raise error
        return norm

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        """TRL's saving. Raises UserError for weights that are not finite: no loss follows the last update."""
        trained = {name: p for name, p in self.model.named_parameters() if p.requires_grad}
        for name, weight in (trained if state_dict is None else state_dict).items():
            norm = torch.linalg.vector_norm(weight.detach(), dtype=torch.float32) if weight.is_floating_point() else 0.0
            if not math.isfinite(norm):
                raise UserError(
                    f"training diverged: the weights {name} are not finite, so nothing is saved. Lower "
                    "train.args.learning_rate"
                )
        super()._save(output_dir, state_dict)  # type: ignore[misc]


class ChainTrainer(FiniteTrainer, SFTTrainer):  # type: ignore[misc]
    """SFTTrainer whose steps hold the same chains on any number of devices, with an optional weight for each row."""

    def __init__(self, *args: Any, settings: Supervised, lengths: Sequence[int], shape: Shape, **rest: Any) -> None:
        """`lengths` is the number of tokens of each row of the dataset, except for its last row, which has no
        labels.
        """
        self.steps = Steps(settings, lengths, shape, lambda: int(self.state.global_step))
        self.count_right = settings.until_accuracy is not None  # log TRL's mean_token_accuracy with our loss, too
        super().__init__(*args, **rest)  # refuses another collator where it packs
        packing = shape.tokens is not None
        self.data_collator = Collator(pad_token_id=self.processing_class.pad_token_id, padding_free=packing)

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        return self.steps

    def _set_signature_columns_if_needed(self) -> None:
        super()._set_signature_columns_if_needed()
        self._signature_columns += [c for c in ("weight", "share") if c not in self._signature_columns]

    def evaluation_loop(self, *args: Any, metric_key_prefix: str = "eval", **rest: Any) -> Any:
        """TRL's loop, with the mean loss over all loss tokens, however they are split over batches and ranks."""
        self._held_out = torch.zeros(2, dtype=torch.float64)
        out = super().evaluation_loop(*args, metric_key_prefix=metric_key_prefix, **rest)
        total, tokens = self.accelerator.reduce(self._held_out.to(self.args.device, torch.float32), "sum").tolist()
        out.metrics[f"{metric_key_prefix}_loss"] = total / tokens
        return out

    def prediction_step(self, model: Any, inputs: Any, *args: Any, **rest: Any) -> Any:
        """TRL's step, which also adds up the losses. Rows without labels fill the last batches (`limo/train.py`)."""
        tokens = int((inputs["labels"][:, 1:] != -100).sum())
        result = super().prediction_step(model, inputs, *args, **rest)
        if tokens:
            self._held_out += torch.tensor([float(result[0]) * tokens, tokens], dtype=torch.float64)
        return result

    def _get_num_items_in_batch(self, batch_samples: list[Any], device: torch.device) -> Any:
        """The divisor of the step's loss: the number of loss tokens, or for a weighted loss the sum of what the rows
        add to it.
        """
        if not batch_samples or "share" not in batch_samples[0]:
            return super()._get_num_items_in_batch(batch_samples, device)
        total = sum(batch["share"] for batch in batch_samples).to(device)
        return self.accelerator.gather(total).sum() if self.args.world_size > 1 else total

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """TRL's loss, weighted where rows have weights. On one CPU it is computed at loss tokens only.

        On GPUs, TRL computes logits for loss tokens only. On CPUs it computes them for every position, tile by tile,
        which makes a step on short chains twice as slow; `training/attention.py` has the measurement. The loss is the
        same.
        """
        weights, share = inputs.pop("token_weights", None), inputs.pop("share", None)
        positions = None if return_outputs else self._loss_positions(model, inputs["labels"])
        labels = inputs["labels"]
        if weights is None and positions is None:
            found = super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
            if self.model.training:
                tokens = float(self.accelerator.gather((labels[:, 1:] != -100).sum()).sum())
                self._note_right(self._metrics["train"]["mean_token_accuracy"][-1] * tokens, tokens)
            return found
        if positions is None:
            log_probs = model(**{**inputs, "use_cache": False}, fused_lm_head=True).log_probs
            positions = torch.arange(log_probs.shape[1], device=labels.device)
        else:
            rest = {key: value for key, value in inputs.items() if key != "labels"}
            logits = model(**rest, use_cache=False, logits_to_keep=positions).logits
            wanted = labels[:, positions + 1]
            log_probs = token_log_probs(logits, wanted)
            if self.count_right:
                self._note_right(float((logits.argmax(-1) == wanted).sum()), float((wanted != -100).sum()))
        whole = share if share is not None else (labels[:, 1:] != -100).sum()
        loss = weighted_loss(
            token_loss(log_probs, self.args.loss_type),
            None if weights is None else weights[:, positions + 1],
            whole if num_items_in_batch is None else num_items_in_batch,
        )
        # The divisor counts the tokens of all ranks, whose gradients are averaged
        spread = self.args.average_tokens_across_devices and num_items_in_batch is not None
        return loss * self.accelerator.num_processes if spread else loss

    def _note_right(self, right: float, tokens: float) -> None:
        self._metrics["train"]["right"].append(right)
        self._metrics["train"]["learned"].append(tokens)

    def log(self, logs: dict[str, float], *rest: Any) -> None:
        """TRL's log, but with the token accuracy averaged over tokens. TRL averages over forward passes, of which some
        may have no loss tokens.
        """
        metrics = self._metrics["train"]
        if self.model.training and (right := metrics.pop("right", [])):
            metrics["mean_token_accuracy"] = [sum(right) / max(sum(metrics.pop("learned")), 1.0)]
        super().log(logs, *rest)

    def _loss_positions(self, model: Any, labels: torch.Tensor) -> torch.Tensor | None:
        """The token positions to compute logits for, if computing only those is cheaper than TRL's computation and
        gives the same loss; otherwise None.
        """
        # TRL gathers metrics from all ranks, so all ranks must choose the same way
        special = self.label_smoother is not None or self.aux_loss_enabled or self.accelerator.num_processes > 1
        positions = loss_positions(labels)
        if labels.device.type != "cpu" or special or len(positions) * len(labels) > SMALL:
            return None
        inner = self.accelerator.unwrap_model(model)
        inner = inner.get_base_model() if hasattr(inner, "get_base_model") else inner
        known = "logits_to_keep" in inspect.signature(type(inner).forward).parameters
        return (positions if len(positions) else torch.zeros(1, dtype=torch.long)) if known else None


class PairTrainer(FiniteTrainer, DPOTrainer):  # type: ignore[misc]
    """DPOTrainer whose loss is `pair_loss(pairs, beta)`, one value per pair (`training/preference.py`)."""

    def __init__(self, *args: Any, pair_loss: PairLoss, warm_steps: int = 0, **rest: Any) -> None:
        """`warm_steps` is the number of optimizer steps at the beginning that use DPO's loss."""
        self.held_out = list[list[float]]()  # rewards of chosen and rejected of each pair evaluated, in their order
        self.pair_loss, self.warm_steps = pair_loss, warm_steps
        super().__init__(*args, **rest)

    def _prepare_dataset(self, dataset: Any, *args: Any, **rest: Any) -> Any:
        """Leave rows unchanged that already have token ids."""
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
        losses = (dpo if warm else self.pair_loss)(PairLogProbs(chosen, rejected, *reference), self.beta)
        assert losses.shape == chosen.shape, f"a preference loss returns one value per pair, not {tuple(losses.shape)}"
        self._note(chosen.detach() - reference[0], rejected.detach() - reference[1])
        return (losses.mean(), out) if return_outputs else losses.mean()

    def _note(self, chosen: torch.Tensor, rejected: torch.Tensor) -> None:
        rewards = self.accelerator.gather_for_metrics(self.beta * torch.stack([chosen, rejected], 1))
        chosen, rejected = rewards.unbind(1)
        if not self.model.training:
            self.held_out += rewards.float().tolist()
        notes = self._metrics["train" if self.model.training else "eval"]
        notes["rewards/margins"].append((chosen - rejected).mean().item())
        notes["rewards/accuracies"].append((chosen > rejected).float().mean().item())
