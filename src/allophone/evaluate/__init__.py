"""What models can do, measured: scores with intervals and signatures, verdicts on claims, and pages that show them.

Scores of frames are taken from a :class:`~allophone.evaluate.protocol.FrameSource`, so an encoder, the same one with
random weights and a filter bank are rows of one table, made by the same code. Other files score vectors of utterances,
transcripts, translations, or speech that was made.
"""
