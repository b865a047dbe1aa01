"""Words of queries and texts: as PostgreSQL has them, and where they are highlighted."""

import sys
import unicodedata
from uuid import UUID

import pytest
from sqlalchemy import text

from app.core.db import db
from app.search.words import (
    AS_LETTERS,
    PART,
    SNIPPET_CHARS,
    Matcher,
    excerpt,
    fold,
    query_words,
    tsquery,
)

OWNER = UUID("0192d3a4-7100-7d11-b0c1-112345678901")
PREFIX = OWNER.hex[-6:].translate(AS_LETTERS)
MATCHES = text("SELECT search_words(:owner, :text) @@ CAST(:query AS tsquery)")
STORED = text("SELECT tsvector_to_array(search_words(:owner, :text))")


def stored_words(content):
    """Return the words that PostgreSQL keeps of a text, in alphabetical order."""
    words = db.session.scalar(STORED, {"owner": OWNER, "text": content})
    assert all(word.startswith(PREFIX) for word in words)
    return sorted(word.removeprefix(PREFIX) for word in words)


@pytest.fixture
def finds(app):
    """Whether a query finds a text."""
    with app.app_context():
        yield lambda query, content: db.session.scalar(
            MATCHES, {"owner": OWNER, "text": content, "query": tsquery(OWNER, query_words(query))}
        )


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("DNS, the phone-book.", ["book", "dns", "phone", "the"]),
        ("It's 3.5 or 1e5_x", ["1e5", "3", "5", "it", "or", "s", "x"]),
        ("„Größe“ GRÖSSE große", ["grosse", "große"]),
        ("Ｆｕｌｌ ﬁne Café cafe\u0301", ["cafe", "fine", "full"]),
        ("हिन्दी में। नमस्ते", ["में", "नमस्ते", "हिन्दी"]),
        ("日本語 DNS是", ["dns", "日", "日本", "是", "本語", "語"]),
        ("שָׁלוֹם مُحَمَّد", ["שלום", "محمد"]),
        ("Ελλάς İstanbul", ["istanbul", "ελλας"]),
        ("… 🎉 -- __", []),
    ],
)
def test_a_text_has_these_words(app, content, words):
    with app.app_context():
        assert stored_words(content) == sorted(words)
    if not any("\u3400" <= letter <= "\u9fff" for letter in content):
        assert sorted(set(query_words(content))) == sorted(words)


def agree(queried, stored):
    """Whether a query's words are among those stored of the same text, and either both or neither have any."""
    return {PREFIX + word for word in queried} <= set(stored) and bool(queried) == bool(stored)


def test_python_and_postgresql_agree_on_every_letter(app):
    letters = [
        letter
        for letter in map(chr, range(0x20, sys.maxunicode))
        if unicodedata.category(letter) in {"Lu", "Ll", "Lt", "Lo"} or letter.isascii() or letter in "٠٩۰۹०९"
    ]
    # Python may know a later Unicode than PostgreSQL does.
    query = text(
        "SELECT letter, tsvector_to_array(search_words(:owner, letter)) FROM unnest(:letters) letter"
        " WHERE unicode_assigned(letter)"
    )
    parts = [letters[first : first + 5_000] for first in range(0, len(letters), 5_000)]  # each in a statement's time
    with app.app_context():
        rows = [row for part in parts for row in db.session.execute(query, {"owner": OWNER, "letters": part})]
    differing = [letter for letter, words in rows if not agree(query_words(letter), words)]
    assert len(rows) > 100_000
    assert differing == []


@pytest.mark.parametrize(
    ("query", "content"),
    [
        ("phone boo", "DNS is the phone book of the internet"),
        ("BOOK dns", "DNS is the phone book of the internet"),
        ("wörter", "Viele WORTERBÜCHER"),
        ("strasse", "Strassenbahn"),
        ("नमस्", "वह नमस्ते बोला"),
        ("日本", "今日は日本語を話す"),
        ("語", "日本語を"),
        ("日本語を話す", "今日は日本語を話す"),
        ("北京 天气", "今天北京的天气很好"),
        ("สวัสดี", "เขาพูดว่าสวัสดีครับ"),
        ("서울", "서울에서"),
        ("don't", "I don't know"),
        ("'phone' & !book | :* <-> (", "DNS is the phone book"),
        ("3.5", "Version 3.5"),
        ("ทำ", "เราทำงาน"),
        ("ຄຳ", "ຖ້ອຍຄຳ"),
        ("সময়", "এই সময়ে"),
        ("पढ़ना", "मुझे पढ़ना है"),
        ("한국", "\u1112\u1161\u11ab\u1100\u116e\u11a8어"),
        ("ガラス", "窓のｶﾞﾗｽ"),
        ("が", "か\u3099"),
        ("fine", "ﬁne"),
        ("οδος", "ΟΔΟΣ"),
        ("ΟΔΟΣ", "μια οδός"),
        ("ὀδυσσεύς", "ΟΔΥΣΣΕΥΣ"),
        ("ދިވެހި ބަސް", "ދިވެހި ބަސް"),
        ("ٱلۡحَمۡدُ لِلَّهِ", "ٱلۡحَمۡدُ لِلَّهِ رَبِّ"),
        ("ꯃꯤꯇꯩ ꯂꯣꯟ", "ꯃꯤꯇꯩ ꯂꯣꯟ"),
        ("🅱eta version", "A 🅱eta version"),
        ("❶ install it", "❶ Install it"),
        ("οδος μια", "μια ΟΔΟΣ"),
    ],
)
def test_a_query_finds_texts_with_its_words(finds, query, content):
    assert finds(query, content)
    assert excerpt(content, Matcher(query_words(query)))[1]


@pytest.mark.parametrize(
    ("query", "content"),
    [
        ("phon book", "DNS is the phone book"),
        ("hone", "DNS is the phone book"),
        ("本日", "今日は日本語を話す"),
        ("phone radio", "DNS is the phone book"),
    ],
)
def test_a_query_does_not_find_other_texts(finds, query, content):
    assert not finds(query, content)


def test_a_query_asks_for_each_word_once():
    """One letter may fold into four words, and a query may have two hundred of that letter."""
    assert len(query_words("\ufdfa" * 198 + "ab")) == 5
    assert query_words("a b a b a") == ["a", "b", "a"], "the last one is a beginning"


def test_the_words_of_one_user_do_not_match_those_of_another(app):
    with app.app_context():
        query = tsquery(UUID(int=OWNER.int ^ 1), query_words("phone"))
        assert not db.session.scalar(MATCHES, {"owner": OWNER, "text": "phone", "query": query})


@pytest.mark.parametrize(
    "content",
    [
        "x" * 300_000,
        " ".join(f"w{number}" for number in range(100_000)),
        " ".join(f"\ufdfa\ufdfa{number}" for number in range(30_000)),
        "".join(map(chr, range(0x3400, 0x9FFF))) * 3 + "".join(map(chr, range(0x20000, 0x2A000))),
        " ".join(map(chr, range(0x20000, 0x2A000))),
        "\U0001f389" * 100_000,
    ],
)
def test_a_text_of_any_length_can_be_stored(app, content):
    """A tsvector takes 1 MB. More would lose the message."""
    with app.app_context():
        stored_words(content)


@pytest.mark.parametrize(
    ("content", "query", "marked"),
    [
        ("DNS is the Phone-Book", "phone bo", ["Phone", "Bo"]),
        ("Cafe\u0301s and CAFÉS", "cafe", ["Cafe\u0301", "CAFÉ"]),
        ("foo_bar foobar", "bar", ["bar"]),
        ("今日は日本語を", "日本", ["日本"]),
        ("DNS是DNSX", "dns 是", ["DNS", "是"]),
        ("a.b (c)", "b c", ["b", "c"]),
        ("เราทำงาน", "ทำ", ["ทำ"]),
        ("এই সময়ে", "সময়", ["সময়ে"]),
        ("ein ﬁnes Netz", "fi ne", ["Ne"]),
        ("窓のｶﾞﾗｽ", "ガラ", ["ｶﾞﾗ"]),
        ("Ὁ Ὀδυσσεύς.", "οδυσσευσ", ["Ὀδυσσεύς"]),
        ("안녕ㅠㅠㅠ 뭐해", "안녕", ["안녕"]),
        ("ㅠㅠ", "ㅠ", ["ㅠ"]),
        ("㍿です", "株 式会", ["㍿"]),
        ("…x\u0301y—xy", "xy", ["x\u0301y", "xy"]),
        ("nothing here", "else", []),
    ],
)
def test_highlights_are_where_the_words_stand(content, query, marked):
    snippet, spans = excerpt(content, Matcher(query_words(query)))
    assert snippet == content
    assert [snippet[start:end] for start, end in spans] == marked


@pytest.mark.parametrize(
    ("query", "content"),
    [
        ("天地玄黄宇宙洪荒日月盈昃辰宿列张" * 9, "前文。" * 25 + "天地玄黄宇宙洪荒日月盈昃辰宿列张" * 10),
        ("w" * 180, "see " * 30 + "w" * 300),
    ],
)
def test_a_match_that_is_longer_than_the_excerpt_is_marked_at_its_beginning(query, content):
    snippet, spans = excerpt(content, Matcher(query_words(query)))
    assert [snippet[start:end] for start, end in spans] == [query[: len(snippet) - 1 - spans[0][0]]]


@pytest.mark.parametrize("filler", ["some words ", "日本語", "x" * 1_000, "\n"])
def test_a_long_text_is_cut_around_its_first_match(filler):
    content = filler * (10_000 // len(filler)) + " needle " + filler * (10_000 // len(filler))
    snippet, spans = excerpt(content, Matcher(["needle"]))
    assert len(snippet) <= SNIPPET_CHARS + 2
    assert (snippet[0], snippet[-1]) == ("…", "…")
    assert snippet[1:-1] in content
    assert [snippet[start:end] for start, end in spans] == ["needle"]


def test_folding_keeps_unknown_characters():
    assert fold("Straße 🎉 ñ") == "straße 🎉 n"


def test_folding_a_text_in_parts_gives_the_same_as_folding_it_whole():
    """No part ends before a character that changes the one before it."""
    letters = [
        letter for letter in map(chr, range(sys.maxunicode)) if unicodedata.category(letter) not in {"Cn", "Co", "Cs"}
    ]
    decomposed = [unicodedata.decomposition(letter).split() for letter in letters]
    composing = {chr(int(parts[1], 16)) for parts in decomposed if len(parts) == 2 and parts[0].isalnum()}
    for letter in letters:
        first = unicodedata.normalize("NFKD", letter)[0]
        joins = unicodedata.combining(first) or first in composing or "\u1160" <= first <= "\u11ff"
        if joins and not "\uac00" <= letter <= "\ud7a3":
            assert PART.fullmatch("a" * 100 + letter), f"U+{ord(letter):04X}"
