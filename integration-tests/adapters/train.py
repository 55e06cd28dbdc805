"""Train one of the two adapters on the CPU and save it as peft does, in bf16."""

import argparse
import json
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import json_data
import sql_data
import torch
from base import BASE_NAME, load_model, load_tokenizer
from peft import LoraConfig, PeftModel, get_peft_model
from torch.nn import functional
from transformers import PreTrainedTokenizerFast

KEPT_FILES = ("adapter_config.json", "adapter_model.safetensors")
ATTENTION = ["q_proj", "k_proj", "v_proj", "o_proj"]
MLP = ["gate_proj", "up_proj", "down_proj"]
WARMUP_STEPS = 20

Example = tuple[str, str]
"""A prompt and its completion."""


@dataclass(frozen=True)
class Plan:
    """How one adapter is trained."""

    lora: LoraConfig
    steps: int
    learning_rate: float
    groups_per_batch: int
    group_size: int
    invented: float = 0.0  # share of invented columns, for the sql task


@dataclass(frozen=True)
class Batch:
    """Groups of examples, each group one row: its common prefix, then one branch an example."""

    ids: torch.Tensor  # [rows, length]
    positions: torch.Tensor  # [rows, length]
    mask: torch.Tensor  # [rows, 1, length, length], true where attention is allowed
    predicts: torch.Tensor  # [rows, length], true where the next token belongs to a completion
    targets: torch.Tensor  # [rows, length], meaningful where `predicts` is true


def plan_for(task: str) -> Plan:
    """Return the plan for the task; the two adapters differ in shape on purpose."""
    if task == "sql":
        lora = LoraConfig(r=4, lora_alpha=16, target_modules=ATTENTION + MLP, task_type="CAUSAL_LM")
        return Plan(lora, steps=180, learning_rate=1.5e-3, groups_per_batch=4, group_size=4)
    lora = LoraConfig(
        r=8,
        lora_alpha=16,
        use_rslora=True,
        target_modules=["q_proj", "v_proj", "o_proj", "down_proj"],
        task_type="CAUSAL_LM",
    )
    return Plan(lora, steps=80, learning_rate=1e-3, groups_per_batch=4, group_size=4)


def example_groups(
    task: str, rng: random.Random, size: int, invented: float
) -> Iterator[list[Example]]:
    """Yield groups of examples that share the beginning of their prompts."""
    if task == "sql":
        for group in sql_data.training_groups(rng, size, invented):
            yield [(question.prompt, sql_data.completion(question)) for question in group]
    else:
        yield from json_data.training_groups(rng, size)


def _common_length(rows: list[list[int]]) -> int:
    length = 0
    for tokens in zip(*rows, strict=False):
        if len(set(tokens)) > 1:
            break
        length += 1
    return length


@dataclass
class _Row:
    """One group as a flat token list; branch 0 is the prefix that all examples share."""

    ids: list[int]
    positions: list[int]
    branches: list[int]
    targets: list[int]  # -1 where nothing is learnt


def _encode(group: list[Example], tokenizer: PreTrainedTokenizerFast) -> _Row:
    encoded = [
        (
            tokenizer.encode(prompt, add_special_tokens=False),
            [*tokenizer.encode(answer, add_special_tokens=False), tokenizer.eos_token_id],
        )
        for prompt, answer in group
    ]
    # The last token of a prompt predicts its completion, so it stays in the branch.
    shared = _common_length([prompt[:-1] for prompt, _ in encoded])
    row = _Row(encoded[0][0][:shared], list(range(shared)), [0] * shared, [-1] * shared)
    for number, (prompt, answer) in enumerate(encoded, start=1):
        tokens = [*prompt[shared:], *answer]
        untaught = len(prompt) - shared - 1
        row.ids += tokens
        row.positions += range(shared, shared + len(tokens))
        row.branches += [number] * len(tokens)
        row.targets += [-1] * untaught + answer + [-1]
    return row


def make_batch(groups: list[list[Example]], tokenizer: PreTrainedTokenizerFast) -> Batch:
    """Pack the groups, so that a prefix that several examples share is computed once."""
    rows = [_encode(group, tokenizer) for group in groups]
    length = max(len(row.ids) for row in rows)

    def padded(values: list[list[int]], filler: int) -> torch.Tensor:
        return torch.tensor([row + [filler] * (length - len(row)) for row in values])

    branches = padded([row.branches for row in rows], -1)
    targets = padded([row.targets for row in rows], -1)
    same = branches[:, :, None] == branches[:, None, :]
    causal = torch.ones(length, length, dtype=torch.bool).tril()
    return Batch(
        ids=padded([row.ids for row in rows], 0),
        positions=padded([row.positions for row in rows], 0),
        mask=((same | (branches == 0)[:, None, :]) & causal)[:, None],
        predicts=targets >= 0,
        targets=targets,
    )


def loss_of(model: PeftModel, batch: Batch) -> torch.Tensor:
    """Return the loss on the completions; logits are computed only where they are needed."""
    causal_lm = model.get_base_model()
    with torch.autocast("cpu", torch.bfloat16):
        hidden = causal_lm.model(
            input_ids=batch.ids,
            position_ids=batch.positions,
            attention_mask=batch.mask,
            use_cache=False,
        ).last_hidden_state
        logits = causal_lm.lm_head(hidden[batch.predicts])
    return functional.cross_entropy(logits.float(), batch.targets[batch.predicts])


def _batches(
    task: str, plan: Plan, rng: random.Random, tokenizer: PreTrainedTokenizerFast
) -> Iterator[Batch]:
    """Yield batches of groups of similar length, the lengths in random order."""
    groups = example_groups(task, rng, plan.group_size, plan.invented)
    ahead = 8
    while True:
        pool = [next(groups) for _ in range(plan.groups_per_batch * ahead)]
        pool.sort(key=lambda group: sum(len(prompt) + len(answer) for prompt, answer in group))
        starts = list(range(0, len(pool), plan.groups_per_batch))
        rng.shuffle(starts)
        for start in starts:
            yield make_batch(pool[start : start + plan.groups_per_batch], tokenizer)


def start(plan: Plan, resume: Path | None) -> PeftModel:
    """Return the model with a fresh adapter, or with the saved one, in fp32 for training."""
    if resume is None:
        fresh: PeftModel = get_peft_model(load_model(), plan.lora)
        return fresh
    return PeftModel.from_pretrained(load_model(), resume, is_trainable=True).float()


def train(task: str, plan: Plan, seed: int, resume: Path | None) -> PeftModel:
    """Train the adapter and return the model that holds it."""
    torch.manual_seed(seed)
    tokenizer = load_tokenizer()
    model = start(plan, resume)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=plan.learning_rate, weight_decay=0.0)
    warmup = torch.optim.lr_scheduler.LinearLR(optimizer, 0.05, 1.0, WARMUP_STEPS)
    decay = torch.optim.lr_scheduler.CosineAnnealingLR(
        optimizer, max(plan.steps - WARMUP_STEPS, 1), eta_min=plan.learning_rate * 0.02
    )
    schedule = torch.optim.lr_scheduler.SequentialLR(optimizer, [warmup, decay], [WARMUP_STEPS])
    batches = _batches(task, plan, random.Random(seed), tokenizer)
    started, recent = time.perf_counter(), 0.0
    for step in range(1, plan.steps + 1):
        loss = loss_of(model, next(batches))
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        schedule.step()
        recent += loss.item()
        if step % 10 == 0:
            seconds = time.perf_counter() - started
            print(f"step {step}/{plan.steps} loss {recent / 10:.4f} {seconds:.0f} s", flush=True)
            recent = 0.0
    return model


def save(model: PeftModel, folder: Path) -> None:
    """Save the adapter in bf16 and keep only its two files, without a path of this machine."""
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            parameter.data = parameter.data.to(torch.bfloat16)
    model.save_pretrained(folder)
    for file in folder.iterdir():
        if file.name not in KEPT_FILES:
            file.unlink()
        else:
            file.chmod(0o644)
    config_file = folder / "adapter_config.json"
    config = json.loads(config_file.read_text())
    config["base_model_name_or_path"] = BASE_NAME
    # peft writes a set, whose order changes from run to run.
    config["target_modules"] = sorted(config["target_modules"])
    config_file.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("task", choices=("sql", "json"))
    parser.add_argument("--out", type=Path, required=True, help="folder for the adapter")
    parser.add_argument("--steps", type=int, help="default: the plan's number")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--resume", type=Path, help="train this adapter further")
    parser.add_argument("--invented", type=float, default=0.0, help="sql: invented columns")
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    sql_data.check_disjoint()
    json_data.check_disjoint()
    plan = replace(plan_for(arguments.task), invented=arguments.invented)
    if arguments.steps:
        plan = replace(plan, steps=arguments.steps)
    arguments.out.mkdir(parents=True, exist_ok=True)
    save(train(arguments.task, plan, arguments.seed, arguments.resume), arguments.out)
    for name in KEPT_FILES:
        print(f"{name}: {(arguments.out / name).stat().st_size} bytes")


if __name__ == "__main__":
    main()
