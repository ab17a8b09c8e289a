"""Names of credentials: what may be one, and which two are taken for each other."""

import unicodedata
from collections.abc import Callable

import pytest

from storage import names, passwords
from storage.passwords import Style
from storage.refusals import NameInvalid, NameProblem

FIRST: Callable[[str], str] = min  # always chooses the same
PASSWORD = passwords.generate("01234567", choose=FIRST)
DEVICE = passwords.generate("01234567", Style.DEVICE, FIRST)

REFUSED = [
    ("", NameProblem.EMPTY),
    ("  \t ", NameProblem.EMPTY),
    ("\ufe0f", NameProblem.CHARACTERS),
    ("x" * 65, NameProblem.TOO_LONG),
    ("e\u0301" * 65, NameProblem.TOO_LONG),
    ("x" * 1_000_000, NameProblem.TOO_LONG),
    ("a\u202eb", NameProblem.CHARACTERS),
    ("a\u200bb", NameProblem.CHARACTERS),
    ("a\nb", NameProblem.CHARACTERS),
    ("a\x00b", NameProblem.CHARACTERS),
    ("a\u034fb", NameProblem.CHARACTERS),
    ("a\ufe0fb", NameProblem.CHARACTERS),
    ("a\U000e0100", NameProblem.CHARACTERS),
    ("\u17b4a", NameProblem.CHARACTERS),
    ("a\u180b", NameProblem.CHARACTERS),
    ("\u3164", NameProblem.CHARACTERS),
    ("a\u2800b", NameProblem.CHARACTERS),
    ("👩\u200d💻", NameProblem.CHARACTERS),
    ("🏴\U000e0067\U000e007f", NameProblem.CHARACTERS),
    ("a\ud800", NameProblem.CHARACTERS),
    ("Z" + "\u0301\u0302\u0303\u0304\u0305", NameProblem.MARKS),
    ("Z\u0335\u0335", NameProblem.MARKS),
    ("\u0301a", NameProblem.MARKS),
    (PASSWORD, NameProblem.PASSWORD),
    ("printer " + DEVICE.upper(), NameProblem.PASSWORD),
    ("printer " + "-".join(DEVICE[at : at + 4] for at in range(0, 20, 4)), NameProblem.PASSWORD),
    ("smtp-acme-7k2m9x4q", NameProblem.USERNAME),
    ("SMTP-ACME-7K2M9X4Q", NameProblem.USERNAME),
    ("Relay (smtp-acme-7k2m9x4q)", NameProblem.USERNAME),
    ("smtp–acme–7k2m9x4q", NameProblem.USERNAME),
    ("ѕmtp-аcme-7k2m9x4q", NameProblem.USERNAME),
    ("ｓｍｔｐ-acme-7k2m9x4q", NameProblem.USERNAME),
]


@pytest.mark.parametrize(("typed", "problem"), REFUSED, ids=range(len(REFUSED)))
def test_a_bad_name_is_refused_with_its_reason(typed: str, problem: NameProblem) -> None:
    with pytest.raises(NameInvalid) as refused:
        names.clean_name(typed)
    assert refused.value.problem is problem


KEPT = [
    "x" * 64,
    "Drucker 3. OG",
    "印刷機",
    "サーバー",
    "מדפסת",
    "Máy in tầng hai",
    "ที่ทำงาน",
    "प्रिंटर",
    "طابعةٌ",
    "한국어",
    "🖨 hall",
    "🇩🇪 🏭",
    "👍🏽",
    "<!channel>",
    "'; DROP TABLE credentials;--",
    "&lt;",
    "O’Brien – hall",
    "smtp-relay",
    "smtp-relay-internal",
    "smtp-acme-7k2m9x4qq",
]


@pytest.mark.parametrize("typed", KEPT)
def test_any_other_name_is_kept_as_it_is(typed: str) -> None:
    assert names.clean_name(f"  {typed} ") == typed


@pytest.mark.parametrize(("typed", "name"), [("🖨\ufe0f hall", "🖨 hall"), ("1\ufe0f\u20e3", "1\u20e3"), ("™\ufe0f", "™"), ("e\u0301", "é")])
def test_a_name_is_kept_in_one_of_its_equal_spellings(typed: str, name: str) -> None:
    assert names.clean_name(typed) == name


def test_no_character_that_is_drawn_as_nothing_gets_into_a_name() -> None:
    ranges = "00AD 034F 061C 115F-1160 17B4-17B5 180B-180F 200B-200F 202A-202E 2060-206F 3164 FE00-FE0F FEFF FFA0 FFF0-FFF8"
    ranges += " 1BCA0-1BCA3 1D173-1D17A E0000-E0FFF"
    count = 0
    for one in ranges.split():
        first, _, last = one.partition("-")
        for code in range(int(first, 16), int(last or first, 16) + 1):
            count += 1
            with pytest.raises(NameInvalid):
                names.clean_name(f"a{chr(code)}b")
    assert count == 4174  # the total that DerivedCoreProperties.txt states


SAME = [
    ("Relay", "RELAY"),
    ("Relay", "Ｒｅｌａｙ"),
    ("O'Brien", "O’Brien"),
    ("a-b", "a–b"),
    ("Straße", "STRASSE"),
    ("Relay", "𝐑elay"),
    ("a b", "a\u2009b"),
    ("a.b", "a․b"),
    ('"a"', "“a”"),
]


@pytest.mark.parametrize(("one", "other"), SAME)
def test_names_that_differ_in_case_width_or_typography_are_the_same(one: str, other: str) -> None:
    assert names.name_key(one) == names.name_key(other)
    assert names.skeleton(one) == names.skeleton(other)


SIMILAR = [
    ("paypal", "pаypаl"),
    ("PayPal", "PayPaI"),
    ("Printer 1", "Printer l"),
    ("Printer 10", "Printer 1O"),
    ("modern", "modem"),
    ("Alpha", "Αlpha"),
    ("Web relay", "Web  relay"),
    ("scope", "ѕсоре"),
]


@pytest.mark.parametrize(("one", "other"), SIMILAR)
def test_names_that_look_the_same_have_one_skeleton(one: str, other: str) -> None:
    assert names.name_key(one) != names.name_key(other)
    assert names.skeleton(one) == names.skeleton(other)


def test_other_names_have_skeletons_of_their_own() -> None:
    some = [
        "Website relay",
        "Website relay 2",
        "Mail",
        "Mall",
        "Printer 2",
        "Printer 3",
        "Büro",
        "Buro",
        "印刷機",
        "印刷機2",
        "App A",
        "App B",
    ]
    some += ["Grafana", "Grafana EU", "shop.example.com", "shop-example.com", "Ä", "A", "Ö", "O'Brien", "OBrien", "мир", "мыр"]
    assert len({names.skeleton(name) for name in some}) == len(some)


@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_four_marks_on_a_letter_are_enough_for_any_language(form: str) -> None:
    four = unicodedata.normalize(form, "a\u0323\u0302\u0301\u0336")  # type: ignore[arg-type]
    assert unicodedata.normalize("NFD", names.clean_name(four)) == unicodedata.normalize("NFD", four)
