"""What people write under the embedded sample's pictures: titles, descriptions and tags, as plain text.

English sentences in many phrasings, the same in ten other languages, and the rubbish of the real file: file
names, dates, camera settings, HTML, entities, plus signs. Encoding them for the metadata is `sample_rows`' business.
"""

from __future__ import annotations

import random

from pipeline.sample.foreign import LANGUAGES
from pipeline.sample.subjects import Subject

_PLURALS = {"fish": "fish", "butterfly": "butterflies"}
_WHERE = {
    "beach": ("on the beach", "at the beach", "on the sand"),
    "meadow": ("in a meadow", "in the green meadow", "in the countryside"),
    "night": ("at night", "under the stars", "in the moonlight"),
    "snow": ("in the snow", "on a snowy day", "in winter"),
    "city": ("in the city", "in the middle of the city", "on a city street"),
    "desert": ("in the desert", "among the dunes", "in the hot desert"),
    "sea": ("by the sea", "out at sea", "over the blue water"),
    "forest": ("in the forest", "in the woods", "among the trees"),
}
_ANYWHERE = ("in front of us", "on our way home", "near our hotel", "outside", "in the distance", "right here")
PLACES = (
    "Brighton", "Cape Cod", "Whitby", "Galway", "Monterey", "Nova Scotia", "Portland", "Reykjavík", "Bergen",
    "Lake Tahoe", "Tucson", "Bristol", "St. John's", "Albuquerque", "Wellington", "Cornwall", "Zürich", "Kyoto",
)  # fmt: skip
_PEOPLE = ("Anna", "my brother", "Dad", "Grandma", "Lucy", "my wife", "our neighbour", "my daughter", "José")
_TIMES = (
    "last summer",
    "this morning",
    "in May",
    "on our holiday",
    "yesterday",
    "in 2009",
    "last weekend",
    "before lunch",
)
_MOODS = ("lovely", "beautiful", "quiet", "bright", "funny", "peaceful", "little", "pretty", "wonderful", "lonely")

_TITLES = (
    "{A} {where}", "{A} {where}", "{A}", "{A}", "{Adjective} {noun}", "{The} {where}", "The {noun} of {place}",
    "{A} near {place}", "{Noun} {where}", "{person} and the {noun}", "{place}: {a}", "Just {a}", "My favourite {noun}",
    "{A}, {time}", "A {mood} day with {a}", "{Number} {adjective} {noun}", "Look, {a}!", "{Noun}", "{A} & me",
    "A walk {where}", "{A} {mood_day}", "What a day!", "{place}, {time}",
)  # fmt: skip
_DESCRIPTIONS = (
    "{A} {where}.",
    "{A} {where}. Taken near {place} {time}.",
    "I saw {a} {where} while we were walking around {place} {time}.",
    "A photo of {a} {where}.",
    "This is a picture of {a} that I took {where} {time}.",
    "There {is} {a} {where}, and {person} wanted a picture of {them}.",
    "{The} {where} looked so {mood} in this light that I had to stop and take a picture.",
    "We found {a} {where}, not far from {place}.",
    "{person} took this photo of {a} {where} {time}.",
    "Here {is} {the} we saw {time} {where}. {place} is a {mood} place.",
    "My favourite photo of {the}: {mood} light, {where}, near {place}.",
    "{A} in {place}. It was a {mood} morning and nobody else was there.",
    "{Number} {adjective} {noun} {where}, seen {time} with {person}.",
    "Walking {where} {time} we came across {a}. {person} said that {it} {was} there ten years ago, too.",
    "Close up of {a} {where}.",
    "A {mood} view of {a} {where} from the window of our room in {place}.",
    "You can see {a} {where} here. I like how {adjective} {it} {is}.",
    "{person} loves the {adjective} {noun} of {place}, so here {is} {a} {where}.",
)
_EXTRAS = (
    "The weather was {mood} all day.",
    "I used the same lens for all of these.",
    "It is 100% natural light, no flash.",
    "Best viewed large.",
    "We had 2+2 lenses with us: a 50mm + a 28mm.",
    "The {noun} didn't move for an hour; I couldn't believe it.",
    "Comments & notes are welcome!",
    'As {person} says: "{the} {where}".',
    "Thank you for looking – more from {place} soon…",
    "C'est la vie ;-)",
    "#{tag} ~ {place}",
)
_HTML = (
    "<b>{A}</b> {where}. {extra}",
    '{A} {where}, see also <a href="http://www.flickr.com/photos/{user}/">my other pictures</a>.',
    '{description}\n\n<a href="http://www.example.com/{tag}.html" rel="nofollow">www.example.com/{tag}.html</a>',
    "{description} <i>{place}</i>, {time}",
    "&quot;{A} {where}&quot; &amp; {mood} light",
    "{description}\nhttp://www.example.com/photos?tag={tag}&page=2",
)
_BOILERPLATE = (
    "OLYMPUS DIGITAL CAMERA",
    "KONICA MINOLTA DIGITAL CAMERA",
    "SONY DSC",
    "Camera: {camera}\nExposure: 0.005 sec (1/200)\nAperture: f/8.0\nFocal Length: 55 mm\nISO Speed: 100",
    "{camera}\nf/5.6 1/{n} ISO 400",
    "Uploaded by Flickr Uploadr",
    "DCIM\\100MEDIA\\IMAG{n:04d}.JPG",
    "Created with GIMP",
    "<a href='http://www.example.com/{n}'></a>",
)
_FILE_NAMES = (
    "IMG_{n:04d}", "IMG_{n:04d}.JPG", "DSC{n:05d}", "DSC_{n:04d}", "DSCN{n:04d}", "DSCF{n:04d}", "P10{n:05d}",
    "PICT{n:04d}", "IMGP{n:04d}", "_MG_{n:04d}", "100_{n:04d}", "2009{m:02d}{d:02d}_{n:06d}",
    "2011-{m:02d}-{d:02d} 1{d:02d}", "image", "{m:02d}/{d:02d}/2008", "Photo {n}", "scan{n:04d}", "MVI_{n:04d}",
)  # fmt: skip


def _words(subject: Subject, rng: random.Random) -> dict[str, str]:
    """What fills the gaps of the English templates for one picture."""
    noun = subject.noun if subject.count == 1 else _PLURALS.get(subject.noun, subject.noun + "s")
    adjective = "black and white" if subject.monochrome else subject.colour
    number = ("one", "two", "three")[subject.count - 1]
    # People name the thing first, then perhaps its colour or the place; so the object is what captions agree on most.
    phrase = f"{adjective} {noun}" if rng.random() < 0.55 else noun
    where = rng.choice(_WHERE[subject.scene] if rng.random() < 0.55 else _ANYWHERE)
    if subject.count > 1:
        indefinite = f"{number} {phrase}"
    elif rng.random() < 0.15:
        indefinite = f"{rng.choice(('my', 'this', 'the'))} {phrase}"
    else:
        indefinite = f"{'an' if phrase[0] in 'aeiou' else 'a'} {phrase}"
    one = subject.count == 1
    return {
        "a": indefinite,
        "the": f"the {phrase}",
        "noun": noun,
        "adjective": adjective,
        "number": number,
        "where": where,
        "place": rng.choice(PLACES),
        "person": rng.choice(_PEOPLE),
        "time": rng.choice(_TIMES),
        "mood": rng.choice(_MOODS),
        "mood_day": f"on a {rng.choice(_MOODS)} day",
        "is": "is" if one else "are",
        "was": "was" if one else "were",
        "it": "it" if one else "they",
        "them": "it" if one else "them",
        "tag": subject.noun.replace(" ", ""),
    }


def _fill(template: str, words: dict[str, str]) -> str:
    """Fill a template; a gap written with a capital gets one: "{A}" -> "A red car"."""
    capitals = {name.capitalize(): word[:1].upper() + word[1:] for name, word in words.items()}
    text = template.format_map(words | capitals)
    return text[:1].upper() + text[1:] if template[0] == "{" else text


def english_title(subject: Subject, rng: random.Random) -> str:
    """A few English words, mostly about the picture."""
    text = _fill(rng.choice(_TITLES), _words(subject, rng))
    return text.lower() if rng.random() < 0.12 else text


def english_description(subject: Subject, rng: random.Random, *, user: str) -> str:
    """One to three English sentences, sometimes with markup, line breaks, or the length of a diary."""
    words = _words(subject, rng)
    text = _fill(rng.choice(_DESCRIPTIONS), words)
    extra = _fill(rng.choice(_EXTRAS), words)
    kind = rng.random()
    if kind < 0.10:
        return _fill(rng.choice(_HTML), words | {"extra": extra, "description": text, "user": user})
    if kind < 0.13:
        return f"{text}\n\n{extra}\n{_fill(rng.choice(_EXTRAS), words)}"
    if kind < 0.134:
        return "\n\n".join(f"{text} {_fill(rng.choice(_EXTRAS), _words(subject, rng))}" for _ in range(30))
    if kind < 0.45:
        return f"{text} {extra}"
    return text.rstrip(".") if kind > 0.85 else text


def foreign_text(subject: Subject, rng: random.Random, code: str) -> str:
    """A sentence about the picture in the language with this two-letter code, see `LANGUAGES`."""
    language = LANGUAGES[code]
    text = rng.choice(language.sentences).format(
        noun=language.nouns[subject.label], where=language.scenes[subject.scene], place=rng.choice(PLACES)
    )
    return text[:1].upper() + text[1:]


def boilerplate(rng: random.Random, *, camera: str) -> str:
    """What cameras and programs write into the description."""
    return rng.choice(_BOILERPLATE).format(camera=camera or "Canon EOS 40D", n=rng.randint(1, 9999))


def file_name(rng: random.Random) -> str:
    """A title that is a file name, a counter or a date."""
    return rng.choice(_FILE_NAMES).format(n=rng.randint(1, 9999), m=rng.randint(1, 12), d=rng.randint(1, 28))


def tags(subject: Subject, rng: random.Random) -> list[str]:
    """User tags, in alphabetical order as in the real file; empty for some."""
    if rng.random() < 0.35:
        return []
    words = [
        subject.noun,
        subject.colour,
        subject.scene,
        rng.choice(PLACES).lower(),
        rng.choice(_MOODS),
        "photo",
        "2009",
        "añil",
    ]
    return sorted(rng.sample(words, rng.randint(1, 6)))
