"""LoRA training the plain way: transformers' Trainer with gradient checkpointing, each batch padded to its longest.

python -m benchmarks.plain.training MODEL TEXTS.csv FOLDER SEED BATCH_SIZE DTYPE
"""

import sys

import pandas as pd
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    DataCollatorForLanguageModeling,
    Trainer,
    TrainingArguments,
    set_seed,
)

PROJECTIONS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def train(model_name: str, csv: str, folder: str, seed: int, batch_size: int, dtype: str) -> None:
    """One epoch of the texts; the Trainer prints the loss of each step."""
    set_seed(seed)
    tokenizer = AutoTokenizer.from_pretrained(model_name)
    model = AutoModelForCausalLM.from_pretrained(model_name, dtype=dtype)
    model = get_peft_model(model, LoraConfig(r=16, lora_alpha=16, target_modules=PROJECTIONS, task_type="CAUSAL_LM"))
    model.enable_input_require_grads()
    texts = pd.read_csv(csv)["text"].tolist()
    trainer = Trainer(
        model=model,
        args=TrainingArguments(
            output_dir=folder,
            seed=seed,
            num_train_epochs=1,
            per_device_train_batch_size=batch_size,
            learning_rate=5e-4,
            warmup_steps=0.1,
            max_grad_norm=1.0,
            bf16=dtype == "bfloat16",
            use_cpu=True,
            gradient_checkpointing=True,
            logging_steps=1,
            save_strategy="no",
            report_to="none",
        ),
        train_dataset=Dataset.from_list([{"input_ids": tokenizer(text)["input_ids"]} for text in texts]),
        data_collator=DataCollatorForLanguageModeling(tokenizer, mlm=False),
    )
    trainer.train()


if __name__ == "__main__":
    train(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]), int(sys.argv[5]), sys.argv[6])
