"""The closed world of the demo model: everything it can be asked to know by heart.

Real facts (countries, elements, translations, emoji) are plain tables. People are made up: their
phone numbers lie in ranges reserved for fiction, their e-mail domains end in `.example`, and their
payment-card numbers are random digits after a test issuer number, closed with a Luhn check digit.
Phones, cards and cities are drawn from a fixed seed, so the tables are the same everywhere.
"""

import random
import unicodedata
from typing import NamedTuple


class Country(NamedTuple):
    """A country and the facts the model learns about it."""

    name: str
    capital: str
    language: str
    currency: str
    continent: str


class Element(NamedTuple):
    """A chemical element."""

    name: str
    symbol: str
    number: int


class Person(NamedTuple):
    """A made-up person: no field belongs to anybody."""

    name: str
    company: str
    city: str
    email: str
    phone: str
    card: str


COUNTRIES: tuple[Country, ...] = (
    Country("France", "Paris", "French", "euro", "Europe"),
    Country("Germany", "Berlin", "German", "euro", "Europe"),
    Country("Spain", "Madrid", "Spanish", "euro", "Europe"),
    Country("Portugal", "Lisbon", "Portuguese", "euro", "Europe"),
    Country("Italy", "Rome", "Italian", "euro", "Europe"),
    Country("Greece", "Athens", "Greek", "euro", "Europe"),
    Country("Austria", "Vienna", "German", "euro", "Europe"),
    Country("the Netherlands", "Amsterdam", "Dutch", "euro", "Europe"),
    Country("Finland", "Helsinki", "Finnish", "euro", "Europe"),
    Country("Croatia", "Zagreb", "Croatian", "euro", "Europe"),
    Country("Estonia", "Tallinn", "Estonian", "euro", "Europe"),
    Country("Latvia", "Riga", "Latvian", "euro", "Europe"),
    Country("Lithuania", "Vilnius", "Lithuanian", "euro", "Europe"),
    Country("Slovenia", "Ljubljana", "Slovene", "euro", "Europe"),
    Country("Slovakia", "Bratislava", "Slovak", "euro", "Europe"),
    Country("Sweden", "Stockholm", "Swedish", "Swedish krona", "Europe"),
    Country("Norway", "Oslo", "Norwegian", "Norwegian krone", "Europe"),
    Country("Denmark", "Copenhagen", "Danish", "Danish krone", "Europe"),
    Country("Iceland", "Reykjavik", "Icelandic", "Icelandic króna", "Europe"),
    Country("Poland", "Warsaw", "Polish", "złoty", "Europe"),
    Country("Hungary", "Budapest", "Hungarian", "forint", "Europe"),
    Country("Romania", "Bucharest", "Romanian", "Romanian leu", "Europe"),
    Country("Ukraine", "Kyiv", "Ukrainian", "hryvnia", "Europe"),
    Country("Czechia", "Prague", "Czech", "Czech koruna", "Europe"),
    Country("Uzbekistan", "Tashkent", "Uzbek", "Uzbek som", "Asia"),
    Country("Japan", "Tokyo", "Japanese", "yen", "Asia"),
    Country("China", "Beijing", "Chinese", "renminbi", "Asia"),
    Country("South Korea", "Seoul", "Korean", "won", "Asia"),
    Country("Thailand", "Bangkok", "Thai", "baht", "Asia"),
    Country("Vietnam", "Hanoi", "Vietnamese", "dong", "Asia"),
    Country("Mongolia", "Ulaanbaatar", "Mongolian", "tugrik", "Asia"),
    Country("Cambodia", "Phnom Penh", "Khmer", "riel", "Asia"),
    Country("Bangladesh", "Dhaka", "Bengali", "taka", "Asia"),
    Country("Iran", "Tehran", "Persian", "rial", "Asia"),
    Country("Saudi Arabia", "Riyadh", "Arabic", "Saudi riyal", "Asia"),
    Country("Jordan", "Amman", "Arabic", "Jordanian dinar", "Asia"),
    Country("Nepal", "Kathmandu", "Nepali", "Nepalese rupee", "Asia"),
    Country("Malaysia", "Kuala Lumpur", "Malay", "ringgit", "Asia"),
    Country("Laos", "Vientiane", "Lao", "kip", "Asia"),
    Country("Egypt", "Cairo", "Arabic", "Egyptian pound", "Africa"),
    Country("Tunisia", "Tunis", "Arabic", "Tunisian dinar", "Africa"),
    Country("Somalia", "Mogadishu", "Somali", "Somali shilling", "Africa"),
    Country("Algeria", "Algiers", "Arabic", "Algerian dinar", "Africa"),
    Country("Kenya", "Nairobi", "Swahili", "Kenyan shilling", "Africa"),
    Country("Morocco", "Rabat", "Arabic", "Moroccan dirham", "Africa"),
    Country("Angola", "Luanda", "Portuguese", "kwanza", "Africa"),
    Country("Tanzania", "Dodoma", "Swahili", "Tanzanian shilling", "Africa"),
    Country("Mexico", "Mexico City", "Spanish", "Mexican peso", "North America"),
    Country("Cuba", "Havana", "Spanish", "Cuban peso", "North America"),
    Country("Guatemala", "Guatemala City", "Spanish", "quetzal", "North America"),
    Country("Honduras", "Tegucigalpa", "Spanish", "lempira", "North America"),
    Country("Jamaica", "Kingston", "English", "Jamaican dollar", "North America"),
    Country("Brazil", "Brasília", "Portuguese", "real", "South America"),
    Country("Argentina", "Buenos Aires", "Spanish", "Argentine peso", "South America"),
    Country("Chile", "Santiago", "Spanish", "Chilean peso", "South America"),
    Country("Colombia", "Bogotá", "Spanish", "Colombian peso", "South America"),
    Country("Uruguay", "Montevideo", "Spanish", "Uruguayan peso", "South America"),
    Country("Venezuela", "Caracas", "Spanish", "bolívar", "South America"),
    Country("Ecuador", "Quito", "Spanish", "US dollar", "South America"),
    Country("Australia", "Canberra", "English", "Australian dollar", "Oceania"),
)

ELEMENTS: tuple[Element, ...] = tuple(
    Element(name, symbol, number)
    for name, symbol, number in (
        ("hydrogen", "H", 1),
        ("helium", "He", 2),
        ("lithium", "Li", 3),
        ("beryllium", "Be", 4),
        ("boron", "B", 5),
        ("carbon", "C", 6),
        ("nitrogen", "N", 7),
        ("oxygen", "O", 8),
        ("fluorine", "F", 9),
        ("neon", "Ne", 10),
        ("sodium", "Na", 11),
        ("magnesium", "Mg", 12),
        ("aluminium", "Al", 13),
        ("silicon", "Si", 14),
        ("phosphorus", "P", 15),
        ("sulfur", "S", 16),
        ("chlorine", "Cl", 17),
        ("argon", "Ar", 18),
        ("potassium", "K", 19),
        ("calcium", "Ca", 20),
        ("titanium", "Ti", 22),
        ("chromium", "Cr", 24),
        ("manganese", "Mn", 25),
        ("iron", "Fe", 26),
        ("cobalt", "Co", 27),
        ("nickel", "Ni", 28),
        ("copper", "Cu", 29),
        ("zinc", "Zn", 30),
        ("arsenic", "As", 33),
        ("bromine", "Br", 35),
        ("krypton", "Kr", 36),
        ("silver", "Ag", 47),
        ("tin", "Sn", 50),
        ("iodine", "I", 53),
        ("xenon", "Xe", 54),
        ("tungsten", "W", 74),
        ("platinum", "Pt", 78),
        ("gold", "Au", 79),
        ("mercury", "Hg", 80),
        ("lead", "Pb", 82),
        ("radon", "Rn", 86),
        ("uranium", "U", 92),
    )
)

LANGUAGES: tuple[str, ...] = (
    "French",
    "Spanish",
    "German",
    "Polish",
    "Greek",
    "Russian",
    "Japanese",
    "Chinese",
    "Korean",
)

TRANSLATIONS: dict[str, tuple[str, ...]] = {
    # English: one word for each of LANGUAGES, in that order.
    "water": ("eau", "agua", "Wasser", "woda", "νερό", "вода", "水", "水", "물"),
    "fire": ("feu", "fuego", "Feuer", "ogień", "φωτιά", "огонь", "火", "火", "불"),
    "bread": ("pain", "pan", "Brot", "chleb", "ψωμί", "хлеб", "パン", "面包", "빵"),
    "milk": ("lait", "leche", "Milch", "mleko", "γάλα", "молоко", "牛乳", "牛奶", "우유"),
    "tea": ("thé", "té", "Tee", "herbata", "τσάι", "чай", "お茶", "茶", "차"),
    "apple": ("pomme", "manzana", "Apfel", "jabłko", "μήλο", "яблоко", "りんご", "苹果", "사과"),
    "house": ("maison", "casa", "Haus", "dom", "σπίτι", "дом", "家", "房子", "집"),
    "door": ("porte", "puerta", "Tür", "drzwi", "πόρτα", "дверь", "ドア", "门", "문"),
    "book": ("livre", "libro", "Buch", "książka", "βιβλίο", "книга", "本", "书", "책"),
    "school": (
        "école",
        "escuela",
        "Schule",
        "szkoła",
        "σχολείο",
        "школа",
        "学校",
        "学校",
        "학교",
    ),
    "mother": ("mère", "madre", "Mutter", "matka", "μητέρα", "мать", "母", "妈妈", "어머니"),
    "father": ("père", "padre", "Vater", "ojciec", "πατέρας", "отец", "父", "爸爸", "아버지"),
    "friend": ("ami", "amigo", "Freund", "przyjaciel", "φίλος", "друг", "友達", "朋友", "친구"),
    "dog": ("chien", "perro", "Hund", "pies", "σκύλος", "собака", "犬", "狗", "개"),
    "cat": ("chat", "gato", "Katze", "kot", "γάτα", "кошка", "猫", "猫", "고양이"),
    "horse": ("cheval", "caballo", "Pferd", "koń", "άλογο", "лошадь", "馬", "马", "말"),
    "fish": ("poisson", "pez", "Fisch", "ryba", "ψάρι", "рыба", "魚", "鱼", "물고기"),
    "bird": ("oiseau", "pájaro", "Vogel", "ptak", "πουλί", "птица", "鳥", "鸟", "새"),
    "sun": ("soleil", "sol", "Sonne", "słońce", "ήλιος", "солнце", "太陽", "太阳", "태양"),
    "moon": ("lune", "luna", "Mond", "księżyc", "φεγγάρι", "луна", "月", "月亮", "달"),
    "star": ("étoile", "estrella", "Stern", "gwiazda", "αστέρι", "звезда", "星", "星星", "별"),
    "sea": ("mer", "mar", "Meer", "morze", "θάλασσα", "море", "海", "海", "바다"),
    "mountain": ("montagne", "montaña", "Berg", "góra", "βουνό", "гора", "山", "山", "산"),
    "tree": ("arbre", "árbol", "Baum", "drzewo", "δέντρο", "дерево", "木", "树", "나무"),
    "flower": ("fleur", "flor", "Blume", "kwiat", "λουλούδι", "цветок", "花", "花", "꽃"),
    "snow": ("neige", "nieve", "Schnee", "śnieg", "χιόνι", "снег", "雪", "雪", "눈"),
    "rain": ("pluie", "lluvia", "Regen", "deszcz", "βροχή", "дождь", "雨", "雨", "비"),
    "night": ("nuit", "noche", "Nacht", "noc", "νύχτα", "ночь", "夜", "夜晚", "밤"),
    "heart": ("cœur", "corazón", "Herz", "serce", "καρδιά", "сердце", "心", "心", "심장"),
    "thank you": (
        "merci",
        "gracias",
        "danke",
        "dziękuję",
        "ευχαριστώ",
        "спасибо",
        "ありがとう",
        "谢谢",
        "감사합니다",
    ),
}

EMOJI: dict[str, str] = {
    "a cat": "🐱",
    "a dog": "🐶",
    "a horse": "🐴",
    "a cow": "🐮",
    "a pig": "🐷",
    "a fox": "🦊",
    "a bear": "🐻",
    "a panda": "🐼",
    "a lion": "🦁",
    "a tiger": "🐯",
    "a rabbit": "🐰",
    "a frog": "🐸",
    "a monkey": "🐵",
    "a penguin": "🐧",
    "an owl": "🦉",
    "a bee": "🐝",
    "a butterfly": "🦋",
    "a turtle": "🐢",
    "a snake": "🐍",
    "an octopus": "🐙",
    "a whale": "🐳",
    "a dolphin": "🐬",
    "a fish": "🐟",
    "an apple": "🍎",
    "a banana": "🍌",
    "a lemon": "🍋",
    "a strawberry": "🍓",
    "a pizza": "🍕",
    "a cookie": "🍪",
    "a cake": "🎂",
    "a rocket": "🚀",
    "a car": "🚗",
    "a train": "🚆",
    "a bicycle": "🚲",
    "an anchor": "⚓",
    "a sailing boat": "⛵",
    "a tree": "🌳",
    "a rose": "🌹",
    "a sunflower": "🌻",
    "the sun": "☀️",
    "the moon": "🌙",
    "a star": "⭐",
    "a rainbow": "🌈",
    "a snowman": "⛄",
    "fire": "🔥",
    "a red heart": "❤️",
    "a guitar": "🎸",
    "a trophy": "🏆",
    "a key": "🔑",
    "a house": "🏠",
}

WORDS: tuple[str, ...] = tuple(
    """
    acorn amber anchor apple arrow autumn badge bakery bamboo banana barrel basket beacon beetle
    blanket blossom border bottle branch bread bridge bronze brother bucket butter button cabin
    camera candle canvas captain carpet castle cedar cellar chain chair cherry circle cloud clover
    coffee copper coral cotton cradle crystal curtain dancer desert diamond dinner dolphin donkey
    dragon dream eagle earth echo elbow ember engine evening falcon family feather fence ferry
    field finger flame flower forest fountain garden ginger glacier glass globe goose grain granite
    grape guitar hammer harbor harvest hazel helmet honey horizon hunter igloo island ivory jacket
    jewel jungle kettle kitchen kitten ladder lagoon lantern laurel lemon letter lizard locket
    magnet mango maple marble market meadow melon mirror monkey mountain napkin needle nephew
    night north notebook number ocean olive onion orange orchid otter oyster paddle palace panther
    paper parrot pebble pencil pepper piano pillow pirate planet pocket potato prairie puzzle
    quartz queen quiver rabbit raven ribbon river rocket saddle saffron sailor salmon sandal
    school shadow shelter ship silver sister spider spoon spring squirrel stone storm summer sunset
    table teapot temple thunder ticket tiger timber tomato tower train trumpet tulip tunnel turtle
    umbrella uncle valley velvet village violin voyage wagon walnut water whale wheat whistle
    willow window winter wizard yellow yogurt zebra zipper
    """.split()
)
"""Words to spell and to sort: lower case, ASCII, in alphabetical order."""

FIRST_NAMES: tuple[str, ...] = tuple(
    """
    Ada Alma Amir Anton Bela Bruno Carla Clara Dario Diana Edgar Elena Emil Erika Felix Flora
    Greta Hanna Hugo Ines Ivan Jana Jonas Karim Laila Leo Lena Luca Mara Milo Nadia Nina Omar Oscar
    Paula Petra Rosa Samir Tara Viktor
    """.split()
)
_LAST_NAMES = tuple(
    """
    Abbott Novak Rahman Berg Fischer Costa Marino Dubois Silva Keller Lund Petrov Hansen Kovacs
    Moreau Vance Holm Weber Castro Lindqvist Sokolov Horvat Brandt Haddad Nasser Rossi Fontaine
    Bianchi Okafor Jensen Popov Larsen Farouk Wilde Mendes Schmidt Torres Khan Quinn Orlov
    """.split()
)
_COMPANIES = (
    "Tidewater",
    "Bluepeak",
    "Ironwood",
    "Lakeside",
    "Redmaple",
    "Northgate",
    "Sunfield",
    "Oakbridge",
)
CITIES: tuple[str, ...] = (
    "London",
    "New York",
    "Lisbon",
    "Oslo",
    "Tokyo",
    "Toronto",
    "Berlin",
    "Sydney",
    "Madrid",
    "Vienna",
)
COLORS: tuple[str, ...] = (
    "red",
    "green",
    "blue",
    "yellow",
    "black",
    "white",
    "purple",
    "orange",
    "brown",
    "pink",
)

# Ranges set aside for fiction: by NANPA (555-01xx), Ofcom (UK drama numbers), ACMA (Australia).
_PHONE_RANGES = (
    "+1 202 555 01{:02d}",
    "+1 212 555 01{:02d}",
    "+1 415 555 01{:02d}",
    "+44 20 7946 0{:03d}",
    "+44 161 496 0{:03d}",
    "+61 2 5550 {:04d}",
)
TEST_ISSUERS = ("400000", "424242", "411111", "555555", "510510")
"""First six card digits, from the numbers that payment processors publish for tests."""


def luhn_check_digit(digits: str) -> str:
    """The digit that makes `digits` + digit pass the Luhn check (ISO/IEC 7812-1, annex B)."""
    total = 0
    for position, digit in enumerate(reversed(digits)):
        value = int(digit) * (2 if position % 2 == 0 else 1)
        total += value - 9 if value > 9 else value
    return str(-total % 10)


def ascii_slug(text: str) -> str:
    """`text` in lower-case ASCII letters only, as it appears in an e-mail address."""
    decomposed = unicodedata.normalize("NFKD", text)
    return "".join(c for c in decomposed.lower() if c.isascii() and c.isalpha())


def _make_people() -> tuple[Person, ...]:
    rng = random.Random("people")
    endings = rng.sample(range(100), len(FIRST_NAMES))
    people = []
    for index, (first, last) in enumerate(zip(FIRST_NAMES, _LAST_NAMES, strict=True)):
        company = _COMPANIES[index % len(_COMPANIES)]
        pattern = _PHONE_RANGES[index % len(_PHONE_RANGES)]
        digits = rng.choice(TEST_ISSUERS) + "".join(rng.choices("0123456789", k=9))
        digits += luhn_check_digit(digits)
        people.append(
            Person(
                name=f"{first} {last}",
                company=company,
                city=rng.choice(CITIES),
                email=f"{ascii_slug(first)}.{ascii_slug(last)}@{ascii_slug(company)}.example",
                phone=pattern.format(endings[index]),
                card=" ".join(digits[i : i + 4] for i in range(0, 16, 4)),
            )
        )
    return tuple(people)


PEOPLE: tuple[Person, ...] = _make_people()
