"""Write rows like YFCC100M's (second form: 25 columns, text) and a list like OpenAI's of some of them.

Shares and lengths follow what is known of the real file: about 480 bytes a row, titles in 96 % of rows (a third of
them file names of cameras), descriptions in 27 %, two of three in English, HTML tags in 5 %, 0.3 % videos, texts
encoded as Java's URLEncoder does, keys computed from download URLs, photo ids in no order. Every text is made up from
the word lists below. The same arguments give the same bytes.

    python tests/bench/yfcc_rows.py --rows 5000000 --out rows.tsv --list list.tsv --share 0.148
"""

from __future__ import annotations

import argparse
import hashlib
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from urllib.parse import quote_plus

import numpy as np

BATCH_ROWS = 100_000
_ID_PRIME = 12_000_000_047
_ID_STEP = 7_399_153_441
"""Multiples of it modulo the prime: photo ids without order and without repetition."""
_LISTED_WITH_DESCRIPTION = 0.986
_HEX = [f"{byte:x}" for byte in range(256)]

LANGUAGES = {
    "en": (
        0.66,
        "the old|my little|our favourite|a beautiful|this lovely|another|the very last|some quiet|a huge|the new",
        "bridge|garden|harbour|cat|sunset|castle|friend's wedding|market|mountain|street|boat|house|dinner|dog|museum",
        "in London|near the river|at the beach|on our way home|after the rain|during the festival|last summer|by night",
        "was taken|looked great|is where we stayed|makes me smile|reminds me of school|can be seen from the train|won",
    ),
    "de": (
        0.06,
        "das alte|unser kleines|ein schönes|mein liebstes|dieses große|noch ein|das letzte",
        "Haus|Schloss|Dorf|Mädchen|Boot|Frühstück|Wetter|Gebäude|Fest|Straßenschild",
        "in München|am Fluss|bei Nacht|nach dem Regen|im Sommer|auf dem Weg nach Köln|während der Führung",
        "hat uns sehr gefallen|wurde früher gebaut|ist nicht mehr da|gehört meiner Großmutter",
    ),
    "fr": (
        0.06,
        "le vieux|notre petit|un très beau|mon premier|ce grand|encore un",
        "château|marché|jardin|chat|pont|coucher de soleil|bateau|musée|déjeuner|chemin",
        "à Paris|près de la rivière|pendant l'été|après la pluie|au bord de la mer|chez mes parents",
        "était magnifique|se trouve dans la vieille ville|nous a beaucoup plu|n'existe plus aujourd'hui",
    ),
    "es": (
        0.07,
        "el viejo|nuestro pequeño|un hermoso|mi primer|este gran|otro",
        "castillo|mercado|jardín|gato|puente|atardecer|barco|museo|camino|niño",
        "en Sevilla|cerca del río|durante el verano|después de la lluvia|por la noche|al lado del mar",
        "nos gustó muchísimo|fue construido hace años|ya no existe|es el mejor que he visto",
    ),
    "it": (
        0.04,
        "il vecchio|un piccolo|questo bellissimo|il mio primo|un altro",
        "castello|mercato|giardino|gatto|ponte|tramonto|museo|cammino|bambino",
        "a Roma|vicino al fiume|durante l'estate|dopo la pioggia|di notte|in città",
        "era davvero magnifico|non c'è più|ci è piaciuto molto|si vede dalla finestra",
    ),
    "pt": (
        0.04,
        "o velho|um pequeno|este lindo|o meu primeiro|mais um",
        "castelo|mercado|jardim|gato|barco|pôr do sol|museu|caminho|coração",
        "em Lisboa|perto do rio|no verão|depois da chuva|à noite|em São Paulo",
        "foi construído há muitos anos|já não existe|é o mais bonito que vi",
    ),
    "ru": (
        0.02,
        "старый|наш маленький|красивый|мой первый",
        "мост|дом|сад|кот|закат|музей|город|берег",
        "в Москве|у реки|летом|после дождя|ночью",
        "нам очень понравился|построен давно|уже не существует",
    ),
    "ja": (
        0.03,
        "古い|小さな|美しい|私の",
        "橋|庭|猫|夕焼け|お寺|桜|港",
        "東京で|川の近く|夏に|雨の後|夜の京都",
        "とても綺麗でした|もうありません|が好きです",
    ),
    "zh": (
        0.02,
        "古老的|我们的|美丽的",
        "桥|花园|猫|日落|寺庙|海港",
        "在北京|河边|夏天|雨后",
        "非常漂亮|已经不在了|我很喜欢",
    ),
}
DEVICES = "Canon EOS 5D|Canon PowerShot SD450|NIKON D90|SONY DSC-H9|Panasonic DMC-ZS10|Apple iPhone 4|OLYMPUS E-410"
LICENSES = (
    ("Attribution License", "by"),
    ("Attribution-ShareAlike License", "by-sa"),
    ("Attribution-NoDerivs License", "by-nd"),
    ("Attribution-NonCommercial License", "by-nc"),
    ("Attribution-NonCommercial-ShareAlike License", "by-nc-sa"),
    ("Attribution-NonCommercial-NoDerivs License", "by-nc-nd"),
)


def encoded(text: str) -> str:
    """As Java's URLEncoder: "1+1 ~ é" -> "1%2B1+%7E+%C3%A9"."""
    return quote_plus(text, safe="*").replace("~", "%7E")


def bucket_key(url: str) -> str:
    """md5 of the download URL, each byte printed without its leading zero."""
    return "".join([_HEX[byte] for byte in hashlib.md5(url.encode()).digest()])


class Pools:
    """Fields to recombine, encoded; those of one language lie together."""

    def __init__(self, rng: np.random.Generator, size: int) -> None:
        self._rng = rng
        shares = np.array([language[0] for language in LANGUAGES.values()])
        self.shares = shares / shares.sum()
        per_language = np.maximum(500, size * self.shares).astype(int)
        self.sizes = per_language
        self.starts = np.concatenate(([0], np.cumsum(per_language)[:-1]))
        names = list(LANGUAGES)
        self.titles = self._of_each(names, self._title)
        self.descriptions = self._of_each(names, self._description)
        self.file_names = [self._file_name() for _ in range(50_000)]
        self.tags = [self._tags() for _ in range(50_000)]
        self.users = [self._user() for _ in range(20_000)]
        self.dates = [self._date() for _ in range(50_000)]
        self.places = ["\t\t"] * 600 + [
            f"{self._rng.uniform(-180, 180):.6f}\t{self._rng.uniform(-60, 70):.6f}\t{self._rng.integers(10, 17)}"
            for _ in range(400)
        ]
        self.devices = [encoded(name) for name in DEVICES.split("|")] + ["", ""]
        self.licenses = [f"{name}\thttp://creativecommons.org/licenses/{path}/2.0/" for name, path in LICENSES]

    def _pick(self, words: str) -> str:
        options = words.split("|")
        return options[int(self._rng.integers(len(options)))]

    def _of_each(self, names: Sequence[str], make: Callable[[str], str]) -> list[str]:
        return [make(name) for name, count in zip(names, self.sizes, strict=True) for _ in range(count)]

    def _title(self, name: str) -> str:
        _, which, thing, where, _ = LANGUAGES[name]
        words = [self._pick(thing)]
        if self._rng.random() < 0.6:
            words.insert(0, self._pick(which))
        if self._rng.random() < 0.4:
            words.append(self._pick(where))
        if self._rng.random() < 0.2:
            words.append(f"({self._rng.integers(1, 60)})")
        text = " ".join(words)
        return encoded(text[0].upper() + text[1:])

    def _description(self, name: str) -> str:
        _, which, thing, where, does = LANGUAGES[name]
        sentences = []
        for _ in range(max(1, int(self._rng.lognormal(0.8, 0.85)))):
            text = " ".join(map(self._pick, (which, thing, where, does)))
            sentences.append(f"{text[0].upper()}{text[1:]}{self._pick('.|.|!|, 2008.| & more...|')}")
        text = self._pick(" | |\n|\n\n").join(sentences)
        if self._rng.random() < 0.18:
            link = f'<a href="http://www.flickr.com/photos/x/{self._rng.integers(10**9)}/" rel="nofollow">here</a>'
            text += self._pick(f" See {link}|\n\n<b>Large</b>| <i>(explored)</i>|\n{link}")
        return encoded(text)

    def _file_name(self) -> str:
        number = int(self._rng.integers(1, 9999))
        return encoded(
            self._pick(f"IMG_{number:04d}|DSC_{number:04d}|DSC0{number:04d}|P10{number:05d}|{number}|DSCN{number:04d}")
        )

    def _tags(self) -> str:
        words = " ".join(LANGUAGES["en"][1:4]).replace("'", "").replace(" ", "").split("|")
        count = min(int(self._rng.geometric(0.22)) - 1, 20)
        return ",".join(encoded(words[index]) for index in self._rng.integers(len(words), size=count))

    def _user(self) -> str:
        word = self._pick(LANGUAGES["en"][2]).replace("'", "")
        number = int(self._rng.integers(10**7, 10**8))
        return f"{number}@N0{number % 9}\t{encoded(f'{word} {number % 1000}')}"

    def _date(self) -> str:
        taken = np.datetime64("2004-01-01T00:00:00") + int(self._rng.integers(10 * 365 * 86400))
        uploaded = int(taken.astype(np.int64)) + int(self._rng.integers(10**7))
        return f"{str(taken).replace('T', ' ')}.0\t{uploaded}"


def write_rows(out: Path, listing: Path | None, *, rows: int, share: float, seed: int, pool: int = 120_000) -> None:
    """Write the rows, and, with `listing`, the list."""
    rng = np.random.default_rng(seed)
    pools = Pools(rng, pool)
    listed_file = listing.open("w", encoding="ascii", newline="\n") if listing else None
    try:
        with out.open("w", encoding="ascii", newline="\n") as file:
            for first in range(0, rows, BATCH_ROWS):
                lines, listed = _batch(rng, pools, first, min(BATCH_ROWS, rows - first), share)
                file.write("".join(lines))
                if listed_file is not None:
                    listed_file.write("".join(listed))
    finally:
        if listed_file is not None:
            listed_file.close()


def _batch(rng: np.random.Generator, pools: Pools, first: int, count: int, share: float) -> tuple[list[str], list[str]]:
    def draw(options: Sequence[str]) -> list[str]:
        return [options[index] for index in rng.integers(len(options), size=count).tolist()]

    language = rng.choice(len(pools.shares), size=count, p=pools.shares)

    def of_language(options: Sequence[str], is_there: np.ndarray) -> list[str]:
        index = pools.starts[language] + rng.integers(1 << 40, size=count) % pools.sizes[language]
        return [options[at] if there else "" for at, there in zip(index.tolist(), is_there.tolist(), strict=True)]

    kind = rng.random(count)
    titles = of_language(pools.titles, kind < 0.64)
    is_file_name = ((kind >= 0.64) & (kind < 0.96)).tolist()
    titles = [
        name if junk else title for name, junk, title in zip(draw(pools.file_names), is_file_name, titles, strict=True)
    ]
    is_described = rng.random(count) < 0.27
    descriptions = of_language(pools.descriptions, is_described)
    likely = is_described & (language == 0)
    chance = np.where(
        likely,
        share * _LISTED_WITH_DESCRIPTION / (0.27 * pools.shares[0]),
        share * (1 - _LISTED_WITH_DESCRIPTION) / (1 - 0.27 * pools.shares[0]),
    )
    is_listed = (rng.random(count) < chance).tolist()
    ids = (
        10_000 + (np.arange(first, first + count, dtype=np.uint64) * np.uint64(_ID_STEP)) % np.uint64(_ID_PRIME)
    ).tolist()
    secrets = [f"{secret:010x}" for secret in rng.integers(1 << 40, size=count).tolist()]
    servers = rng.integers(1, 9999, size=count).tolist()
    markers = (rng.random(count) < 0.003).astype(int).tolist()
    columns = zip(
        ids,
        draw(pools.users),
        draw(pools.dates),
        draw(pools.devices),
        titles,
        descriptions,
        draw(pools.tags),
        draw(pools.places),
        draw(pools.licenses),
        servers,
        secrets,
        markers,
        is_listed,
        strict=True,
    )
    lines, listed = [], []
    for line, (
        photo,
        user,
        date,
        device,
        title,
        description,
        tags,
        place,
        license_,
        server,
        secret,
        marker,
        take,
    ) in enumerate(columns, first):
        farm = server % 9 + 1
        url = f"http://farm{farm}.staticflickr.com/{server}/{photo}_{secret}.jpg"
        key = bucket_key(url)
        page = f"http://www.flickr.com/photos/{user.partition(chr(9))[0]}/{photo}/"
        lines.append(
            f"{line}\t{photo}\t{key}\t{user}\t{date}\t{device}\t{title}\t{description}\t{tags}\t\t{place}\t{page}\t{url}\t"
            f"{license_}\t{server}\t{farm}\t{secret}\t{secret[::-1]}\tjpg\t{marker}\n"
        )
        if take:
            listed.append(f"{line}\t{photo}\t{key}\n")
    return lines, listed


def main() -> None:
    """Read the arguments and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rows", type=int, default=5_000_000)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--list", type=Path, help="write OpenAI's kind of list here")
    parser.add_argument("--share", type=float, default=0.148, help="of the rows, in the list")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    started = time.perf_counter()
    write_rows(arguments.out, arguments.list, rows=arguments.rows, share=arguments.share, seed=arguments.seed)
    size = arguments.out.stat().st_size
    elapsed_s = time.perf_counter() - started
    print(f"{arguments.rows:,} rows, {size:,} bytes, {size / arguments.rows:.0f} a row, {elapsed_s:.0f} s")


if __name__ == "__main__":
    main()
