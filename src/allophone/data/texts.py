"""What each utterance of a batch is to be turned into: its own words, or those of another language.

What is drawn depends on (seed, epoch, utterance id, repeat) alone.
"""

from __future__ import annotations

from collections.abc import Sequence

from allophone.batch import Texts
from allophone.data.utterance import Utterance
from allophone.errors import ConfigError, DataError
from allophone.seeding import numpy_generator


def texts_of_row(row: Utterance, languages: Sequence[str] | None) -> dict[str, str]:
    """What an utterance says, by language: its own words (``languages`` None), or in some languages."""
    own = {row.language: row.text} if row.text else {}
    if languages is None:
        return own
    every = {**row.translations, **own}
    return {language: every[language] for language in languages if language in every}


class TextDraws:
    """Draws one text for each utterance of one corpus.

    Args:
        utterances: All that texts will be asked for.
        languages: Languages of texts (``eng_Latn``), each with equal chances where an utterance has several; None takes
            the words of the utterance itself, in its own language.

    Raises:
        ConfigError: ``languages`` is empty.
        DataError: An utterance has no text in any of them.
    """

    def __init__(self, utterances: Sequence[Utterance], languages: Sequence[str] | None = None) -> None:
        if languages is not None and not languages:
            raise ConfigError("Texts in no language: name at least one, such as eng_Latn.")
        ordered = None if languages is None else sorted(set(languages))
        self._known = {row.id: list(texts_of_row(row, ordered).items()) for row in utterances}
        mute = [name for name, texts in self._known.items() if not texts]
        if mute:
            wanted = "in their own language" if languages is None else f"in {', '.join(languages)}"
            raise DataError(
                f"{len(mute)} of {len(self._known)} utterances have no text {wanted}, the first is {mute[0]!r}. Leave "
                "them out, or name a language that they have."
            )

    def draw(self, utterances: Sequence[Utterance], repeats: Sequence[int], seed: int, epoch: int) -> Texts:
        """One text for each utterance of a batch.

        Args:
            utterances: The batch.
            repeats: How often the epoch drew each before.
            seed: Of the run.
            epoch: Number of the epoch.
        """
        drawn = []
        for row, repeat in zip(utterances, repeats, strict=True):
            known = self._known[row.id]
            place = 0
            if len(known) > 1:
                place = int(numpy_generator(seed, "text", epoch, row.id, repeat).integers(len(known)))
            drawn.append(known[place])
        return Texts(
            tuple(text for _, text in drawn),
            tuple(language for language, _ in drawn),
            spoken=tuple(row.language for row in utterances),
            contents=tuple(row.group or row.text or row.id for row in utterances),
        ).validate()
