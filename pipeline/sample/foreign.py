"""Vocabulary for captions of the embedded sample in languages other than English.

They are there to be told from English, and to carry every kind of script through the encoding. The nouns
follow the order of `sample_subjects.CLASSNAMES`.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Language:
    """The words of one language."""

    nouns: tuple[str, ...]
    scenes: dict[str, str]
    sentences: tuple[str, ...]


def _scenes(text: str) -> dict[str, str]:
    """Phrases for the eight scenes, separated by "|", in the order of `sample_subjects.SCENES`."""
    names = ("beach", "meadow", "night", "snow", "city", "desert", "sea", "forest")
    return dict(zip(names, text.split("|"), strict=True))


def _nouns(text: str) -> tuple[str, ...]:
    return tuple(text.split("|"))


LANGUAGES: dict[str, Language] = {
    "de": Language(
        nouns=_nouns(
            "ein Segelboot|ein Haus|ein Baum|ein Auto|ein Regenschirm|eine Blume|ein Fisch|ein Schmetterling|"
            "ein Leuchtturm|ein Heißluftballon"
        ),
        scenes=_scenes("am Strand|auf der Wiese|in der Nacht|im Schnee|in der Stadt|in der Wüste|auf dem Meer|im Wald"),
        sentences=(
            "{noun} {where}.",
            "Hier sieht man, wie schön {noun} {where} aussehen kann.",
            "Gestern haben wir {where} fotografiert: {noun}, ganz in der Nähe von {place}.",
        ),
    ),
    "fr": Language(
        nouns=_nouns(
            "un voilier|une maison|un arbre|une voiture|un parapluie|une fleur|un poisson|un papillon|un phare|"
            "une montgolfière"
        ),
        scenes=_scenes(
            "sur la plage|dans le pré|pendant la nuit|dans la neige|dans la ville|dans le désert|au bord de la mer|"
            "dans la forêt"
        ),
        sentences=(
            "{noun} {where}.",
            "Voilà {noun} {where}, c'était une belle journée à {place}.",
            "J'ai photographié {noun} {where} avec mes amis.",
        ),
    ),
    "es": Language(
        nouns=_nouns(
            "un velero|una casa|un árbol|un coche|un paraguas|una flor|un pez|una mariposa|un faro|un globo aerostático"
        ),
        scenes=_scenes(
            "en la playa|en el prado|por la noche|en la nieve|en la ciudad|en el desierto|en el mar|en el bosque"
        ),
        sentences=(
            "{noun} {where}.",
            "¡Qué bonito! Hemos visto {noun} {where} cerca de {place}.",
            "Esta mañana había {noun} {where} y nadie más alrededor.",
        ),
    ),
    "it": Language(
        nouns=_nouns(
            "una barca a vela|una casa|un albero|una macchina|un ombrello|un fiore|un pesce|una farfalla|un faro|"
            "una mongolfiera"
        ),
        scenes=_scenes("sulla spiaggia|nel prato|di notte|nella neve|in città|nel deserto|sul mare|nel bosco"),
        sentences=(
            "{noun} {where}.",
            "Abbiamo visto {noun} {where}, è stata una giornata perfetta a {place}.",
            "Ecco {noun} {where}: che meraviglia!",
        ),
    ),
    "pt": Language(
        nouns=_nouns(
            "um veleiro|uma casa|uma árvore|um carro|um guarda-chuva|uma flor|um peixe|uma borboleta|um farol|"
            "um balão de ar quente"
        ),
        scenes=_scenes("na praia|no prado|à noite|na neve|na cidade|no deserto|no mar|na floresta"),
        sentences=(
            "{noun} {where}.",
            "Não há nada mais bonito do que {noun} {where}.",
            "Encontramos {noun} {where} perto de {place}, foi um dia maravilhoso.",
        ),
    ),
    "nl": Language(
        nouns=_nouns(
            "een zeilboot|een huis|een boom|een auto|een paraplu|een bloem|een vis|een vlinder|een vuurtoren|"
            "een luchtballon"
        ),
        scenes=_scenes("op het strand|in de wei|in de nacht|in de sneeuw|in de stad|in de woestijn|op zee|in het bos"),
        sentences=(
            "{noun} {where}.",
            "Gisteren zagen we {noun} {where}, niet ver van {place}.",
            "Wat is het toch mooi: {noun} {where}!",
        ),
    ),
    "sv": Language(
        nouns=_nouns(
            "en segelbåt|ett hus|ett träd|en bil|ett paraply|en blomma|en fisk|en fjäril|en fyr|en luftballong"
        ),
        scenes=_scenes("på stranden|på ängen|på natten|i snön|i staden|i öknen|på havet|i skogen"),
        sentences=("{noun} {where}.", "Igår såg vi {noun} {where} nära {place}, det var så vackert."),
    ),
    "ru": Language(
        nouns=_nouns("парусник|дом|дерево|машина|зонт|цветок|рыба|бабочка|маяк|воздушный шар"),
        scenes=_scenes("на пляже|на лугу|ночью|в снегу|в городе|в пустыне|на море|в лесу"),
        sentences=(
            "{noun} {where}.",
            "Очень красивый вид: {noun} {where}.",
            "Вчера мы гуляли и увидели: {noun} {where}.",
        ),
    ),
    "ja": Language(
        nouns=_nouns("ヨット|家|木|車|傘|花|魚|蝶|灯台|熱気球"),
        scenes=_scenes("浜辺|草原|夜|雪の中|街|砂漠|海|森"),
        sentences=(
            "{where}の{noun}",
            "{where}で{noun}を見ました。とてもきれいでした。",
            "今日の写真は{where}の{noun}です。",
        ),
    ),
    "zh": Language(
        nouns=_nouns("帆船|房子|树|汽车|雨伞|花|鱼|蝴蝶|灯塔|热气球"),
        scenes=_scenes("海滩上|草地上|夜晚|雪地里|城市里|沙漠里|海边|森林里"),
        sentences=("{where}的{noun}", "昨天我们在{where}看到了{noun}，非常漂亮。"),
    ),
}
"""Languages by their two-letter code."""
