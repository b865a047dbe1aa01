"""The words of a text and of a query, and where the one stands in the other.

PostgreSQL's function `search_words` (migration 0014) does the same to what is stored; a test compares the two.

- Case, accents, vowel points and the width of a letter make no difference: `cafe` finds `CAFÉ`.
- Chinese, Japanese, Thai, Lao, Burmese and Khmer have no spaces between words. There each two neighbours are a word,
  and the first and the last alone: 日本語 is 日, 日本, 本語 and 語. A query asks for its pairs, and one letter alone
  for what begins with it.
- Elsewhere a word is what stands between two signs or spaces, with the vowel signs of Indian scripts.
"""

import re
import unicodedata
from collections.abc import Iterator, Sequence
from itertools import chain, takewhile
from uuid import UUID

ACCENTS = "\u0300-\u036f\u0591-\u05bd\u05bf\u05c1\u05c2\u05c4\u05c5\u05c7\u064b-\u065f\u0670"
SINGLE = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
MARKS = "\u0660-\u0669\u06f0-\u06f9\u0900-\u0963\u0966-\u0dff\u0f71-\u0f84\u0f90-\u0fbc"
LETTER = rf"(?![_{SINGLE}])[\w{MARKS}]"  # of a script with spaces
WORD = re.compile(rf"[{SINGLE}]+|(?:{LETTER})+")
TOKEN = re.compile(rf"[{SINGLE}]+|(?:{LETTER}[{ACCENTS}]*)+")  # a word in a text, with its accents
ACCENT = re.compile(f"[{ACCENTS}]")
IS_SINGLE = re.compile(f"[{SINGLE}]").match
NOTHING = r"(?!)"  # matches nowhere
SEARCHED_CHARS = 60_000  # of a text, as in `search_words`
AS_LETTERS = str.maketrans("0123456789", "ghijklmnop")  # what begins with a digit might be read as a number
SPACE = re.compile(r"\s")
UNASSIGNED = {"Cn", "Co"}  # categories of a million characters, private ones among them
SNIPPET_CHARS, LEAD_CHARS = 200, 60
CUT = "…"


def fold(text: str) -> str:
    """The text without what makes no difference."""
    plain = ACCENT.sub("", unicodedata.normalize("NFKD", text))
    return "".join(map(str.lower, unicodedata.normalize("NFKC", plain)))


class FoldedCharacters(dict[int, str]):
    """For `str.translate`: each character folded, where that is one character again."""

    def __missing__(self, code: int) -> str:
        character = chr(code)
        if unicodedata.category(character) in UNASSIGNED:  # remembered for good, they would fill the memory
            return character
        folded = fold(character)
        self[code] = folded if len(folded) == 1 else character
        return self[code]


FOLDED_CHARACTERS = FoldedCharacters()


def query_words(query: str) -> list[str]:
    """The words of a query, folded, each once. The last one is meant as the beginning of a word."""
    words = WORD.findall(fold(query))
    return [*dict.fromkeys(words[:-1]), *words[-1:]]


def tsquery(user_id: UUID, words: list[str]) -> str:
    """What PostgreSQL looks for: the user's messages that have all these words."""
    owner = user_id.hex[-6:].translate(AS_LETTERS)
    terms = []
    for number, word in enumerate(words, start=1):
        if not IS_SINGLE(word):
            terms.append(f"'{owner}{word}'" + (":*" if number == len(words) else ""))
        elif len(word) == 1:
            terms.append(f"'{owner}{word}':*")
        else:
            terms += [f"'{owner}{word[at : at + 2]}'" for at in range(len(word) - 1)]
    return " & ".join(dict.fromkeys(terms))


class Matcher:
    """Finds the words of a query in texts. Its cost follows the texts' length alone: anybody may ask for anything."""

    def __init__(self, words: Sequence[str]) -> None:
        """words: one or more, of `query_words`."""
        self.words, self.prefix = set(words), words[-1]
        self.accented_prefix = re.compile(rf"(?s:.[{ACCENTS}]*){{{len(self.prefix)}}}")
        runs = sorted(filter(IS_SINGLE, words), key=len, reverse=True)
        self.runs = re.compile("|".join(map(re.escape, runs)) or NOTHING)

    def spans(self, folded: str) -> Iterator[tuple[int, int]]:
        """Where they stand in a text whose characters are folded; of the last one, where a word begins with it."""
        for found in TOKEN.finditer(folded):
            token, begin = found[0], found.start()
            if IS_SINGLE(token):
                yield from (run.span() for run in self.runs.finditer(folded, begin, found.end()))
                continue
            word = token if token.isalnum() else ACCENT.sub("", token)
            if word in self.words:
                yield found.span()
            elif word.startswith(self.prefix) and (head := self.accented_prefix.match(token)):
                yield begin, begin + head.end()


def excerpt(text: str, matcher: Matcher) -> tuple[str, list[tuple[int, int]]]:
    """The part of a text around its first match, and where the matches stand in it, counted in characters."""
    matches = matcher.spans(text[:SEARCHED_CHARS].translate(FOLDED_CHARACTERS))
    first = next(matches, None)
    begin, end = window(text, first[0] if first else 0)
    head, tail = CUT if begin else "", CUT if end < len(text) else ""
    shift = len(head) - begin
    within = takewhile(lambda span: span[1] <= end, chain([first] if first else [], matches))
    return head + text[begin:end] + tail, [(span[0] + shift, span[1] + shift) for span in within]


def window(text: str, first: int) -> tuple[int, int]:
    """Where an excerpt with the character `first` begins and ends: between two words, where there are spaces."""
    if len(text) <= SNIPPET_CHARS:
        return 0, len(text)
    begin = max(0, min(first - LEAD_CHARS, len(text) - SNIPPET_CHARS))
    if begin and (space := SPACE.search(text, begin, first)):
        begin = space.end()
    end = min(begin + SNIPPET_CHARS, len(text))
    if end < len(text):
        end = max((space.start() for space in SPACE.finditer(text, first, end)), default=end)
    return begin, end
