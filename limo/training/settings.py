"""Defines the settings of trainings: those that supervised and preference training share, and those that each adds.

    settings = read_settings(Supervised, recipe["train"], "train")

Settings of TRL, PEFT or DeepSpeed keep their names and are given in `args` or `lora`. This module adds the settings
that those libraries lack. Numbers that decide a result have no default; switches that are off unless set have one.
"""

import difflib
import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, ClassVar, Literal, get_type_hints

from limo.errors import UserError
from limo.machine import quiet_deepspeed
from limo.recipe import validate

Devices = int | Literal["all"]
DType = Literal["float32", "bfloat16", "float16"]
# Arguments of TRL that a recipe sets under another name
ELSEWHERE = {
    **{"output_dir": "out", "max_length": "max_length", "seed": "seed", "data_seed": "seed"},
    **{"gradient_accumulation_steps": "global_batch", "auto_find_batch_size": "pack_tokens"},
    **{"packing": "pack_tokens", "padding_free": "pack_tokens", "chat_template_path": "chat_template"},
    **{"deepspeed": "sharding", "fsdp": "sharding", "fsdp_config": "sharding", "model_init_kwargs": "dtype"},
}
# Arguments that the trainer decides, and arguments of TRL's pair losses
DECIDED = """assistant_only_loss completion_only_loss dataset_kwargs eos_token trust_remote_code resume_from_checkpoint
ignore_data_skip train_sampling_strategy shuffle_dataset dataloader_drop_last average_tokens_across_devices
parallelism_config sync_ref_model save_only_model""".split()
PAIR_LOSS = """loss_type loss_weights label_smoothing f_divergence_type ld_alpha discopop_tau use_weighting""".split()


@dataclass(frozen=True, kw_only=True)
class Training:
    """The settings of every training."""

    # Settings that change only the speed: a run may resume with other values of them
    speed_only: ClassVar[frozenset[str]] = frozenset(
        {"out", "look", "controls", "seeds", "devices", "attention", "sharding"}
    )
    speed_only_args: ClassVar[frozenset[str]] = frozenset(
        {"activation_checkpointing", "activation_offloading", "gradient_checkpointing", "use_liger_kernel"}
        | {"per_device_eval_batch_size", "dataloader_num_workers"}
    )
    config: ClassVar[str]  # the name of TRL's class of arguments

    out: str  # the run's folder
    model: str  # a folder, a Hub name, or embedded:...
    data: str  # rows to train on
    system: str | None  # the system prompt that every prompt must begin with; None does not check it
    max_length: int  # tokens of prompt and completion together
    global_batch: int  # rows per optimizer step, over all devices
    dtype: DType  # of the saved weights
    seed: int
    args: dict[str, Any]  # arguments of TRL's own class, under their own names
    too_long: Literal["drop", "stop"] = "drop"  # rows above max_length are dropped, or stop the run
    eval_data: str | None = None  # rows whose loss is logged, see args.eval_strategy
    chat_template: str | None = None  # None is the model's own; or chatml, or a .jinja file
    lora: dict[str, Any] | None = None  # arguments of peft.LoraConfig; None trains all weights
    merge_adapter: bool = True  # also saves the base model with the adapter added to it
    devices: Devices = "all"  # visible GPUs to use; on CPUs the number of processes
    sharding: str = "ddp"  # see training/launch.py
    attention: str = "auto"  # see training/attention.py
    average: float | None = None  # the last share of the steps whose weights are averaged into the model
    keep_checkpoints: bool = False  # after the training is finished
    controls: list[str] | None = None  # the curation's control sets that are trained as well, into out/<name>
    seeds: list[int] | None = None  # each set is trained with each of them; the first replaces `seed`
    look: int = 0  # print so many rows with their loss mask, and train nothing

    def __post_init__(self) -> None:
        for key in ("max_length", "global_batch", "pack_tokens"):
            if (value := getattr(self, key, None)) is not None and value < 1:
                raise UserError(f"train.{key} must be 1 or more, not {value}")
        if self.seeds is not None:
            if not self.seeds or len(set(self.seeds)) < len(self.seeds):
                raise UserError(f"train.seeds must be different numbers, at least one, not {list(self.seeds)}")
            object.__setattr__(self, "seed", self.seeds[0])
        if self.devices != "all" and self.devices < 1:
            raise UserError(f"train.devices must be 'all' or a number of at least 1, not {self.devices}")
        if "/" in self.attention:
            raise UserError(f"train.attention={self.attention}: a kernel of the Hub is code, which is not loaded")
        if self.average is not None and not 0 < self.average <= 1:
            raise UserError(f"train.average is the share of the last steps, above 0 and up to 1, not {self.average}")
        if self.average and self.sharding in ("zero3", "fsdp2"):
            raise UserError(
                f"train.average needs the whole weights on each device, and {self.sharding} shards them: use zero2"
            )
        if self.average and self.args.get("load_best_model_at_end"):
            raise UserError("train.average and train.args.load_best_model_at_end each decide which weights are saved")

    @property
    def rows_at_once(self) -> int:
        """The number of rows in one padded forward pass on one device. TRL's default is 8."""
        return int(self.args.get("per_device_train_batch_size", 8))

    def recorded(self) -> dict[str, Any]:
        """The settings that determine the result, as plain values. The manifest stores them, and a resumed training
        must have the same.
        """
        kept = {key: value for key, value in asdict(self).items() if key not in self.speed_only}
        return {**kept, "args": {k: v for k, v in self.args.items() if k not in self.speed_only_args}}


@dataclass(frozen=True, kw_only=True)
class Supervised(Training):
    """Supervised fine-tuning on chains: `args` are those of trl.SFTConfig."""

    # A step's loss is a sum over its tokens, so how its chains are grouped into forward passes changes nothing
    speed_only: ClassVar[frozenset[str]] = Training.speed_only | {"pack_tokens"}
    speed_only_args: ClassVar[frozenset[str]] = Training.speed_only_args | {"per_device_train_batch_size"}
    config: ClassVar[str] = "SFTConfig"

    pack_tokens: int | None = None  # tokens of one forward pass, whole chains side by side; None pads instead
    # "rows": a step's loss is the mean over rows of a row's weight times its mean token loss, so long rows do not count
    # more: reward-weighted regression as in RISE (arXiv 2407.18219, eq. 4). null ignores weights
    weighting: Literal["rows"] | None = None
    until_accuracy: float | None = None  # end once this fraction of loss tokens since the last log was predicted right

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.until_accuracy is not None and (self.weighting or not 0 < self.until_accuracy <= 1):
            raise UserError(
                "train.until_accuracy is a share above 0 and up to 1, and cannot be combined with train.weighting: "
                f"{self.until_accuracy}"
            )
        if self.until_accuracy is not None and self.average:
            raise UserError(
                "train.average must know the number of steps, and train.until_accuracy ends the training early: "
                "set only one of them"
            )
        for key in ("label_smoothing_factor", "router_aux_loss_coef"):
            if self.weighting and self.args.get(key):
                raise UserError(f"train.args.{key}: the weighted loss has no such term. Remove it or train.weighting")


@dataclass(frozen=True, kw_only=True)
class Preference(Training):
    """Preference training on pairs: `args` are those of trl.DPOConfig, `beta` among them.

    Some losses take means over the pairs of a forward pass, so settings that change these pairs are not speed settings.
    """

    speed_only: ClassVar[frozenset[str]] = Training.speed_only - {"devices"}
    config: ClassVar[str] = "DPOConfig"

    loss: str | dict[str, Any]  # a function as in training/preference.py: its dotted path, or a node with constants
    warmup: float = 0.0  # the share of steps that DPO's loss takes before `loss`

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.warmup <= 1:
            raise UserError(f"train.warmup is the share of steps that begin with DPO, from 0 to 1, not {self.warmup}")
        for key in PAIR_LOSS:
            if key in self.args:
                raise UserError(f"train.args.{key}: set train.loss instead")
        if self.args.get("router_aux_loss_coef"):
            raise UserError("train.args.router_aux_loss_coef: preference losses have no such term. Remove it")

    @property
    def beta(self) -> float:
        """The beta of the loss: that of `args`, or TRL's default."""
        return float(self.args.get("beta", 0.1))


def check_args(args: Mapping[str, Any], config: str) -> None:
    """Raise UserError for an argument that TRL's class lacks, that has a wrong type, or that is set elsewhere."""
    quiet_deepspeed()
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # where it is installed, peft imports it, and it logs
    import trl

    kind = getattr(trl, config)
    known, hints = {f.name for f in fields(kind)}, get_type_hints(kind)
    for key, value in args.items():
        if key not in known:
            close = difflib.get_close_matches(key, known, 1)
            hint = f"; did you mean '{close[0]}'?" if close else ""
            raise UserError(f"train.args.{key} is not an argument of trl.{config}{hint}")
        if key.startswith(("push_to_hub", "hub_")):  # TRL would upload checkpoints, and the recipe would hold a key
            raise UserError(f"train.args.{key}: upload the finished model with hf upload OWNER/NAME FOLDER")
        if key in ELSEWHERE:
            raise UserError(f"train.args.{key}: set train.{ELSEWHERE[key]} instead")
        if key in DECIDED:
            raise UserError(f"train.args.{key} cannot be set: this trainer decides it")
        validate(hints[key], value, f"train.args.{key}")
