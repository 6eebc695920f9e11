"""Check a data set before training: python -m data.check ANNOTATIONS IMAGE_ROOT

Prints counts, caption lengths and what is wrong, and writes to --out `findings.txt`, where each finding is
listed, and `contact_sheet.png`. Exit status 0: fit for training, warnings at most; 1: defects that stop or
falsify training; 2: malformed records, or no annotations at all.
"""

import argparse
import contextlib
import sys
from array import array
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from tqdm import tqdm

from data.annotations import missing_images
from data.check.images import ODDITIES, drawn, equal_files, find_oddities, unnamed_images
from data.check.near import describe_missing
from data.check.records import (
    Finding,
    differences,
    equal_bytes,
    of_images,
    record_findings,
    values,
    with_bar,
)
from data.formats import read_splits
from data.images.decode import BadImageError, load_image
from data.images.regions import whole_image
from data.published import PUBLISHED, Count, Found, count, recognise
from data.readers.pretraining import json_files, kind_of
from data.records import (
    DROPPED,
    MALFORMED,
    NO_WORDS,
    NOT_ALIGNED,
    TWO_PERSONS,
    UNPAIRED,
    UNPAIRED_REWRITES,
)
from data.types import FORMATS
from misc.cli import Parser, exit_status
from misc.process.workers import num_cores
from misc.report.contact_sheet import Block, Cell, draw_contact_sheet
from options import UserError
from text_utils.captions import CLEANINGS

FINDINGS, CONTACT_SHEET = "findings.txt", "contact_sheet.png"
NUM_SHOWN = 3  # of a finding, on screen
NUM_CELLS = 8  # of each split, on the contact sheet


def build_parser() -> Parser:
    """The command line."""
    parser = Parser(prog="python -m data.check", description=__doc__)
    parser.add_argument("annotations", type=Path, metavar="ANNOTATIONS", help="as data.annotation_file")
    parser.add_argument("image_root", type=Path, metavar="IMAGE_ROOT", help="as data.image_root")
    parser.add_argument("--dataset", default="auto", metavar="NAME", help="as data.dataset: force the format")
    parser.add_argument("--languages", nargs="+", metavar="LANGUAGE", help="default: all that are there")
    accept = ("error", "accept")
    parser.add_argument(
        "--truncated", choices=accept, default="error", help="as data.truncated; default: error"
    )
    default = 77  # of CLIP's weights
    text = f"as experiment.text_length: longer captions are listed; default: {default}"
    parser.add_argument("--text-length", type=int, default=default, metavar="TOKENS", help=text)
    parser.add_argument(
        "--cleaning", choices=CLEANINGS, default="tbps-clip", help="as data.cleaning; default: tbps-clip"
    )
    text = "decode only so many images, drawn at random; default: all"
    parser.add_argument("--sample", type=int, metavar="IMAGES", help=text)
    parser.add_argument("--out", type=Path, default=Path("runs/check"), metavar="DIR", help="runs/check")
    return parser


def check(flags: argparse.Namespace) -> list[Finding]:
    """All findings, empty ones included; prints counts and caption lengths."""
    if flags.dataset not in {"auto", *FORMATS}:
        raise UserError(f"--dataset: expected auto or one of {', '.join(FORMATS)}, found '{flags.dataset}'")
    if flags.text_length < 3:
        raise UserError(f"--text-length: expected 3 or more tokens, found {flags.text_length}")
    if flags.sample is not None and flags.sample < 1:
        raise UserError(f"--sample: expected 1 or more images, found {flags.sample}")
    kinds = (MALFORMED, DROPPED, NO_WORDS, UNPAIRED, UNPAIRED_REWRITES, NOT_ALIGNED, TWO_PERSONS)
    faults: dict[str, list[str]] = {kind: [] for kind in kinds}
    found = read_splits(
        flags.annotations,
        languages=flags.languages,
        dataset=flags.dataset,
        report=lambda kind, message: faults[kind].append(message),
    )
    counts = count(found)
    if not counts and not faults[MALFORMED]:
        raise UserError(f"'{flags.annotations}' has no records (in these languages); check the path")
    name = recognise(counts, f"{_kind(flags.annotations)} {flags.dataset} {flags.annotations}")
    print_counts(counts, name)
    print_rewrites(found)
    images, unusable = image_findings(found, flags)
    findings = [Finding(kind, kind != DROPPED, messages) for kind, messages in faults.items()]
    findings += [*images, *record_findings(found, unusable), long_captions(found, flags)]
    if name:
        findings.append(differences(counts, name, len(faults[DROPPED])))
    write_contact_sheet(found, unusable, flags.image_root, flags.out)
    return findings


def _kind(annotations: Path) -> str | None:
    """The set for pretraining that a file, or the first JSON file of a folder, begins as."""
    return next((kind_of(file) for file in json_files(annotations)), None)


def open_folder(out: Path) -> None:
    """Make the folder for what is written, before the long work."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        (out / FINDINGS).write_text("the check was not finished\n", encoding="utf-8")
    except OSError as error:
        raise UserError(f"--out: cannot write to '{out}' ({error.strerror}); name another folder") from error


def print_counts(counts: dict[tuple[str, str], Count], name: str | None) -> None:
    """A row for each split and language, beside the published counts of the data set `name`."""
    print(f"{'split':6}{'language':>9}{'persons':>9}{'images':>9}{'captions':>10}", end="")
    print(f"   published for {name}" if name else "   (no published data set)")
    for (split, language), number in counts.items():
        published = PUBLISHED[name].get(split) if name else None
        shown = ("?" if n is None else f"{n:,}" for n in published or ())
        same = "the same" if published == number else " / ".join(shown)
        print(f"{split:6}{language:>9}{number[0]:9,}{number[1]:9,}{number[2]:10,}   {same}".rstrip())


def print_rewrites(found: Found) -> None:
    """What experiment.rewrites reads, where there is any."""
    some = [r for by_language in found.values() for r in by_language.values() if r.num_rewritten]
    of_captions = [groups for records in some for record in records for groups in record.rewrites if groups]
    groups = [group for groups in of_captions for group in groups]
    if groups:
        counts = f"{len(groups):,} groups of {sum(map(len, groups)):,} texts"
        print(f"captions with rewrites: {len(of_captions):,}, with {counts}")


def image_findings(found: Found, flags: argparse.Namespace) -> tuple[list[Finding], set[str]]:
    """What is wrong with the image files, and the images that cannot be used."""
    root = flags.image_root
    images = pc.unique(pa.concat_arrays([values(part, "image") for part in found.values()])).to_pylist()
    missing = dict.fromkeys(missing_images(images, root))
    there = [image for image in images if image not in missing]
    chosen = drawn(there, flags.sample)
    if len(chosen) < len(there):
        print(f"images: all {len(images):,} are looked for; --sample: {len(chosen):,} of them are decoded")
    with tqdm(total=len(chosen), unit="image", disable=not sys.stderr.isatty()) as bar:
        oddities, digests = find_oddities(chosen, root, num_cores(), bar.update, flags.truncated)
    unreadable = {image for image, kind, _ in oddities if ODDITIES[kind]}
    findings = [Finding("missing images", True, describe_missing([*missing], root))]
    for kind, is_unusable in ODDITIES.items():
        details = [f"{image}: {what}" for image, k, what in oddities if k == kind]
        findings.append(Finding(kind, is_unusable, details))
    unnamed = unnamed_images(set(map(whole_image, images)), root)
    findings.append(Finding("images in the folder that no record names", False, unnamed))
    return [*findings, *equal_bytes(found, equal_files(chosen, digests))], unreadable.union(missing)


def long_captions(found: Found, flags: argparse.Namespace) -> Finding:
    """The captions of more tokens than the limit; prints how long those of each language are."""
    from text_utils.tokenizer import CLIPTokenizer  # seconds to import: --help must not wait for it

    tokenizer, limit = CLIPTokenizer(sys.maxsize, flags.cleaning), flags.text_length
    lengths: dict[str, array[int]] = {}
    cut = []
    for split, language, record in with_bar(found, "tokens"):
        for caption in record.captions:
            length = len(tokenizer.encode(tokenizer.clean(caption)))
            lengths.setdefault(language, array("i")).append(length)
            if length > limit:
                cut.append(f"{split} {language} {record.image}: {length} tokens: '{caption}'")
    for language, of_language in lengths.items():
        print(
            f"captions in {language}: {np.mean(of_language):.1f} CLIP tokens on average, 95 % have at most "
            f"{np.percentile(of_language, 95):.0f}, the longest {max(of_language)}; "
            f"{100 * np.mean(np.array(of_language) > limit):.2f} % have more than {limit}"
        )
    return Finding(f"captions of more than {limit} tokens (the clip backbone cuts them there)", False, cut)


def write_contact_sheet(found: Found, unusable: set[str], root: Path, out: Path) -> None:
    """Draw some images of each split, evenly spread, with the first caption of each language."""
    cells = []
    unfit = pa.array([*unusable], pa.large_string())
    for split, by_language in found.items():
        images = values(by_language, "image")
        usable = images.filter(pc.invert(pc.is_in(images, value_set=unfit)))
        chosen = usable[:: -(-len(usable) // NUM_CELLS) or 1].to_pylist()
        captions: dict[str, list[str]] = {image: [] for image in chosen}
        persons = {}
        for records in by_language.values():
            for record in of_images(records, chosen):
                captions[record.image] += record.captions[:1]
                persons[record.image] = record.person_id
        for image in chosen:
            label = f"{split} · person {persons[image]} · {image}"
            with contextlib.suppress(BadImageError):  # one that --sample has left out
                cells.append(Cell(load_image(root / image, truncated="accept"), label, captions[image]))
    draw_contact_sheet([Block("", cells)], out / CONTACT_SHEET)


def report(findings: Sequence[Finding], out: Path) -> None:
    """List the findings in `findings.txt`, and the first few of each on screen; end with a verdict."""
    some = sorted((f for f in findings if f.details), key=lambda f: not f.is_defect)
    lines = []
    for finding in some:
        word = "defect" if finding.is_defect else "warning"
        head = f"{word}: {finding.title}: {len(finding.details):,}"
        details = [f"    {_printable(detail)}" for detail in finding.details]
        lines += [head, *details, ""]
        print(f"\n{head}", *(line[:160] for line in details[:NUM_SHOWN]), sep="\n")
        if len(details) > NUM_SHOWN:
            print(f"    ... and {len(details) - NUM_SHOWN:,} more")
    file = out / FINDINGS
    file.write_text("\n".join(lines) or "nothing found\n", encoding="utf-8")
    defects = sum(f.is_defect for f in some)
    verdict = f"not fit for training; kinds of defects: {defects}," if defects else "fit for training; kinds"
    print(f"verdict: {verdict} of warnings: {len(some) - defects}")


def _printable(detail: str) -> str:
    """One line; unpaired surrogates, which UTF-8 cannot encode, are escaped."""
    return " ".join(detail.split()).encode("utf-8", "backslashreplace").decode()


def run(flags: argparse.Namespace) -> int:
    """Check and report; returns 0, or 1 where there are defects. Raises UserError for malformed records."""
    open_folder(flags.out)
    findings = check(flags)
    report(findings, flags.out)
    malformed = next(finding.details for finding in findings if finding.title == MALFORMED)
    if malformed:
        raise UserError(malformed[0] + f" ({len(malformed)} such records)" * (len(malformed) > 1))
    return int(any(finding.is_defect and finding.details for finding in findings))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status, 0, 1 or 2 as the head of this file says."""
    return exit_status(lambda: run(build_parser().parse_args(arguments)))


if __name__ == "__main__":
    sys.exit(main())
