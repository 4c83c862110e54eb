"""Write ``src/allophone/text/languages.tsv`` and ``scripts.tsv`` from public tables (``pip install babel langcodes``).

Sources: the IANA language subtag registry (public domain, CC0 1.0, https://iana.org/help/licensing-terms), as shipped
in ``langcodes``; Unicode CLDR likely subtags (Unicode-3.0), as shipped in ``babel``; ISO 639 code pairs, from
``langcodes``. Usage: ``python scripts/make_language_table.py``.
"""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path

import langcodes
from babel.core import Locale, get_global
from langcodes.data_dicts import LANGUAGE_ALPHA3, LANGUAGE_ALPHA3_BIBLIOGRAPHIC

TARGET = Path(__file__).parents[1] / "src" / "allophone" / "text"
# Macrolanguages that corpora use for one member; the member is what FLORES-200 writes (cmn is its zho).
MEMBERS = dict(
    pair.split(":")
    for pair in "aym:ayr aze:azj ara:arb fas:pes kau:knc kur:kmr lav:lvs mlg:plt mon:khk msa:zsm nep:npi nor:nob "
    "ori:ory orm:gaz pus:pbt que:quy sqi:als swa:swh uzb:uzn yid:ydd zho:cmn din:dik".split()
)
SCRIPTS = {"kor": "Hang"}  # as FLORES; CLDR says Kore
# Languages of published corpora that the registry has had since, but not yet the copy of it that langcodes ships.
LATER = {"tok": "Toki Pona"}


def records() -> list[dict[str, list[str]]]:
    """Records of the IANA registry, with those of :data:`LATER`."""
    text = (Path(langcodes.__file__).parent / "data" / "language-subtag-registry.txt").read_text(encoding="utf-8")
    found = []
    for block in text.replace("\n  ", " ").split("%%\n"):
        record: dict[str, list[str]] = {}
        for line in block.splitlines():
            key, _, value = line.partition(": ")
            record.setdefault(key, []).append(value)
        found.append(record)
    shipped = {record.get("Subtag", [""])[0] for record in found}
    later = {code: name for code, name in LATER.items() if code not in shipped}
    return found + [{"Type": ["language"], "Subtag": [code], "Description": [name]} for code, name in later.items()]


def script_of(subtag: str, macrolanguage: str | None) -> tuple[str, str]:
    """Default script and ``region=script`` exceptions, from CLDR."""
    likely = get_global("likely_subtags")
    known = subtag if subtag in likely else macrolanguage if macrolanguage in likely else None
    if known is None:
        return "Zyyy", ""
    default = likely[known].split("_")[1]
    regions = []
    for key, value in sorted(likely.items()):
        parts = key.split("_")
        if parts[0] == known and len(parts) == 2 and len(parts[1]) in (2, 3) and value.split("_")[1] != default:
            regions.append(f"{parts[1]}={value.split('_')[1]}")
    return default, ",".join(regions)


def main() -> None:
    """Write both tables."""
    bibliographic = {code: three for code, three in LANGUAGE_ALPHA3_BIBLIOGRAPHIC.items()}
    rows, scripts = {}, []
    inverse = {member: macro for macro, member in MEMBERS.items()}
    two_letter = {three: two for two, three in LANGUAGE_ALPHA3.items() if len(two) == 2}
    for record in records():
        kind, subtag = record.get("Type", [""])[0], record.get("Subtag", [""])[0]
        if kind == "script" and len(subtag) == 4:
            scripts.append(f"{subtag}\t{record['Description'][0]}")
        scope = record.get("Scope", [""])[0]
        usual = kind == "language" and ".." not in subtag and scope not in ("collection", "special")
        if not usual or "Deprecated" in record:
            continue
        code = LANGUAGE_ALPHA3[subtag] if len(subtag) == 2 else subtag
        if len(code) != 3:
            continue
        macro = (
            two_letter.get(inverse[code], inverse[code]) if code in inverse else record.get("Macrolanguage", [None])[0]
        )
        script, regions = script_of(subtag, macro)
        part1 = subtag if len(subtag) == 2 else ""
        part2b = bibliographic.get(subtag, "") if bibliographic.get(subtag) != code else ""
        name = record["Description"][0]
        rows[code] = [code, part1, part2b, MEMBERS.get(code, ""), SCRIPTS.get(code, script), regions, name]
    rows["und"] = ["und", "", "", "", "Zyyy", "", "Undetermined"]
    rows["zxx"] = ["zxx", "", "", "", "Zxxx", "", "No linguistic content"]
    head = (
        "# Languages of ISO 639-3 with the script that each is usually written in; by scripts/make_language_table.py.\n"
        "# Codes and names: IANA language subtag registry of 2021-08-06 (public domain, CC0 1.0)"
        f"; {', '.join(LATER)} of a later one.\n"
        "# Scripts: Unicode CLDR likely subtags (Unicode License v3, (c) Unicode, Inc.), "
        f"from Babel {version('babel')}.\n"
        "# member: the language that the macrolanguage's code stands for here.\n"
        "code\tpart1\tpart2b\tmember\tscript\tscript_in_region\tname\n"
    )
    body = "".join("\t".join(rows[code]) + "\n" for code in sorted(rows))
    (TARGET / "languages.tsv").write_text(head + body, encoding="utf-8")
    head = "# Scripts of ISO 15924: IANA language subtag registry (public domain, CC0 1.0), Unicode CLDR.\ncode\tname\n"
    known = {line.split("\t")[0] for line in scripts}
    names = Locale("en").scripts
    scripts += [f"{code}\t{names.get(code, code)}" for code in {row[4] for row in rows.values()} - known]
    (TARGET / "scripts.tsv").write_text(head + "\n".join(sorted(scripts)) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
