"""Makes `service/store/prose.dict`, what English answers have in common, from half the corpus.

Sentence by sentence it takes the one that saves most bytes for its own length on the answers
that it does not come from; what was taken early ends up last, where deflate reaches it with the
shortest distances. The result is the same at every run.
"""

from __future__ import annotations

import argparse
import heapq
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks import corpus
from service.store.packing import DICTIONARY_BYTES, deflate

PATH = Path(__file__).parent.parent / "service" / "store" / "prose.dict"
# The end of a sentence or of a line, with the white space that follows.
_PIECE = re.compile(r"[^\n]*?(?:[.!?:](?=\s)\s|\n+|\Z)")
SHORTEST = 12
# A gain that was looked at so few steps ago is taken for true: what is taken changes it little.
STALE_STEPS = 4


def total(answers: Sequence[bytes], dictionary: bytes) -> int:
    """Bytes of all these answers, each deflated by itself."""
    return sum(len(deflate(answer, dictionary)) for answer in answers)


def build(answers: Sequence[str], size: int = DICTIONARY_BYTES) -> bytes:
    """A dictionary of at most `size` bytes."""
    texts = [answer.encode() for answer in answers]
    pieces = [
        (number, found[0].encode())
        for number, answer in enumerate(answers)
        for found in _PIECE.finditer(answer)
        if len(found[0].strip()) >= SHORTEST
    ]
    dictionary = b""
    sizes = [len(deflate(text, b"")) for text in texts]

    def gain(number: int, piece: bytes) -> float:
        saved = sum(
            before - len(deflate(text, piece + dictionary))
            for other, (text, before) in enumerate(zip(texts, sizes, strict=True))
            if other != number
        )
        return saved / len(piece)

    queue = [(-gain(*piece), 0, at) for at, piece in enumerate(pieces)]
    heapq.heapify(queue)
    taken = 0
    while queue and len(dictionary) < size:
        negative, looked_at, at = heapq.heappop(queue)
        if taken - looked_at > STALE_STEPS:
            heapq.heappush(queue, (-gain(*pieces[at]), taken, at))
            continue
        if negative >= 0:
            break
        dictionary = pieces[at][1] + dictionary
        sizes = [len(deflate(text, dictionary)) for text in texts]
        taken += 1
        if taken % 50 == 0:
            sys.stderr.write(f"{len(dictionary)} of {size} bytes\n")
    return dictionary[-size:]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="scripts/dictionary", description=__doc__)
    parser.add_argument("--out", type=Path, default=PATH, help=f"where to [{PATH.name}]")
    options = parser.parse_args(arguments)
    dictionary = build(corpus.seen())
    options.out.write_bytes(dictionary)
    unseen = [answer.encode() for answer in corpus.unseen()]
    plain = sum(map(len, unseen))
    without, with_it = total(unseen, b""), total(unseen, dictionary)
    sys.stdout.write(
        f"{len(dictionary)} bytes in {options.out}\n"
        f"an answer that it was not made of, on average: {plain / len(unseen):.0f} bytes, "
        f"deflated {without / len(unseen):.0f}, with it {with_it / len(unseen):.0f}\n"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
