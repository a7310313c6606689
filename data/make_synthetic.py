"""Make data/biography_synthetic.csv: biographies of invented people.

    python data/make_synthetic.py
    python data/make_synthetic.py --seed 2 --people 5000 --output data/biography_5000.csv

First and last names come from Faker 40.54.0, which requirements-tables.txt pins: another version
draws other names from the same seed. Cities and universities are real; companies are put together
here. The first command prints

    people: 100
    distinct cities: 59
    distinct universities: 60
    distinct majors: 39
    distinct companies: 100
"""

import argparse
import csv
import random
import re
from datetime import date
from pathlib import Path

from faker import Faker

# One sentence template for everybody, so it says neither "he" nor "she", and puts no article before
# a field. For the same reason no university below is a "University of ...", which needs a "the".
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

# Real files have many last names with an apostrophe or a hyphen, Faker has few. In these locales a
# third of the people get one: from this list, or a double name.
APOSTROPHE_NAMES = {
    "en_IE": ["O'Connell", "O'Donoghue", "O'Driscoll", "O'Flaherty", "O'Keeffe", "O'Rourke"],
    "en_KE": ["Kang'ethe", "King'ori", "Mang'eni", "Ndung'u", "Ng'ang'a", "Ong'ondo"],
    "it_IT": ["D'Agostino", "D'Ambrosio", "Dall'Oglio", "Dell'Acqua", "Dell'Orto", "Sant'Elia"],
}
DOUBLE_NAMES = ["de_DE", "fr_CA", "fr_FR", "hr_HR"]

# Faker locale -> forms of company names ({0} and {1} are last names), universities of some cities.
# Purely technical and medical schools are left out: any major may be drawn for any of these.
PLACES = {
    "en_US": (
        ["{0} Precision Tools", "{0} & {1} Freight", "{0} Valley Foods"],
        {
            "Boston": ["Boston University", "Northeastern University"],
            "New Orleans": ["Tulane University"],
            "Nashville": ["Vanderbilt University"],
        },
    ),
    "da_DK": (
        ["{0} Skibsværft", "{0} & {1} Møbler", "{0} Tovværk"],
        {
            "Aarhus": ["Aarhus Universitet"],
            "København": ["Københavns Universitet"],
            "Odense": ["Syddansk Universitet"],
        },
    ),
    "en_KE": (
        ["{0} Tea Estates", "{0} & {1} Hauliers", "{0} Flour Mills"],
        {
            "Nairobi": ["Kenyatta University"],
            "Kisumu": ["Maseno University"],
            "Eldoret": ["Moi University"],
        },
    ),
    "es_MX": (
        ["Cerámica {0}", "Textiles {0}", "Talleres {0}-{1}"],
        {
            "Guadalajara": ["Universidad de Guadalajara"],
            "Monterrey": ["Universidad Autónoma de Nuevo León"],
            "Mérida": ["Universidad Autónoma de Yucatán"],
        },
    ),
    "tr_TR": (
        ["{0} Kardeşler", "{0} Değirmencilik", "{0} & {1} Tekstil"],
        {
            "İzmir": ["Ege Üniversitesi", "Dokuz Eylül Üniversitesi"],
            "Ankara": ["Ankara Üniversitesi", "Hacettepe Üniversitesi"],
            "Eskişehir": ["Anadolu Üniversitesi"],
        },
    ),
    "ja_JP": (
        ["{0} Tokei", "{0} Garasu", "{0} & {1} Shipping"],
        {
            "Sapporo": ["Hokkaido University"],
            "Kyoto": ["Kyoto University", "Doshisha University"],
            "Sendai": ["Tohoku University"],
        },
    ),
    "fr_FR": (
        ["Ateliers {0}", "{0} et Fils", "Verrerie {0}-{1}"],
        {
            "Nantes": ["Nantes Université"],
            "Strasbourg": ["Université de Strasbourg"],
            "Besançon": ["Université de Franche-Comté"],
        },
    ),
    "yo_NG": (
        ["{0} Cocoa Mills", "{0} & {1} Printing", "{0} Cold Stores"],
        {
            "Lagos": ["Lagos State University"],
            "Ile-Ife": ["Obafemi Awolowo University"],
            "Ado-Ekiti": ["Ekiti State University"],
        },
    ),
    "pl_PL": (
        ["{0} i Synowie", "Zakłady {0}", "{0} & {1} Optyka"],
        {
            "Kraków": ["Uniwersytet Jagielloński"],
            "Łódź": ["Uniwersytet Łódzki"],
            "Gdańsk": ["Uniwersytet Gdański"],
        },
    ),
    "pt_BR": (
        ["Laticínios {0}", "Irmãos {0}", "Gráfica {0} & {1}"],
        {
            "São Paulo": ["Universidade de São Paulo"],
            "Belo Horizonte": ["Universidade Federal de Minas Gerais"],
            "Florianópolis": ["Universidade Federal de Santa Catarina"],
        },
    ),
    "id_ID": (
        ["{0} Bersaudara", "Batik {0}", "{0} & {1} Maritim"],
        {
            "Yogyakarta": ["Universitas Gadjah Mada"],
            "Bandung": ["Universitas Padjadjaran"],
            "Surabaya": ["Universitas Airlangga"],
        },
    ),
    "de_DE": (
        ["{0} & Söhne", "{0} Feinmechanik", "Glashütte {0}-{1}"],
        {
            "München": ["Ludwig-Maximilians-Universität"],
            "Göttingen": ["Georg-August-Universität"],
            "Köln": ["Universität zu Köln"],
        },
    ),
    "fi_FI": (
        ["Veljekset {0}", "{0} Konepaja", "{0} & {1} Paperi"],
        {
            "Jyväskylä": ["Jyväskylän yliopisto"],
            "Tampere": ["Tampereen yliopisto"],
            "Turku": ["Turun yliopisto", "Åbo Akademi"],
        },
    ),
    "en_IN": (
        ["{0} Pump Works", "{0} & {1} Textiles", "{0} Spice Company"],
        {
            "Pune": ["Savitribai Phule Pune University"],
            "Kolkata": ["Jadavpur University", "Presidency University"],
            "Varanasi": ["Banaras Hindu University"],
        },
    ),
    "hu_HU": (
        ["{0} és Társai", "{0} Műszergyár", "{0} & {1} Malom"],
        {
            "Budapest": ["Eötvös Loránd Tudományegyetem"],
            "Szeged": ["Szegedi Tudományegyetem"],
            "Pécs": ["Pécsi Tudományegyetem"],
        },
    ),
    "es_CL": (
        ["Pesquera {0}", "Viña {0}", "Imprenta {0}-{1}"],
        {
            "Santiago": ["Universidad de Chile"],
            "Valparaíso": ["Universidad de Valparaíso"],
            "Concepción": ["Universidad de Concepción"],
        },
    ),
    "is_IS": (
        ["{0} og Synir", "Prentsmiðja {0}", "{0} & {1} Sjávarafurðir"],
        {
            "Reykjavík": ["Háskóli Íslands"],
            "Akureyri": ["Háskólinn á Akureyri"],
        },
    ),
    "tw_GH": (
        ["{0} Timber Yard", "{0} & {1} Boatbuilders", "{0} Soap Works"],
        {
            "Accra": ["Central University"],
            "Kumasi": ["Kwame Nkrumah University of Science and Technology"],
        },
    ),
    "it_IT": (
        ["Officine {0}", "Fratelli {0}", "Pastificio {0} & {1}"],
        {
            "Bologna": ["Università di Bologna"],
            "L'Aquila": ["Università dell'Aquila"],
            "Forlì": ["Università di Bologna"],
        },
    ),
    "zh_CN": (
        ["{0} Optical Works", "{0} Brothers Silk", "{0} & {1} Machinery"],
        {
            "Chengdu": ["Sichuan University"],
            "Hangzhou": ["Zhejiang University"],
            "Xi'an": ["Northwest University", "Xi'an Jiaotong University"],
        },
    ),
    "sv_SE": (
        ["Bröderna {0}", "{0} Verkstäder", "{0} & {1} Glasbruk"],
        {
            "Göteborg": ["Göteborgs universitet"],
            "Umeå": ["Umeå universitet"],
            "Uppsala": ["Uppsala universitet"],
        },
    ),
    "ro_RO": (
        ["{0} și Fiii", "Atelierele {0}", "{0} & {1} Instrumente"],
        {
            "Cluj-Napoca": ["Universitatea Babeș-Bolyai"],
            "Iași": ["Universitatea Alexandru Ioan Cuza"],
            "Timișoara": ["Universitatea de Vest"],
        },
    ),
    "en_IE": (
        ["{0} Linen Mills", "{0} & Sons Brewing", "{0}-{1} Creameries"],
        {
            "Dublin": ["University College Dublin", "Trinity College Dublin"],
            "Cork": ["University College Cork"],
            "Maynooth": ["Maynooth University"],
        },
    ),
    "hr_HR": (
        ["Brodogradnja {0}", "{0} i Sinovi", "{0} & {1} Tiskara"],
        {
            "Split": ["Sveučilište u Splitu"],
            "Zagreb": ["Sveučilište u Zagrebu"],
            "Rijeka": ["Sveučilište u Rijeci"],
        },
    ),
    "fr_CA": (
        ["Papeterie {0}", "Fonderie {0}", "{0} & {1} Aviation"],
        {
            "Montréal": ["Université de Montréal", "McGill University"],
            "Québec": ["Université Laval"],
            "Trois-Rivières": ["Université du Québec à Trois-Rivières"],
        },
    ),
}


def draw_last_name(fake, gender):
    """Draw one last name; Polish or Icelandic ones, among others, depend on the gender."""
    if hasattr(fake, "last_romanized_name"):
        return fake.last_romanized_name()
    return getattr(fake, f"last_name_{gender}")()


def draw_full_name(fake, locale, gender):
    """Draw a first and a last name. Faker's own `name` would add titles."""
    if hasattr(fake, "first_romanized_name"):
        first_name = fake.first_romanized_name()
    else:
        first_name = getattr(fake, f"first_name_{gender}")()

    last_name = draw_last_name(fake, gender)
    if locale in APOSTROPHE_NAMES and fake.random.random() < 1 / 3:
        last_name = fake.random.choice(APOSTROPHE_NAMES[locale])
    if locale in DOUBLE_NAMES and fake.random.random() < 1 / 3:
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
        company_forms, cities = PLACES[locale]
        gender = chooser.choice(["female", "male"])
        name = draw_new(names, UNWANTED, draw_full_name, fakes[locale], locale, gender)
        # A person's name must not give the company away.
        unwanted = UNWANTED | set(re.findall(r"\w+", name))
        company = draw_new(companies, unwanted, draw_company, fakes[locale], company_forms)
        city = chooser.choice(list(cities))
        rows.append(
            {
                "name": name,
                "date": f"{birthday:%B} {birthday.day}, {birthday.year}",
                "city": city,
                "university": chooser.choice(cities[city]),
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
