"""The words of a text and of a query, and where the words of a query are in a text.

PostgreSQL's function `search_words` (migration 0014) splits stored texts in the same way; a test compares the two.

- Case, accents, vowel points and the width of a letter make no difference: `cafe` finds `CAFÉ`. A sigma at the end of a
  word is stored as it is written, and a query asks for both forms.
- Chinese, Japanese, Thai, Lao, Burmese and Khmer have no spaces between words. There each pair of neighbours is a word,
  and so are the first and the last letter alone: 日本語 is 日, 日本, 本語 and 語. A query asks for its pairs; a single
  letter asks for the words that begin with it.
- Elsewhere a word is what stands between two spaces or punctuation marks. Vowel signs of Indian scripts belong to it.
"""

import re
import unicodedata
from bisect import bisect
from collections.abc import Iterator, Sequence
from itertools import chain, takewhile
from uuid import UUID

ACCENTS = "\u0300-\u036f\u0591-\u05bd\u05bf\u05c1\u05c2\u05c4\u05c5\u05c7\u064b-\u065f\u0670"
SINGLE = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
MARKS = "\u0660-\u0669\u06f0-\u06f9\u0900-\u0963\u0966-\u0dff\u0f71-\u0f84\u0f90-\u0fbc"
# What is a letter to PostgreSQL but not to `\w`, and the other way round: characters of Arabic, Syriac, Thaana, Meetei
# Mayek, N'Ko, Tibetan and Mongolian, and letters and numbers in circles. Rarer scripts are left out.
ALPHABETIC = (
    "\u0610-\u061a\u06d6-\u06dc\u06e1-\u06e4\u06e7\u06e8\u06ed\u0711\u0730-\u073f\u07a6-\u07b0\u08d4-\u08df\u08e3-\u08e9"
    "\u08f0-\u08ff\uaaeb-\uaaef\uaaf5\uabe3-\uabea\U0001f150-\U0001f169\U0001f170-\U0001f189"
)
NUMERIC = "\u07c0-\u07c9\u0f20-\u0f33\u1810-\u1819\u24eb-\u24ff\u2776-\u2793"
LETTER = rf"(?![_{SINGLE}{NUMERIC}])[\w{MARKS}{ALPHABETIC}]"  # of a script with spaces
WORD = re.compile(rf"[{SINGLE}]+|(?:{LETTER})+")
ACCENT = re.compile(f"[{ACCENTS}]")
IS_SINGLE = re.compile(f"[{SINGLE}]").match
NOTHING = r"(?!)"  # matches nowhere
SEARCHED_CHARS = 60_000  # of a text, as in `search_words`
AS_LETTERS = str.maketrans("0123456789", "ghijklmnop")  # a word that begins with a digit might be read as a number
LAST_SIGMA, SIGMA = "\u03c2", "\u03c3"  # at the end of a word, and elsewhere: in upper case they are one letter
SPACE = re.compile(r"\s")
# Marks join the letter before them, and so do the later parts of Korean syllables, half-width voiced marks, and vowels
# of Kirat Rai, which Python 3.14 knows.
JOINING = re.compile(r"[\u1160-\u11ff\u3133-\u313f\u314f-\u318e\ud7b0-\ud7fb\uff9e-\uffdc\U00016d67\U00016d68]")
PART = re.compile(rf"(?s).{{1,100}}(?:[^\w\s\x20-\x7e]|{JOINING.pattern}){{0,200}}")  # ends before what joins nothing
SNIPPET_CHARS, LEAD_CHARS = 200, 60
CUT = "…"


def fold(text: str) -> str:
    """The text without the differences that do not count: case, accents, width."""
    if text.isascii():
        return text.lower()
    plain = ACCENT.sub("", unicodedata.normalize("NFKD", text))
    return "".join(map(str.lower, unicodedata.normalize("NFKC", plain)))


def query_words(query: str) -> list[str]:
    """The words of a query, folded: each once, and then the last one, which may be the beginning of a word."""
    words = WORD.findall(fold(query))
    return [*dict.fromkeys(words[:-1]), *words[-1:]]


def tsquery(user_id: UUID, words: list[str]) -> str:
    """PostgreSQL's query for the user's messages that have all these words."""
    owner = user_id.hex[-6:].translate(AS_LETTERS)
    terms = []
    for position, word in enumerate(words, start=1):
        if not IS_SINGLE(word):
            endings = LAST_SIGMA + SIGMA if word[-1] in LAST_SIGMA + SIGMA else word[-1]
            suffix = ":*" if position == len(words) else ""
            terms.append(" | ".join(f"'{owner}{word[:-1]}{ending}'{suffix}" for ending in endings))
        elif len(word) == 1:
            terms.append(f"'{owner}{word}':*")
        else:
            terms += [f"'{owner}{word[at : at + 2]}'" for at in range(len(word) - 1)]
    return " & ".join(f"({term})" for term in dict.fromkeys(terms))


class FoldedText:
    """A text's first SEARCHED_CHARS, folded, and where its letters are in the text.

    It is folded in parts; letters are located only in the few parts that are asked for.
    """

    def __init__(self, text: str) -> None:
        self.parts: list[str] = []
        folded: list[str] = []
        self.text_offsets, self.folded_offsets = [0], [0]  # of the parts: in the text, and in the folded text
        for part in PART.finditer(text):
            self.parts.append(part[0])
            folded.append(fold(part[0]))
            self.text_offsets.append(part.end())
            self.folded_offsets.append(self.folded_offsets[-1] + len(folded[-1]))
            if self.folded_offsets[-1] >= SEARCHED_CHARS:  # one letter may become eighteen
                break
        self.text = "".join(folded).replace(LAST_SIGMA, SIGMA)
        self.letter_spans: dict[int, list[tuple[int, int]]] = {}  # of each letter of a part, once it is asked for

    def letter_span(self, index: int) -> tuple[int, int]:
        """Where the text has the letter that the folded character `index` belongs to, with its marks."""
        part_index = bisect(self.folded_offsets, index) - 1
        if part_index not in self.letter_spans:
            begin, self.letter_spans[part_index] = self.text_offsets[part_index], []
            for letter in letters_of(self.parts[part_index]):
                self.letter_spans[part_index] += [(begin, begin + len(letter))] * len(fold(letter))
                begin += len(letter)
        return self.letter_spans[part_index][index - self.folded_offsets[part_index]]

    def original_span(self, span: tuple[int, int]) -> tuple[int, int]:
        """Where the text has what this span of the folded text was made from."""
        return self.letter_span(span[0])[0], self.letter_span(span[1] - 1)[1]


def letters_of(text: str) -> Iterator[str]:
    """Yield the letters of a text, each with the characters that join it."""
    begin = 0
    for end in range(1, len(text) + 1):
        if end == len(text) or text[end].isascii() or not joins(text[begin:end], text[end]):
            yield text[begin:end]
            begin = end


def joins(letter: str, character: str) -> bool:
    """Whether the character is a part of the letter before it. One of JOINING is, if the two fold into one letter."""
    if unicodedata.category(character).startswith("M"):
        return True
    return bool(JOINING.match(character)) and len(fold(letter + character)) < len(fold(letter)) + len(fold(character))


class Matcher:
    """Finds the words of a query in texts. Its cost depends only on the texts' length: anybody may ask for anything."""

    def __init__(self, words: Sequence[str]) -> None:
        """words: one or more, of `query_words`."""
        plain = [word.replace(LAST_SIGMA, SIGMA) for word in words]
        self.words, self.prefix = set(plain), plain[-1]
        runs = sorted(filter(IS_SINGLE, plain), key=len, reverse=True)
        self.runs = re.compile("|".join(map(re.escape, runs)) or NOTHING)

    def spans(self, text: str) -> Iterator[tuple[int, int]]:
        """Yield where the words are in a text, without overlaps. Of the last one: where a word begins with it."""
        folded, end = FoldedText(text), 0
        for span in map(folded.original_span, self.folded_spans(folded.text)):
            if span[0] >= end:  # one character may be several words, as a fraction is
                yield span
                end = span[1]

    def folded_spans(self, folded: str) -> Iterator[tuple[int, int]]:
        for found in WORD.finditer(folded):
            word, begin = found[0], found.start()
            if IS_SINGLE(word):
                yield from (run.span() for run in self.runs.finditer(folded, begin, found.end()))
            elif word in self.words:
                yield found.span()
            elif word.startswith(self.prefix):
                yield begin, begin + len(self.prefix)


def excerpt(text: str, matcher: Matcher) -> tuple[str, list[tuple[int, int]]]:
    """The part of a text around its first match, and where the matches are in that part, counted in characters."""
    matches = matcher.spans(text)
    first = next(matches, None)
    begin, end = window(text, first[0] if first else 0)
    head, tail = CUT if begin else "", CUT if end < len(text) else ""
    shift = len(head) - begin
    within = takewhile(lambda span: span[0] < end, chain([first] if first else [], matches))
    return head + text[begin:end] + tail, [(span[0] + shift, min(span[1], end) + shift) for span in within]


def window(text: str, first: int) -> tuple[int, int]:
    """Where an excerpt that has the character `first` begins and ends: between two words, if there are spaces."""
    if len(text) <= SNIPPET_CHARS:
        return 0, len(text)
    begin = max(0, min(first - LEAD_CHARS, len(text) - SNIPPET_CHARS))
    if begin and (space := SPACE.search(text, begin, first)):
        begin = space.end()
    end = min(begin + SNIPPET_CHARS, len(text))
    if end < len(text):
        end = max((space.start() for space in SPACE.finditer(text, first, end)), default=end)
    return begin, end
