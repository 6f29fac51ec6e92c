"""Which sentences and which terms carry a text.

Sentences are ranked as LexRank does, by how much they share with other sentences that matter,
but a step goes from sentences to their words and back: it costs the words of the text, not the
pairs of its sentences.

Invariant: the work is linear in the text, and the same text always gives the same ranking.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from plateau_sse.agents import sentences
from plateau_sse.agents.sentences import Sentence
from plateau_sse.agents.stopwords import OPENERS, STOPWORDS

STEPS = 8
DAMPING = 0.75
# How much a sentence loses that has all its words in common with one already chosen.
REPETITION = 0.7

WORD = re.compile(r"[^\W_]+(?:['’-][^\W_]+)*")
# Scripts that put no space between words: pairs of characters stand in for words there.
UNSPACED = re.compile(r"[\u0e00-\u0eff\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff]+")
HIRAGANA = re.compile(r"[\u3040-\u309f]+\Z")


@dataclass(slots=True)
class Reading:
    """A text that has been read. `words[i]` are the ids of the content words of `items[i]`,
    `found_in[w]` the number of sentences with word `w`."""

    items: list[Sentence] = field(default_factory=list)
    words: list[tuple[int, ...]] = field(default_factory=list)
    found_in: list[int] = field(default_factory=list)
    language: str = ""
    title: str = ""
    word_count: int = 0

    @property
    def stopwords(self) -> frozenset[str]:
        return STOPWORDS.get(self.language, frozenset())


def tokens(text: str) -> Iterator[str]:
    """The words of `text` in lower case; pairs of characters where words have no spaces."""
    for match in WORD.finditer(text):
        word = match[0].casefold()
        if not UNSPACED.search(word):
            yield word
            continue
        for run in UNSPACED.findall(word):
            pairs = (run[at : at + 2] for at in range(max(1, len(run) - 1)))
            yield from (pair for pair in pairs if not HIRAGANA.match(pair))


def stem(word: str) -> str:
    """So much of a word that its plural and its genitive are the same."""
    word = word.replace("’", "'").removesuffix("'s").removesuffix("s'")
    if len(word) > 4 and word.endswith("ies"):
        return word[:-3] + "y"
    if len(word) > 3 and word.endswith("s") and not word.endswith(("ss", "us", "is")):
        return word[:-1]
    return word


def read(text: str) -> Reading:
    """Split, count and index `text`."""
    reading = Reading()
    found = list(sentences.split(text))
    reading.language = _language(found)
    stopwords = reading.stopwords
    ids: dict[str, int] = {}
    for item in found:
        if item.kind == sentences.HEADING:
            reading.title = reading.title or item.text
        content: dict[int, None] = {}
        for word in tokens(item.text):
            reading.word_count += 1
            if word not in stopwords and (len(word) > 1 or word.isdigit()):
                content[ids.setdefault(stem(word), len(ids))] = None
        reading.items.append(item)
        reading.words.append(tuple(content))
    reading.found_in = [0] * len(ids)
    for words in reading.words:
        for word_id in words:
            reading.found_in[word_id] += 1
    return reading


def _language(found: Sequence[Sentence]) -> str:
    """The language whose stop words cover most of the text's beginning, or empty."""
    counts: Counter[str] = Counter()
    for item in found[:400]:
        counts.update(tokens(item.text[:300]))
    covered = {
        language: sum(counts[word] for word in stopwords)
        for language, stopwords in STOPWORDS.items()
    }
    best = max(covered, key=lambda language: covered[language])
    return best if covered[best] * 12 > sum(counts.values()) else ""


def rank(reading: Reading) -> list[float]:
    """One score for each sentence, higher is better; headings have none (0)."""
    prior = [_prior(reading, index) for index in range(len(reading.items))]
    total = len(reading.items)
    weight = [math.log1p(total / count) for count in reading.found_in]
    norm = [
        math.sqrt(sum(weight[word] ** 2 for word in words)) or 1.0 for words in reading.words
    ]
    score = prior[:]
    for _ in range(STEPS):
        heard = [0.0] * len(weight)
        for value, words, length in zip(score, reading.words, norm, strict=True):
            share = value / length
            for word in words:
                heard[word] += share * weight[word]
        fresh = [
            sum(heard[word] * weight[word] for word in words) / length
            for words, length in zip(reading.words, norm, strict=True)
        ]
        peak = max(fresh, default=0.0) or 1.0
        score = [
            (1 - DAMPING) * before + DAMPING * value / peak
            for before, value in zip(prior, fresh, strict=True)
        ]
    return [
        value * _form(item, len(words))
        for value, item, words in zip(score, reading.items, reading.words, strict=True)
    ]


def _prior(reading: Reading, index: int) -> float:
    """What the place alone says: openings of texts and paragraphs tell what they are about."""
    item = reading.items[index]
    if item.kind == sentences.HEADING:
        return 1.0
    place = 1.0 - 0.5 * index / len(reading.items)
    return place * (1.3 if item.first and item.kind == sentences.PROSE else 1.0)


def _form(item: Sentence, content_words: int) -> float:
    """What the shape of a sentence says about reading it alone."""
    if item.kind == sentences.HEADING:
        return 0.0
    factor = 0.85 if item.kind == sentences.ITEM else 1.0
    if content_words < 4:
        factor *= 0.3
    elif content_words > 26:
        factor *= 0.7
    if item.text.rstrip("\"'”’»)").endswith(("?", "？", "؟", ":")):
        factor *= 0.4
    opener = WORD.match(item.text.lstrip("\"'“‘«„(¿¡"))
    if opener and opener[0].casefold() in OPENERS:
        # It points at the sentence before it.
        factor *= 0.6
    if item.text[:1] in "\"'“„«(":
        factor *= 0.7
    return factor


def choose(reading: Reading, scores: Sequence[float], count: int) -> list[int]:
    """The indices of the best `count` sentences that do not repeat one another, best first."""
    order = sorted(range(len(scores)), key=lambda at: (-scores[at], at))
    pool = {at: 0.0 for at in order[: 4 * count + 50] if scores[at] > 0}
    chosen: list[int] = []
    texts: set[str] = set()
    while pool and len(chosen) < count:
        best = max(pool, key=lambda at: (scores[at] * (1.0 - REPETITION * pool[at]), -at))
        del pool[best]
        folded = reading.items[best].text.casefold()
        if folded in texts:
            continue
        texts.add(folded)
        chosen.append(best)
        known = set(reading.words[best])
        for at, overlap in pool.items():
            words = reading.words[at]
            shared = float(len(known.intersection(words)))
            pool[at] = max(overlap, (shared / max(1, len(words))) ** 1.5)
    return chosen
