"""What an evaluation's recordings have in common with what its model was trained on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from allophone.data.corpus import Corpus
from allophone.data.heard import Contamination, contamination, listen, load_heard
from allophone.data.loader import WaveformCache
from allophone.data.utterance import Utterance
from allophone.models.aligned import AlignedInfo
from allophone.run.progress import Report, counted, silent


def seen_in_training(
    folder: Path,
    info: AlignedInfo,
    corpus: Corpus,
    judged: Sequence[Utterance],
    cache: WaveformCache[Utterance],
    report: Report = silent,
) -> Contamination | None:
    """Compare what is judged with the model's ledger; None where the model has none, so that nothing can be said.

    Args:
        folder: Of the model.
        info: What the model says of its training.
        corpus: That the judged utterances are from.
        judged: Utterances.
        cache: Decodes them.
        report: Told how far it is.
    """
    heard = load_heard(folder)
    if heard is None:
        return None
    names = [one.name for one in info.heard if one.whole_hash == corpus.hash or one.name == corpus.name]
    return contamination(heard, listen(judged, cache, None, counted(report("Comparing with training"))), names)


def in_words(found: Contamination | None) -> str:
    """For the row of a table."""
    return "what it heard in training is not known" if found is None else found.words
