"""The paper's figures: which tokens hold which ranks, what is drawn of it, and when it is made again."""

import csv
import itertools
import re
import shutil
import subprocess
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from PIL import Image
from transformers import AutoModelForCausalLM

import save_attention
from tests import tiny
from tests.conftest import ROOT, SNAKEMAKE
from tests.studies import add_answers, answer
from tests.test_received_attention import from_maps, maps_of
from utils import attention_dump, biography, tokens
from utils.attention_dump import Dump, Row
from utils.errors import InputError
from utils.tokenizer import load_tokenizer
from workflow import figures, ranks
from workflow.figures import pyplot
from workflow.ranks import COLUMNS, CONDITIONS, FIELDS
from workflow.results import files_of
from workflow.scripts import one_field

TEXTS = list(biography.read_texts(ROOT / "data/biography_synthetic.csv"))

TAGGED = "<name>Ada King</name> was born on <date>May 5</date> in <city>Lyon</city>."


def row_of(pattern: str, tagged: str, values: list[float] | None = None) -> Row:
    plain = biography.strip_tags(tagged)
    offsets = np.array([found.span() for found in re.finditer(pattern, plain)], dtype=np.int32)
    if values is None:
        values = range(len(offsets), 0, -1)
    return Row(attention_dump.text_hash(plain), np.array(values, dtype=np.float32), offsets)


def slow_ranked(row: Row, tagged: str, field: str, prefix: str) -> list[str]:
    """Token by token and character by character."""
    plain, spans = biography.field_spans(prefix + tagged)
    before = [index for index, (_, end) in enumerate(row.offsets) if end <= spans[field][0]]
    called = {}
    for index in before[:-1]:
        start, end = row.offsets[index].tolist()
        called[index] = " ".join(plain[start:end].split()) or "␣"
        if start < len(prefix):
            called[index] = prefix.strip()
        for character in range(end - 1, start - 1, -1):
            for name, (first, last) in spans.items():
                if first <= character < last:
                    called[index] = f"<{name}>"
    order = sorted(called, key=lambda index: (-float(row.values[index]), index))
    return [called[index] for index in order[:10]]


@pytest.mark.parametrize("prefix", CONDITIONS.values())
@pytest.mark.parametrize("field", FIELDS)
# Words with the space before them, words alone, letters and spaces, pieces that reach across fields.
@pytest.mark.parametrize("pattern", [r" ?\w+|[^\w\s]", r"\w+|[^\w\s]", r".", r".{1,9}"])
def test_the_ranks_are_the_slow_ones(pattern, field, prefix):
    generator = np.random.default_rng(0)
    for tagged in TEXTS[:10]:
        row = row_of(pattern, prefix + tagged)
        for low, high in ((0, 10_000), (-3, 4)):  # nearly no ties, many
            drawn = row._replace(values=generator.integers(low, high, len(row.values)).astype(np.float32))
            called, highest = ranks.ranked(drawn, tagged, field, prefix)
            assert highest == slow_ranked(drawn, tagged, field, prefix)
            assert len(highest) == min(10, len(called))


def test_ranks_by_hand():
    row = row_of(r" ?\w+|[^\w\s]", TAGGED, [1, 2, 2, 0, 9, 7, -1, 5, 9, 9])
    # Ada, King, was, born; on, the query, is not ranked, nor is what follows. King comes before was.
    assert ranks.ranked(row, TAGGED, "date") == (
        ["<name>", "<name>", "was", "born"],
        ["<name>", "was", "<name>", "born"],
    )
    assert ranks.ranked(row, TAGGED, "city")[1] == ["on", "<date>", "<name>", "was", "<name>", "born", "<date>"]
    # A space by itself; what stands before a field can be that.
    alone = row_of(r"\w+|\s", "Ada <date>1</date> <city>Lyon</city>")
    assert ranks.ranked(alone, "Ada <date>1</date> <city>Lyon</city>", "city")[1] == ["Ada", "␣", "<date>"]
    # Nothing before the query, and no query.
    for tagged in ("in <date>May</date>", "<date>May</date>"):
        assert ranks.ranked(row_of(r"\w+", tagged), tagged, "date") == ([], [])


def test_a_token_of_two_fields_is_the_firsts():
    tagged = "She met <name>Ada</name><date>May 5</date> in <city>Lyon</city>."
    assert ranks.kinds(np.array([[5, 12], [11, 13], [3, 8], [16, 19]]), *biography.field_spans(tagged)) == [
        "<name>",
        "<date>",
        "met",
        "in",
    ]
    assert ranks.kinds(np.array([[0, 4], [4, 5], [5, 9]]), *biography.field_spans("Text: " + tagged), "Text: ") == [
        "Text:",
        "Text:",
        "Text:",
    ]


@pytest.mark.parametrize("field", FIELDS)
def test_a_text_with_one_field_is_the_same_text(field, tmp_path):
    for condition, prefix in CONDITIONS.items():
        path = tmp_path / f"{condition}.csv"
        one_field.main(ROOT / "data/biography_synthetic.csv", field, prefix, path)
        with open(path, newline="", encoding="utf-8") as opened:
            made = [row["text"] for row in csv.DictReader(opened)]
        assert len(made) == len(TEXTS)
        for alone, tagged in zip(made, TEXTS, strict=True):
            plain, spans = biography.field_spans(tagged)
            start, end = spans[field]
            shifted = start + len(prefix), end + len(prefix)
            assert biography.field_spans(alone) == (prefix + plain, {field: shifted})
            assert len(biography.ANY_TAG.findall(alone)) == 2


def test_what_cannot_be_tagged_alone_is_one_line(tmp_path):
    with pytest.raises(InputError, match="^no <major>"):
        one_field.one_field(TAGGED, "major")
    with pytest.raises(InputError, match="^a stray tag"):
        one_field.one_field("<ci<name>ty</name>> <date>May</date> </city>", "date")
    path = tmp_path / "texts.csv"
    path.write_text(f'text\n"{TAGGED}"\n')
    with pytest.raises(InputError, match=f"^{path}: row 1: no <major>, which the figures look at$"):
        one_field.main(path, "major", "", tmp_path / "out.csv")
    assert not (tmp_path / "out.csv").exists()


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """A folder with five people, two tiny models and their dumps, as the rules of figures.smk make them."""
    folder = tmp_path_factory.mktemp("work")
    models = [tiny.save(folder / f"{size}_model", "llama", seed=seed) for seed, size in enumerate(("small", "large"))]
    with open(folder / "texts.csv", "w", newline="", encoding="utf-8") as opened:
        csv.writer(opened).writerows([["text"], *([text] for text in TEXTS[:5])])
    from hydra import compose, initialize_config_dir

    from utils.script import CONFIG_FOLDER

    for condition, field in itertools.product(CONDITIONS, FIELDS):
        path = folder / f"{condition}_{field}.csv"
        one_field.main(folder / "texts.csv", field, CONDITIONS[condition], path)
        for size, model in zip(("small", "large"), models, strict=True):
            keys = {"model": model, "dataset": path, "save_name": folder / f"{size}_{condition}_{field}"}
            with initialize_config_dir(str(CONFIG_FOLDER), version_base=None):
                keys |= {"queries": "before_fields", "dtype": "float32"}
                config = compose("save_attention", [f"{key}={value}" for key, value in keys.items()])
            save_attention.main.__wrapped__(config)
    return folder


@pytest.mark.parametrize("condition", CONDITIONS)
def test_from_a_model_to_its_ranks(work, condition):
    """Against the attention maps themselves: the mean over layers and heads of one query's row."""
    prefix = CONDITIONS[condition]
    maps = {}
    for size in ("small", "large"):
        model = AutoModelForCausalLM.from_pretrained(work / f"{size}_model", dtype=torch.float32)
        tokenizer = load_tokenizer(str(work / f"{size}_model"))
        encoded = tokens.encode(tokenizer, [prefix + biography.strip_tags(tagged) for tagged in TEXTS[:5]])
        maps[size] = [maps_of(model, encoded_text.input_ids) for encoded_text in encoded]
    found = ranks.ranks(work / "texts.csv", work, condition)
    assert len(found) == 3 * len(FIELDS) * 5
    for row in found:
        number, tagged = row["text"] - 1, TEXTS[row["text"] - 1]
        plain, spans = biography.field_spans(prefix + tagged)
        offsets = encoded[number].offsets
        start = spans[row["field"]][0]
        query = max(index for index, (_, end) in enumerate(offsets) if end <= start)
        # The bos token is fed first.
        values = {size: from_maps(size_maps[number], False, [query + 1])[1:] for size, size_maps in maps.items()}
        values["difference"] = values["large"] - values["small"]
        one = Row("", values[row["attention"]].astype(np.float32), offsets)
        highest = slow_ranked(one, tagged, row["field"], prefix)
        assert [row[column] for column in COLUMNS] == highest + [""] * (10 - len(highest))
        assert row["tokens"] == query
        called = ranks.kinds(offsets[:query], plain, spans, prefix)
        assert row["of_name"] == called.count("<name>") > 0


def test_dumps_of_other_texts_or_queries_are_refused(work, tmp_path):
    with pytest.raises(InputError, match="plain_date.pkl was made from different texts: row 1"):
        others = tmp_path / "texts.csv"
        others.write_text((work / "texts.csv").read_text(encoding="utf-8").replace("born", "reared"), encoding="utf-8")
        ranks.ranks(others, work, "plain")
    dump = attention_dump.read_dump(work / "small_plain_date")
    with pytest.raises(InputError, match="^x.pkl: the figures need queries=before_fields"):
        ranks.check_settings(Dump.of("m", "t", dump.settings | {"queries": "following"}, dump.rows), "x")


def toy() -> pd.DataFrame:
    """Two people and two ranks that matter: a table as read_ranks gives it."""
    held = {
        ("small", "date", 1): ["<name>", "at", "in"],
        ("small", "date", 2): ["<name>", "<name>"],
        ("large", "date", 1): ["at", "<name>", "at", "<city>"],
        ("large", "date", 2): ["null", "at", "in", "<name>"],
        ("difference", "date", 1): ["Text:", "at", "<name>"],
        ("difference", "date", 2): [],
    }
    rows = []
    for (attention, field, text), found in held.items():
        row = {"condition": "plain", "attention": attention, "field": field, "text": text, "tokens": len(found)}
        cells = dict(zip(COLUMNS, found + [""] * (10 - len(found)), strict=True))
        rows.append(row | {"of_name": found.count("<name>")} | cells)
    return pd.DataFrame(rows)


def test_words_and_shares_by_hand():
    found = toy()
    assert ranks.words(found, 6) == ["at", "in", "null"]
    assert ranks.words(found, 1) == ["at"]
    shares = ranks.shares(found, ["at"]).set_index(["attention", "rank", "what"])["share"].sort_index()
    assert shares["small", 1].to_dict() == {"<name>": 100}
    assert shares["small", 2].to_dict() == {"at": 50, "<name>": 50}
    assert shares["small", 3].to_dict() == {"other words": 50, "no token": 50}
    assert shares["large", 1].to_dict() == {"at": 50, "other words": 50}
    assert shares["difference", 1].to_dict() == {"Text:": 50, "no token": 50}
    assert np.allclose(shares.groupby(["attention", "rank"]).sum(), 100)


def test_the_first_three_places_by_hand():
    top = ranks.top_three(toy()).set_index("attention")
    # One of three places, two of the two that there are.
    assert top.loc["small", ["places", "share", "random_order"]].tolist() == [5, pytest.approx(200 / 3), approx(2 / 3)]
    assert top.loc["large", ["places", "share", "random_order"]].tolist() == [6, pytest.approx(50 / 3), approx(1 / 4)]
    # A text without a token before the query is left out.
    assert top.loc["difference", ["places", "share"]].tolist() == [3, pytest.approx(100 / 3)]


def approx(share: float):
    return pytest.approx(100 * share)


def test_the_interval_is_the_normal_ones_where_people_are_many():
    shares = np.random.default_rng(1).choice([0.0, 100 / 3, 200 / 3, 100.0], 100)
    low, high = ranks.interval(shares)
    half = 1.96 * shares.std() / 10
    assert (low, high) == pytest.approx((shares.mean() - half, shares.mean() + half), abs=0.07 * half)
    assert ranks.interval(np.full(100, 100.0)) == (100.0, 100.0)


def heights(panel) -> dict[str, list[float]]:
    """What is drawn of each thing, rank by rank; each bar stands on the one before."""
    drawn, top = {}, np.zeros(10)
    for bars in panel.containers:
        assert [bar.get_y() for bar in bars] == pytest.approx(top.tolist())
        assert [bar.get_x() + bar.get_width() / 2 for bar in bars] == pytest.approx(list(range(1, 11)))
        drawn[bars.get_label()] = [bar.get_height() for bar in bars]
        top += drawn[bars.get_label()]
    return drawn


def test_the_bars_are_the_shares():
    words = ["at", "in"]
    figure = figures.composition(ranks.shares(toy(), words).query("attention == 'large'"), words, "A title")
    panels = {panel.get_title(): panel for panel in figure.axes}
    assert list(panels) == [f"before the {field}" for field in FIELDS]
    none = [0.0] * 6
    assert heights(panels["before the date"]) == {
        "<name>": [0, 50, 0, 50, *none],
        "<city>": [0, 0, 0, 50, *none],
        "at": [50, 50, 50, 0, *none],
        "in": [0, 0, 50, 0, *none],
        "other words": [50, 0, 0, 0, *none],
        "no token": [0, 0, 0, 0, *[100.0] * 6],
    }
    assert heights(panels["before the city"]) == {}
    (legend,) = figure.legends
    # As they are stacked, from above.
    named = [text.get_text() for text in legend.get_texts()]
    assert named == ["(no token left)", "other words", "“in”", "“at”", "<city>", "<name>"]
    looks = figures.looks(words)
    drawn = ["no token", "other words", "in", "at", "<city>", "<name>"]
    for name, patch in zip(drawn, legend.legend_handles, strict=True):
        assert matplotlib.colors.to_hex(patch.get_facecolor()).upper() == looks[name].colour
    assert figure.get_suptitle() == "A title"
    pyplot.close(figure)


def test_everything_drawn_can_be_told_apart_without_colour():
    """As it is drawn, in grey: lighter or darker by an eighth of the way from black to white, or of another hatch."""
    looks = figures.looks([f"word {number}" for number in range(len(figures.WORD_LOOKS))])
    assert len(looks) == 7 + 10 + 2
    figure = pyplot.figure(figsize=(len(looks), 1), dpi=100)
    for number, look in enumerate(looks.values()):
        place = number / len(looks), 0
        size = {"width": 1 / len(looks), "height": 1, "transform": figure.transFigure, "linewidth": 0}
        kind = {"facecolor": look.colour, "hatch": look.hatch, "hatchcolor": look.hatch_colour}
        figure.add_artist(matplotlib.patches.Rectangle(place, **size, **kind))
    figure.canvas.draw()
    grey = np.asarray(figure.canvas.buffer_rgba())[..., :3] @ np.array([0.299, 0.587, 0.114]) / 255
    pyplot.close(figure)
    patches = dict(zip(looks, np.split(grey, len(looks), axis=1), strict=True))
    for one, other in itertools.combinations(looks, 2):
        # The same lines, closer together, are the same hatch.
        other_hatch = set(looks[one].hatch) != set(looks[other].hatch)
        assert other_hatch or abs(patches[one].mean() - patches[other].mean()) > 0.12, (one, other)
    # A hatch is seen on its ground.
    assert {name for name, patch in patches.items() if patch.std() > 0.1} == {n for n in looks if looks[n].hatch}


def test_the_distance_is_in_words():
    # "was born on" and "was born on May 5 in".
    assert figures.FIELDS == FIELDS
    apart = figures.distances(ROOT / "data/biography_synthetic.csv")
    assert (apart["date"], apart["city"]) == (3.0, 11.0)
    # "was born on January 20, 1952. The city of birth is New Orleans. Studies at", or a city of another length.
    assert list(apart.values()) == sorted(apart.values())
    plain = [biography.strip_tags(text) for text in TEXTS]
    studies = [len(re.search(r" was born .* Studies at", text)[0].split()) for text in plain]
    assert apart["university"] == pytest.approx(np.mean(studies))


def test_a_field_before_the_name_has_no_distance(tmp_path):
    path = tmp_path / "texts.csv"
    path.write_text('text\n"<date>May 5</date>: <name>Ada</name>"\n')
    with pytest.raises(InputError, match="row 1 has no <date> after a <name>"):
        figures.distances(path)


def test_figure_1_is_the_answers_of_the_plain_texts(tmp_path):
    results = tmp_path / "table"
    right = {field: [[number > 2, number > 1], [True, number > 3]] for number, field in enumerate(FIELDS)}
    answers = {
        f"none/seed-{seed}/paper/2": [
            answer(field, f"person {number}", exact_match=100 * hit, f1=50 + 50 * hit)
            for field, hits in right.items()
            for number, hit in enumerate(hits[seed - 1])
        ]
        for seed in (1, 2)
    }
    add_answers(results, answers)
    dataset = ROOT / "data/biography_synthetic.csv"
    config = {
        "table": "table",
        "arms": {"none": None, "other": {}},
        "seeds": [1, 2],
        "checkpoints": 2,
        "dataset": dataset,
    }
    ours = figures.plain_scores(config, results, "paper", "a model")
    papers = figures.paper_scores(figures.distances(dataset))
    figure = figures.against_distance(ours, papers)
    for panel, column in zip(figure.axes[:2], (0, 1), strict=True):
        drawn = {line.get_label(): line.get_xydata() for line in panel.lines if not line.get_label().startswith("_")}
        assert drawn["Llama 3 8B (the paper)"][:, 1].tolist() == [[82, 91, 20, 34, 9], [90, 93, 55, 41, 11]][column]
        assert drawn["Gemma 2 9B (the paper)"][:, 1].tolist() == [[99, 100, 51, 89, 63], [100, 100, 66, 90, 64]][column]
        assert [label for label in drawn if "(the paper)" in label] == [
            f"{model} (the paper)" for model in ("Llama 3 8B", "Llama 3 70B", "Gemma 2 2B", "Gemma 2 9B")
        ]
        (bars,) = panel.containers
        x, y = bars.lines[0].get_data()
        expected = 100 * np.array([np.mean(hits) for hits in right.values()])
        assert y.tolist() == pytest.approx((50 + expected / 2 if column else expected).tolist())
        assert x.tolist() == list(figures.distances(dataset).values())
        low, high = np.array([segment[:, 1] for segment in bars.lines[2][0].get_segments()]).T
        rows = [row for row in ours if row["measure"] == ("exact_match", "f1")[column]]
        # An interval by bootstrap may lie beside its mean by rounding.
        assert low.tolist() == pytest.approx([min(row["low"], row["mean"]) for row in rows])
        assert high.tolist() == pytest.approx([max(row["high"], row["mean"]) for row in rows])
        assert (high - low > 10).any()
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()][-1] == "a model"
    pyplot.close(figure)
    with pytest.raises(InputError, match="table: no answers of none/seed-1/own_words/2; make tables TABLE=table"):
        figures.plain_scores(config, results, "own_words", "a model")


def test_figure_1_of_a_table_in_epochs_is_of_its_reported_people(tmp_path):
    """By the checkpoint that the others choose, though the reported people answer better by another."""
    dataset, results = ROOT / "data/biography_synthetic_40.csv", tmp_path / "table"
    names = [person["name"] for person in biography.read_people(dataset, ["date"])]
    right = {(0.1, 1): (1, 0), (0.1, 2): (0, 0), (0.2, 1): (0, 0), (0.2, 2): (0, 1)}
    add_answers(
        results,
        {
            f"none/seed-{seed}-rate-{rate}/questions/{part}": [
                answer(field, name, exact_match=100 * hit, f1=100 * hit)
                for field in FIELDS
                for name, hit in zip(names, [reported_hit] * 30 + [others_hit] * 10, strict=True)
            ]
            for seed in (1, 2)
            for (rate, part), (reported_hit, others_hit) in right.items()
        },
    )
    config = {"table": "table", "arms": {"none": {"epochs": 4}}, "seeds": [1, 2], "checkpoints": 2, "dataset": dataset}
    config |= {"epochs": 2, "learning_rates": [0.1, 0.2], "reported": 30, "evaluations": {"questions": {}}}
    rows = figures.plain_scores(config, results, "questions", "a model")
    assert {row["mean"] for row in rows} == {0.0}
    apart = []
    for tagged in list(biography.read_texts(dataset))[:30]:
        plain, spans = biography.field_spans(tagged)
        apart.append(len(plain[spans["name"][1] : spans["city"][0]].split()))
    assert {row["words_from_name"] for row in rows if row["field"] == "city"} == {np.mean(apart)}


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"tables": {"biographies_cpu": "paper"}}, "biographies_cpu needs evaluation and line"),
        ({"tables": ["biographies_cpu"]}, "biographies_cpu needs evaluation and line"),
        ({"tables": {"other": {"evaluation": "paper", "line": "x"}}}, "no conf/tables/other.yaml"),
        ({"small": "x"}, "made with a different small, models/qwen2.5-coder-0.5b; delete ranks_"),
        ({"save_attention": {"dtype": "bfloat16"}}, "made with a different save_attention"),
        ({"lage": "x"}, "unknown or missing: lage"),
    ],
)
def test_what_is_asked_for_is_checked(changed, message, monkeypatch):
    monkeypatch.chdir(ROOT)
    config = yaml.safe_load((ROOT / "conf/figures.yaml").read_text(encoding="utf-8"))
    ranks.check_figures(config, ROOT / "results/figures")
    with pytest.raises(InputError, match=message):
        ranks.check_figures(config | changed, ROOT / "results/figures")


@pytest.fixture(scope="module")
def clone(workplace):
    """A copy of the repository without results, but with models, so that none is to be fetched."""
    shutil.copytree(ROOT / "workflow", workplace / "workflow", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("qwen2.5-coder-0.5b", "qwen2.5-coder-1.5b"):
        (workplace / "models" / name).mkdir(parents=True)
    return workplace


@pytest.fixture
def snakemake(clone, warm_python):
    """`make figures`, its first command."""
    (line,) = [line for line in (ROOT / "Makefile").read_text().splitlines() if "conf/figures.yaml" in line]
    command = line.strip().replace("$(AT_ONCE)", "--cores 1").split()[1:]

    def run(*arguments: str, code: int = 0) -> str:
        done = subprocess.run(
            [warm_python, SNAKEMAKE, *command, *arguments],
            cwd=clone,
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout + done.stderr

    return run


def test_make_figures_is_planned(snakemake):
    planned = snakemake("-n")
    for rule, jobs in (("one_field", 10), ("attention", 20), ("ranks", 2), ("figures", 1)):
        assert re.search(rf"^{rule} +{jobs}$", planned, re.MULTILINE), rule
    assert "fetch_model" not in planned.split("Job stats:")[1].split("Reasons:")[0]
    one_line = snakemake("-n", "--config", "lage=x", code=1)
    assert "the figures' keys are large, small, dataset, save_attention, tables; unknown or missing: lage" in one_line


CONFIG = yaml.safe_load((ROOT / "conf/figures.yaml").read_text(encoding="utf-8"))


def copy_runs(results: Path) -> None:
    """Of the tables that Figure 1 shows."""
    for table in CONFIG["tables"]:
        (results / table).mkdir()
        for path in files_of(ROOT / "results" / table):
            shutil.copy(path, results / table)


def test_the_committed_figures_are_made_again_without_a_model(clone, snakemake):
    committed = ROOT / "results/figures"
    made = clone / "results/figures"
    made.mkdir(parents=True)
    for path in committed.glob("ranks_*"):
        shutil.copy(path, made)
    copy_runs(clone / "results")
    planned = snakemake("-n")
    assert re.search(r"^figures +1$", planned, re.MULTILINE)
    assert not re.search(r"^(attention|ranks|one_field|fetch_model) +\d", planned, re.MULTILINE)
    snakemake()
    names = {path.name for path in committed.iterdir()}
    assert names == {path.name for path in made.iterdir()}
    for name in names:
        if not name.endswith(".png"):
            assert (made / name).read_text(encoding="utf-8") == (committed / name).read_text(encoding="utf-8"), name
        assert (committed / name).stat().st_size < 300_000, name
    assert "made with a different small, models/qwen2.5-coder-0.5b" in snakemake("-n", "--config", "small=x", code=1)


def test_figures_fit_a_page_in_type_that_can_be_read(tmp_path, monkeypatch):
    """At the page's width no type is below 7 points, and no text runs over the edge."""
    results = tmp_path / "results/figures"
    shutil.copytree(ROOT / "results/figures", results)
    copy_runs(tmp_path / "results")
    monkeypatch.chdir(ROOT)
    drawn, save = {}, figures.save

    def measure(figure, path):
        figure.canvas.draw()
        edge = figure.bbox
        for text in figure.findobj(matplotlib.text.Text):
            extent = text.get_window_extent()
            if text.get_text() and text.get_visible() and extent.width:
                assert text.get_fontsize() >= 7, text
                assert edge.x0 <= extent.x0 and extent.x1 <= edge.x1, text
                assert edge.y0 <= extent.y0 and extent.y1 <= edge.y1, text
        save(figure, path)
        drawn[path.name] = Image.open(path)

    monkeypatch.setattr(figures, "save", measure)
    figures.figures(CONFIG, results)
    assert len(drawn) == 4
    for picture in drawn.values():
        assert picture.width / picture.info["dpi"][0] == pytest.approx(7.0, abs=0.01)


def test_a_text_without_the_field_is_named_by_its_row(tmp_path):
    path = tmp_path / "texts.csv"
    path.write_text("text\n<name>Ada</name> of <city>Lyon</city>\n<name>Bo</name>\n")
    with pytest.raises(InputError, match=rf"^{re.escape(str(path))}: row 2: "):
        one_field.main(str(path), "city", "", str(tmp_path / "out.csv"))
    assert not (tmp_path / "out.csv").exists()
