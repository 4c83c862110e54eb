"""What tells languages apart is taken off vectors, and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from sklearn.decomposition import PCA

from allophone.errors import CheckpointError
from allophone.models.language_removal import LEAST_TEXTS, REMOVED_FILE, fit_removal, read_removed
from allophone.models.text_teacher import TeacherTable


def two_languages(contents: int = 60, dim: int = 24) -> list[torch.Tensor]:
    """The same meanings twice, with a place of each language and a little noise."""
    torch.manual_seed(0)
    meaning = torch.randn(contents, dim)
    return [meaning + 0.3 * torch.randn(contents, dim) + 4 * torch.randn(dim) for _ in range(2)]


def test_texts_of_another_language_are_found_once_their_place_is_off() -> None:
    vectors = two_languages()
    mean, both = (fit_removal(vectors, languages=value) for value in (False, True))
    assert mean.directions.shape == (0, 24) and both.directions.shape == (1, 24)
    pool = torch.cat(vectors)

    def other(removed) -> float:
        """Share of texts of the first language whose nearest but itself is the same meaning in the second."""
        unit = F.normalize(removed(pool), dim=1)
        similar = (unit @ unit.T).fill_diagonal_(-2)[:60]
        return float((similar.argmax(dim=1) == torch.arange(60, 120)).float().mean())

    assert other(mean) < 0.2 < 0.9 < other(both)


def test_directions_are_those_of_the_means() -> None:
    torch.manual_seed(1)
    vectors = [torch.randn(50, 12) + 3 * torch.randn(12) for _ in range(4)]
    removed = fit_removal(vectors, languages=True)
    assert removed.directions.shape == (3, 12)
    torch.testing.assert_close(removed.directions @ removed.directions.T, torch.eye(3), atol=1e-5, rtol=0)
    means = torch.stack([one.mean(dim=0) for one in vectors])
    expected = torch.from_numpy(PCA(3).fit(means.numpy()).components_)
    torch.testing.assert_close((removed.directions @ expected.T).abs(), torch.eye(3), atol=1e-4, rtol=0)
    left = torch.stack([removed(one).mean(dim=0) for one in vectors])
    torch.testing.assert_close(left, left[:1].expand_as(left), atol=1e-5, rtol=0)
    assert not len(fit_removal(vectors[:1], languages=True).directions)
    few = fit_removal([*vectors, torch.randn(LEAST_TEXTS - 1, 12)], languages=True)
    torch.testing.assert_close(few.directions, removed.directions)  # texts of a small language keep what they say
    assert not torch.equal(few.mean, removed.mean)
    assert len(fit_removal([vectors[0], vectors[0]], languages=True).directions) <= 1


def test_it_is_kept_in_a_file(tmp_path: Path) -> None:
    removed = fit_removal(two_languages(), languages=True)
    assert read_removed(tmp_path) is None
    removed.save(tmp_path / "model")
    again = read_removed(tmp_path / "model")
    assert again is not None and torch.equal(again.mean, removed.mean)
    assert torch.equal(again.directions, removed.directions)
    table = TeacherTable("fake", torch.arange(3), torch.randn(3, 24))
    assert again.off(table).name == "fake, less a mean and 1 directions of languages"
    torch.testing.assert_close(again.off(table).vectors, removed(table.vectors))
    (tmp_path / "model" / REMOVED_FILE).write_bytes(b"torn")
    with pytest.raises(CheckpointError, match="cannot be read"):
        read_removed(tmp_path / "model")
