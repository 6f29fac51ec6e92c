"""Sentences that explain something: "X is a …", "X: …", "… is called X", "… because …".

Invariant: what is found is a piece of the sentence as it stands; nothing is rewritten but the
capital at its start.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from plateau_sse.agents import sentences
from plateau_sse.agents.ranking import Reading
from plateau_sse.agents.sentences import Sentence
from plateau_sse.agents.stopwords import OPENERS

# How each language says "X is a …", and how it asks for it.
DEFINITIONS = {
    "en": (r"is|are|was|were", r"an?|the|any|one of", "What {verb} {subject}?"),
    "de": (r"ist|sind|war|waren", r"eine?|einer|der|die|das", "Was {verb} {subject}?"),
    "fr": (r"est|sont", r"une?|des|les?|la|l['’]\w+", "{subject} : de quoi s'agit-il ?"),
    "es": (r"es|son|era|eran", r"una?|el|las?|los", "¿Qué {verb} {subject}?"),
    "it": (r"è|sono|era|erano", r"una?|uno|il|la|lo|l['’]\w+", "Che cosa {verb} {subject}?"),
    "pt": (r"é|são|era|eram", r"uma?|os?|as?", "O que {verb} {subject}?"),
    "nl": (r"is|zijn|was|waren", r"een|de|het", "Wat {verb} {subject}?"),
}
ARTICLES = frozenset(
    "the a an der die das ein eine le la les un une el los las il lo o os as de het een".split()
)
LABELLED = re.compile(r"(?P<term>[^:–—=.,;?!]{2,50}?)(?:: | [–—=-] )(?P<meaning>\S.{11,})\Z")
CALLED = re.compile(
    r"(?P<subject>[^,;:]{8,90}) (?P<verb>is|are) (?:called|known as|named) "
    r"(?:the |an? )?(?P<term>[^,;:]{3,40})\.\Z"
)
BECAUSE = re.compile(r"(?P<effect>[^;:]{20,160}?),? because (?P<cause>[^;:]{12,200})\.\Z")


@dataclass(frozen=True, slots=True)
class Card:
    """`term` is what the card is about; two cards with the same one are the same card."""

    front: str
    back: str
    term: str


def is_definition(reading: Reading, item: Sentence) -> bool:
    return bool(labelled(item) or defined_subject(reading, item.text) or called(item))


def explain(reading: Reading, item: Sentence) -> Card | None:
    """A card that asks for what the sentence explains, or None where it explains nothing."""
    return (
        labelled(item)
        or _definition(reading, item.text)
        or called(item)
        or _because(reading, item.text)
    )


def labelled(item: Sentence) -> Card | None:
    """A list item such as "TLB: a small cache …"."""
    found = LABELLED.match(item.text) if item.kind == sentences.ITEM else None
    if not found or len(found["term"].split()) > 5:
        return None
    term, meaning = found["term"].strip(), found["meaning"]
    return Card(term, meaning[0].upper() + meaning[1:], term)


def defined_subject(reading: Reading, text: str) -> re.Match[str] | None:
    """The `subject` and `verb` of a sentence that says what something is."""
    if reading.language not in DEFINITIONS or text.endswith("?"):
        return None
    verbs, articles, _ = DEFINITIONS[reading.language]
    pattern = rf"(?P<subject>[^,;:()]{{2,60}}?) (?P<verb>{verbs}) (?:{articles})\b.{{12,}}"
    found = re.match(pattern, text)
    if not found:
        return None
    words = without_article(found["subject"]).casefold().split()
    if not 0 < len(words) <= 5 or words[0] in reading.stopwords:
        return None
    # "The oxygen that they use is the …" is no definition.
    return None if (OPENERS - ARTICLES - {"and"}).intersection(words) else found


def without_article(subject: str) -> str:
    first, _, rest = subject.partition(" ")
    return rest if rest and first.casefold() in ARTICLES else subject


def _definition(reading: Reading, text: str) -> Card | None:
    found = defined_subject(reading, text)
    if not found:
        return None
    subject, words = found["subject"], found["subject"].split()
    term = without_article(subject)
    if term == subject and len(words) > 1 and all(word[0].isupper() for word in words):
        # A name: whether to ask who or what it is, is not for us to tell.
        return Card(subject, text, term)
    question = DEFINITIONS[reading.language][2]
    subject = _uncapitalised(reading, subject)
    front = question.format(verb=found["verb"], subject=subject)
    return Card(front[0].upper() + front[1:], text, term)


def _uncapitalised(reading: Reading, subject: str) -> str:
    """The subject as it stands inside a sentence: only names keep their capital."""
    first = subject.partition(" ")[0]
    lowered = subject[0].lower() + subject[1:]
    if first.casefold() in ARTICLES:
        return lowered
    inside = re.compile(rf"(?<=\w ){re.escape(lowered.partition(' ')[0])}\b")
    return lowered if any(inside.search(item.text) for item in reading.items[:400]) else subject


def called(item: Sentence) -> Card | None:
    found = CALLED.match(item.text)
    if not found or found["subject"].partition(" ")[0].casefold() in OPENERS:
        return None
    subject = found["subject"]
    if subject.partition(" ")[0].casefold() in ARTICLES:
        subject = subject[0].lower() + subject[1:]
    return Card(f"What {found['verb']} {subject} called?", found["term"], found["term"])


def _because(reading: Reading, text: str) -> Card | None:
    found = BECAUSE.match(text) if reading.language == "en" else None
    if not found or found["effect"].partition(" ")[0].casefold() in OPENERS:
        return None
    return Card(f"{found['effect']}. Why?", f"Because {found['cause']}.", found["effect"])
