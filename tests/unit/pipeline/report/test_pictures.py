from __future__ import annotations

import re
from collections import Counter

from pipeline.report.facts import Pictures
from pipeline.report.pictures import licenses_section, pictures_section


def pictures(sizes: dict[tuple[int, int], int], classes: dict[tuple[int, int], int]) -> Pictures:
    return Pictures(
        shorter_side=Counter({min(size): count for size, count in sizes.items()}),
        kilobytes=Counter({120: 1}),
        size_classes=Counter(classes),
        common_sizes=Counter(sizes),
        shapes=Counter(landscape=75, portrait=25),
        aspects=Counter({100: 1, 133: 2, 180: 1, 300: 4}),
        years=Counter({"2008": 3, "": 1}),
    )


def test_the_common_sizes_are_labelled_and_drawn_largest_first() -> None:
    page = pictures_section(pictures({(500, 375): 75, (375, 500): 25}, {(72, 68): 75, (68, 72): 25}))
    assert "75.0 % are wider than high, 25.0 % higher than wide, 0 % square" in page
    assert "The most common size is 500 × 375 (75.0 %)" in page
    radii = [float(radius) for radius in re.findall(r'<circle [^>]*r="([\d.]+)"', page)]
    assert radii == [24.0, 13.9]
    assert page.count("<text class=big") == 2
    centres = re.findall(r'<circle cx="([\d.]+)" cy="([\d.]+)"', page)
    assert float(centres[0][0]) > float(centres[1][0])
    assert float(centres[0][1]) > float(centres[1][1])  # downwards on the page: less high


def test_one_panorama_does_not_shrink_the_drawing() -> None:
    usual = pictures_section(pictures({(500, 375): 100_000}, {(72, 68): 100_000}))
    odd = pictures_section(pictures({(500, 375): 100_000, (9000, 20): 1}, {(72, 68): 100_000, (105, 35): 1}))
    assert re.findall(r"<circle [^>]*>", odd) == re.findall(r"<circle [^>]*>", usual)


def test_aspects_fall_into_tenths() -> None:
    page = pictures_section(pictures({(500, 375): 8}, {(72, 68): 8}))
    rows = dict(re.findall(r"<tr><th scope=row>([\d.> ]+|&gt; 2)</th><td>(\d+)</td>", page))
    assert (rows["1.0"], rows["1.3"], rows["1.8"], rows["&gt; 2"], rows["1.1"]) == ("1", "2", "1", "4", "0")


def test_licences_say_what_they_demand_and_the_rarest_are_summed_up() -> None:
    known = ("Attribution-NoDerivs License", "http://creativecommons.org/licenses/by-nd/2.0/")
    counts = Counter({known: 1000, ("", ""): 500} | {(f"own {i}", ""): 1 for i in range(30)})
    page = licenses_section(counts)
    assert "<span>no altered versions</span>" in page
    assert "not stated" in page
    assert "see its text" in page
    assert re.search(r"other licences</span><span class=num><b>12</b>", page)
