"""Captions: from the metadata's encoding to plain text, and whether a text is worth training on.

Pure. What comes in is a title or description as a person or a camera wrote it; what goes out is one
line of text, and the name of its fault if it has one. Languages are not told apart here.
"""

from __future__ import annotations

import html
import re
import unicodedata
from dataclasses import dataclass
from urllib.parse import unquote, unquote_plus

MAX_CAPTION_CHARS = 10_000
"""Above this a text is no caption: the longest row of YFCC100M has 197,990 bytes."""

# Only names HTML knows, so that "x<y and y>z" and "I <3 NY" stay. No part of these patterns can scan the same
# characters twice from two starts: a hostile text of 200 kB must not take minutes.
_TAG_NAMES = (
    "a|abbr|acronym|address|applet|area|article|aside|audio|b|base|basefont|bdi|bdo|big|blink|blockquote|body|br|button|"
    "canvas|caption|center|cite|code|col|colgroup|dd|del|details|dfn|dir|div|dl|dt|em|embed|fieldset|figcaption|figure|"
    "font|footer|form|frame|frameset|h[1-6]|head|header|hr|html|i|iframe|img|input|ins|kbd|label|legend|li|link|map|"
    "mark|marquee|menu|meta|nav|nobr|noframes|noscript|object|ol|optgroup|option|p|param|pre|q|rp|rt|ruby|s|samp|script|"
    "section|select|small|source|span|strike|strong|style|sub|summary|sup|svg|table|tbody|td|textarea|tfoot|th|thead|"
    "time|title|tr|track|tt|u|ul|var|video|wbr|xmp|(?:o|v|w|st1):[a-z]+"  # the last are what Word leaves behind
)
TAG = re.compile(rf"<(?:/?(?:{_TAG_NAMES})(?:[\s/][^<>]*)?|!(?:--|doctype\b)[^<>]*|\?xml\b[^<>]*)>", re.IGNORECASE)
# The last character is none of those that end a sentence or close a bracket around the address.
_URL = re.compile(r"""(?:(?:https?|ftp)://|(?<![\w@.])www\.)[^\s<>"]*[\w/=&#%+~$-]|(?:https?|ftp)://""", re.IGNORECASE)
# Control characters that are not white space; halves of surrogate pairs, which cannot be stored; and what is invisible
# and no part of any spelling: soft hyphen, zero-width space, direction and byte order marks, place of an object.
_CONTROL = re.compile(
    "[\x00-\x08\x0e-\x1b\x7f-\x9f\xad\u200b\u200e\u200f\u202a-\u202e\u2060\u2066-\u2069\ud800-\udfff"
    "\ufeff\ufff9-\ufffc\ufffe\uffff]"
)
_MAX_ROUNDS = 16
# As the script's "<a.*?>|</a>|<b>|</b>|<i>|</i>"; a tag without an end is put back and not searched from its next "<a".
_PAPER_TAG = re.compile(r"<a[^>\n]*+>|(<a[^>\n]*+)|</a>|<b>|</b>|<i>|</i>")
_PAPER_URL = re.compile(r"http\S+|www\S+")


def decode_field(raw: str) -> str:
    """A percent-encoded field as text on one line, markup left alone: "nathalie%2Bcone+%3C3" -> "nathalie+cone <3"."""
    return _one_line(unquote_plus(raw, errors="replace"))


def _one_line(text: str) -> str:
    if text.isascii() and text.isprintable() and "  " not in text:
        return text.strip()
    return " ".join(unicodedata.normalize("NFC", _CONTROL.sub(_instead_of_control, text)).split())


def _instead_of_control(match: re.Match[str]) -> str:
    # Bytes 80-9F are Windows-1252 read as Latin-1: "c\x92est" was "c’est". HTML reads &#146; the same way.
    code = ord(match[0])
    return bytes([code]).decode("cp1252", errors="ignore") if 0x80 <= code <= 0x9F else ""


def clean_text(text: str) -> str:
    """Take markup, addresses and control characters out of a decoded text: "A <b>boat</b>\\n&amp; I" -> "A boat & I".

    Repeated until nothing changes, since "&amp;lt;b&amp;gt;" hides a tag two levels deep; so cleaning twice is
    cleaning once.
    """
    text = _one_line(text)
    for _ in range(_MAX_ROUNDS):
        if not ("<" in text or "&" in text or "://" in text or "www." in text.lower()):
            return text
        cleaned = _one_line(_URL.sub(" ", TAG.sub(" ", html.unescape(text))))
        if cleaned == text:
            return text
        text = cleaned
    return clean_text(text.replace("&", " ").replace("<", " "))  # "&amp;amp;amp;...": nothing a person wrote


def clean_caption(raw: str) -> str:
    """Turn a caption as stored in the metadata into plain text, "" when nothing is left.

    It is percent-encoded once and may hold HTML: "A+%3Cb%3Eboat%3C%2Fb%3E" -> "A boat"; a plus sign is %2B.
    """
    return clean_text(unquote_plus(raw, errors="replace"))


def paper_caption(raw: str) -> str:
    """Exactly what the published SLIP script (github.com/facebookresearch/SLIP) makes of a field, its faults included.

    A plus sign, %2B, becomes a space; of tags only a, b and i go, and with "<a" also <abbr>; entities, line feeds and
    spaces at the ends stay: "1%2B1+%3Cb%3E%26amp%3B%3C%2Fb%3E%0A" -> "1 1 &amp;\\n".
    """
    return _PAPER_URL.sub("", _PAPER_TAG.sub(r"\1", unquote(raw).replace("+", " ")))


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """A kind of text that says nothing about its picture; the whole text must match."""

    name: str
    fault: str
    pattern: re.Pattern[str]
    matches: tuple[str, ...]
    spares: tuple[str, ...]


def _rule(name: str, fault: str, pattern: str, *, matches: tuple[str, ...], spares: tuple[str, ...]) -> Rule:
    compiled = re.compile(pattern, re.IGNORECASE | re.VERBOSE)
    return Rule(name=name, fault=fault, pattern=compiled, matches=matches, spares=spares)


_T = r"[!-~\u00c0-\u024f]"  # a character of a Latin token; scripts without spaces are no file names for being one token

RULES = (
    _rule(
        "picture_file",
        "file_name",
        rf"""{_T}+(?:\ {_T}+){{0,3}}\.(?:jpe?g|png|gif|tiff?|bmp|webp|heic|psd|nef|cr2|crw|dng|arw|orf|raf|
             avi|mov|mp4|mpe?g|3gp)""",
        matches=("IMG_6843.jpg", "micro_table_lynn.JPG", "Nic 5.jpg", "summer in rome 12.png"),
        spares=("The file was called cat.jpg but shows a dog", "a .jpg of my dog"),
    ),
    _rule(
        "camera_counter",
        "file_name",
        # A camera's prefix and a number, then at most words that editing adds.
        rf"""[_s]?(?:mg|img|imgp|imag|dsc|dscn|dscf|dsci|dcp|pict?|hpim|cimg|rimg|mvi|mov|vid|kif|sany|sdc|crw|
             image|photo|picture|foto|bild|scan|pano|wp|gopr|gedc)[\ _-]?\d{{3,}}+{_T}*+
             (?:[\ ,-]+(?:copy|copie|kopie|edit(?:ed)?|resized?|original|small|large|web|crop(?:ped)?|final|b&?w|
             \(?\d+\)?))*""",
        matches=("IMG_0520", "_MG_1411", "DSC00123", "DSCN2446", "PIC_0320 (2)", "DSC_9426wtmk - original"),
        spares=("IMG_2322 - München - Neues Rathaus", "DSC award ceremony", "p. 12 of the diary"),
    ),
    _rule(
        "letter_code",
        "file_name",
        # Up to four letters and a counter. Types and flights (A380, MH370, B-52) have fewer digits.
        rf"_?[a-z]{{1,4}}(?:\d{{4,}}+|[-_]\d{{3,}}+){_T}*+",
        matches=("P1010001", "KM-5028", "edm-104", "S7000585", "RIMG15356", "R4010281-001", "JMO_3210"),
        spares=("A380", "MH370", "B-52", "SR 522 Groundbreaking", "Day 1000"),
    ),
    _rule(
        "joined_with_underscores",
        "file_name",
        rf"(?:{_T}+\ )?(?={_T}*_)(?={_T}*\d\d){_T}+",
        matches=("Taichung_20081015_03", "1302_IMG_2383", "5923 Autry_040314_018", "IMG_8405_resize"),
        spares=("snake_case", "FUNDACION X Jornada Anual_20111112_06", "山臼主幹_1"),
    ),
    _rule(
        "number_first",
        "file_name",
        # One token that begins with a digit and has five or more of them.
        rf"(?=(?:{_T}*?\d){{5}})\d{_T}*",
        matches=("101010kcc", "100611-N-4192L-067", "080621-gardaitaly-039", "20130501beach"),
        spares=("26 Jan 2013 Show no Mercy", "110813 台中 科博館", "20110222黃金獵犬", "2nd", "1980s"),
    ),
    _rule(
        "numbered_nothing",
        "file_name",
        r"""\W*(?:image|img|imagen|photo|photograph|picture|pic|foto|bild|file|scan|snapshot|dsc|untitled|unnamed|
            no\ (?:title|name)|(?:sin|sem)\ t[ií]tulo|senza\ titolo|sans\ titre|ohne\ titel|zonder\ titel|無題|无题)
            [\s_\#.-]*\(?\d*\)?\W*""",
        matches=("image", "photo6", "Picture 12", "Untitled-1", "image (3)", "sin título"),
        spares=("image of a cat", "photo finish", "picture frame 3"),
    ),
    _rule(
        "screen_shot",
        "file_name",
        r"""(?:screen\ ?(?:shot|capture|grab)|bildschirmfoto|captura\ de\ (?:pantalla|tela)|schermata|
            capture\ d.[ée]cran)
            (?:[\s\d_.:,()/-]|at\b|um\b|at?\b|às\b|à\b|alle\b|[ap]m\b)*""",
        matches=("Screen Shot 2013-05-27 at 11.35.41 PM", "screenshot", "Bildschirmfoto 2012-01-02 um 10.11.12"),
        spares=("Screenshot of my desktop", "screen shot from the new film"),
    ),
    _rule(
        "web_address",
        "file_name",
        r"[\w-]+(?:\.[\w-]+)*\.(?:com|org|net|info|edu|gov|co\.uk|de|fr|nl|jp|ru|br|tw)(?:/\S*)?",
        matches=("en.wikipedia.org/wiki/Elsa_Beskow", "example.com", "my-blog.blogspot.com/2010/11/x.html"),
        spares=("Mt. Shasta", "Going to example.com", "St.Petersburg", "Catch.me"),
    ),
    _rule(
        "camera_default",
        "camera_boilerplate",
        # What cameras and telephones write into the description when nobody does.
        r"""\W*(?:(?:(?:canon|casio|fuji(?:film)?|hp|kodak|konica|minolta|nikon|olympus|panasonic|pentax|polaroid|ricoh|
            samsung|sanyo|sony|vivitar|my)\ )*digital\ ?(?:still\ ?)?camera|(?:front|rear|back)\ camera|camera\ phone|
            (?:sony|kodak)\ dsc|exif[\ _]jpeg[\ _]?(?:picture|t\d*|4\d\d)?|lead\ technologies\ inc\.?\ ?v?[\d.]*|
            created\ (?:with|by)\ (?:the\ )?(?:gimp|imovie|adobe\ \w+|paint\ ?shop\ ?pro|dermandar|nero)|ascii|jpeg|
            (?:camera\ ?phone\ upload|posted|upload(?:ed)?|sent(?=\ from\ my))\ (?:powered\ )?(?:by|with|via|from)
            \ (?:my\ |the\ )?[\w.!'-]+(?:\ [\w.!'-]+)?|
            processed\ with\ (?:vsco\ ?cam|[\w.]+)(?:\ with\ \w+\ preset)?|
            hp\ photosmart[\ \w]*|dcim[\\/]\S+|photo\ by\ (?:digital\ )?camera)\W*""",
        matches=(
            "OLYMPUS DIGITAL CAMERA",
            "Exif_JPEG_PICTURE",
            "- Camera phone upload powered by ShoZu",
            "Front Camera",
            "KODAK Digital Still Camera",
            "SONY DSC",
            "Uploaded by Flickrsync",
            "DCIM\\100MEDIA",
        ),
        spares=(
            "My new digital camera on the table",
            "Olympus stadium",
            "Sent by courier",
            "cameras",
        ),
    ),
    _rule(
        "camera_settings",
        "camera_boilerplate",
        # Begins with "Label:" and holds a second one of exposure.
        r"""\W*(?:camera|model|make|lens|focal\ ?length|f-?(?:number|stop)|aperture|exposure|shutter|iso|exif|date)
            [\w\ ]{0,20}[:=]
            .*\b(?:focal\ ?length|f-?(?:number|stop)|aperture|exposure|shutter|iso)[\w\ ]{0,20}[:=].*""",
        matches=(
            "Model: NIKON D300 FocalLength: 125.0 mm F-Number: F 3.5 Exposure Time: 1/1250 secs",
            "Camera: Canon EOS 5D | Lens: 50mm | ISO: 100",
        ),
        spares=("Lens: the exhibition", "Camera: a short history of photography"),
    ),
    _rule(
        "bare_settings",
        "camera_boilerplate",
        # Nothing but two or more values of exposure, with or without the camera in front.
        r"""(?:(?:canon|nikon|sony|pentax|olympus|fuji(?:film)?|leica|sigma|tamron|eos|ef(?:-s)?|af(?:-s)?|usm|is|vr)
            (?:\ (?=\S*\d)[\w-]+)?[\s,|@;/+-]+)*
            (?:(?:f\ ?/?\ ?\d+(?:\.\d+)?|\d+(?:\.\d+)?(?:-\d+)?\ ?mm|iso\ ?\d+|1/\d+(?:\ ?s(?:ec)?s?)?|
            \d+(?:\.\d+)?\ ?s(?:ec)?s?|[+-]?\d+(?:[./]\d+)?\ ?ev)(?:[\s,|@;+-]+|$)){2,}""",
        matches=(
            "Nikon D80 | 50mm f/1.8 | ISO 100 | 1/250s",
            "f/2.8, 1/60 sec, ISO 400",
            "Canon EOS 40D 18-55mm f/5.6",
        ),
        spares=("50mm", "The harbour, 50mm f/1.8", "1/2 price, 5 sec walk", "Sony Alpha 700, HDR"),
    ),
)
"""Every rule with texts it must catch and texts it must not; the unit tests run them all."""

MAY_MATCH_A_RULE = re.compile(
    # At most four tokens, or at most four words, or a beginning that one of the rules for longer texts has.
    r"""[^\ ]*+(?:\ [^\ ]*+){0,3}+\Z|(?:\W*+\w++){0,4}+\W*+\Z|[\W\d_]|[a-z]{2,8}[\ _-]?\d|f\ ?/?\ ?\d|
    (?:camera|model|make|lens|focal|f-?(?:number|stop)|aperture|exposure|shutter|iso|exif|date)[\w\ ]{0,20}[:=]|
    (?:my\ )*+(?:canon|casio|digital|eos|fuji|hp|kodak|konica|leica|minolta|nikon|olympus|panasonic|pentax|polaroid|
    ricoh|samsung|sanyo|sigma|sony|tamron|vivitar|(?:ef(?:-s)?|af(?:-s)?|usm|is|vr)[\s,|@;/+-])|
    bildschirm|camera\ ?phone|captura|capture\ d|created\ [bw]|dcim|lead\ |posted\ |processed\ w|scherm|screen|
    sent\ from|upload""",
    re.IGNORECASE | re.VERBOSE,
)
"""Every text that a rule matches begins with a match of this one, most texts do not: it saves trying all rules."""

_FORMS = (
    "jan(?:uary)? feb(?:ruary)? mar(?:ch)? apr(?:il)? may june? july? aug(?:ust)? sept?(?:ember)? oct(?:ober)? "
    "nov(?:ember)? dec(?:ember)? mon(?:day)? tue(?:s(?:day)?)? wed(?:nesday)? thu(?:rs(?:day)?)? fri(?:day)? "
    "sat(?:urday)? sun(?:day)? am pm gmt utc st nd rd th"
)
_DATE_WORD = re.compile(rf"(?<![^\W\d_])(?:{'|'.join(_FORMS.split())})(?![^\W\d_])", re.IGNORECASE)
_FULL_DATE = re.compile(r"(?<!\d)(?:19|20)\d\d(?!\d)|\d\D+\d")  # a year, or two numbers: "July 4th" is a holiday
_LETTER = re.compile(r"[^\W\d_]")


def _has_words(text: str) -> bool:
    """Whether there is a letter that is not part of a date: "80!" -> False, "12 March 2010" -> False, "May" -> True."""
    if _LETTER.search(text) is None:
        return False
    if len(text) > 60 or _FULL_DATE.search(text) is None:
        return True
    return _LETTER.search(_DATE_WORD.sub(" ", text)) is not None


def caption_fault(text: str) -> str | None:
    """Why a cleaned text is no natural-language caption, None when it may be one: "IMG_0520" -> "file_name"."""
    if not text:
        return "empty"
    if len(text) > MAX_CAPTION_CHARS:
        return "too_long"
    if not _has_words(text):
        return "no_words"
    if MAY_MATCH_A_RULE.match(text) is None:
        return None
    return next((rule.fault for rule in RULES if rule.pattern.fullmatch(text)), None)
