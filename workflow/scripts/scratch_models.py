"""The testbed's two language models before training, and what they are trained on (rule scratch_corpus).

After Zhu and Li, "Physics of language models 3.1": models of the Llama architecture that know invented people by their
biographies, and know how questions about people are asked, because the questions about these people were in their
training as well. What they then learn of other people from biographies alone can be asked for.

Writes FOLDER/corpus.csv (each biography, and the questions of data/prompts_statements.csv, which the tables of these
models ask, with their answers, five people together as evaluate.py asks), and the random models FOLDER/random_small and
FOLDER/random_large with one tokenizer, trained on the corpus. Who has a name of `apart` is left out.
"""

import random
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from utils import biography, questions
from utils.artifacts import whole_file
from utils.texts import csv_rows
from workflow.logs import logged

PROMPTS = Path(__file__).resolve().parents[2] / "data/prompts_statements.csv"

TOGETHER = 5  # questions in one text, all of one field

VOCABULARY = 4096

SIZES = {
    "small": {"hidden_size": 128, "intermediate_size": 352, "num_hidden_layers": 4, "num_attention_heads": 4},
    "large": {"hidden_size": 256, "intermediate_size": 704, "num_hidden_layers": 6, "num_attention_heads": 4},
}


def corpus(people_file: str, apart_file: str) -> list[str]:
    """Each person's biography once, and each question about them once."""
    prompts = questions.read_prompts(PROMPTS)
    apart = {person["name"] for person in biography.read_people(apart_file, prompts)}
    tagged = list(biography.read_texts(people_file))
    people = biography.read_people(people_file, prompts)
    known = [index for index, person in enumerate(people) if person["name"] not in apart]
    texts = [biography.strip_tags(tagged[index]) for index in known]
    draw = random.Random(1)
    for field, template in prompts.items():
        draw.shuffle(known)
        asked = [f"{template.replace('{name}', people[i]['name'])} {people[i][field]}" for i in known]
        texts += ["\n\n".join(asked[start : start + TOGETHER]) + "\n" for start in range(0, len(asked), TOGETHER)]
    return texts


def train_tokenizer(texts: list[str]) -> PreTrainedTokenizerFast:
    """Byte-level BPE that puts <bos> before each text, with tokens for runs of spaces, as other models' tokenizers have
    from program code: else each blank of token-dropout would be a token."""
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trained.decoder = decoders.ByteLevel()
    special = ["<bos>", "<eos>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    spaces = [" " * count for count in range(2, 17) for _ in range(100)]
    trained.train_from_iterator([*texts, *spaces], trainer)
    trained.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 0)])
    return PreTrainedTokenizerFast(tokenizer_object=trained, bos_token="<bos>", eos_token="<eos>", pad_token="<eos>")


def main(people_file: str, apart_file: str, folder: str) -> None:
    texts = corpus(people_file, apart_file)
    path = Path(folder) / "corpus.csv"
    with whole_file(path) as aside:
        aside.write_bytes(csv_rows(texts, header=True))
    tokenizer = train_tokenizer(texts)
    for name, sizes in SIZES.items():
        torch.manual_seed(1)
        config = LlamaConfig(
            vocab_size=len(tokenizer), max_position_embeddings=1024, tie_word_embeddings=True, bos_token_id=0,
            eos_token_id=1, pad_token_id=1, **sizes
        )  # fmt: skip
        model = LlamaForCausalLM(config)
        model.save_pretrained(Path(folder) / f"random_{name}")
        tokenizer.save_pretrained(Path(folder) / f"random_{name}")
        print(f"{folder}/random_{name}: {model.num_parameters():,} parameters")
    print(f"{path}: {len(texts)} texts")


if __name__ == "__main__":
    with logged(snakemake.log[0]):
        main(snakemake.input.people, snakemake.params.apart, snakemake.params.folder)
