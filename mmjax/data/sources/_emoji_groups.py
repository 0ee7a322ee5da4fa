"""Which of Unicode's groups and subgroups an emoji is in, called by words that a text tower can read.

After Unicode's emoji-test.txt (version 15.0; the newer emoji by hand), from which `TABLE` lists the first code points of each
subgroup. Unicode's names are made for sorting ("face-neutral-skeptical", "av-symbol"); these are made for captions.
"""

from __future__ import annotations

TABLE = {
    "face or emotion": {
        "smiling face": "1F600-1F607 1F609-1F60A 1F642-1F643 1F923 1FAE0",
        "loving face": "263A 1F60D 1F617-1F61A 1F929 1F970 1F972",
        "face with tongue": "1F60B 1F61B-1F61D 1F911 1F92A",
        "face with hand": "1F914 1F917 1F92B 1F92D 1FAE1-1FAE3",
        "neutral or skeptical face": "1F60F-1F612 1F62C 1F636 1F644 1F910 1F925 1F928 1FAE5 1FAE8",
        "sleepy face": "1F60C 1F614 1F62A 1F634 1F924 1FAE9",
        "unwell face": "1F635 1F637 1F912 1F915 1F922 1F927 1F92E-1F92F 1F974-1F976",
        "face with hat": "1F920 1F973 1F978",
        "face with glasses": "1F60E 1F913 1F9D0",
        "concerned face": (
            "2639 1F613 1F615-1F616 1F61E-1F61F 1F622-1F623 1F625-1F629 1F62B 1F62D-1F633 1F641 1F971 1F979-1F97A 1FAE4 1FAEA"
        ),
        "angry face": "2620 1F47F-1F480 1F608 1F620-1F621 1F624 1F92C",
        "costume face": "1F479-1F47B 1F47D-1F47E 1F4A9 1F916 1F921",
        "cat face": "1F638-1F640",
        "monkey face": "1F648-1F64A",
        "heart": "2763-2764 1F48C 1F493-1F49F 1F5A4 1F90D-1F90E 1F9E1 1FA75-1FA77",
        "sign of emotion": "1F48B 1F4A2 1F4A4-1F4A6 1F4A8 1F4AB-1F4AD 1F4AF 1F573 1F5E8-1F5EF 1FAEF",
    },
    "person or body part": {
        "open hand": "270B 1F44B 1F590 1F596 1F91A 1FAF1-1FAF4 1FAF7-1FAF8",
        "hand with some fingers": "270C 1F44C 1F90C 1F90F 1F918-1F919 1F91E-1F91F 1FAF0",
        "pointing finger": "261D 1F446-1F449 1F595 1FAF5",
        "closed hand": "270A 1F44A 1F44D-1F44E 1F91B-1F91C",
        "two hands": "1F44F-1F450 1F64C 1F64F 1F91D 1F932 1FAF6",
        "hand with a thing": "270D 1F485 1F933",
        "body part": "1F440-1F445 1F4AA 1F9B4-1F9B7 1F9BB 1F9BE-1F9BF 1F9E0 1FAC0-1FAC1 1FAC6 1FAE6",
        "person": "1F466-1F469 1F471 1F474-1F476 1F9D1-1F9D4",
        "gesturing person": "1F481 1F645-1F647 1F64B 1F64D-1F64E 1F926 1F937 1F9CF",
        "person at work": "1F46E 1F470 1F472-1F473 1F477-1F478 1F482 1F575 1F930-1F931 1F934-1F935 1F977 1F9D5 1FAC3-1FAC5",
        "fantasy being": "1F385 1F47C 1F936 1F9B8-1F9B9 1F9CC 1F9D9-1F9DF 1FAC8",
        "active person": "1F3C3 1F46F 1F483 1F486-1F487 1F574 1F57A 1F6B6 1F9CD-1F9CE 1F9D6-1F9D7",
        "person doing sport": "26F7 26F9 1F3C2 1F3C4 1F3C7 1F3CA-1F3CC 1F6A3 1F6B4-1F6B5 1F938-1F93E",
        "resting person": "1F6C0 1F6CC 1F9D8",
        "family or couple": "1F46A-1F46D 1F48F 1F491",
        "symbol of people": "1F463-1F465 1F5E3 1FAC2",
        "skin tone": "1F3FB-1F3FF",
        "hair style": "1F9B0-1F9B3",
    },
    "animal or plant": {
        "mammal": (
            "1F400-1F408 1F40E-1F412 1F415-1F418 1F428-1F42B 1F42D-1F431 1F434-1F437 1F439-1F43F 1F981 1F984 1F987 1F98A "
            "1F98C-1F98D 1F98F 1F992-1F994 1F998-1F999 1F99B 1F99D 1F9A1 1F9A3 1F9A5-1F9A8 1F9AB-1F9AC 1F9AE 1FACE-1FACF"
        ),
        "bird": "1F413-1F414 1F423-1F427 1F54A 1F983 1F985-1F986 1F989 1F99A 1F99C 1F9A2 1F9A4 1F9A9 1FAB6 1FABD 1FABF",
        "amphibian": "1F438",
        "reptile": "1F409-1F40A 1F40D 1F422 1F432 1F98E 1F995-1F996",
        "sea animal": "1F40B 1F419-1F41A 1F41F-1F421 1F42C 1F433 1F988 1F9AD 1FAB8 1FABC 1FACD",
        "bug": "1F40C 1F41B-1F41E 1F577-1F578 1F982 1F98B 1F997 1F99F-1F9A0 1FAB0-1FAB3",
        "flower": "1F337-1F33C 1F3F5 1F490 1F4AE 1F940 1FAB7 1FABB",
        "plant": "2618 1F331-1F335 1F33E-1F344 1FAB4 1FAB9-1FABA 1FABE",
    },
    "food or drink": {
        "fruit": "1F345 1F347-1F353 1F95D 1F965 1F96D 1FAD0 1FAD2",
        "vegetable": "1F330 1F336 1F33D 1F346 1F951-1F952 1F954-1F955 1F95C 1F966 1F96C 1F9C4-1F9C5 1FAD1 1FAD8 1FADA-1FADC",
        "dish": (
            "1F32D-1F32F 1F354-1F357 1F35E-1F35F 1F372-1F373 1F37F 1F950 1F953 1F956-1F95A 1F95E 1F963 1F968-1F96B 1F96F 1F9C0 "
            "1F9C2 1F9C6-1F9C8 1FAD3-1FAD5"
        ),
        "asian food": "1F358-1F35D 1F360-1F365 1F371 1F95F-1F961 1F96E",
        "seafood": "1F980 1F990-1F991 1F99E 1F9AA",
        "sweet food": "1F366-1F370 1F382 1F967 1F9C1",
        "drink": "2615 1F375-1F37C 1F37E 1F942-1F943 1F95B 1F964 1F9C3 1F9C9-1F9CB 1FAD6-1FAD7",
        "dishware": "1F374 1F37D 1F3FA 1F52A 1F944 1F962 1FAD9",
    },
    "place or vehicle": {
        "map": "1F30D-1F310 1F5FA 1F5FE 1F9ED",
        "landscape": "26F0 1F30B 1F3D4-1F3D6 1F3DC-1F3DE 1F5FB 1F6D8",
        "building": "1F3D7-1F3D8 1F3DA-1F3DB 1F3DF-1F3E6 1F3E8-1F3ED 1F3EF-1F3F0 1F492 1F5FC-1F5FD 1F6D6 1F9F1 1FAA8 1FAB5",
        "religious building": "26E9-26EA 1F54B-1F54D 1F6D5",
        "place": "2668 26F2 26FA 1F301 1F303-1F307 1F309 1F3A0-1F3A2 1F3AA 1F3D9 1F488 1F6DD",
        "land vehicle": "26FD 1F3CD-1F3CE 1F682-1F69E 1F6A5-1F6A8 1F6B2 1F6D1 1F6DE 1F6E2-1F6E4 1F6F4-1F6F5 1F6F9-1F6FC 1F9BC-1F9BD",
        "boat": "2693 26F4-26F5 1F6A2 1F6A4 1F6DF 1F6E5 1F6F3 1F6F6",
        "aircraft": "2708 1F4BA 1F680-1F681 1F69F-1F6A1 1F6E9-1F6F0 1F6F8 1FA82",
        "hotel": "1F6CE 1F9F3",
        "time": "231A-231B 23F0-23F3 1F550-1F567 1F570",
        "sky or weather": "2600-2604 2614 26A1 26C4-26C8 26F1 2744 2B50 1F300 1F302 1F308 1F30A 1F30C 1F311-1F32C 1F4A7 1F525 1FA90",
    },
    "activity": {
        "celebration": "2728 1F380-1F381 1F383-1F384 1F386-1F38B 1F38D-1F391 1F397 1F39F 1F3AB 1F9E7-1F9E8",
        "medal or award": "1F396 1F3C5-1F3C6 1F947-1F949",
        "sport": "26BD-26BE 26F3 26F8 1F3A3 1F3B3 1F3BD-1F3C0 1F3C8-1F3C9 1F3CF-1F3D3 1F3F8 1F6F7 1F93F 1F945 1F94A-1F94F",
        "game": "265F-2666 1F004-1F0CF 1F3AE-1F3B2 1F3B4 1F52B 1F52E 1F579 1F9E9 1F9F8 1FA80-1FA81 1FA84-1FA86 1FAA9",
        "arts and crafts": "1F3A8 1F3AD 1F5BC 1F9F5-1F9F6 1FAA1-1FAA2",
    },
    "object": {
        "clothing": (
            "26D1 1F392-1F393 1F3A9 1F451-1F462 1F484 1F48D-1F48E 1F4FF 1F576 1F6CD 1F97B-1F97F 1F9BA 1F9E2-1F9E6 1FA70-1FA74 1FA96 "
            "1FAAD-1FAAE"
        ),
        "sound": "1F4E2-1F4E3 1F4EF 1F507-1F50A 1F514-1F515",
        "music": "1F399-1F39B 1F3A4 1F3A7 1F3B5-1F3B6 1F3BC 1F4FB",
        "musical instrument": "1F3B7-1F3BB 1F941 1FA87-1FA8A 1FA95 1FA97-1FA98",
        "phone": "260E 1F4DE-1F4E0 1F4F1-1F4F2",
        "computer": "2328 1F4BB 1F4BD-1F4C0 1F50B-1F50C 1F5A5-1F5B2 1F9EE 1FAAB",
        "light or camera": "1F39E 1F3A5 1F3AC 1F3EE 1F4A1 1F4F7-1F4FA 1F4FC-1F4FD 1F50D-1F50E 1F526 1F56F 1FA94",
        "book or paper": "1F3F7 1F4C3-1F4C4 1F4D1-1F4DA 1F4DC 1F4F0 1F516 1F5DE",
        "money": "1F4B0 1F4B3-1F4B9 1F9FE 1FA99",
        "mail": "2709 1F4E4-1F4EE 1F5F3",
        "writing": "270F-2712 1F4DD 1F58A-1F58D",
        "office": "2702 1F4BC 1F4C1-1F4C2 1F4C5-1F4D0 1F587 1F5C2-1F5D3",
        "lock or key": "1F50F-1F513 1F5DD",
        "tool": (
            "2692 2694 2696 2699 26CF 26D3 1F3F9 1F4A3 1F517 1F527-1F529 1F5DC 1F5E1 1F6E0-1F6E1 1F9AF 1F9F0 1F9F2 1FA83 1FA8F "
            "1FA93 1FA9A-1FA9D"
        ),
        "science": "2697 1F4E1 1F52C-1F52D 1F9EA-1F9EC",
        "medicine": "1F489-1F48A 1FA78-1FA7C",
        "household": (
            "1F6AA 1F6BD 1F6BF 1F6C1 1F6CB 1F6CF 1F6D2 1F6D7 1F9EF 1F9F4 1F9F7 1F9F9-1F9FD 1FA91-1FA92 1FA9E-1FAA0 1FAA3-1FAA5 1FAE7"
        ),
        "other object": "26B0-26B1 1F5FF 1F6AC 1F9FF 1FA8E 1FAA6-1FAA7 1FAAA 1FAAC",
    },
    "symbol": {
        "transport sign": "267F 1F3E7 1F6AE 1F6B0 1F6B9-1F6BC 1F6BE 1F6C2-1F6C5",
        "warning": "2622-2623 26A0 26D4 1F4F5 1F51E 1F6AB 1F6AD 1F6AF 1F6B1 1F6B3 1F6B7-1F6B8",
        "arrow": "2194-21AA 27A1 2934-2B07 1F503-1F504 1F519-1F51D",
        "religious symbol": "2626-2638 269B 271D-2721 1F52F 1F549 1F54E 1F6D0 1FAAF",
        "zodiac sign": "2648-2653 26CE",
        "player button": "23CF-23EF 23F8-23FA 25B6-25C0 1F3A6 1F4F3-1F4F4 1F4F6 1F500-1F502 1F505-1F506 1F53C-1F53D 1F6DC",
        "gender sign": "2640-2642 26A7",
        "mathematical sign": "267E 2716 2795-2797 1F7F0",
        "punctuation": "203C-2049 2753-2757 3030",
        "currency": "1F4B1-1F4B2",
        "other symbol": "A9-AE 2122 2611 267B 2695 269C 2705 2714 2733-2734 2747-274E 27B0-27BF 2B55 303D 1F4DB 1F530-1F531 1FADF",
        "keycap": "23-39 1F51F",
        "letters in a box": "2139 24C2 3297-3299 1F170-1F19A 1F201-1F251 1F520-1F524",
        "geometric shape": "25AA-25AB 25FB-25FE 26AA-26AB 2B1B-2B1C 1F4A0 1F518 1F532-1F53B 1F7E0-1F7EB",
    },
    "flag": {
        "flag": "1F38C 1F3C1 1F3F3-1F3F4 1F6A9",
        "country flag": "1F1E6-1F1FF",
        "regional flag": "",
    },
}


GROUPS = tuple(TABLE)
SUBGROUPS = tuple(subgroup for subgroups in TABLE.values() for subgroup in subgroups)


def _first_code_points() -> dict[int, str]:
    found = {}
    for subgroups in TABLE.values():
        for subgroup, ranges in subgroups.items():
            for text in ranges.split():
                first, _, last = text.partition("-")
                found |= dict.fromkeys(range(int(first, 16), int(last or first, 16) + 1), subgroup)
    return found


_BY_FIRST = _first_code_points()
_GROUP_OF = {subgroup: group for group, subgroups in TABLE.items() for subgroup in subgroups}


def classes_of(char: str) -> tuple[str, str]:
    """The group and the subgroup of an emoji: ("animal or plant", "bird") of a phoenix. `KeyError` for what is none."""
    subgroup = _of_sequence(char) or _BY_FIRST[ord(char[0])]
    return _GROUP_OF[subgroup], subgroup


# What a man, a woman or a person is joined with to be something else than a person at work; the first that is found decides.
_JOINED = {
    "active person": "\U0001f9af\U0001f9bc\U0001f9bd\U0001fa70\U0001f430",  # a cane, wheelchairs, ballet shoes, bunny ears
    "person doing sport": "\U0001faef",  # wrestlers
    "fantasy being": "\U0001f384",
    "family or couple": "\u2764\U0001f466\U0001f467\U0001f468\U0001f469\U0001f91d\U0001f9d1\U0001f9d2",
    "person": "\u2640\u2642\U0001f9b0\U0001f9b1\U0001f9b2\U0001f9b3",
}
# First parts of other sequences that are not of their first code point's subgroup: an eye in a bubble, exhaling, two hands shaking.
_BEGUN = {"\U0001f441": "sign of emotion", "\U0001f62e": "neutral or skeptical face", "\U0001faf1": "two hands"}


def _of_sequence(char: str) -> str | None:
    """The subgroup of a sequence that is not in its first code point's."""
    if char[0] == "\U0001f3f4" and "\U000e0067" in char:  # a black flag and letters: Scotland
        return "regional flag"
    first, *rest = (part[:1] for part in char.split("\u200d"))
    if rest and first in "\U0001f468\U0001f469\U0001f9d1":
        return next((subgroup for subgroup, parts in _JOINED.items() if any(part in parts for part in rest)), "person at work")
    return _BEGUN.get(first) if rest else None
