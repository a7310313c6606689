"""Tiny random language models and a tokenizer trained here, saved as ordinary model folders; no hub is reached."""

from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    AutoModelForCausalLM,
    BambaConfig,
    DeepseekV3Config,
    Gemma2Config,
    Gemma3TextConfig,
    GPT2Config,
    LlamaConfig,
    Mamba2Config,
    MambaConfig,
    MistralConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen3_5TextConfig,
    Qwen3Config,
    RecurrentGemmaConfig,
)

from utils import biography

DATA = Path(__file__).resolve().parent.parent / "data"

SIZES = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4}
GROUPED = {"num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 512}

ARCHITECTURES = {
    "llama": lambda vocabulary: LlamaConfig(vocab_size=vocabulary, **SIZES, **GROUPED),
    # Caps its scores, some of which are far beyond the cap.
    "gemma2": lambda vocabulary: Gemma2Config(
        vocab_size=vocabulary,
        **SIZES,
        **GROUPED,
        sliding_window=8,
        attn_logit_softcapping=1.0,
        query_pre_attn_scalar=1,
    ),
    "gemma3": lambda vocabulary: Gemma3TextConfig(
        vocab_size=vocabulary,
        **SIZES,
        **GROUPED,
        sliding_window=8,
        layer_types=["sliding_attention", "full_attention", "sliding_attention"],
    ),
    # Biases in its projections.
    "qwen2": lambda vocabulary: Qwen2Config(
        vocab_size=vocabulary, **SIZES, num_key_value_heads=2, max_position_embeddings=512
    ),
    "qwen3": lambda vocabulary: Qwen3Config(vocab_size=vocabulary, **SIZES, **GROUPED),
    # A hybrid: most layers keep a state in place of keys and values.
    "qwen3_5": lambda vocabulary: Qwen3_5TextConfig(
        vocab_size=vocabulary,
        **SIZES,
        **GROUPED,
        layer_types=["linear_attention", "linear_attention", "full_attention"],
        linear_num_value_heads=4,
        linear_num_key_heads=2,
        linear_key_head_dim=8,
        linear_value_head_dim=8,
    ),
    # A hybrid whose first layers have no keys, so that the cache alone does not tell how long the prompt was.
    "bamba": lambda vocabulary: BambaConfig(
        vocab_size=vocabulary,
        **SIZES,
        num_key_value_heads=2,
        attn_layer_indices=[2],
        mamba_n_heads=8,
        mamba_d_head=8,
        mamba_d_state=8,
        mamba_n_groups=1,
    ),
    "gpt2": lambda vocabulary: GPT2Config(vocab_size=vocabulary, n_embd=32, n_layer=3, n_head=4, n_positions=512),
    # Multi-head latent attention: values of another size than queries and keys.
    "deepseek_v3": lambda vocabulary: DeepseekV3Config(
        vocab_size=vocabulary,
        **SIZES,
        num_key_value_heads=4,
        max_position_embeddings=512,
        q_lora_rank=16,
        kv_lora_rank=16,
        qk_rope_head_dim=8,
        qk_nope_head_dim=8,
        v_head_dim=12,
        first_k_dense_replace=3,
    ),
    "mistral": lambda vocabulary: MistralConfig(vocab_size=vocabulary, **SIZES, **GROUPED, sliding_window=8),
}

# Without attention, or with a state that they keep apart from the cache: refused where they can't serve.
STATE = {"hidden_size": 32, "num_hidden_layers": 3, "state_size": 8}
REFUSED = {
    "mamba": lambda vocabulary: MambaConfig(vocab_size=vocabulary, **STATE),
    "mamba2": lambda vocabulary: Mamba2Config(vocab_size=vocabulary, **STATE, num_heads=4, head_dim=16, n_groups=1),
    "recurrent_gemma": lambda vocabulary: RecurrentGemmaConfig(
        vocab_size=vocabulary, **SIZES, num_key_value_heads=1, head_dim=8, lru_width=32, attention_window_size=64
    ),
}


def tokenizer(vocabulary: int = 600, adds_bos: bool = True) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer of the committed biographies' language."""
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trained.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=["<bos>", "<eos>", "<pad>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    texts = (biography.strip_tags(tagged) for tagged in biography.read_texts(DATA / "biography_synthetic.csv"))
    trained.train_from_iterator(texts, trainer)
    if adds_bos:
        trained.post_processor = processors.TemplateProcessing(
            single="<bos> $A", special_tokens=[("<bos>", trained.token_to_id("<bos>"))]
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=trained, bos_token="<bos>", eos_token="<eos>", pad_token="<pad>", model_max_length=512
    )


def ignorant_tokenizer() -> PreTrainedTokenizerFast:
    """Puts no special token first, and makes no token of white space nor of letters that it does not know."""
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.Whitespace()
    trainer = trainers.BpeTrainer(special_tokens=["<eos>", "<pad>"], show_progress=False)
    trained.train_from_iterator(["Ada and Bo were born in Lyon or is it Odense"], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=trained, eos_token="<eos>", pad_token="<pad>")


def model(architecture: str, vocabulary: int = 600, seed: int = 0, **options):
    """A random model in evaluation mode; its weights are large enough that attention is far from uniform."""
    torch.manual_seed(seed)
    config = (ARCHITECTURES | REFUSED)[architecture](vocabulary)
    config.update(options)
    config.bos_token_id, config.eos_token_id, config.pad_token_id = 0, 1, 2
    made = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    with torch.no_grad():
        for name, weight in made.named_parameters():
            if weight.ndim == 2 and "embed" not in name and "wpe" not in name:
                weight.mul_(8)
    return made.eval()


def save(
    folder: Path, architecture: str, seed: int = 0, vocabulary: int = 600, adds_bos: bool = True, **options
) -> Path:
    """A folder that `model=...` takes; the options are of the model's configuration."""
    made = tokenizer(vocabulary, adds_bos)
    made.save_pretrained(folder)
    model(architecture, len(made), seed, **options).save_pretrained(folder)
    return folder


def save_pair(folder: Path) -> None:
    """The models of conf/tables/smoke.yaml: two tokenizers, two architectures."""
    save(folder / "small", "llama", seed=0, num_hidden_layers=1)
    save(folder / "large", "gemma3", seed=1, vocabulary=400)


if __name__ == "__main__":
    save_pair(Path("tables_out/tiny_models"))
