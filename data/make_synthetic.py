"""Make data/biography_synthetic.csv: biographies of invented people.

    python data/make_synthetic.py
    python data/make_synthetic.py --seed 2 --people 5000 --output data/biography_5000.csv

First and last names come from Faker 40.54.0, which requirements-tables.txt pins: another version
draws other names from the same seed. Cities, universities and forms of company names stand in
places.json. The first command prints

    people: 100
    distinct cities: 59
    distinct universities: 60
    distinct majors: 39
    distinct companies: 100
"""

import argparse
import csv
import json
import random
import re
from datetime import date
from pathlib import Path

from faker import Faker

# One sentence template for everybody, so it says neither "he" nor "she", and puts no article before
# a field. For the same reason no university in places.json is a "University of ...", which needs a "the".
TEMPLATE = (
    "<name>{name}</name> was born on <date>{date}</date>. "
    "The city of birth is <city>{city}</city>. "
    "Studies at <university>{university}</university> led to a degree in <major>{major}</major>. "
    "Many years of work at <company>{company}</company> came after that."
)

# The last birthday leaves time for the "many years of work".
FIRST_BIRTHDAY = date(1940, 1, 1).toordinal()
LAST_BIRTHDAY = date(1989, 12, 31).toordinal()

# Words of letters, joined by an apostrophe, a hyphen, "&" or one space: Faker also has misprints
# such as "Alta  Gracia".
WELL_FORMED = re.compile(r"[^\W\d_]+(?:(?: & |['\- ])[^\W\d_]+)*")

# Last names of Faker's that bring one notorious person to mind.
UNWANTED = {"Heydrich", "Pavelić", "Speer", "Öcalan"}

# Names that came out and that somebody well known bears: a model might know that person.
WELL_KNOWN = {"Amy Cooper", "Erik Karlsson", "María Espinoza", "Peter Eriksson"}

# Subjects that most large universities teach.
MAJORS = """
    accounting, anthropology, applied mathematics, archaeology, art history, astronomy,
    biochemistry, biology, botany, business administration, chemistry, classics,
    comparative literature, computer science, demography, ecology, economics, English literature,
    environmental science, finance, geography, geology, history, international relations,
    journalism, law, linguistics, marketing, mathematics, microbiology, musicology, pharmacology,
    philosophy, physics, political science, psychology, sociology, statistics, urban planning,
    zoology
"""
MAJORS = [major.strip() for major in MAJORS.split(",")]

# For each of Faker's locales, in the order in which they take turns: forms of company names ({0} and {1} are last
# names), the universities of some cities, and perhaps last names of its own or double names. Real files have many last
# names with an apostrophe or a hyphen, Faker has few, so here a third of the people get one. Purely technical
# and medical schools are left out: any major may be drawn for any university.
PLACES = json.loads(Path(__file__).with_name("places.json").read_text(encoding="utf-8"))


def draw_last_name(fake, gender):
    """Draw one last name; Polish or Icelandic ones, among others, depend on the gender."""
    if hasattr(fake, "last_romanized_name"):
        return fake.last_romanized_name()
    return getattr(fake, f"last_name_{gender}")()


def draw_full_name(fake, place, gender):
    """Draw a first and a last name. Faker's own `name` would add titles."""
    if hasattr(fake, "first_romanized_name"):
        first_name = fake.first_romanized_name()
    else:
        first_name = getattr(fake, f"first_name_{gender}")()

    last_name = draw_last_name(fake, gender)
    if "last_names" in place and fake.random.random() < 1 / 3:
        last_name = fake.random.choice(place["last_names"])
    if "double_names" in place and fake.random.random() < 1 / 3:
        last_name = f"{last_name}-{draw_last_name(fake, gender)}"
    return f"{first_name} {last_name}"


def draw_company(fake, company_forms):
    company_form = fake.random.choice(company_forms)
    return company_form.format(draw_last_name(fake, "male"), draw_last_name(fake, "male"))


def draw_new(used, unwanted, draw, *arguments):
    """Draw until the value is well-formed, new, and has no unwanted word."""
    for _ in range(1000):
        value = draw(*arguments)
        words = set(re.findall(r"\w+", value))
        if WELL_FORMED.fullmatch(value) and value not in used and not words & unwanted:
            used.add(value)
            return value
    raise SystemExit(f"nothing new in 1000 draws, the last was {value!r}: ask for fewer people")


def make_people(seed, people):
    """Invent people: a list of dicts of the template's fields."""
    # Everything is drawn from generators of our own, so nothing depends on the order of hashes, on
    # the platform, or on what else draws from Python's or Faker's global generators.
    chooser = random.Random(seed)
    fakes = {locale: Faker(locale) for locale in PLACES}
    for locale, fake in fakes.items():
        fake.seed_instance(f"{seed} {locale}")

    birthdays = chooser.sample(range(FIRST_BIRTHDAY, LAST_BIRTHDAY + 1), people)
    names, companies = set(WELL_KNOWN), set()
    rows = []
    for i, birthday in enumerate(map(date.fromordinal, birthdays)):
        # Locales take turns, so that the first few rows are a fair mixture already.
        locale = list(PLACES)[i % len(PLACES)]
        place = PLACES[locale]
        gender = chooser.choice(["female", "male"])
        name = draw_new(names, UNWANTED, draw_full_name, fakes[locale], place, gender)
        # A person's name must not give the company away.
        unwanted = UNWANTED | set(re.findall(r"\w+", name))
        company = draw_new(companies, unwanted, draw_company, fakes[locale], place["companies"])
        city = chooser.choice(list(place["universities"]))
        rows.append(
            {
                "name": name,
                "date": f"{birthday:%B} {birthday.day}, {birthday.year}",
                "city": city,
                "university": chooser.choice(place["universities"][city]),
                "major": chooser.choice(MAJORS),
                "company": company,
            }
        )
    return rows


def write_biographies(rows, path):
    """Write one biography a row; aside first, so that no half-written file bears the name."""
    aside = path.with_name(path.name + ".tmp")
    with open(aside, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, quoting=csv.QUOTE_ALL, lineterminator="\n")
        writer.writerow(["text"])
        writer.writerows([TEMPLATE.format(**row)] for row in rows)
    aside.replace(path)


def main():
    parser = argparse.ArgumentParser(description="Make biographies of invented people.")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--people", type=int, default=100)
    parser.add_argument("--output", type=Path, default=Path(__file__).with_name("biography_synthetic.csv"))
    arguments = parser.parse_args()
    most_people = LAST_BIRTHDAY - FIRST_BIRTHDAY + 1  # no two are born on the same day
    if not 1 <= arguments.people <= most_people:
        parser.error(f"--people must be between 1 and {most_people}")

    rows = make_people(arguments.seed, arguments.people)
    write_biographies(rows, arguments.output)

    print(f"people: {len(rows)}")
    for field, plural in [
        ("city", "cities"),
        ("university", "universities"),
        ("major", "majors"),
        ("company", "companies"),
    ]:
        print(f"distinct {plural}: {len({row[field] for row in rows})}")


if __name__ == "__main__":
    main()
