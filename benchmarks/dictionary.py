"""Makes `prose.dict`, what English answers have in common, from half the corpus.

zstd's own trainer chooses; the same corpus and version of the library give the same bytes. What
is printed is measured on the other half.
"""

from __future__ import annotations

import argparse
import sys
import zlib
from collections.abc import Sequence
from pathlib import Path

import zstandard

from benchmarks import corpus
from plateau_sse.store.answers import packing
from plateau_sse.store.answers.packing import compressor

PATH = Path(packing.__file__).with_name("prose.dict")
# A little more than zstd advises; twice as much gains nothing with this corpus.
SIZE = 160 * 1024


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="scripts/dictionary", description=__doc__)
    parser.add_argument("--out", type=Path, default=PATH, help=f"where to [{PATH.name}]")
    options = parser.parse_args(arguments)
    dictionary = train(corpus.seen())
    options.out.write_bytes(dictionary)
    sys.stdout.write(f"{len(dictionary)} bytes in {options.out}\n")
    say("an answer that it was not made of", dictionary, corpus.unseen())
    subjects = corpus.subjects()
    half = [answer for subject in subjects[::2] for answer in subject]
    other = [answer for subject in subjects[1::2] for answer in subject]
    say("one made of half the subjects, on the others", train(half), other)
    return 0


def say(what: str, dictionary: bytes, answers: Sequence[str]) -> None:
    plain = [answer.encode() for answer in answers]
    deflated = [zlib.compress(answer, 9) for answer in plain]
    compressed = [compressor(dictionary).compress(answer) for answer in plain]
    sys.stdout.write(
        f"{what}, on average: {_mean(plain)} bytes, deflated {_mean(deflated)}, "
        f"with the dictionary {_mean(compressed)}\n"
    )


def train(answers: Sequence[str]) -> bytes:
    samples: list[bytes | bytearray | memoryview] = [answer.encode() for answer in answers]
    return zstandard.train_dictionary(SIZE, samples).as_bytes()


def _mean(values: Sequence[bytes]) -> int:
    return round(sum(map(len, values)) / len(values))


if __name__ == "__main__":
    sys.exit(main())
