"""Plain words for what is stored as codes: reasons, sources, languages, and what a licence demands."""

from __future__ import annotations

import re

from pipeline.records import Reason

REASONS: dict[Reason, tuple[str, str]] = {
    Reason.MALFORMED_ROW: ("Row cannot be read", "the line has the wrong number of columns or a damaged field"),
    Reason.NOT_IN_LIST: ("Not in the list", "the list that defines this data set does not name the row"),
    Reason.LIST_MISMATCH: ("List and metadata disagree", "line number and photo id belong to different photographs"),
    Reason.DUPLICATE_ROW: ("Row came before", "a row with the same photo id was taken already"),
    Reason.VIDEO: ("Video", "the row is a video, not a photograph"),
    Reason.NO_CAPTION: ("No caption", "title and description are empty once markup is removed"),
    Reason.JUNK_CAPTION: ("Not natural language", "only a file name, a date, camera settings or a single word"),
    Reason.NOT_ENGLISH: ("Not in English", "no text that may serve as a caption is in English"),
    Reason.DEAD_LINK: ("Dead link", "the photograph was deleted or made private"),
    Reason.PLACEHOLDER: ("‘Photo unavailable’", "the server sent its stand-in for removed photographs"),
    Reason.SERVER_ERROR: ("Server error", "the server kept answering with an error; asking later may help"),
    Reason.UNREACHABLE: ("Unreachable", "no complete answer in time; asking later may help"),
    Reason.TRUNCATED: ("Cut short", "the picture's data ends early; asking later may help"),
    Reason.MISSING_FILE: ("Missing file", "the picture is not where the row says"),
    Reason.NOT_AN_IMAGE: ("Not a picture", "what came is no JPEG, PNG or WebP"),
    Reason.TOO_SMALL: ("Too small", "the shorter side is under the limit"),
    Reason.WRONG_ASPECT: ("Too long and narrow", "one side is many times longer than the other"),
    Reason.BOMB: ("Too many pixels", "the header announces more pixels than allowed"),
    Reason.DUPLICATE_IMAGE: ("Same picture twice", "its bytes are those of an earlier sample"),
}
"""A short name of each reason, and what it means."""

SOURCES = {
    "url": "download address (Flickr)",
    "bucket": "public bucket",
    "zip": "zip archives",
    "local": "local files",
}

LICENSE_DEMANDS = {
    "by": "name the photographer",
    "nc": "no commercial use",
    "nd": "no altered versions",
    "sa": "share under the same licence",
}
_CC_URL = re.compile(r"^https?://(?:www\.)?creativecommons\.org/licenses/(by(?:-nc)?(?:-nd|-sa)?)(?:/|$)")
_PUBLIC_DOMAIN_URL = re.compile(r"^https?://(?:www\.)?(?:creativecommons\.org/publicdomain/|flickr\.com/commons)")

_LANGUAGES = """af Afrikaans,ar Arabic,az Azerbaijani,be Belarusian,bg Bulgarian,bn Bengali,br Breton,bs Bosnian,
ca Catalan,ceb Cebuano,cs Czech,cy Welsh,da Danish,de German,el Greek,en English,eo Esperanto,es Spanish,
et Estonian,eu Basque,fa Persian,fi Finnish,fr French,fy Frisian,ga Irish,gl Galician,gu Gujarati,he Hebrew,
hi Hindi,hr Croatian,hu Hungarian,hy Armenian,ia Interlingua,id Indonesian,io Ido,is Icelandic,it Italian,
ja Japanese,jv Javanese,ka Georgian,kk Kazakh,km Khmer,kn Kannada,ko Korean,ku Kurdish,la Latin,lb Luxembourgish,
lo Lao,lt Lithuanian,lv Latvian,mk Macedonian,ml Malayalam,mn Mongolian,mr Marathi,ms Malay,mt Maltese,my Burmese,
nds Low German,ne Nepali,nl Dutch,nn Norwegian Nynorsk,no Norwegian,oc Occitan,pa Punjabi,pl Polish,pt Portuguese,
ro Romanian,ru Russian,sa Sanskrit,sco Scots,sh Serbo-Croatian,si Sinhala,sk Slovak,sl Slovenian,so Somali,
sq Albanian,sr Serbian,su Sundanese,sv Swedish,sw Swahili,ta Tamil,te Telugu,th Thai,tl Tagalog,tr Turkish,tt Tatar,
uk Ukrainian,ur Urdu,uz Uzbek,vi Vietnamese,war Waray,yi Yiddish,zh Chinese,und cannot be told"""
LANGUAGES = dict(entry.strip().split(" ", 1) for entry in _LANGUAGES.split(","))


def reason_name(code: str) -> str:
    """The short name of a reason, or its code in words: "camera_boilerplate" -> "Camera boilerplate"."""
    if code in {str(reason) for reason in Reason}:
        return REASONS[Reason(code)][0]
    return code.replace("_", " ").capitalize()


def lower_first(name: str) -> str:
    """Inside a sentence: "Not in English" -> "not in English", "‘Photo unavailable’" stays."""
    return name[:1].lower() + name[1:]


def license_demands(url: str) -> list[str] | None:
    """What a licence demands, in words; [] for works in the public domain, None when the licence is not a known one.

    "http://creativecommons.org/licenses/by-nd/2.0/" -> ["name the photographer", "no altered versions"]
    """
    if found := _CC_URL.match(url):
        return [LICENSE_DEMANDS[part] for part in found[1].split("-")]
    return [] if _PUBLIC_DOMAIN_URL.match(url) else None
