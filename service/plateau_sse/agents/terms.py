"""The terms of a text: the nouns and phrases that it keeps coming back to.

There is no dictionary of nouns here. What stands behind an article or a preposition and before
a pause or a small word has behaved like a noun, and a phrase that comes back is a phrase.

Invariant: linear in the first `MAX_ITEMS` sentences; terms come best first, ties in the order
of the text.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from plateau_sse.agents import sentences
from plateau_sse.agents.ranking import UNSPACED, WORD, Reading, stem

MAX_ITEMS = 3000
MAX_WORDS = 3

BEFORE_NOUN = frozenset(
    "the a an of in by with from into its their each every this these called as der die "
    "das den dem des ein eine einen einer im am vom zum zur le la les un une des du de au aux "
    "el los las del una il lo gli della dello dei di o os do da dos het een van".split()
)
# Characters that hold Chinese and Japanese sentences together, not words of their own.
GLUE = re.compile(
    r"[\u3040-\u309f"
    r"是了在和有不这我他也就都而及与或被把从到对于中为以之其]"
)
ARTICLES = frozenset("a an the its their this le la les un une el los las il lo o os".split())
TO_BE = frozenset("is are was were ist sind war waren est sont es son è sono é são".split())


@dataclass(slots=True)
class Term:
    """`key` is what makes two spellings the same term; `forms` counts the spellings."""

    key: tuple[str, ...]
    forms: Counter[str] = field(default_factory=Counter)
    count: int = 0
    as_noun: int = 0
    as_verb: int = 0
    named: bool = False

    @property
    def text(self) -> str:
        """Its most frequent spelling."""
        return max(self.forms, key=lambda form: self.forms[form])

    @property
    def score(self) -> float:
        return (self.count + 2.0 * self.as_noun) * (1.0 + 0.6 * (len(self.key) - 1))


def find_terms(reading: Reading, limit: int = 60) -> list[Term]:
    """Up to `limit` terms of the text, best first."""
    found: dict[tuple[str, ...], Term] = {}
    texts = [item.text for item in reading.items[:MAX_ITEMS] if item.kind != sentences.HEADING]
    repeated = _repeated(texts, reading)
    for text in texts:
        if UNSPACED.search(text):
            _collect_unspaced(text, found, repeated)
        else:
            _collect(text, reading, found, repeated)
    kept = [term for term in found.values() if _is_term(term, reading.language)]
    kept.sort(key=lambda term: -term.score)
    return _without_parts(kept[: limit * 3])[:limit]


def _is_term(term: Term, language: str) -> bool:
    if UNSPACED.match(term.key[0]):
        return term.count >= 2
    if len(term.key) > 1:
        noun = term.as_noun > 2 * term.as_verb or (term.named and not term.as_verb)
        return term.count >= 2 and noun
    text = term.text
    if language == "de" and not text[0].isupper():
        return False
    if not language and len(text) > 5:
        # Where small words are not known, long words have to do.
        return True
    return len(text) > 2 and (term.named or term.as_noun > 0)


def _without_parts(terms: list[Term]) -> list[Term]:
    """Drops "page" only where it hardly ever stands outside "page table"."""
    phrases = [term for term in terms if len(term.key) > 1 or UNSPACED.match(term.key[0])]
    return [
        term
        for term in terms
        if not any(
            _is_part(term, phrase)
            and term.count <= phrase.count * (3 if UNSPACED.match(term.key[0]) else 1.3)
            for phrase in phrases
        )
    ]


def _is_part(term: Term, phrase: Term) -> bool:
    if len(phrase.key) > 1:
        return set(term.key) < set(phrase.key)
    return term.key != phrase.key and len(term.key) == 1 and term.key[0] in phrase.key[0]


def _repeated(texts: Sequence[str], reading: Reading) -> set[int]:
    """The hashes of phrases that come more than once: no other is a term, and a text has twice
    as many that come once as words."""
    once, more = set[int](), set[int]()
    for text in texts:
        if UNSPACED.search(text):
            keys = _grams(text)
        else:
            words = list(WORD.finditer(text))
            keys = (key for key, _, _ in _phrases(text, words, reading) if len(key) > 1)
        for key in keys:
            (more if hash(key) in once else once).add(hash(key))
    return more


def _phrases(
    text: str, words: list[re.Match[str]], reading: Reading
) -> Iterator[tuple[tuple[str, ...], int, int]]:
    """Every run of one to `MAX_WORDS` content words between pauses: what makes two the same,
    and which words they are."""
    content = [_is_content(match[0], reading) for match in words]
    stems = [stem(match[0].casefold()) for match in words]
    for start in range(len(words)):
        for end in range(start + 1, min(start + MAX_WORDS, len(words)) + 1):
            if not content[end - 1]:
                break
            if end - start > 1 and text[words[end - 2].end() : words[end - 1].start()] != " ":
                break
            yield tuple(stems[start:end]), start, end


def _collect(
    text: str, reading: Reading, found: dict[tuple[str, ...], Term], repeated: set[int]
) -> None:
    words = list(WORD.finditer(text))
    for key, start, end in _phrases(text, words, reading):
        if len(key) > 1 and hash(key) not in repeated:
            continue
        term = _count(key, text, words[start:end], found)
        term.as_noun += _is_noun(text, words, start, end, reading)
        term.as_verb += _word_after(text, words, end) in ARTICLES


def _is_content(word: str, reading: Reading) -> bool:
    return word.casefold() not in reading.stopwords and len(word) > 1 and not word.isdigit()


def _word_after(text: str, words: list[re.Match[str]], end: int) -> str:
    """The word straight behind words[end - 1], or empty before a pause."""
    if end == len(words) or text[words[end - 1].end() : words[end].start()] != " ":
        return ""
    return words[end][0].casefold()


def _is_noun(
    text: str, words: list[re.Match[str]], start: int, end: int, reading: Reading
) -> bool:
    """Whether what stands around words[start:end] is what stands around nouns."""
    after = _word_after(text, words, end)
    if after in TO_BE:
        return True
    if start == 0 or text[words[start - 1].end() : words[start].start()] != " ":
        return False
    if words[start - 1][0].casefold() not in BEFORE_NOUN:
        return False
    # "the processor raises a": what an article follows is a verb.
    return not after or (after in reading.stopwords and after not in ARTICLES)


def _count(
    key: tuple[str, ...],
    text: str,
    run: list[re.Match[str]],
    found: dict[tuple[str, ...], Term],
) -> Term:
    term = found.setdefault(key, Term(key))
    form = text[run[0].start() : run[-1].end()].replace("’", "'").removesuffix("'s")
    opens = run[0].start() <= 1
    if opens and not form.isupper() and not any(map(str.isdigit, form)):
        # The capital at the start of a sentence says nothing.
        form = form[0].lower() + form[1:]
    elif form[0].isupper():
        term.named = True
    term.forms[form] += 1 if opens else 3
    term.count += 1
    return term


def _grams(text: str) -> Iterator[tuple[str, ...]]:
    for run in UNSPACED.findall(text):
        for part in GLUE.split(run):
            for size in (2, 3, 4):
                for at in range(len(part) - size + 1):
                    yield (part[at : at + size],)


def _collect_unspaced(
    text: str, found: dict[tuple[str, ...], Term], repeated: set[int]
) -> None:
    for key in _grams(text):
        if hash(key) in repeated:
            term = found.setdefault(key, Term(key))
            term.forms[key[0]] += 1
            term.count += 1
            term.as_noun = len(key[0]) - 2
