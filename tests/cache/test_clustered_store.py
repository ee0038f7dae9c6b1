"""A store whose keys are in clusters: made once, dropped with what they describe, saved."""

import pytest
import torch
from torch import Tensor

from lmi_cli.attention.clusters import clustered
from lmi_cli.cache import store as store_module
from lmi_cli.cache.store import TokenStore

BLOCK = 50


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "BLOCK_TOKENS", BLOCK)


@pytest.fixture
def key() -> Tensor:
    return torch.randn(1, 2, 180, 4, generator=torch.Generator().manual_seed(0))


def store_of(key: Tensor, *, clusters: bool = True, int8: bool = False) -> TokenStore:
    store = TokenStore({0: None, 3: None}, with_values=True, clusters=clusters, int8=int8)
    for layer in (0, 3):
        store.append(layer, key + layer, key, 0)
    return store


def require_right(store: TokenStore, key: Tensor) -> None:
    """All blocks of the first layer have the clusters of their keys."""
    for block in store.key_blocks(0, clusters=True):
        at, count = block.start, block.key.shape[2]
        made = block.clusters
        assert made is not None
        for got, want in zip(made, clustered(key[:, :, at : at + count]), strict=True):
            assert torch.equal(got, want)


def test_clusters_are_made_once_and_go_with_what_they_describe(key: Tensor) -> None:
    store = store_of(key[:, :, :130])
    assert store.unclustered == 2 * 130
    assert list(store.cluster()) == 2 * [50, 50, 30]
    assert store.unclustered == 0 and list(store.cluster()) == []
    require_right(store, key)
    size = store.nbytes
    fork = store.fork()
    assert fork.unclustered == 0
    store.append(0, key[:, :, 130:], key[:, :, 130:], 130)
    store.append(3, key[:, :, 130:] + 3, key[:, :, 130:], 130)
    assert store.unclustered == 2 * (50 + 30)
    require_right(store, key)
    require_right(fork, key)
    fork.truncate(110)
    assert fork.unclustered == 2 * 10
    fork.truncate(110)
    require_right(fork, key)
    assert size > store_of(key[:, :, :130]).nbytes


def test_a_store_without_clusters_makes_them_when_they_are_asked_for(key: Tensor) -> None:
    store = store_of(key, clusters=False)
    assert all(block.clusters is None for block in store.key_blocks(0))
    require_right(store, key)
    assert all(block.clusters is None for block in store.key_blocks(0))
    assert store.unclustered == 180  # those of the other layer
    description, tensors = store.save()
    assert "clusters" not in description
    assert not any("c" in name.rpartition(".")[2].replace("_scale", "") for name in tensors)


@pytest.mark.parametrize("int8", [False, True])
def test_they_are_saved_and_restored(key: Tensor, int8: bool) -> None:
    store = store_of(key, int8=int8)
    description, tensors = store.save()
    assert description["clusters"] is True
    other = TokenStore({0: None, 3: None}, with_values=True, clusters=True, int8=int8)
    other.restore(tensors)
    assert other.unclustered == 0
    for one, two in zip(store.stored(0), other.stored(0), strict=True):
        assert one.clusters is not None and two.clusters is not None
        assert all(map(torch.equal, one.clusters, two.clusters))


def test_clusters_of_other_keys_are_refused(key: Tensor) -> None:
    _, tensors = store_of(key).save()
    cluster, centroid = tensors["0.000001.cluster"], tensors["0.000001.centroid"]
    for changes, said in (
        ({"0.000001.cluster": cluster[:, :, :7]}, "not those of 50 keys"),
        ({"0.000001.centroid": centroid[:, :, :0]}, "not those of 50 keys"),
        ({"0.000001.centroid": centroid.repeat(1, 1, 99, 1)}, "not those of 50 keys"),
        ({"0.000001.cluster": cluster + 3}, "in none of its 3 clusters"),
        ({"0.000001.cluster": cluster - 1}, "in none of its 3 clusters"),
    ):
        other = TokenStore({0: None, 3: None}, with_values=True, clusters=True)
        with pytest.raises(ValueError, match=said):
            other.restore(tensors | changes)
    del tensors["3.000002.cluster"]
    with pytest.raises(KeyError):
        TokenStore({0: None, 3: None}, with_values=True, clusters=True).restore(tensors)
