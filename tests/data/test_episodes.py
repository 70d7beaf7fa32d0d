import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from error_checks import raises

from metazoo.data import EpisodeList, ImageSet
from metazoo.errors import ArtefactError, UsageError
from metazoo.storage.tensor_files import read_tensor_metadata, read_tensors, write_tensors


def make(per_class: list[int], groups: list[int] | None = None) -> ImageSet:
    labels = torch.arange(len(per_class)).repeat_interleave(torch.tensor(per_class))
    return ImageSet(
        images=(torch.arange(len(labels)) % 251).to(torch.uint8)[:, None, None, None].expand(-1, 3, 2, 2),
        labels=labels,
        class_names=tuple(f"c{index}" for index in range(len(per_class))),
        groups=None if groups is None else torch.tensor(groups),
        name="made",
    )


@pytest.mark.parametrize(("ways", "shots", "queries"), [(5, 1, 15), (2, 5, 15), (7, 3, 1)])
def test_an_episode_holds_distinct_images_of_the_classes_it_names(ways: int, shots: int, queries: int) -> None:
    whole = make([20, 23, 40, 21, 20, 35, 20])
    episodes = EpisodeList.draw(whole, ways, shots, queries, episodes=30, seed=3)
    assert len(episodes) == len(list(episodes)) == 30
    for episode in episodes:
        assert episode.support_indices.shape == (ways * shots,)
        assert episode.query_indices.shape == (ways * queries,)
        assert len(set(episode.class_indices.tolist())) == ways
        used = torch.cat([episode.support_indices, episode.query_indices])
        assert len(used.unique()) == len(used)
        assert torch.equal(whole.labels[episode.support_indices], episode.class_indices[episode.support_labels])
        assert torch.equal(whole.labels[episode.query_indices], episode.class_indices[episode.query_labels])
        assert episode.support_labels.tolist() == [way for way in range(ways) for _ in range(shots)]


def test_exactly_as_many_images_as_needed_are_enough() -> None:
    episodes = EpisodeList.draw(make([20] * 5), ways=5, shots=5, queries=15, episodes=4)
    for episode in episodes:
        used = torch.cat([episode.support_indices, episode.query_indices])
        assert used.sort().values.tolist() == list(range(100))


def test_classes_and_images_are_drawn_uniformly() -> None:
    whole = make([6] * 8)
    episodes = EpisodeList.draw(whole, ways=2, shots=1, queries=2, episodes=4000)
    for drawn, kinds in ((episodes.class_indices, 8), (episodes.support_indices, 48), (episodes.query_indices, 48)):
        counts = torch.bincount(drawn.flatten(), minlength=kinds).double()
        expected = counts.sum() / kinds
        # Chi-square of k degrees of freedom has mean k and standard deviation sqrt(2 k); five of these are no chance.
        chi_square = float(((counts - expected) ** 2 / expected).sum())
        assert chi_square < kinds + 5 * (2 * kinds) ** 0.5


def test_a_list_is_fixed_by_its_seed_for_good() -> None:
    whole = make([20] * 6)
    drawn = EpisodeList.draw(whole, 5, 1, episodes=10, seed=0)
    assert drawn.sha256 == EpisodeList.draw(whole, 5, 1, episodes=10, seed=0).sha256
    assert drawn.sha256 != EpisodeList.draw(whole, 5, 1, episodes=10, seed=1).sha256
    # Hangs on Philox, SHA-256 and JSON alone, none of which differs between machines or versions.
    assert drawn.sha256 == "234457611a98449d5492928c78fc293238d570df9771cd0fbe6c2c45778737e4"
    longer = EpisodeList.draw(whole, 5, 1, episodes=25, seed=0)
    assert torch.equal(longer.query_indices[:10], drawn.query_indices)
    assert torch.equal(longer.support_indices[:10], drawn.support_indices)


def test_the_hash_depends_on_the_images() -> None:
    whole = make([20] * 5)
    brighter = ImageSet(whole.images + 1, whole.labels, whole.class_names)
    first, second = (EpisodeList.draw(images, 5, 1, episodes=3) for images in (whole, brighter))
    assert torch.equal(first.support_indices, second.support_indices)
    assert first.sha256 != second.sha256
    first.check_drawn_from(whole)
    with raises(UsageError, subject="episode list"):
        first.check_drawn_from(brighter)


def test_support_and_query_of_a_class_share_no_group() -> None:
    random = np.random.default_rng(0)
    # Group numbers recur in other classes, where they mean something else.
    whole = make([90] * 4, random.integers(0, 9, 360).tolist())
    assert whole.groups is not None
    for episode in EpisodeList.draw(whole, ways=3, shots=5, queries=15, episodes=100):
        support = whole.groups[episode.support_indices].view(3, 5)
        query = whole.groups[episode.query_indices].view(3, 15)
        for way in range(3):
            assert not set(support[way].tolist()) & set(query[way].tolist())
            # Nine groups of about ten images: five shots from five groups leave plenty for the query.
            assert len(set(support[way].tolist())) == 5


def test_groups_are_parted_whenever_that_is_possible() -> None:
    random = np.random.default_rng(1)
    outcomes = set()
    for _ in range(150):
        sizes = random.integers(1, 9, random.integers(1, 6)).tolist()
        shots, queries = int(random.integers(1, 6)), int(random.integers(1, 16))
        if sum(sizes) < shots + queries:
            continue
        groups = [group for group, size in enumerate(sizes) for _ in range(size)] * 2
        whole = make([sum(sizes)] * 2, groups)
        subsets = (c for k in range(len(sizes) + 1) for c in itertools.combinations(sizes, k))
        possible = any(shots <= sum(subset) <= sum(sizes) - queries for subset in subsets)
        outcomes.add(possible)
        if not possible:
            with raises(UsageError, problem=f"in {len(sizes)} groups"):
                EpisodeList.draw(whole, 2, shots, queries, episodes=1)
            continue
        for episode in EpisodeList.draw(whole, 2, shots, queries, episodes=8):
            support, query = (torch.tensor(groups)[part] for part in (episode.support_indices, episode.query_indices))
            for way in range(2):
                here = set(support.view(2, shots)[way].tolist())
                assert not here & set(query.view(2, queries)[way].tolist())
            used = torch.cat([episode.support_indices, episode.query_indices])
            assert len(used.unique()) == 2 * (shots + queries)
    assert outcomes == {True, False}


def test_what_cannot_be_drawn_is_said() -> None:
    with raises(UsageError, subject="made", problem="3 classes, too few for 5-way"):
        EpisodeList.draw(make([20] * 3), 5, 1)
    with raises(UsageError, subject="class 'c1' of made", problem="19 images, but 5 support and 15 query images"):
        EpisodeList.draw(make([20, 19]), 2, 5)
    for ways, shots, queries, episodes in ((1, 1, 1, 1), (2, 0, 1, 1), (2, 1, 0, 1), (2, 1, 1, 0)):
        with raises(UsageError, subject="episodes", problem=f"{ways} ways, {shots} shots", remedy="2 ways"):
            EpisodeList.draw(make([20] * 3), ways, shots, queries, episodes)


def test_a_stored_list_comes_back(tmp_path: Path) -> None:
    drawn = EpisodeList.draw(make([20] * 5), 3, 5, episodes=6, seed=9)
    drawn.save(tmp_path / "list.safetensors")
    read = EpisodeList.load(tmp_path / "list.safetensors")
    assert (read.ways, read.shots, read.queries, read.seed) == (3, 5, 15, 9)
    assert read.sha256 == drawn.sha256
    assert torch.equal(read[2].query_indices, drawn[2].query_indices)


def test_a_changed_or_foreign_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "list.safetensors"
    EpisodeList.draw(make([20] * 5), 3, 1, episodes=6).save(path)
    tensors, metadata = read_tensors(path), read_tensor_metadata(path)
    changes = {
        "position": (tensors | {"query_indices": tensors["query_indices"] + 1}, metadata),
        "seed": (tensors, metadata | {"seed": "1"}),
        "shots": (tensors, metadata | {"shots": "5"}),
        "type": (tensors | {"class_indices": tensors["class_indices"].float()}, metadata),
        "missing tensor": ({name: tensors[name] for name in tensors if name != "class_indices"}, metadata),
        "missing number": (tensors, {name: metadata[name] for name in metadata if name != "ways"}),
        "version": (tensors, metadata | {"format_version": "2"}),
        "no metadata": (tensors, {}),
    }
    for what, (new_tensors, new_metadata) in changes.items():
        changed = tmp_path / f"{what}.safetensors"
        write_tensors(changed, new_tensors, new_metadata)
        with raises(ArtefactError, subject=f"{what}.safetensors", remedy="draw it again"):
            EpisodeList.load(changed)
    path.write_bytes(b"no tensors")
    with pytest.raises(ArtefactError, match=r"list\.safetensors"):
        EpisodeList.load(path)
    with pytest.raises(ArtefactError, match=r"gone\.safetensors"):
        EpisodeList.load(tmp_path / "gone.safetensors")
