"""Writes the embedded sample's metadata: rows in YFCC100M's exact v2 encoding, and OpenAI's list for them.

What a row looks like was taken from the real file: 25 tab-separated columns, text encoded as Java's URLEncoder
does it, tags separated by bare commas, the key an MD5 whose bytes are printed without leading zeros. Pure: a
seed in, rows out; nothing is drawn or written here.
"""

from __future__ import annotations

import hashlib
import random
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from urllib.parse import quote_plus

from pipeline.sample import captions as sample_captions
from pipeline.sample.foreign import LANGUAGES
from pipeline.sample.subjects import Subject, draw_subject

VERSION = 1
"""Part of every seed: raised when a change alters the sample's bytes, so that no old half-made folder is completed."""
MAX_ROWS = 100_000

_LICENSES = (
    ("Attribution License", "by"),
    ("Attribution-NoDerivs License", "by-nd"),
    ("Attribution-NonCommercial License", "by-nc"),
    ("Attribution-NonCommercial-NoDerivs License", "by-nc-nd"),
    ("Attribution-NonCommercial-ShareAlike License", "by-nc-sa"),
    ("Attribution-ShareAlike License", "by-sa"),
)
_LICENSE_WEIGHTS = (91, 33, 73, 122, 135, 46)  # how often they occur in 500 real rows
_CAMERAS = (
    "NIKON CORPORATION NIKON D90", "Canon EOS 5D Mark II", "Canon EOS DIGITAL REBEL XT", "NIKON CORPORATION NIKON D80",
    "Canon EOS 40D", "Panasonic DMC-LX3", "Apple iPhone 4", "PENTAX Corporation PENTAX K10D", "Canon PowerShot A540",
    "SONY DSC-W55", "OLYMPUS IMAGING CORP. E-410", "FUJIFILM FinePix S5600",
)  # fmt: skip
_NICKNAMES = (
    "nino", "sarah bee", "söhne2013", "蔡利", "Lou's Shoes", "travel+light", "e.phelt", "Miriam J*", "aperture_lag",
    "José", "booledozer", "j&k green", "angela~l", "Ирина",
)  # fmt: skip
_FIRST_UPLOAD = datetime(2005, 3, 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Photo:
    """A picture file of the small Flickr."""

    name: str
    """File name, which is also the last part of the download URL."""
    subject: Subject
    seed: str
    """Two photographs with the same seed and camera are the same file under two ids."""
    camera: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One row of the metadata and what the sample knows about it."""

    columns: tuple[str, ...]
    """The 25 columns, encoded."""
    listed: bool
    """OpenAI's list names the row."""
    photo: Photo | None
    """None for videos."""

    @property
    def line(self) -> str:
        """The row as it stands in the metadata file, without the newline."""
        return "\t".join(self.columns)

    @property
    def list_line(self) -> str:
        """The row as it stands in the list."""
        return "\t".join(self.columns[:3])


def encode_text(text: str) -> str:
    """Encode like Java's URLEncoder: encode_text("2 + 2 ~ *") -> "2+%2B+2+%7E+*"."""
    return quote_plus(text, safe="*").replace("~", "%7E")


def key_of(download_url: str) -> str:
    """YFCC100M's key: the MD5 of the URL, each byte printed with %x, so without its leading zero."""
    return "".join(f"{byte:x}" for byte in hashlib.md5(download_url.encode()).digest())


def _texts(subject: Subject, rng: random.Random, *, user: str, camera: str) -> tuple[str, str, bool]:
    """Title, description, and whether OpenAI's list has the row: it mostly has those with an English description."""
    language = rng.choice(tuple(LANGUAGES))

    def title(english: float, junk: float) -> str:
        kind = rng.random()
        if kind < english:
            return sample_captions.english_title(subject, rng)
        if kind < english + junk:
            return sample_captions.file_name(rng)
        return "" if kind < (1 + english + junk) / 2 else sample_captions.foreign_text(subject, rng, language)

    kind, listing = rng.random(), rng.random()
    if kind < 0.735:
        description = sample_captions.english_description(subject, rng, user=user)
        return title(0.70, 0.20), description, listing < 0.985
    if kind < 0.835:
        description = sample_captions.foreign_text(subject, rng, language)
        foreign_title = sample_captions.foreign_text(subject, rng, language)
        return foreign_title if rng.random() < 0.6 else title(0.2, 0.6), description, listing < 0.02
    if kind < 0.925:
        return title(0.5, 0.4), "", listing < 0.04
    if kind < 0.97:
        return title(0.4, 0.5), sample_captions.boilerplate(rng, camera=camera), listing < 0.08
    return "", "" if rng.random() < 0.7 else "<br /> ", listing < 0.04


def _user(number: int, seed: int) -> tuple[str, str, str]:
    """NSID, nickname and usual camera of one of the sample's photographers."""
    rng = random.Random(f"{VERSION}/{seed}/user/{number}")
    nickname = rng.choice(_NICKNAMES) + rng.choice(("", "", str(rng.randint(1, 99))))
    return f"{rng.randint(1_000_000, 99_999_999)}@N{rng.randint(0, 8):02d}", nickname, rng.choice((*_CAMERAS, "", ""))


def _columns(
    number: int,
    rng: random.Random,
    subject: Subject,
    *,
    user: tuple[str, str, str],
    texts: tuple[str, str],
    video: bool,
) -> tuple[str, ...]:
    nsid, nickname, camera = user
    uploaded = _FIRST_UPLOAD + timedelta(seconds=rng.randrange(9 * 365 * 86_400))
    taken = uploaded - timedelta(seconds=rng.randrange(60, 60 * 86_400))
    # Ids grow with time, roughly as Flickr's did; the last five digits make them unique: 61543 and 100000 share no
    # factor.
    share = (uploaded - _FIRST_UPLOAD) / timedelta(days=9 * 365)
    photo_id = str((5_000_000 + int(1.3e10 * share**1.6)) // MAX_ROWS * MAX_ROWS + number * 61_543 % MAX_ROWS)
    secret, original = (f"{rng.getrandbits(40):010x}" for _ in range(2))
    farm, server = (
        str(1 + int(share * 8.999)),
        str(rng.randint(1000 * int(share * 8) + 20, 1000 * int(share * 8) + 999)),
    )
    download = f"http://farm{farm}.staticflickr.com/{server}/{photo_id}_{secret}.jpg"
    if video:
        download = f"http://www.flickr.com/videos/{nsid}/{photo_id}/play/orig/{original}"
    longitude = latitude = accuracy = ""
    if rng.random() < 0.4:
        longitude, latitude = f"{rng.uniform(-179, 179):.6f}", f"{rng.uniform(-60, 70):.6f}"
        accuracy = str(rng.randint(9, 16))
    license_name, code = rng.choices(_LICENSES, weights=_LICENSE_WEIGHTS)[0]
    tags = ",".join(encode_text(tag) for tag in sample_captions.tags(subject, rng))
    machine_tags = encode_text("uploaded:by=instagram") if rng.random() < 0.03 else ""
    return (
        *(str(number), photo_id, key_of(download), nsid, encode_text(nickname)),
        *(f"{taken:%Y-%m-%d %H:%M:%S}.0", str(int((uploaded - datetime(1970, 1, 1)).total_seconds()))),
        *(encode_text(camera), encode_text(texts[0]), encode_text(texts[1]), tags, machine_tags),
        *(longitude, latitude, accuracy, f"http://www.flickr.com/photos/{nsid}/{photo_id}/", download),
        *(license_name, f"http://creativecommons.org/licenses/{code}/2.0/", server, farm, secret, original),
        *(rng.choice(("avi", "mov", "mpg")) if video else "png" if rng.random() < 0.05 else "jpg", str(int(video))),
    )


def _new_row(number: int, seed: int, *, video: bool, copied: Photo | None) -> Row:
    """A row that is nobody's duplicate; with `copied` it shows another photograph's picture."""
    key = f"{VERSION}/{seed}/row/{number}"
    rng = random.Random(key)
    user = _user(rng.randrange(400), seed)
    subject = copied.subject if copied else draw_subject(rng)
    title, description, listed = _texts(subject, rng, user=user[0], camera=user[2])
    columns = _columns(number, rng, subject, user=user, texts=(title, description), video=video)
    if video:
        return Row(columns=columns, listed=False, photo=None)
    name = columns[16].rpartition("/")[2]
    if copied:
        return Row(columns=columns, listed=listed, photo=replace(copied, name=name))
    return Row(columns=columns, listed=listed, photo=Photo(name=name, subject=subject, seed=key, camera=user[2]))


def make_rows(num_rows: int, *, seed: int) -> list[Row]:
    """The rows of the sample, in the order of the metadata file.

    About 1 % repeat an earlier row under a new line number, 1 % are videos and 1 % show the picture of an
    earlier photograph; some 70 % are in the list.
    """
    if not 1 <= num_rows <= MAX_ROWS:
        raise ValueError(f"num_rows is {num_rows}; the sample has 1 to {MAX_ROWS} rows")
    rows: list[Row] = []
    for number in range(num_rows):
        rng = random.Random(f"{VERSION}/{seed}/kind/{number}")
        kind = rng.random()
        earlier = rows[rng.randrange(number)] if number else None
        if kind < 0.01 and earlier is not None:
            rows.append(replace(earlier, columns=(str(number), *earlier.columns[1:])))
        else:
            copied = earlier.photo if 0.02 <= kind < 0.03 and earlier is not None else None
            rows.append(_new_row(number, seed, video=0.01 <= kind < 0.02, copied=copied))
    return rows


def fates(rows: list[Row]) -> dict[str, str]:
    """What the server does with some of the listed photographs: file name -> "dead", "placeholder" or "truncated".

    3 % are dead, 1 % are answered with the placeholder, 0.5 % break off; counted off rather than drawn, so that a
    sample of a hundred rows has all three.
    """
    result: dict[str, str] = {}
    listed = dict.fromkeys(row.photo.name for row in rows if row.listed and row.photo is not None)
    for position, name in enumerate(listed):
        if position % 33 == 7:
            result[name] = "dead"
        elif position % 100 == 13:
            result[name] = "placeholder"
        elif position % 200 == 21:
            result[name] = "truncated"
    return result
