"""Five-shot questions. In float32 both ways must answer alike; timed they are in the precision of all rows."""

from functools import partial

from benchmarks.plain import evaluation as plain_evaluation
from benchmarks.timing import ROOT, alternate, compare, fastest_dtype
from utils import answers, biography, questions
from utils.models import load_model
from utils.tokenizer import load_tokenizer


def evaluation(models: dict[str, str], quick: bool) -> None:
    prompts = questions.read_prompts(ROOT / "data/prompts_statements.csv")
    files = (ROOT / f"data/biography_{kind}.csv" for kind in ("synthetic", "real"))
    people, pool = (biography.read_people(file, prompts) for file in files)
    asked = questions.ask(people, pool, prompts, shots=5, seed=1, first=4 if quick else 100)
    tokenizer = load_tokenizer(models["small"])
    limit = max(answers.answer_tokens(tokenizer, asked))

    def plain(model, part):
        texts, golds = [question.prompt for question in part], [question.answer for question in part]
        return plain_evaluation.answers(model, tokenizer, texts, golds, limit)

    def ours(model, part):
        texts, golds = [question.prompt for question in part], [question.answer for question in part]
        found = {}
        for batch in answers.greedy_answers(model, tokenizer, texts, golds, limit, 4096):
            found |= batch
        return [found[index] for index in range(len(part))]

    exact, few = load_model(models["small"], "float32"), asked[:: max(1, len(asked) // 20)]
    for (text, likelihood), (other_text, other_likelihood) in zip(plain(exact, few), ours(exact, few), strict=True):
        # Log-likelihoods add up some ten float32 logits of magnitude 10.
        if text != other_text or abs(likelihood - other_likelihood) > 0.01:
            raise RuntimeError(f"{text!r} {likelihood} is {other_text!r} {other_likelihood} in the plain way")
    model = load_model(models["small"], fastest_dtype())
    turns = []
    # In five parts, each with all fields, so that there is a spread.
    for first in range(5):
        part = asked[first::5]
        # The plain way's batches are all alike, so half of them tell its pace.
        half = part[::2]
        ways = (partial(plain, model, half), len(half)), (partial(ours, model, part), len(part))
        turns.append([rate for (rate,) in alternate(1, *ways)])
    rates = map(list, zip(*turns, strict=True))
    compare(f"evaluation, {len(asked)} five-shot questions", "batches of 8, all new tokens", *rates, "questions/s")


STAGES = (evaluation,)
