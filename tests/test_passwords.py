"""The two password formats and the names around them."""

import hashlib
import random
import string

import pytest

from storage import names, passwords
from storage.passwords import Hasher, Style


@pytest.mark.parametrize(("style", "length"), [(Style.STANDARD, 40), (Style.DEVICE, 20)])
def test_a_generated_password_has_its_length_and_is_recognized(style: Style, length: int) -> None:
    credential_id = passwords.new_id()
    password = passwords.generate(credential_id, style)
    assert len(password) == length
    assert set(password) <= set(string.ascii_letters + string.digits)
    parsed = passwords.parse(password)
    assert parsed is not None
    assert parsed.canonical == password
    assert parsed.credential_id == (credential_id if style is Style.STANDARD else None)


@pytest.mark.parametrize("style", list(Style))
def test_one_changed_character_fails_the_checksum(style: Style) -> None:
    password = passwords.generate(passwords.new_id(), style)
    alphabet = passwords.CROCKFORD if style is Style.DEVICE else passwords.BASE62
    for at in range(len(password)):
        other = next(c for c in alphabet if c != password[at])
        assert passwords.parse(password[:at] + other + password[at + 1 :]) is None


def test_a_device_password_is_read_as_people_type_it() -> None:
    for _ in range(50):
        password = passwords.generate(passwords.new_id(), Style.DEVICE)
        typed = password.upper().replace("0", "O").replace("1", "l")
        parsed = passwords.parse(f"{typed[:5]}-{typed[5:10]} {typed[10:]}")
        assert parsed is not None
        assert parsed.canonical == password


def test_passwords_are_found_inside_text() -> None:
    chooser = random.Random(1)
    first = passwords.generate("01234567", choose=chooser.choice)
    second = passwords.generate("01234567", Style.DEVICE, choose=chooser.choice)
    text = f"smtp://user:{first}@mail/?x=1 `{second}` {first} smtp1 smt{'a' * 17}"
    assert [found.canonical for found in passwords.find(text)] == [first, second]
    masked = passwords.mask(f"{text} $argon2id$v=19$m=8,t=1,p=1$abc$def")
    assert first not in masked
    assert second not in masked
    assert "$argon2id" not in masked


@pytest.mark.parametrize(("style", "least", "most"), [(Style.STANDARD, -(2**31), 2**31 - 1), (Style.DEVICE, 0, 0xFFFF)])
def test_a_tag_fits_its_column_and_tells_the_format(style: Style, least: int, most: int) -> None:
    tags = [passwords.tag(passwords.generate("01234567", style)) for _ in range(2000)]
    assert least <= min(tags) < max(tags) <= most
    assert {passwords.tagged_style(one) for one in tags} == {style}
    assert len(set(tags)) > 1950


def test_a_standard_tag_in_the_range_of_device_ones_is_moved_out_of_it() -> None:
    canonical = "smtp101234567" + "000000000000000005706" + "000000"
    assert hashlib.sha256(canonical.encode()).digest()[:2] == b"\0\0"
    assert passwords.tagged_style(passwords.tag(canonical)) is Style.STANDARD


async def test_a_hash_verifies_its_password_only_and_shows_outdated_parameters() -> None:
    cheap, dear = Hasher(memory_kib=8, time_cost=1), Hasher(memory_kib=16, time_cost=1)
    phc = await cheap.hash("right")
    assert await cheap.verify(phc, "right")
    assert not await cheap.verify(phc, "wrong")
    assert not await cheap.verify("not a hash", "right")
    assert dear.needs_rehash(phc)
    assert not cheap.needs_rehash(phc)


@pytest.mark.parametrize("slug", ["a", "acme", "a-very-long-slug-with-32-charactrs", "twelve-chars-"])
def test_a_username_fits_every_server_and_device(slug: str) -> None:
    username = names.username(slug, passwords.new_id())
    assert len(username) <= 26
    assert names.USERNAME.fullmatch(username)
