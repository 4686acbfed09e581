"""What this toolkit makes is used by others as it is: datasets, TRL's command, transformers, peft, the Hub."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from limo.data import write_jsonl
from limo.recipe import compose, run_section
from tests.conftest import lines
from tests.test_commands import small
from tests.test_train import ARGS, rows, train

LICENCES = {"apache-2.0", "mit", "cc-by-4.0", "cc-by-sa-4.0", "cc0-1.0", "other"}


@pytest.fixture(scope="module")
def finished(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was curated, with pairs, and trained: whole weights in model/, an adapter in lora/."""
    runs = tmp_path_factory.mktemp("interop")
    recipe = compose(*small(tiny, runs), "+train.args.max_steps=2")
    run_section(recipe, "curate")
    run_section(recipe, "train")
    adapted = {**recipe, "out": str(runs / "lora")}
    run_section({**adapted, "train": {**recipe["train"], "out": adapted["out"], "lora": {"r": 4}}}, "train")
    return runs / "demo"


def test_a_curated_set_loads_with_datasets(finished: Path, tmp_path: Path) -> None:
    from datasets import load_dataset

    rows = load_dataset(str(finished), split="train", cache_dir=str(tmp_path))
    ours = lines(finished / "curated.jsonl")
    assert rows["id"] == [row["id"] for row in ours] and rows["prompt"][0] == ours[0]["prompt"]
    assert rows["completion"][0] == [{"role": "assistant", "content": ours[0]["completion"]}]
    pairs = load_dataset(str(finished), "pairs", split="train", cache_dir=str(tmp_path))
    assert len(pairs) == len(lines(finished / "pairs.jsonl")) > 0
    assert {"prompt", "chosen", "rejected"} <= set(pairs.column_names)


@pytest.mark.slow
def test_trl_s_command_trains_on_a_curated_set_as_it_is(finished: Path, tiny: Path, tmp_path: Path) -> None:
    command = [str(Path(sys.executable).with_name("trl")), "sft", "--dataset_name", str(finished)]
    command += ["--model_name_or_path", str(tiny), "--output_dir", str(tmp_path), "--max_steps", "1", "--use_cpu"]
    command += ["--bf16", "false", "--report_to", "none", "--num_processes", "1"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0 and (tmp_path / "model.safetensors").is_file(), done.stderr[-2000:]


def test_trl_s_preference_script_trains_on_the_pairs_as_they_are(finished: Path, tiny: Path, tmp_path: Path) -> None:
    from trl.scripts import dpo

    typed = ["--dataset_name", str(finished), "--dataset_config", "pairs", "--model_name_or_path", str(tiny)]
    typed += ["--output_dir", str(tmp_path), "--max_steps", "1", "--use_cpu", "--bf16", "false", "--report_to", "none"]
    dpo.main(*dpo.make_parser().parse_args_into_dataclasses(typed))
    assert (tmp_path / "model.safetensors").is_file()


@pytest.mark.parametrize("folder", ["demo/model", "lora/model"])
def test_a_tuned_model_loads_in_transformers(finished: Path, folder: str) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    where = finished.parent / folder
    model, tokenizer = AutoModelForCausalLM.from_pretrained(where), AutoTokenizer.from_pretrained(where)
    asked = tokenizer.apply_chat_template(
        [{"role": "user", "content": "1 + 1 ="}], add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    said = model.generate(**asked, max_new_tokens=3, do_sample=False)
    assert said.shape[1] > asked["input_ids"].shape[1]


def test_an_adapter_loads_in_peft_and_is_the_merged_model(finished: Path, tiny: Path) -> None:
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    adapter = finished.parent / "lora" / "adapter"
    adapted = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny), adapter)
    merged = AutoModelForCausalLM.from_pretrained(finished.parent / "lora" / "model")
    ids = torch.arange(20)[None]
    with torch.no_grad():
        torch.testing.assert_close(adapted(ids).logits, merged(ids).logits, rtol=1e-4, atol=1e-5)
        assert not torch.equal(adapted(ids).logits, AutoModelForCausalLM.from_pretrained(tiny)(ids).logits)


def test_the_cards_are_read_by_the_hub_s_own_classes(finished: Path) -> None:
    from huggingface_hub import DatasetCard, ModelCard

    data = DatasetCard.load(finished / "README.md").data
    assert data.license in LICENCES and data.task_categories == ["text-generation"]
    assert data.size_categories in ("n<1K", ["n<1K"])
    assert [c["config_name"] for c in data.configs] == ["default", "pairs"]
    model = ModelCard.load(finished / "model" / "README.md").data
    assert (model.library_name, model.pipeline_tag) == ("transformers", "text-generation")
    assert {"limo", "sft", "trl"} <= set(model.tags)
    merged = ModelCard.load(finished.parent / "lora" / "model" / "README.md").data
    assert merged.library_name == "transformers"


def test_cards_keep_no_machine_path(finished: Path) -> None:
    card = (finished / "README.md").read_text()
    assert str(finished) not in card and json.dumps(str(Path.home()))[1:-1] not in card


@pytest.mark.parametrize("tracker", ["tensorboard", "wandb", "trackio"])
def test_a_training_is_followed_by(tracker: str, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where `pip install 'limo-toolkit[tracking]'` has put it; none needs a network."""
    pytest.importorskip(tracker)
    for name, value in (("WANDB_MODE", "offline"), ("WANDB_DIR", str(tmp_path)), ("TRACKIO_DIR", str(tmp_path))):
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "tensorboard"))
    write_jsonl(tmp_path / "rows.jsonl", rows())
    train(tiny, tmp_path, args={**ARGS, "report_to": tracker, "max_steps": 1})
    ending = {"tensorboard": "*.tfevents.*", "wandb": "*.wandb", "trackio": "*.db"}[tracker]
    assert any(path.stat().st_size for path in tmp_path.rglob(ending))
