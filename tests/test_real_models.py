"""What only real language models show (slow): run by `make test-slow`, which fetches them first."""

import itertools

import numpy as np
import pytest

from tests.conftest import ROOT
from tests.test_received_attention import RELATIVE, slow
from utils import attention_dump, biography

pytestmark = pytest.mark.slow

MODELS = {"smollm2-135m": ROOT / "models/smollm2-135m", "gemma3-270m": ROOT / "models/gemma3-270m"}


@pytest.fixture(scope="module", params=MODELS)
def loaded(request):
    from utils.models import load_model
    from utils.tokenizer import load_tokenizer

    folder = str(MODELS[request.param])
    return load_model(folder, dtype="float32"), load_tokenizer(folder)


def some_texts(count: int) -> list[str]:
    rows = biography.read_texts(ROOT / "data/biography_synthetic.csv")
    return [biography.strip_tags(tagged) for tagged in itertools.islice(rows, count)]


def test_received_attention_agrees_with_the_slow_definition(loaded):
    from utils.received_attention import ReceivedAttention
    from utils.tokens import encode

    model, tokenizer = loaded
    ids = [encoded_text.input_ids for encoded_text in encode(tokenizer, some_texts(5))]
    assert len({len(text_ids) for text_ids in ids}) > 1, "the batch is to be padded"
    expected = [slow(model, text_ids, include_self=False) for text_ids in ids]
    for fast, defined in zip(ReceivedAttention(model).texts(ids), expected, strict=True):
        np.testing.assert_allclose(fast, defined, rtol=RELATIVE)


def test_the_dumps_of_two_models_differ_and_neither_is_one_over_the_position(run, workplace):
    for name, folder in MODELS.items():
        run(f"python save_attention.py model={folder} dataset=data/biography_real.csv save_name={name}")
    run("python contrast_attention.py attn_dump_large=gemma3-270m attn_dump_small=smollm2-135m attn_diff=difference")
    small, large, difference = (
        attention_dump.read_dump(workplace / name) for name in ("smollm2-135m", "gemma3-270m", "difference")
    )
    for small_row, large_row, difference_row in zip(small.rows, large.rows, difference.rows, strict=True):
        # A difference that were rounding noise would be a thousandth of the values, in bfloat16.
        assert np.abs(difference_row.values).mean() > 0.1 * small_row.values.mean()
        for row in (small_row, large_row):
            # The bos token stands first, so the text's tokens have positions from 1.
            one_over_position = 1 / np.arange(2, len(row.values) + 2)
            assert np.abs(row.values - one_over_position).mean() > 0.1 * row.values.mean()


def test_answers_are_sensible_and_do_not_depend_on_the_batches(loaded):
    from utils.answers import greedy_answers
    from utils.questions import ask, read_prompts

    model, tokenizer = loaded
    model.set_attn_implementation("sdpa")  # reading attention has put itself in its place
    prompts = read_prompts(ROOT / "data/prompts_questions.csv")
    pool = biography.read_people(ROOT / "data/biography_real.csv", prompts)
    questions = ask(pool, pool, prompts, shots=2, seed=1, first=3)
    capitals = "The capital of Italy is Rome\n\nThe capital of Spain is Madrid\n\nThe capital of France is"
    asked = [capitals, *(question.prompt for question in questions)]
    golds = ["Paris", *(question.answer for question in questions)]
    found = []
    for batch_tokens in (1, 200, 10_000):
        answers = {}
        for batch in greedy_answers(model, tokenizer, asked, golds, 12, batch_tokens):
            answers |= {index: answer for index, (answer, _) in batch.items()}
        found.append(answers)
    assert found[0] == found[1] == found[2]
    assert "Paris" in found[0][0]
