"""Greedy answers and log-likelihoods on tiny models, against one prompt at a time and no cache."""

import functools

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing
from transformers import GenerationConfig, PreTrainedTokenizerFast

from tests import tiny
from utils import answers, questions, tokens
from utils.errors import InputError

PROMPTS = [
    "The birth date of Ada is",
    "The city where Nikolaj Ørsted-Chevalier was born is Odense\n\nThe city where Bo was born is",
    "A",
    "The employer of Patricia Gray was",
    "The subject that somebody with quite a long name studied at university is",
]
CHOICES = ["Lyon", "Odense", "São Paulo", "a much longer answer than any of the others", "🙂 Reykjavík"]


# Qwen 3.5 and Bamba are hybrids: most of their layers keep a state in the cache in place of keys and values.
@pytest.fixture(scope="module", params=tiny.ARCHITECTURES)
def asked(request):
    made = tiny.tokenizer()
    return tiny.model(request.param, len(made)), made


def one_at_a_time(model, tokenizer, prompt: str, most: int) -> str:
    """Argmax, token by token, over the whole sequence each time."""
    ids = tokenizer(prompt)["input_ids"]
    begin = len(ids)
    while len(ids) < begin + most and "\n" not in tokenizer.decode(ids[begin:]):
        ids.append(int(model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1].argmax()))
        if ids[-1] == tokenizer.eos_token_id:
            break
    return tokenizer.decode(ids[begin:], skip_special_tokens=True).split("\n")[0].strip()


@torch.inference_mode()
def test_greedy_answers_are_those_of_one_prompt_at_a_time_for_every_size_of_batch(asked):
    model, tokenizer = asked
    expected = [one_at_a_time(model, tokenizer, prompt, 12) for prompt in PROMPTS]
    for batch_tokens in (1, 60, 100, 10_000):
        found = {}
        for batch in answers.greedy_answers(model, tokenizer, PROMPTS, CHOICES, 12, batch_tokens):
            found.update(batch)
        assert [found[index][0] for index in range(len(PROMPTS))] == expected
        for index, (prompt, gold) in enumerate(zip(PROMPTS, CHOICES, strict=True)):
            (likelihood,) = answers.log_likelihoods(model, tokenizer, prompt, [gold], 1)
            # The same float32 sums in other batches: see the tolerance of log_likelihoods' own test.
            assert found[index][1] == pytest.approx(likelihood, abs=1e-3)
    assert len(set(expected)) > 1


def test_a_long_gold_answer_makes_no_more_logits_than_the_batch_has_tokens(asked, monkeypatch):
    model, tokenizer = asked
    golds = ["Lyon", CHOICES[3] * 3, "Odense", CHOICES[4], "Bo"]
    prompts = ["A", "A b", "A", "B", "A"]
    expected = [
        answers.log_likelihoods(model, tokenizer, *pair, 1)[0]
        for pair in zip(prompts, [[gold] for gold in golds], strict=True)
    ]
    made = []
    logits = answers.next_logits
    monkeypatch.setattr(
        answers, "next_logits", lambda *given, **keys: made.append(given[1].numel()) or logits(*given, **keys)
    )
    (batch,) = answers.greedy_answers(model, tokenizer, prompts, golds, 3, 80)
    assert max(made) <= 80 < 5 * max(len(tokenizer(gold)["input_ids"]) for gold in golds)
    for index, likelihood in enumerate(expected):
        assert batch[index][1] == pytest.approx(likelihood, abs=1e-3)


# What a model's generation_config.json may say, and `generate` would do.
ODD = [
    {"repetition_penalty": 1.5, "no_repeat_ngram_size": 1, "encoder_repetition_penalty": 3.0},
    {"suppress_tokens": list(range(3, 300)), "begin_suppress_tokens": [5], "bad_words_ids": [[7], [8]]},
    {"num_beams": 3, "length_penalty": 2.0, "early_stopping": True},
    {"do_sample": True, "temperature": 9.0, "guidance_scale": 1.5},
    {"sequence_bias": [[[40], 10.0]], "exponential_decay_length_penalty": [2, 1.5], "min_new_tokens": 9},
    {"forced_bos_token_id": 9, "forced_eos_token_id": 9, "max_time": 0.0001, "stop_strings": ["e"]},
    {"max_length": 3, "max_new_tokens": 1, "return_dict_in_generate": True, "output_scores": True},
    {"use_cache": False, "cache_implementation": "static", "prompt_lookup_num_tokens": 3},
]


@torch.inference_mode()
def test_greedy_is_greedy_whatever_the_models_files_say(asked):
    model, tokenizer = asked
    expected = [one_at_a_time(model, tokenizer, prompt, 6) for prompt in PROMPTS]
    before = model.generation_config, model.config.use_cache
    try:
        for settings in ODD:
            model.generation_config = GenerationConfig(eos_token_id=tokenizer.eos_token_id)
            for key, value in settings.items():
                setattr(model.generation_config, key, value)
            model.config.use_cache = settings.get("use_cache", True)
            for batch_tokens in (1, 10_000):
                found = {}
                for batch in answers.greedy_answers(model, tokenizer, PROMPTS, CHOICES, 6, batch_tokens):
                    found.update(batch)
                assert [found[index][0] for index in range(len(PROMPTS))] == expected, settings
    finally:
        model.generation_config, model.config.use_cache = before


@torch.inference_mode()
@pytest.mark.parametrize("named_by", ["generation config", "config", "tokenizer"])
def test_an_answer_ends_at_the_first_end_of_text_token_whatever_is_called_special(named_by):
    """Two ordinary tokens that the model likes end a text; in a batch, something fills the shorter answers up."""
    tokenizer = tiny.tokenizer()
    model = tiny.model("llama", len(tokenizer))
    model.generation_config.eos_token_id = model.config.eos_token_id = None
    generated = []
    for prompt in PROMPTS:
        ids = tokenizer(prompt)["input_ids"]
        for _ in range(12):
            ids.append(int(model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1].argmax()))
        generated.append(ids[-12:])
    ends = {generated[0][3], generated[1][5]}
    if named_by == "generation config":
        model.generation_config.eos_token_id = list(ends)
    elif named_by == "config":
        model.config.eos_token_id = list(ends)
    else:
        ends = {generated[0][3]}
        tokenizer.eos_token = tokenizer.convert_ids_to_tokens(generated[0][3])
    (batch,) = answers.greedy_answers(model, tokenizer, PROMPTS, CHOICES, 12, 10_000)
    for index, ids in enumerate(generated):
        begin = next((place for place, token in enumerate(ids) if token in ends), len(ids))
        text = tokenizer.decode(ids[:begin], skip_special_tokens=True)
        assert batch[index][0] == text.split("\n")[0].strip()
    assert 0 < min(generated[0].index(end) for end in ends if end in generated[0]) < 11


def test_an_answer_ends_at_the_first_newline(asked, monkeypatch):
    """A model made to say `x`, newline, `x`, newline ... is stopped before it has said all that it may."""
    model, tokenizer = asked
    letter, newline = tokenizer("x\n", add_special_tokens=False)["input_ids"]
    forward = model.forward

    @functools.wraps(forward)  # whose arguments `generate` looks at
    def alternating(*arguments, **options):
        output = forward(*arguments, **options)
        last = options["input_ids"][0, -1]
        output.logits[:, -1] = 0.0
        output.logits[:, -1, letter if last != letter else newline] = 1.0
        calls.append(last)
        return output

    calls = []
    monkeypatch.setattr(model, "forward", alternating)
    (batch,) = answers.greedy_answers(model, tokenizer, ["The city is"], ["x"], 40, 1)
    assert batch[0][0] == "x"
    # The prompt, the gold answer, and three tokens.
    assert len(calls) < 6


def test_a_prompt_that_is_cut_otherwise_before_an_answer(asked, monkeypatch):
    """As where an answer's first letters merge into the prompt's last token; here the prompt's last word is spelt."""
    model, tokenizer = asked
    prompt, gold = "The city is", "x"
    encode = tokens.encode

    def spelt(tokenizer, texts, prepend_bos):
        encoded = encode(tokenizer, texts, prepend_bos)
        if texts == [prompt]:
            (whole,) = encoded
            letters = sum((tokenizer(letter, add_special_tokens=False)["input_ids"] for letter in " is"), [])
            last = int(whole.positions[-1])
            whole.input_ids[last : last + 1] = letters
            whole.positions = np.append(whole.positions, last + 1 + np.arange(len(letters) - 1))
        return encoded

    (likelihood,) = answers.log_likelihoods(model, tokenizer, prompt, [gold], 1)
    monkeypatch.setattr(answers.tokens, "encode", spelt)
    (batch,) = answers.greedy_answers(model, tokenizer, [prompt], [gold], 1, 1)
    assert batch[0][1] == likelihood


@torch.inference_mode()
@pytest.mark.parametrize("batch_tokens", [1, 100, 10_000])
def test_log_likelihoods_are_the_sums_over_the_answers_tokens(asked, batch_tokens):
    """Of all prompts at once, each with choices of its own, in batches that mix the prompts' choices."""
    model, tokenizer = asked
    choices = [CHOICES[number:] for number in range(len(PROMPTS))]
    found = {}
    for batch in answers.choice_log_likelihoods(model, tokenizer, PROMPTS, choices, batch_tokens):
        assert found.keys().isdisjoint(batch)
        found.update(batch)
    assert sorted(found) == list(range(len(PROMPTS)))
    for index, prompt in enumerate(PROMPTS):
        begin = len(tokenizer(prompt)["input_ids"])
        for answer, likelihood in zip(choices[index], found[index], strict=True):
            ids = tokenizer(f"{prompt} {answer}")["input_ids"]
            logits = model(input_ids=torch.tensor([ids]), use_cache=False).logits[0]
            expected = 0.0
            for position in range(begin, len(ids)):
                expected += float(logits[position - 1].log_softmax(dim=0)[ids[position]])
            # Float32 logits of magnitude 10 or so carry errors of about 1e-5 each, over some 20 tokens.
            assert likelihood == pytest.approx(expected, abs=1e-3)


@torch.inference_mode()
def test_choices_of_several_prompts_run_through_the_model_together(asked, monkeypatch):
    model, tokenizer = asked
    forward, rows = model.forward, []

    @functools.wraps(forward)
    def counted(*arguments, **options):
        rows.append(len(options["input_ids"]))
        return forward(*arguments, **options)

    monkeypatch.setattr(model, "forward", counted)
    list(answers.choice_log_likelihoods(model, tokenizer, PROMPTS, [CHOICES] * len(PROMPTS), 100_000))
    assert rows == [len(PROMPTS), len(PROMPTS) * len(CHOICES)]


def test_the_probabilities_of_all_one_token_answers_sum_to_one():
    """With a vocabulary of single bytes: the answers of one letter share out the probability of a space before it."""
    made = tiny.tokenizer(vocabulary=259)
    model = tiny.model("llama", len(made))
    letters = [chr(code) for code in range(33, 127)]
    found = answers.log_likelihoods(model, made, "The city is", letters, 16)
    space, *_ = made(" ", add_special_tokens=False)["input_ids"]
    with torch.inference_mode():
        ids = torch.tensor([made("The city is")["input_ids"]])
        first = model(input_ids=ids).logits[0, -1].log_softmax(dim=0)[space]
        second = model(input_ids=torch.cat([ids, torch.tensor([[space]])], dim=1)).logits[0, -1].softmax(dim=0)
    letter_ids = [made(letter, add_special_tokens=False)["input_ids"][0] for letter in letters]
    expected = float(first.exp()) * float(second[letter_ids].sum())
    assert np.exp(found).sum() == pytest.approx(expected, rel=1e-4)


def test_answer_tokens_counts_the_answers_tokens_with_their_space():
    made = tiny.tokenizer()
    asked = [questions.Question("city", "Ada", "The city is", answer, CHOICES) for answer in CHOICES]
    expected = [len(made(f" {answer}", add_special_tokens=False)["input_ids"]) for answer in CHOICES]
    assert answers.answer_tokens(made, asked) == expected


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_an_end_of_text_token_that_a_tokenizer_appends_is_not_fed(architecture):
    plain, appending = tiny.tokenizer(), tiny.tokenizer()
    first, last = appending.bos_token, appending.eos_token
    appending.backend_tokenizer.post_processor = TemplateProcessing(
        single=f"{first} $A {last}",
        special_tokens=[(first, appending.bos_token_id), (last, appending.eos_token_id)],
    )
    assert appending("Ada")["input_ids"] == [*plain("Ada")["input_ids"], appending.eos_token_id]
    model = tiny.model(architecture, len(plain))
    found = [
        (
            list(answers.greedy_answers(model, tokenizer, PROMPTS, CHOICES, 8, 60)),
            answers.log_likelihoods(model, tokenizer, PROMPTS[1], CHOICES, 2),
        )
        for tokenizer in (plain, appending)
    ]
    assert found[0] == found[1]


def test_a_prompt_beyond_the_context_is_named():
    tokenizer = tiny.tokenizer()
    model = tiny.model("gpt2", len(tokenizer))
    asked = [questions.Question("city", "Ada", prompt, "Lyon", ["Lyon"]) for prompt in ("Ada is", "Ada is " * 200)]
    count = len(tokenizer(asked[1].prompt)["input_ids"])
    room = model.config.max_position_embeddings - count
    answers.check_questions(model, tokenizer, asked, room)
    with pytest.raises(InputError, match=f"city of Ada: the prompt has {count} tokens"):
        answers.check_questions(model, tokenizer, asked, room + 1)


def test_an_answer_or_a_prompt_without_tokens_is_refused():
    """Nothing that the model could answer, and a likelihood of 1 for it."""
    tokenizer = tiny.ignorant_tokenizer()
    model = tiny.model("llama", len(tokenizer))
    known = {"choices": ["Lyon", "Bo"], "accepted": ["Lyon", "東京"]}
    answers.check_questions(model, tokenizer, [questions.Question("city", "Ada", "Ada is", "Lyon", **known)], 5)
    for prompt, answer, message in (
        ("Ada is", "東京", "the answer 東京 has no token: the tokenizer knows none of its characters"),
        ("東京", "Lyon", "city of Ada: the prompt has no token: the tokenizer knows none of its characters"),
    ):
        with pytest.raises(InputError, match=f"^{message}; leave the question out$"):
            answers.check_questions(model, tokenizer, [questions.Question("city", "Ada", prompt, answer, [])], 5)


def test_probabilities_that_are_not_numbers_are_refused():
    tokenizer = tiny.tokenizer()
    model = tiny.model("llama", len(tokenizer))
    with torch.no_grad():
        model.lm_head.weight[5] = torch.nan
    with pytest.raises(InputError, match="not numbers"):
        list(answers.greedy_answers(model, tokenizer, PROMPTS, CHOICES, 2, 60))
    with pytest.raises(InputError, match="not numbers"):
        answers.log_likelihoods(model, tokenizer, PROMPTS[1], CHOICES, 2)


def test_models_that_go_on_from_a_cached_prompt_pass(asked):
    model, tokenizer = asked
    for prompt in PROMPTS:
        answers.check_cache(model, tokenizer, questions.Question("city", "Ada", prompt, "Odense", CHOICES))


# The first fails in its own way, the others forget the prompt in silence.
@pytest.mark.parametrize("architecture", tiny.REFUSED)
def test_models_that_do_not_go_on_from_a_cached_prompt_are_refused(architecture):
    tokenizer = tiny.tokenizer()
    question = questions.Question("city", "Ada", PROMPTS[1], "Odense", CHOICES)
    with pytest.raises(InputError, match=f"type {architecture} gives other results with a cache"):
        answers.check_cache(tiny.model(architecture, len(tokenizer)), tokenizer, question)


def test_a_process_without_questions_answers_none():
    made = tiny.tokenizer()
    model = tiny.model("llama", len(made))
    assert list(answers.greedy_answers(model, made, [], [], 5, 100)) == []
    assert tokens.encode(made, []) == []


def test_an_answer_that_the_tokenizer_does_not_know_is_refused():
    """All such answers would be as likely."""
    words = Tokenizer(WordLevel({"<unk>": 0, "Ada": 1, "was": 2, "born": 3, "in": 4, "Lyon": 5}, unk_token="<unk>"))
    words.pre_tokenizer = Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, unk_token="<unk>")
    model = tiny.model("llama")
    known = questions.Question("city", "Ada", "Ada was born in", "Lyon", ["Lyon"])
    answers.check_questions(model, tokenizer, [known], 4)
    unknown = questions.Question("city", "Ada", "Ada was born in", "Lyon", ["Lyon", "Odense"])
    with pytest.raises(InputError, match=r"^the answer Odense: the tokenizer does not know all of it \(<unk>\)"):
        answers.check_questions(model, tokenizer, [known, unknown], 4)
