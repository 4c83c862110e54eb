"""What units stand for: their agreement with phones, before and after, beside clusters of filter banks and of noise."""

from __future__ import annotations

from allophone.data.corpus import Corpus
from allophone.evaluate.report_content import Table
from allophone.evaluate.report_tables import language_name
from allophone.models.build import Encoder
from allophone.nn.codebook import Codebook
from allophone.run.base import Base
from allophone.run.expansion import random_encoder
from allophone.run.progress import Report, counted, silent
from allophone.run.targets import subset, waveforms
from allophone.units.encode import encode_units
from allophone.units.fit import fit_codebook
from allophone.units.report import PhoneInterval, read_phones, unit_report

PHONES = "phones.parquet"
"""Beside ``corpus.parquet``: id and a list of phone, start_seconds, end_seconds."""
FIT_HOURS = 0.3
"""Audio on which the control codebooks are clustered."""


def read_phone_table(corpus: Corpus) -> dict[str, list[PhoneInterval]]:
    """Phone labels that lie beside a corpus, of the utterances that it has; empty where there are none."""
    path = corpus.folder / PHONES
    if not path.exists():
        return {}
    known = {row.id for row in corpus}
    return {name: phones for name, phones in read_phones(path).items() if name in known}


def phone_table(
    corpus: Corpus, base: Base, adapted: Encoder, codebook: Codebook, *, seed: int, report: Report = silent
) -> Table | None:
    """PNMI and purities of four codebooks on the utterances that have phone labels; None where there are none.

    Args:
        corpus: Holds the labelled utterances and, in its training split, what control codebooks are fitted on.
        base: The model before.
        adapted: The encoder after.
        codebook: Its units.
        seed: Of the control codebooks.
        report: Told how far it is.
    """
    phones = read_phone_table(corpus)
    labelled = corpus.with_utterances(tuple(row for row in corpus if row.id in phones))
    training = [row for row in corpus if row.split == "train"]
    if not phones or not training or base.codebook is None:
        return None
    random = random_encoder(base.encoder, seed)
    layer, size = base.codebook.info.layer, codebook.info.num_units
    rows = subset(training, FIT_HOURS, seed)
    speakers = {row.id: row.speaker for row in corpus}
    told = report("Units against phones")
    books: list[tuple[str, Codebook, Encoder | None]] = []
    for name, encoder in (("filter bank", None), ("random encoder", random)):
        book = fit_codebook(
            waveforms(corpus, rows),
            "fbank" if encoder is None else "model",
            size,
            seed=seed,
            encoder=encoder,
            layer=None if encoder is None else layer,
            normalization="voice",
            speakers=speakers,
            init_frames=2**18,
            progress=counted(told),
        )
        books.append((name, book, encoder))
    books += [("before", base.codebook, base.encoder), ("after", codebook, adapted)]
    cells = []
    for name, book, encoder in books:
        units = encode_units(waveforms(labelled, labelled.utterances), book, encoder=encoder, speakers=speakers)
        agreement = unit_report(units, phones, resamples=300).phones
        assert agreement is not None
        values = [getattr(agreement, key) for key in ("pnmi", "phone_purity", "cluster_purity")]
        cells.append((name, *(f"{one.value:.3f} ({one.low:.3f}-{one.high:.3f})" for one in values)))
        chance = (agreement.chance_pnmi, agreement.chance_phone_purity, agreement.chance_cluster_purity)
    languages = sorted({language_name(row.language) for row in labelled})
    of_training = {row.speaker for row in labelled} & {row.speaker for row in training}
    return Table(
        title=f"Sound units against phones ({', '.join(languages)})",
        explanation="How much knowing the unit tells about the phone that a linguist labelled. Higher is better.",
        columns=("Units of", "PNMI", "phone purity", "cluster purity"),
        rows=(("chance", *(f"{value:.3f}" for value in chance)), *cells),
        note=f"{size} units; {len(labelled)} sentences, {'some' if of_training else 'none'} of them of voices in the "
        "corpus' training split; filter-bank units have 100 frames a second, the others those of the encoder; chance "
        "is that of the units after, shuffled.",
    )
