"""A user's mistakes in all five scripts, each with the line that the user sees: exit code 2, nothing else printed, and
nothing written.

The scripts' `main` runs in this process, since a fresh one takes seconds. What only a process of its own shows (its
output, its environment, a hang) is at the end. `…` stands for what a library says, or for a folder of the test.
"""

import importlib
import json
import os
import pickle
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest

from tests.conftest import ROOT
from utils import attention_dump, script
from utils.attention_dump import Dump, Row, text_hash

SAVE = "save_attention model=tiny dataset=texts.csv save_name=out"
CONTRAST = "contrast_attention attn_dump_large=large attn_dump_small=small attn_diff=out"
RANDOM = "data_augmentation augment_type=random alpha=0.5 multiply=2 model=tiny dataset=texts.csv save_name=out"
GUIDED = (
    "data_augmentation augment_type=attention alpha=0.5 beta=0.1 multiply=2 model=tiny dataset=texts.csv save_name=out"
)
QUANTIZED = "train model=tiny dataset=texts.csv model_dir=out trainer.max_steps=1"
TRAIN = f"{QUANTIZED} quant=null"
ASK = "evaluate model=tiny dataset=people.csv examples=people.csv prompts=prompts.csv shots=1 output_dir=out"
FREE = "evaluate model=tiny questions=questions.csv shots=0 output_dir=out"

QUOTES = "quote a value with spaces or special characters: \"key='value'\""
MODEL = "give a hub name, a model's folder or a .gguf file"
ANOTHER = (
    "give another model=..., a hub name, a folder or a .gguf file; `make models` fetches model=models/smollm2-135m"
)
NAN = "try dtype=float32; if that fails, its training diverged"
INFINITE = "weights that are not numbers (NaN or infinite)"
HOLDS_NONE = "the folder holds no model (none of config.json, adapter_config.json)"
UNPAIRED = "an unclosed quote, or a quote inside a field that is not doubled"
KINDS = ".csv, .jsonl, .parquet, .json, .txt, a folder"
BYTES = "must be UTF-8; rename a file whose name is not"
COLUMN = "; in stages 1 to 4 text_column=... names another"
NO_DUMP = "no such dump; save_attention.py and contrast_attention.py write them"
THREE = "attn_dump_large, attn_dump_small and attn_diff must be three different files"
FULL = "standard output or a file can't be written"
ITSELF = "the adapter's base model is itself; give the model that it was trained on"

# Found before torch or transformers is imported.
EARLY = [
    # The command line
    (f"{RANDOM} alhpa=1", "unknown key alhpa: did you mean alpha?"),
    (f"{RANDOM} +alhpa=1", "unknown key alhpa: did you mean alpha?"),
    (f"{RANDOM} ++alhpa=1", "unknown key alhpa: did you mean alpha?"),
    (f"{CONTRAST} traget=large", "unknown key traget: did you mean target?"),
    (
        f"{CONTRAST} xyz=1",
        "unknown key xyz: the keys are: attn_dump_large, attn_dump_small, attn_diff, operation, target, "
        "dataset, text_column, tags, heatmap",
    ),
    (f"{RANDOM} alpha=[1", f"alpha=[1: expected key=value; {QUOTES}"),
    (f"{RANDOM} alpha=1]", f"alpha=1]: expected key=value; {QUOTES}"),
    (f"{RANDOM} alpha={{1", f"alpha={{1: expected key=value; {QUOTES}"),
    (f"{RANDOM} alpha=1,", f"alpha=1,: expected key=value; {QUOTES}"),
    (f"{RANDOM} alpha=,1", f"alpha=,1: expected key=value; {QUOTES}"),
    (f"{RANDOM} alpha==1", f"alpha==1: expected key=value; {QUOTES}"),
    (f"{RANDOM} alpha = 1", f"alpha: expected key=value; {QUOTES}"),
    (f"{RANDOM} alpha:1", f"alpha:1: expected key=value; {QUOTES}"),
    (f"{RANDOM} =1", f"=1: expected key=value; {QUOTES}"),
    (f'{RANDOM} "alpha=\'1"', f"alpha='1: expected key=value; {QUOTES}"),
    (f"{RANDOM} 'save_name=a(b)'", f"save_name=a(b): expected key=value; {QUOTES}"),
    (f"{RANDOM} 'dataset=my texts.csv.é'", f"dataset=my texts.csv.é: expected key=value; {QUOTES}"),
    (f"{RANDOM} alpha=1,2", "alpha=1,2: several values; give one, or a list in brackets: alpha=[1,2]"),
    (f"{RANDOM} --alpha=1", "unrecognized arguments: --alpha=1; keys go without dashes: key=value"),
    (f"{RANDOM} -x", "unrecognized arguments: -x; keys go without dashes: key=value"),
    ("train --config-name", "argument --config-name/-cn: expected one argument; keys go without dashes: key=value"),
    ("train --config-name none model_dir=out", "none: no such YAML file in …/conf"),
    (
        f"{ASK} --config-name train.yaml",
        "--config-name: train.yaml has the keys of train.py; give evaluate, or leave it out",
    ),
    (f"{TRAIN} -cn=evaluate", "-cn: evaluate.yaml has the keys of evaluate.py; give train, or leave it out"),
    ("train --config-dir none model_dir=out", "Additional config directory '…/none' not found"),
    ("train --resolve", "The --resolve flag can only be used in conjunction with --cfg or --help"),
    (f"{RANDOM} hydra.run.dir=texts.csv/x", "[Errno 20] Not a directory: '…texts.csv/x'"),
    (f"{RANDOM} hydra/launcher=none", "hydra/launcher/none: no such YAML file in …/conf"),
    (f"{RANDOM} ~seed", "still needed: seed=..."),
    (
        f"{RANDOM} +seed=3",
        "Could not append to config. An item is already at 'seed'.; Either remove + prefix: …",
    ),
    (f"{RANDOM} alpha.x=1", "unknown key alpha.x: check the spelling. To add a key that the YAML does not list: …"),
    ("contrast_attention attn_diff=out", "still needed: attn_dump_large=..., attn_dump_small=..."),
    ("train", "still needed: model_dir=..."),
    (
        "evaluate dataset=people.csv prompts=prompts.csv",
        "still needed: model_dir=<checkpoint>, or model=<base model> and output_dir=...",
    ),
    (f"{ASK} model=tiny output_dir=null", "still needed: output_dir=..., since there is no model_dir to write to"),
    # Values
    (f"{RANDOM} alpha=2", "alpha=2: must be a number from 0 to 1"),
    (f"{RANDOM} alpha=-0.1", "alpha=-0.1: must be a number from 0 to 1"),
    (f"{RANDOM} alpha=nan", "alpha=nan: must be a number from 0 to 1"),
    (f"{RANDOM} alpha=", "alpha=: must be a number from 0 to 1"),
    (f"{RANDOM} alpha=much", "alpha=much: must be a number from 0 to 1"),
    (f"{RANDOM} multiply=0", "multiply=0: must be a whole number from 1"),
    (f"{RANDOM} multiply=1e3", "multiply=1000.0: must be a whole number from 1"),
    (f"{RANDOM} multiply=true", "multiply=True: must be a whole number from 1"),
    (f"{RANDOM} blank=none", "blank=none: must be one of: spaces, delete, collapse"),
    (f"{RANDOM} include_original=yes", "include_original=yes: must be true or false"),
    (f"{RANDOM} trust_remote_code=1", "trust_remote_code=1: must be true or false"),
    (f"{RANDOM} seed=-1", "seed=-1: must be a whole number from 0"),
    (f"{RANDOM} augment_type=both", "augment_type=both: must be one of: random, attention"),
    (f"{RANDOM} beta=1", "beta has no meaning for augment_type=random; leave it out"),
    (f"{RANDOM} attn_weights=large", "attn_weights has no meaning for augment_type=random; leave it out"),
    (GUIDED, "augment_type=attention needs attn_weights=..."),
    (f"{GUIDED} attn_weights=large beta=null", "augment_type=attention needs beta=..."),
    (f"{GUIDED} attn_weights=large beta=-1", "beta=-1: must be a number from 0"),
    (f"{RANDOM} save_name=", "save_name=: must be a name"),
    (f"{RANDOM} save_name=2024", "save_name=2024: must be text; quote it: \"key='2024'\""),
    (f"{RANDOM} save_name=null", "save_name=None: must be a name"),
    (f"{RANDOM} save_name=[a,b]", "save_name=['a', 'b']: must be a name"),
    (f"{RANDOM} 'save_name={{a: b}}'", "save_name: must be a name"),
    (f"{RANDOM} save_name=.", "save_name=.: must be a file's name"),
    (f"{RANDOM} save_name=/", "save_name=/: must be a file's name"),
    (f"{SAVE} save_name=..", "save_name=..: must be a file's name"),
    (f"{RANDOM} 'save_name=x-${{sed}}'", "save_name: Interpolation key 'sed' not found…"),
    (f"{RANDOM} 'save_name=${{save_name}}'", "save_name: Recursive interpolation detected…"),
    (f"{RANDOM} 'save_name=${{oc.env:NOT_THERE}}'", "save_name: …Environment variable 'NOT_THERE' not found…"),
    (f"{SAVE} batch_tokens=0", "batch_tokens=0: must be a whole number from 1"),
    (f"{SAVE} layers=3", "layers=3: must be a list of whole numbers from 0, such as [0,1]"),
    (f"{SAVE} layers=[-1]", "layers=[-1]: must be a list of whole numbers from 0, such as [0,1]"),
    (f"{SAVE} queries=none", "queries=none: must be one of: following, before_fields"),
    (f"{SAVE} prepend_bos=maybe", "prepend_bos=maybe: must be one of: auto, true, false"),
    (f"{SAVE} window=1", "window=1: must be a whole number from 2"),
    (f"{SAVE} stride=0", "stride=0: must be a whole number from 1"),
    (f"{SAVE} window=9 stride=9", "stride=9: must be below window=9, so that windows overlap"),
    (f"{TRAIN} window=9 stride=10", "stride=10: must be below window=9, so that windows overlap"),
    (f"{RANDOM} rank_unit=share", "rank_unit=share: must be one of: token, percent"),
    (f"{RANDOM} rank_unit=percent", "rank_unit has no meaning for augment_type=random; leave it out"),
    (f"{SAVE} dtype=half", "dtype=half: must be one of: auto, bfloat16, float16, float32"),
    (f"{SAVE} quant=8", "quant=8: must hold keys and values"),
    (f"{SAVE} device_map=meta", "device_map=meta: torch's meta device holds no weights"),
    (f"{SAVE} 'device_map={{model: meta}}'", "device_map: torch's meta device holds no weights"),
    (f"{SAVE} device_map=true", "device_map=True: must be text; quote it: \"key='True'\""),
    (f"{SAVE} max_memory=5", "max_memory=5: must hold keys and values"),
    (f"{CONTRAST} operation=ratio", "operation=ratio: must be one of: difference, log_ratio"),
    (f"{CONTRAST} target=middle", "target=middle: must be one of: small, large"),
    (f"{TRAIN} seed=4294967296", "seed=4294967296: must be a whole number from 0 to 4294967295"),
    (f"{TRAIN} seed=1.5", "seed=1.5: must be a whole number from 0 to 4294967295"),
    (f"{TRAIN} resume=maybe", "resume=maybe: must be true or false"),
    (f"{TRAIN} lora=5", "lora=5: must hold keys and values"),
    (f"{TRAIN} trainer=null", "trainer=None: must hold keys and values"),
    (f"{ASK} shots=-1", "shots=-1: must be a whole number from 0"),
    (f"{ASK} people=0", "people=0: must be a whole number from 1"),
    (f"{ASK} batch_tokens=0", "batch_tokens=0: must be a whole number from 1"),
    (f"{ASK} max_new_tokens=0", "max_new_tokens=0: must be a whole number from 1"),
    (f"{ASK} choice=maybe", "choice=maybe: must be true or false"),
    # Keys of sub-trees
    (f"{TRAIN} learning_rate=1", "unknown key learning_rate: did you mean trainer.learning_rate?"),
    (f"{TRAIN} +learning_rate=1", "unknown key learning_rate: did you mean trainer.learning_rate?"),
    (f"{TRAIN} r=8", "unknown key r: did you mean lora.r?"),
    (
        f"{TRAIN} save_steps=3",
        "unknown key save_steps: did you mean trainer.max_steps? To add a key that the YAML does not list: "
        "+trainer.save_steps=...",
    ),
    (
        f"{TRAIN} trainer.save_steps=3",
        "unknown key trainer.save_steps: check the spelling. To add a key that the YAML does not list: "
        "+trainer.save_steps=...",
    ),
    (
        f"{TRAIN} trainer.num_train_epoch=3",
        "unknown key trainer.num_train_epoch: did you mean trainer.num_train_epochs? To add a key that the YAML does "
        "not list: +trainer.num_train_epoch=...",
    ),
    (f"{TRAIN} trainer.output_dir=x", "trainer.output_dir: leave it out; set model_dir=... instead"),
    (f"{TRAIN} +trainer.output_dir=x", "trainer.output_dir: leave it out; set model_dir=... instead"),
    (f"{TRAIN} +trainer.seed=null", "trainer.seed: leave it out; set seed=... instead"),
    (f"{TRAIN} +lora.peft_type=IA3", "lora.peft_type: leave it out; it is always LORA"),
    (
        f"{TRAIN} +trainer.resume_from_checkpoint=x",
        "trainer.resume_from_checkpoint: leave it out; resume=true resumes from model_dir's last checkpoint",
    ),
    (
        "train model_dir=out 'quant={load_in_4bit: true}'",
        "quant: set its keys one by one: quant.<key>=..., with a plus if the YAML does not list the key",
    ),
    # Files of texts
    (f"{SAVE} dataset=none.csv", "dataset=none.csv: no such file"),
    (f"{SAVE} dataset=2024", "dataset=2024: must be text; quote it: \"key='2024'\""),
    (f"{SAVE} dataset=data", "data: the folder holds no .txt file; name the file of texts in it, if there is one"),
    (f"{ASK} dataset=data", "dataset=data: a folder, not a file"),
    (f"{SAVE} dataset=texts.tsv", f"texts.tsv: unknown kind of file; texts are read from {KINDS}"),
    (f"{SAVE} text_column=", "text_column=: must be a name"),
    (f"{TRAIN} text_column=body", f"texts.csv: no column 'body' (columns, separated by commas: text){COLUMN}"),
    (f"{RANDOM} dataset=texts.jsonl", f"texts.jsonl: line 1 has no 'text' (keys: body){COLUMN}"),
    (f"{RANDOM} dataset=texts.jsonl text_column=body", "texts.jsonl: line 3 is not JSON: Expecting value: …"),
    (f"{TRAIN} dataset=texts.parquet", f"texts.parquet: no column 'text' (columns: body){COLUMN}"),
    (f"{TRAIN} dataset=broken.parquet", "broken.parquet: can't be read as Parquet: …"),
    (f"{SAVE} dataset=other.json", "other.json: entry 1 has no text 'context': not SQuAD's JSON, which is a list …"),
    (f"{SAVE} dataset=people.json", "people.json: not JSON, or not SQuAD's JSON, which is a list of objects with …"),
    (f"{SAVE} dataset=notes", "notes/b.txt has an empty text"),
    (f"{SAVE} dataset=notes text_column=body", "text_column=body: notes has no columns; leave it out"),
    (f"{SAVE} dataset=latin1.txt", "latin1.txt: not UTF-8 text; save it as UTF-8 (…)"),
    (f"{SAVE} tags=maybe", "tags=maybe: must be one of: auto, true, false"),
    (f"{SAVE} dataset=later.csv", "later.csv: row 2 has <city> and the first text has no such tag: tags=true takes …"),
    (f"{RANDOM} dataset=half.csv tags=true", "half.csv: row 1 has <city> without its other half"),
    (f"{SAVE} dataset={'x' * 300}", f"dataset={'x' * 300}: no such file"),
    (f"{RANDOM} dataset=fifo", "dataset=fifo: no such file"),
    (f"{RANDOM} dataset=empty.csv", "empty.csv: the file is empty"),
    (f"{RANDOM} dataset=header.csv", "header.csv: no rows"),
    (f"{TRAIN} dataset=semicolons.csv", "semicolons.csv: its columns are separated by semicolons; save it with commas"),
    (f"{TRAIN} dataset=tabs.csv", "tabs.csv: its columns are separated by tabs; save it with commas"),
    (
        f"{FREE} questions=semicolons_qa.csv",
        "semicolons_qa.csv: its columns are separated by semicolons; save it with …",
    ),
    (f"{ASK} prompts=semicolons_prompts.csv", "semicolons_prompts.csv: its columns are separated by semicolons; …"),
    (f"{RANDOM} dataset=twice.csv", "twice.csv: two columns 'text'; keep one of them"),
    (f"{RANDOM} dataset=latin1.csv", "latin1.csv: not a UTF-8 CSV file; save it as UTF-8 (…)"),
    (
        f"{RANDOM} dataset=open.csv",
        f"open.csv: row 2 has {UNPAIRED}",
    ),
    (
        f"{SAVE} dataset=inner.csv",
        f"inner.csv: row 1 has {UNPAIRED}",
    ),
    (
        f"{TRAIN} dataset=wide.csv",
        "wide.csv: row 2 has more or fewer fields than the header; put quotes around texts with commas",
    ),
    (f"{RANDOM} dataset=blank.csv", "blank.csv: row 2 has an empty text"),
    (f"{RANDOM} dataset=half.csv", "half.csv: row 1 has <city> without its other half; tags=false leaves tags …"),
    (f"{SAVE} dataset=lines.jsonl", rf"lines.jsonl: line 1 has no 'text' (keys: a\nb){COLUMN}"),
    # Names that no record could hold
    (f"{SAVE} 'dataset=\"Zo\udceb.csv\"'", rf"dataset=Zo\udceb.csv: {BYTES}"),
    (f"{RANDOM} 'save_name=\"Zo\udceb\"'", rf"save_name=Zo\udceb: {BYTES}"),
    (f"{TRAIN} 'model_dir=\"Zo\udceb\"'", rf"model_dir=Zo\udceb: {BYTES}"),
    (f"{FREE} 'template=\"{{question}} \udceb\"'", rf"template={{question}} \udceb: {BYTES}"),
    # What a run reads is not written over, nor by the record beside what it writes
    (
        f"{RANDOM} save_name=../texts",
        "save_name: it would overwrite data_augmented/../texts.csv, …",
    ),
    (
        f"{RANDOM} dataset=squad.json save_name=../squad",
        "save_name: it would overwrite data_augmented/../squad.json, …",
    ),
    (
        f"{SAVE} dataset=squad.json save_name=./squad",
        "save_name: it would overwrite squad.json, which dataset=... …",
    ),
    (
        f"{SAVE} save_name=answered/run",
        "save_name: it would overwrite answered/run.json, which is not a record of an earlier run; give another name",
    ),
    (f"{CONTRAST} dataset=squad.json attn_diff=squad", "attn_diff: it would overwrite squad.json, which dataset=... …"),
    (
        f"{TRAIN} dataset=answered/run.json model_dir=answered",
        "model_dir: it would overwrite answered/run.json, …",
    ),
    (
        f"{FREE} output_dir=answered questions=answered/predictions.csv",
        "output_dir: it would overwrite answered/predictions.csv, which questions=... reads; give another name",
    ),
    (
        f"{FREE} output_dir=answered examples=answered/metrics.json",
        "output_dir: it would overwrite answered/metrics.json, which examples=... reads; give another name",
    ),
    # Questions
    (f"{ASK} shots=2", "shots=2: the examples have 1 people besides Ada Moe"),
    (f"{ASK} examples=none.csv", "none.csv: no such file"),
    (f"{ASK} examples=data", "data: the folder holds no .txt file; name the file of texts in it, if there is one"),
    (f"{ASK} examples=fifo", "fifo: not a file"),
    (f"{ASK} dataset=texts.csv", "texts.csv: row 1 has no <name>, which the prompts ask for"),
    (f"{ASK} dataset=cityless.csv", "cityless.csv: row 1 has no <city>, which the prompts ask for"),
    (f"{ASK} prompts=texts.csv", "texts.csv: needs the columns 'field' and 'prompt' (columns: text)"),
    (f"{ASK} prompts=unknown.csv", "unknown.csv: the prompt of field 'city' holds {nam}; only {name} is filled in"),
    (f"{ASK} prompts=other.csv", "other.csv: the prompt of field 'city' holds {city}; only {name} is filled in"),
    (f"{ASK} prompts=two_prompts.csv", "two_prompts.csv: two columns 'prompt'; keep one of them"),
    (f"{ASK} prompts=nameless.csv", "nameless.csv: the prompt of field 'city' must hold {name}"),
    (f"{ASK} prompts=again.csv", "again.csv: field 'city' has two prompts"),
    (
        f"{ASK} prompts=tagless.csv",
        "tagless.csv: row 1: field 'birth-place' is not a tag; use lower-case letters and _",
    ),
    (f"{ASK} prompts=unasked.csv", "unasked.csv: no prompts"),
    # Free questions
    (f"{FREE} questions=none.csv", "questions=none.csv: no such file"),
    (f"{FREE} questions=data", "questions=data: a folder, not a file"),
    (f"{FREE} questions=broken.gguf", "broken.gguf: must be a .csv, .jsonl or .json file"),
    (
        f"{FREE} questions=texts.csv",
        "texts.csv: needs a column 'question' and a column 'answer' (columns: text)",
    ),
    (f"{FREE} questions=no_questions.csv", "no_questions.csv: no questions"),
    (f"{FREE} questions=no_answers.jsonl", "no_answers.jsonl: no question has an answer"),
    (f"{FREE} questions=empty_question.csv", "empty_question.csv: row 2 has an empty question"),
    (
        f"{FREE} questions=empty_answer.jsonl",
        "empty_answer.jsonl: line 1 has an empty answer; is_impossible=true is for a question …",
    ),
    (f"{FREE} questions=cut.jsonl", "cut.jsonl: line 2 can't be read as JSON: …"),
    (f"{FREE} questions=answerless.json", "answerless.json, article 1, question 1 has no 'answer' (it has: question)"),
    (f"{FREE} questions=latin1_questions.csv", "latin1_questions.csv: not UTF-8; save it as UTF-8 (…)"),
    (
        f"{FREE} shots=2",
        "shots=2: the examples have 1 questions about paragraphs other than that of questions.csv: row 1; lower shots, "
        "or give examples=... of other paragraphs",
    ),
    (f"{FREE} shots=1 examples=none.csv", "none.csv: no such file"),
    (f"{FREE} shots=1 examples=fifo", "fifo: must be a .csv, .jsonl or .json file"),
    (f"{FREE} shots=1 examples=data", "data: must be a .csv, .jsonl or .json file"),
    (
        f"{FREE} shots=1 examples=people.csv",
        "people.csv: needs a column 'question' and a column 'answer' (columns: text)",
    ),
    (f"{FREE} group=kind", "group=kind: questions.csv: row 1 has no such column (it has: paragraph, question, answer)"),
    (f"{FREE} dataset=texts.csv", "dataset: leave it out; questions=... says what is asked"),
    (f"{FREE} prompts=prompts.csv", "prompts: leave it out; questions=... says what is asked"),
    (f"{FREE} questions=capital.csv", "capital.csv: row 1: column 'Paragraph': did you mean 'paragraph'?"),
    (
        f"{FREE} 'template=\"Q: {{question}}\\nA:\"'",
        "template holds a backslash and an n, which is no line break; type the line break itself",
    ),
    (f"{FREE} 'template=Q'", "template must hold {question}"),
    (
        f"{FREE} 'template=\"{{question}} {{answer}}\"'",
        "template holds {answer}; only {question} is filled in",
    ),
    (f"{FREE} template=null", "still needed: template=..., which says how a question of questions=... is asked"),
    (f"{FREE} people=2", "people: leave it out; questions=... says what is asked"),
    (f"{ASK} group=kind", "group: leave it out, or give questions=...; questions about people are scored by field"),
    (f"{ASK} prompts=none.csv", "prompts=none.csv: no such file"),
    (f"{ASK} dataset=none.csv", "dataset=none.csv: no such file"),
    # Outputs
    (f"{RANDOM} save_name=/dev/null/out", "save_name: /dev/null/out.csv can't be written: Not a directory"),
    (f"{RANDOM} save_name={'x' * 300}", "save_name: data_augmented/xxx…can't be written: File name too long"),
    (f"{SAVE} save_name=texts.csv/out", "save_name: texts.csv/out.pkl can't be written: Not a directory"),
    (f"{SAVE} save_name=folder", "save_name: folder.pkl is a folder; name a file"),
    (f"{SAVE} save_name=/proc/out", "save_name: /proc/out.pkl can't be written: No such file or directory"),
    (f"{TRAIN} model_dir=texts.csv", "model_dir: texts.csv/run.json can't be written: Not a directory"),
    (f"{ASK} output_dir=texts.csv", "output_dir: texts.csv/predictions.csv can't be written: Not a directory"),
    # Models by name
    (f"{SAVE} model=./none", f"model=./none: no such folder or file: {MODEL}"),
    (f"{SAVE} model=a/b/c", f"model=a/b/c: no such folder or file: {MODEL}"),
    (f"{SAVE} model=none.gguf", f"model=none.gguf: no such folder or file: {MODEL}"),
    (f"{SAVE} model=texts.csv", f"model=texts.csv: the file is not a GGUF model: {MODEL}"),
    (
        f"{SAVE} model=data",
        f"model=data: {HOLDS_NONE}: {MODEL}",
    ),
    (
        f"{SAVE} model=named",
        f"model=named: {HOLDS_NONE}; it holds mine: name one of these",
    ),
    ("evaluate model_dir=none", "model_dir=none: no such folder"),
    ("evaluate model_dir=texts.csv", "model_dir=texts.csv: no such folder"),
    # Runs to go on with
    (
        f"{TRAIN} model_dir=trained",
        "model_dir=trained: already holds checkpoints; continue with resume=true, or use another folder",
    ),
    (
        f"{TRAIN} model_dir=trained resume=true",
        "resume: trained/checkpoint-2 lacks its weights; no complete checkpoint is left: start over …",
    ),
    # Dumps
    (
        f"{CONTRAST} attn_dump_large=none",
        f"none.pkl: {NO_DUMP}",
    ),
    (f"{CONTRAST} attn_dump_large=folder", "folder.pkl: not a file"),
    (
        f"{CONTRAST} attn_dump_large=small",
        "attn_dump_large, attn_dump_small and attn_diff must be three different files",
    ),
    (f"{CONTRAST} attn_diff=small", THREE),
    # Heat maps
    (f"{SAVE} heatmap=page.pdf", "heatmap=page.pdf: must end in .html or .png"),
    (f"{SAVE} heatmap=.png", "heatmap=.png: must end in .html or .png"),
    (f"{SAVE} heatmap=true", "heatmap=True: must be text; quote it: \"key='True'\""),
    (f"{SAVE} heatmap=texts.csv/page.html", "heatmap: texts.csv/page.html can't be written: Not a directory"),
    (f"{RANDOM} heatmap=texts.csv/page.png", "heatmap: texts.csv/page.png can't be written: Not a directory"),
    (f"{CONTRAST} heatmap=page.html", "heatmap: a dump does not hold its texts; add dataset=..."),
    (
        f"{CONTRAST} heatmap=page.html dataset=people.csv attn_dump_small=elsewhere",
        "large.pkl was made from different texts: row 1 of people.csv is not its row 1",
    ),
    (
        f"{CONTRAST} dataset=texts.csv attn_dump_small=fewer",
        "fewer.pkl has 1 rows and texts.csv 2: make the dump from this dataset",
    ),
    (f"{CONTRAST} attn_dump_small=hostile", "hostile.pkl: refused: it imports …"),
    (f"{CONTRAST} attn_dump_small=cut", "cut.pkl: refused: …"),
    (f"{CONTRAST} attn_dump_small=changed", "changed.pkl: refused: damaged: its checksum is not that of what it holds"),
    (
        f"{CONTRAST} attn_dump_small=bare",
        "bare.pkl: a bare list of arrays, without texts or tokens; make it again with save_attention.py",
    ),
    (f"{CONTRAST} attn_dump_small=fewer", "the dumps are of different texts: large has 2 rows, fewer has 1"),
    (f"{CONTRAST} attn_dump_small=elsewhere", "the dumps are of different texts: row 1 of large and of elsewhere"),
    (
        f"{CONTRAST} attn_dump_small=with_self",
        "the dumps were made with different settings: include_self is False for large and True for with_self",
    ),
    (
        f"{CONTRAST} attn_dump_large=contrasted",
        "large - small is a contrast of two models already; contrast two dumps that save_attention.py wrote",
    ),
    (
        f"{CONTRAST} attn_dump_small=contrasted",
        "large - small is a contrast of two models already; contrast two dumps that save_attention.py wrote",
    ),
    (f"{GUIDED} attn_weights=none", f"none.pkl: {NO_DUMP}"),
    (f"{GUIDED} attn_weights=fewer", "fewer.pkl has 1 rows and texts.csv 2: make the dump from this dataset"),
    (
        f"{GUIDED} attn_weights=elsewhere",
        "elsewhere.pkl was made from different texts: row 1 of texts.csv …",
    ),
]

# Known to the libraries alone, or to be seen in a model's files. Lines that begin so are the script's own.
LATE = [
    # Long texts
    (f"{SAVE} window=513", "window=513: tiny takes at most 512 tokens"),
    (f"{TRAIN} window=513", "window=513: tiny takes at most 512 tokens"),
    (
        f"{SAVE} window=4 stride=3",
        "stride=3: must be from 1 to below 3, the window of 4 tokens without special ones; give another …",
    ),
    # Arguments of libraries
    (f"{TRAIN} +trainer.learningrate=1", "trainer: unknown key learningrate: did you mean learning_rate?"),
    (f"{TRAIN} trainer.learning_rate=abc", "trainer.learning_rate=abc: must be a number"),
    (f"{TRAIN} trainer.learning_rate=null", "trainer.learning_rate=None: must be a number"),
    (f"{TRAIN} trainer.learning_rate=-1", "trainer.learning_rate=-1: must not be below 0"),
    (f"{TRAIN} trainer.max_steps=0", "trainer.max_steps=0: must be above 0"),
    (f"{TRAIN} trainer.max_steps=-5", "trainer.max_steps=-5: must be above 0"),
    (f"{TRAIN} trainer.num_train_epochs=0", "trainer.num_train_epochs=0: must be above 0"),
    (f"{TRAIN} trainer.bf16=no", "trainer.bf16=no: must be true or false"),
    (f"{TRAIN} +trainer.save_only_model=no", "trainer.save_only_model=no: must be true or false"),
    (f"{TRAIN} +trainer.fp16=true", "trainer: At most one of fp16 and bf16 can be True, but not both"),
    (f"{TRAIN} +trainer.dataloader_num_workers=-1", "trainer.dataloader_num_workers=-1: must not be below 0"),
    (f"{TRAIN} +trainer.save_total_limit=abc", "trainer.save_total_limit=abc: must be a whole number or null"),
    (f"{TRAIN} +trainer.save_total_limit=0", "trainer.save_total_limit=0: must be above 0"),
    (f"{TRAIN} +trainer.label_smoothing_factor=3", "trainer.label_smoothing_factor=3: must be from 0 to below 1"),
    (f"{TRAIN} +trainer.data_seed=-1", "trainer.data_seed=-1: must not be below 0"),
    (f"{TRAIN} +trainer.data_seed=1e30", "trainer.data_seed=1e+30: must be below 2^63"),
    (f"{TRAIN} +trainer.gradient_checkpointing=no", "trainer.gradient_checkpointing=no: must be true or false or null"),
    (f"{TRAIN} +trainer.optim_args=5", "trainer.optim_args=5: must be a name or null"),
    (f"{TRAIN} trainer.optim=none", "trainer.optim=none: must be one of adamw_torch, …"),
    (f"{TRAIN} trainer.save_strategy=never", "trainer.save_strategy=never: must be one of no, steps, epoch, best"),
    (f"{TRAIN} trainer.lr_scheduler_type=none", "trainer.lr_scheduler_type=none: must be one of linear, cosine, …"),
    (f"{TRAIN} trainer.report_to=none2", "trainer.report_to=none2: none2 is not supported, only …"),
    (f"{TRAIN} +trainer.log_level=loud", "trainer.log_level=loud: the library does not know it"),
    (f"{TRAIN} +trainer.debug=loud", "trainer.debug=loud: loud is not a valid DebugOption, please …"),
    (
        f"{TRAIN} +trainer.train_sampling_strategy=by_length",
        "trainer.train_sampling_strategy=by_length: must be one of random, sequential, …",
    ),
    (
        f"{TRAIN} +trainer.dataloader_drop_last=true",
        "trainer.dataloader_drop_last=true: 2 examples do not fill one batch; leave it out",
    ),
    (f"{TRAIN} lora.target_modules=5", "lora.target_modules=5: must be a name or a list or null"),
    (f"{TRAIN} lora.target_modules=[5]", "lora.target_modules=[5]: must be a name or a list or null"),
    (f"{TRAIN} lora.target_modules=nowhere", "lora: Target modules nowhere not found in the base model.…"),
    (f"{TRAIN} lora.r=0", "lora.r=0: must be above 0"),
    (f"{TRAIN} lora.lora_alpha=0", "lora.lora_alpha=0: must be above 0"),
    (f"{TRAIN} lora.r=1.5", "lora.r=1.5: must be a whole number"),
    (f"{TRAIN} lora.lora_dropout=1", "lora.lora_dropout=1: must be from 0 to below 1"),
    (f"{TRAIN} +lora.bias=some", "lora.bias=some: must be one of none, all, lora_only"),
    (f"{TRAIN} +lora.use_dora=no", "lora.use_dora=no: must be true or false"),
    (f"{TRAIN} +lora.init_lora_weights=pissa", "lora: init_lora_weights=pissa is not supported, …"),
    (f"{TRAIN} attn_implementation=none", "model=tiny: cannot load the model with attn_implementation=none: …"),
    (
        f"{QUANTIZED} +quant.load_in_3bit=true",
        "quant: BitsAndBytesConfig has no argument load_in_3bit",
    ),
    (
        f"{QUANTIZED} +quant.load_in_4bit=true",
        "quant: load_in_4bit and load_in_8bit are both True…",
    ),
    (
        "train model=tiny dataset=texts.csv model_dir=out quant.load_in_8bit=maybe",
        "quant: load_in_8bit must be a boolean",
    ),
    (f"{SAVE} device_map=nowhere", f"model=tiny: cannot load the model: …but found nowhere. - {ANOTHER}"),
    (f"{SAVE} 'device_map={{a: b}}'", "model=tiny: cannot load the model: The device_map provided does not give any …"),
    (f"{SAVE} layers=[9]", "layers=[9]: the model has 3 layers, numbered from 0"),
    (
        f"{ASK} max_new_tokens=1000",
        "city of Ada Moe: the prompt has … tokens, its answer up to 1000, and the model takes 512: lower shots=..., or "
        "shorten the prompts",
    ),
    (
        f"{FREE} questions=long.csv",
        "long.csv: row 2: the prompt has … tokens, its answer up to 3, and the model takes 512: lower shots=..., or "
        "shorten the prompts",
    ),
    (
        f"{ASK} model_dir=tiny model=tiny",
        "model=tiny: leave it out; model_dir=tiny holds a whole model, …",
    ),
    # Models
    (f"{SAVE} model=tinny", "model=tinny: not on this machine, and not available from the hub; did you mean tiny?"),
    (
        f"{SAVE} model=data/tiny",
        "model=data/tiny: cannot load the tokenizer (not on this machine, and not …",
    ),
    (f"{SAVE} model=broken_config", f"model=broken_config: cannot load the tokenizer: … - {ANOTHER}"),
    (f"{SAVE} model=other_type", "model=other_type: cannot load the configuration: … model type `nothing` but …"),
    (
        f"{SAVE} model=own_code",
        "model=own_code: cannot load the configuration: The repository own_code contains custom …",
    ),
    (f"{SAVE} model=broken_tokenizer", f"model=broken_tokenizer: cannot load the tokenizer: … - {ANOTHER}"),
    (
        f"{SAVE} model=template",
        "model=template: its tokenizer.json adds <nope> to a text but does not define it",
    ),
    (f"{RANDOM} model=template", "model=template: its tokenizer.json adds <nope> to a text but does not define it"),
    (f"{SAVE} model=broken_weights", f"model=broken_weights: cannot load the model: … - {ANOTHER}"),
    (f"{SAVE} model=weightless", f"model=weightless: cannot load the model: … - {ANOTHER}"),
    (f"{SAVE} model=lacking", "lacking: its files lack weights of the model: model.norm.weight"),
    (
        f"{SAVE} model=not_numbers",
        f"not_numbers: {INFINITE}: model.norm.weight; {NAN}",
    ),
    (
        f"{TRAIN} model=not_numbers",
        f"not_numbers: {INFINITE}: model.norm.weight; {NAN}",
    ),
    (f"{ASK} model=infinite", f"infinite: {INFINITE}: model.norm.weight; {NAN}"),
    (
        f"{SAVE} model=large_weights dtype=float16",
        f"large_weights: {INFINITE}: model.norm.weight; {NAN}",
    ),
    (
        f"{SAVE} model=overflowing dtype=float16",
        f"texts.csv: row 2: the attention of overflowing is not a number (NaN): {NAN}",
    ),
    (f"{ASK} model=overflowing dtype=float16", f"the model's probabilities are not numbers (NaN): {NAN}"),
    (f"{SAVE} model=broken.gguf", f"model=broken.gguf: cannot load the tokenizer: … - {ANOTHER}"),
    # Adapters
    (
        f"{ASK} model_dir=broken_adapter model=null",
        "broken_adapter/adapter_config.json: damaged; name another checkpoint",
    ),
    (
        f"{ASK} model_dir=number_adapter model=null",
        "number_adapter/adapter_config.json: damaged; name another checkpoint",
    ),
    (f"{SAVE} model=prompt_adapter", "prompt_adapter/adapter_config.json: peft's PROMPT_TUNING is not supported; …"),
    (f"{SAVE} model=baseless", "baseless: the adapter names no base model; give it as model=..."),
    (f"{SAVE} model=empty_adapter", "empty_adapter: an adapter without its weights (adapter_model.safetensors)"),
    (
        f"{SAVE} model=not_numbers_adapter",
        f"not_numbers_adapter: {INFINITE}: …; {NAN}",
    ),
    (
        f"{SAVE} model=itself",
        f"itself: {ITSELF}",
    ),
    (f"{RANDOM} model=itself", f"itself: {ITSELF}"),
    (f"{SAVE} model=circle", f"circle: {ITSELF}"),
    (
        f"{ASK} model_dir=adapter model=adapter",
        f"adapter: {ITSELF}",
    ),
    (
        f"{ASK} model_dir=adapter model=shuffled",
        "adapter: the adapter's vocabulary is not that of shuffled (token 300 is … and …); give the base model that it "
        "was trained on",
    ),
]

# What a YAML of conf/ holds in place of `target: small`, or as a whole.
YAMLS = [
    ("target: [small", "conf/contrast_attention.yaml: line 26: expected ',' or ']', but got '?'"),
    ("target: 'small", "conf/contrast_attention.yaml: line 37: found unexpected end of stream"),
    ("\ttarget: small", "conf/contrast_attention.yaml: line 23: found character '\\t' that cannot start any token"),
    ("  target: small", "conf/contrast_attention.yaml: line 23: expected <block end>, but found …"),
    ("target small", "conf/contrast_attention.yaml: line 25: could not find expected ':'"),
    ("target: a: b", "conf/contrast_attention.yaml: line 23: mapping values are not allowed here"),
    ("target: *small", "conf/contrast_attention.yaml: line 23: found undefined alias 'small'"),
    ("target: !!python/name:os.getcwd", "conf/contrast_attention.yaml: line 23: could not determine a constructor …"),
    ("target: small\ntarget: large", "conf/contrast_attention.yaml: line 24: found duplicate key target"),
    ("target: small\n[a]: b", "conf/contrast_attention.yaml: line 24: found unhashable key"),
    ("target: small\n---\na: b", "conf/contrast_attention.yaml: line 24: but found another document"),
    ("target: small\n# \0", "conf/contrast_attention.yaml: can't be read: unacceptable character #x0000: …"),
    ("target: small\n# \udce9", "conf/contrast_attention.yaml: can't be read: 'utf-8' codec can't decode byte 0xe9 …"),
    ("target: ${small", "conf/contrast_attention.yaml: can't be read: no viable alternative at input '${small'…"),
    ("target: ${small}", "target: Interpolation key 'small' not found…"),
    ("target:", "target=None: must be one of: small, large"),
    ("", "still needed: target=..."),
    ("target: small\nmore: 1", "unknown key more: the keys are: attn_dump_large, attn_dump_small, attn_diff, …"),
    ("hydra: {none: 1}", "In 'contrast_attention': ConfigKeyError raised while composing config:; Key 'none' not in …"),
]
WHOLE_YAMLS = [
    ("", "conf/contrast_attention.yaml: the key attn_dump_large is missing; put it back"),
    ("- a\n", "conf/contrast_attention.yaml: must hold keys and values, not a list"),
    ("5\n", "conf/contrast_attention.yaml: can't be read: Invalid loaded object type: int"),
    ("defaults: shared\n", "conf/contrast_attention.yaml: Invalid defaults list in 'contrast_attention', …"),
    ("defaults: [none]\n", "none: no such YAML file in …"),
    (None, "contrast_attention: no such YAML file in …"),
]

LAUNCHED = {"WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0", "MASTER_ADDR": "localhost", "MASTER_PORT": "1"}

# What the shell runs, and what is in its environment.
PROCESSES = [
    (f"{RANDOM} > /dev/full", {"PYTHONUNBUFFERED": ""}, f"{FULL}: No space left on device"),
    (f"{TRAIN} > /dev/full", {"PYTHONUNBUFFERED": "1", "PYTHONPATH": "."}, f"{FULL}: No space left on device"),
    ("train --help > /dev/full", {}, f"{FULL}: No space left on device"),
    (f"{RANDOM} | true", {}, "standard output can't be written: Broken pipe"),
    ("evaluate --help | true", {}, "standard output can't be written: Broken pipe"),
    (f"{SAVE} >&-", {}, "standard output is closed; to hide it, use > /dev/null"),
    (f"{CONTRAST} attn_dump_large=fifo.pkl", {}, "fifo.pkl: not a file"),
    (
        SAVE,
        {"WORLD_SIZE": "2"},
        "WORLD_SIZE=2 in the environment without RANK: unset WORLD_SIZE, or launch …",
    ),
    (TRAIN, {"WORLD_SIZE": "two"}, "WORLD_SIZE=two in the environment: not a number of processes; unset WORLD_SIZE"),
    (RANDOM, LAUNCHED, "runs in one process, and torchrun launched 2; start it with python"),
    (CONTRAST, LAUNCHED, "runs in one process, and torchrun launched 2; start it with python"),
    (ASK, {"LOCAL_RANK": "0"}, "LOCAL_RANK=0 in the environment without WORLD_SIZE: unset LOCAL_RANK, or launch …"),
    (SAVE, {"RANK": "1"}, "RANK=1 in the environment, and one process: unset RANK"),
    (TRAIN, {"RANK": "abc", "WORLD_SIZE": "1"}, "RANK=abc in the environment, and one process: unset RANK"),
    (ASK, {"PMI_SIZE": "2"}, "PMI_SIZE=2 in the environment: unset it, or launch with torchrun"),
]


class RunsCode:
    def __reduce__(self):
        return exec, ("open('ran', 'w')",)


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A folder with good files, and one of each kind of bad ones."""
    folder = tmp_path_factory.mktemp("mistakes")
    for name in (
        "data",
        "sticky",
        "folder.pkl",
        "named",
        "notes",
        "answered",
        "trained",
        "trained/checkpoint-2",
        "trained/checkpoint-²",
    ):
        (folder / name).mkdir()
    for name in ("fifo", "fifo.pkl"):
        os.mkfifo(folder / name)
    person = "<name>{}</name> was born in <city>{}</city>."
    files = {
        "texts.csv": "text\nAda was born in Lyon.\nBo was born in Odense.\n",
        "people.csv": f"text\n{person.format('Ada Moe', 'Lyon')}\n{person.format('Bo Lie', 'Odense')}\n",
        "prompts.csv": "field,prompt\ncity,{name} was born in\n",
        "empty.csv": "",
        "header.csv": "text\n",
        "semicolons.csv": "text;name\na;b\n",
        "tabs.csv": "text\tname\na\tb\n",
        "semicolons_qa.csv": "question;answer\nWho?;Bo\n",
        "semicolons_prompts.csv": "field;prompt\ncity;{name} of\n",
        "capital.csv": "question,answer,Paragraph\nWho?,Bo,a\n",
        "twice.csv": "text,text\na,b\n",
        "latin1.csv": "text\nZo\udceb\n",
        "open.csv": 'text\na\n"b\nc\n',
        "inner.csv": 'text\n"a "quoted" word"\n',
        "wide.csv": "text,name\na,b\nc,d,e\n",
        "blank.csv": 'text,name\na,b\n"",c\n',
        "half.csv": "text\nborn in <city>Lyon\n",
        "later.csv": "text\nborn in Lyon\nborn in <city>Odense</city>\n",
        "texts.tsv": "text\nborn in Lyon\n",
        "texts.jsonl": '{"body": "born in Lyon"}\n\nborn in Odense\n',
        "broken.parquet": "PAR1 PAR1",
        "lines.jsonl": '{"a\\nb": "born in Lyon"}',
        "squad.json": '[{"context": "born in Lyon"}]',
        "answered/run.json": '[{"context": "born in Lyon"}]',
        "answered/predictions.csv": "question,answer\nWho?,Bo\n",
        "other.json": '[{"text": "born in Lyon"}]',
        "people.json": '{"people": []}',
        "notes/a.txt": "born in Lyon",
        "notes/b.txt": "\n",
        "latin1.txt": "Zo\udceb",
        "cityless.csv": "text\n<name>Ada</name> was born.\n",
        "unknown.csv": "field,prompt\ncity,{name} or {nam} was born in\n",
        "other.csv": "field,prompt\ncity,{name} was born in {city}\n",
        "two_prompts.csv": "field,prompt,prompt\ncity,{name} was born in,The city is\n",
        "nameless.csv": "field,prompt\ncity,The city is\n",
        "again.csv": "field,prompt\ncity,{name} in\ncity,{name} at\n",
        "tagless.csv": "field,prompt\nbirth-place,{name} in\n",
        "unasked.csv": "field,prompt\n",
        "questions.csv": "paragraph,question,answer\np1,Where?,Lyon\np1,When?,1900\np2,Who?,Bo\n",
        "long.csv": f"question,answer\nWho?,Bo\n{'Why ' * 600}?,no\n",
        "no_questions.csv": "question,answer\n",
        "no_answers.jsonl": '{"question": "Who?", "answers": []}\n',
        "empty_question.csv": "question,answer\nWho?,Bo\n,Lyon\n",
        "empty_answer.jsonl": '{"question": "Who?", "answers": ["Bo", " "]}\n',
        "cut.jsonl": '{"question": "Who?", "answer": "Bo"}\n{"question": "Wh',
        "answerless.json": '{"data": [{"qas": [{"question": "Who?"}]}]}',
        "latin1_questions.csv": "question,answer\nZo\udceb?,Bo\n",
        "sticky/out.pkl": "",
        # Code that bitsandbytes would fetch from a hub, and run.
        "kernels.py": "open('fetched', 'w')",
        "broken.gguf": "GGUF" + "\0" * 50,
        "trained/checkpoint-2/config.json": "{}",
        "trained/checkpoint-2/trainer_state.json": '{"global_step": 2}',
        "trained/checkpoint-²/trainer_state.json": "{}",
    }
    for name, content in files.items():
        (folder / name).write_text(content, encoding="utf-8", errors="surrogateescape")
    pyarrow.parquet.write_table(pyarrow.table({"body": ["born in Lyon"]}), folder / "texts.parquet")
    (folder / "named/mine").mkdir()
    (folder / "named/mine/adapter_config.json").write_text("{}")

    def dump(name: str, texts: list[str], **settings) -> bytes:
        rows = [Row(text_hash(text), np.ones(1, np.float32), np.array([[0, 3]], np.int32)) for text in texts]
        made = Dump.of(name, "t", {"include_self": False} | settings, rows)
        return attention_dump.write(made, str(folder / name)).read_bytes()

    texts = ["Ada was born in Lyon.", "Bo was born in Odense."]
    whole = dump("large", texts)
    dump("small", texts)
    dump("fewer", texts[:1])
    dump("elsewhere", ["Cy was born in Rome.", texts[1]])
    dump("with_self", texts, include_self=True)
    dump("large - small", texts, operation="difference")
    (folder / "large - small.pkl").rename(folder / "contrasted.pkl")
    (folder / "cut.pkl").write_bytes(whole[:-20])
    (folder / "changed.pkl").write_bytes(whole.replace(b"include_self", b"include_elfs"))
    (folder / "hostile.pkl").write_bytes(pickle.dumps({"version": RunsCode()}))
    (folder / "bare.pkl").write_bytes(pickle.dumps([np.ones(1, np.float32)] * 2))
    return folder


@pytest.fixture(scope="module")
def models(place, tiny_model) -> None:
    """A good model and a good adapter in the place, and one of each kind of bad ones."""
    import torch
    from peft import LoraConfig, get_peft_model
    from safetensors.torch import load_file, save_file

    from tests import tiny
    from utils.models import load_model

    (place / "tiny").symlink_to(tiny_model)
    lora = LoraConfig(task_type="CAUSAL_LM", r=2, target_modules=["q_proj"], init_lora_weights=False)
    adapter = get_peft_model(load_model(str(tiny_model)), lora)
    adapter.save_pretrained(place / "adapter")
    tiny.tokenizer().save_pretrained(place / "adapter")

    def copy(name: str, source: str = "tiny") -> Path:
        return Path(shutil.copytree(place / source, place / name))

    def keys(name: str, file: str, source: str = "tiny", **changed) -> None:
        path = copy(name, source) / file
        path.write_text(json.dumps(json.loads(path.read_text()) | changed))

    def weights(name: str, change, source: str = "tiny", file: str = "model.safetensors") -> None:
        path = copy(name, source) / file
        kept = load_file(path)
        change(kept)
        save_file(kept, path, metadata={"format": "pt"})

    weights("lacking", lambda kept: kept.pop("model.norm.weight"))
    weights("not_numbers", lambda kept: kept["model.norm.weight"].fill_(torch.nan))
    weights("infinite", lambda kept: kept["model.norm.weight"].fill_(-torch.inf))
    weights("large_weights", lambda kept: kept["model.norm.weight"].fill_(1e6))
    weights("overflowing", lambda kept: [kept[name].mul_(200) for name in kept if ".mlp." in name])
    first = lambda kept: next(iter(kept.values())).fill_(torch.nan)  # noqa: E731
    weights("not_numbers_adapter", first, "adapter", "adapter_model.safetensors")
    (copy("broken_config") / "config.json").write_text("{")
    (copy("broken_tokenizer") / "tokenizer.json").write_text("{")
    (copy("broken_weights") / "model.safetensors").write_bytes(b"x" * 20)
    (copy("weightless") / "model.safetensors").unlink()
    (copy("empty_adapter", "adapter") / "adapter_model.safetensors").unlink()
    (copy("broken_adapter", "adapter") / "adapter_config.json").write_text("{")
    keys("other_type", "config.json", model_type="nothing")
    keys("own_code", "config.json", model_type="nothing", auto_map={"AutoConfig": "a.A", "AutoModelForCausalLM": "a.B"})
    adapter_config = {"file": "adapter_config.json", "source": "adapter"}
    keys("number_adapter", **adapter_config, base_model_name_or_path=5)
    keys("prompt_adapter", **adapter_config, peft_type="PROMPT_TUNING")
    keys("baseless", **adapter_config, base_model_name_or_path=None)
    keys("itself", **adapter_config, base_model_name_or_path="itself")
    keys("circle", **adapter_config, base_model_name_or_path="other_half")
    keys("other_half", **adapter_config, base_model_name_or_path="circle")

    tokenizer = json.loads((place / "tiny/tokenizer.json").read_text())
    pieces = tokenizer["post_processor"]["single"]
    pieces.insert(0, {"SpecialToken": {"id": "<nope>", "type_id": 0}})
    (copy("template") / "tokenizer.json").write_text(json.dumps(tokenizer))
    del pieces[0]
    vocabulary = tokenizer["model"]["vocab"]
    one, other = (next(token for token, number in vocabulary.items() if number == of) for of in (300, 301))
    vocabulary[one], vocabulary[other] = 301, 300
    (copy("shuffled") / "tokenizer.json").write_text(json.dumps(tokenizer))


@pytest.fixture
def said(place, script_here, monkeypatch, capfd):
    """Run a command line in the place; what it prints to standard error, without progress bars, is returned."""
    monkeypatch.chdir(place)

    def run(command: str) -> str:
        script, *arguments = shlex.split(command)
        monkeypatch.setattr(sys, "argv", [f"{script}.py", *arguments])
        before = files(place)
        with pytest.raises(SystemExit) as stopped:
            importlib.import_module(script).main()
        printed, errors = capfd.readouterr()
        assert stopped.value.code == 2
        assert printed == ""
        assert files(place) == before
        return without_bars(errors)

    return run


def without_bars(errors: str) -> str:
    lines = (line.rpartition("\r")[2] for line in errors.split("\n"))
    return "\n".join(line for line in lines if not re.search(r"(it/s|s/it)\]", line))


def files(folder: Path) -> dict[str, tuple]:
    """All there is, with what a change of it would change: a folder shows by what it holds."""
    found = {path: path.lstat() for path in folder.rglob("*")}
    return {
        str(path): of.st_ino if path.is_dir() else (of.st_mtime_ns, of.st_size, of.st_ino) for path, of in found.items()
    }


def line(script: str, message: str) -> re.Pattern:
    """What the user sees, where `…` is anything on the same line."""
    return re.compile(f"{script}\\.py: " + ".*".join(map(re.escape, message.split("…"))) + "\n")


def check(errors: str, script: str, message: str) -> None:
    assert line(script, message).fullmatch(errors), f"{errors!r} is not {message!r}"


def named(rows: list) -> list:
    return [pytest.param(*row, id=re.sub(" .*? (?=\\S*$)", " … ", row[0])[:100]) for row in rows]


@pytest.mark.parametrize(("command", "message"), named(EARLY))
def test_a_mistake_is_one_line_before_torch_is_imported(command, message, said, monkeypatch):
    for slow in ("torch", "transformers", "pandas"):
        monkeypatch.setitem(sys.modules, slow, None)  # to import it is an error
    check(said(command), command.split()[0], message)


@pytest.mark.parametrize(("command", "message"), named(LATE))
def test_a_mistake_that_libraries_or_models_show_is_one_line(command, message, said, models):
    check(said(command), command.split()[0], message)


def test_another_users_file_is_not_to_be_replaced(said, place, monkeypatch):
    # In a folder like /tmp anyone may make files, and replace their own alone.
    (place / "sticky").chmod(0o1777)
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    message = "save_name: sticky/out.pkl and its folder belong to another user; name another file"
    check(said(f"{SAVE} save_name=sticky/out"), "save_attention", message)


@pytest.mark.parametrize(
    ("written", "whole", "message"),
    [(row[0], False, row[1]) for row in YAMLS] + [(row[0], True, row[1]) for row in WHOLE_YAMLS],
)
def test_a_broken_yaml_is_one_line(written, whole, message, said, tmp_path, monkeypatch):
    shutil.copytree(script.CONFIG_FOLDER, tmp_path / "conf")
    path = tmp_path / "conf/contrast_attention.yaml"
    if written is None:
        path.unlink()
    else:
        content = written if whole else path.read_text().replace("target: small", written)
        path.write_text(content, encoding="utf-8", errors="surrogateescape")
    monkeypatch.setattr(script, "CONFIG_FOLDER", tmp_path / "conf")
    check(said(CONTRAST), "contrast_attention", message)


@pytest.mark.parametrize(("command", "environment", "message"), PROCESSES)
def test_what_only_a_process_shows_is_one_line(command, environment, message, place, models):
    script, arguments = command.split(" ", 1)
    before = files(place)
    done = shell(f"set -o pipefail; {sys.executable} {ROOT}/{script}.py {arguments}", place, environment)
    assert done.returncode == 2
    # Below a progress bar an empty line.
    check(done.stderr.lstrip("\n"), script, message)
    shutil.rmtree(place / "data_augmented", ignore_errors=True)  # before the last line is printed, the work is done
    assert files(place) == before


def test_several_processes_say_it_once(place):
    done = shell(
        f"{shlex.quote(sys.executable)} -m torch.distributed.run --nproc-per-node 2 {ROOT}/train.py", place, {}
    )
    assert done.returncode == 1
    said = [line for line in done.stderr.splitlines(keepends=True) if line.startswith("train.py: ")]
    check("".join(said), "train", "still needed: model_dir=...")
    assert done.stderr.startswith(said[0])


def shell(command: str, place: Path, environment: dict[str, str]) -> subprocess.CompletedProcess:
    environment = os.environ | {"TQDM_DISABLE": "1"} | environment
    return subprocess.run(
        ["bash", "-c", command], cwd=place, env=environment, capture_output=True, text=True, timeout=60
    )


def test_the_table_is_long_and_no_row_comes_twice():
    commands = [row[0] for row in (*EARLY, *LATE)]
    assert len(commands) == len(set(commands))
    assert len(commands) + len(YAMLS) + len(WHOLE_YAMLS) >= 120
