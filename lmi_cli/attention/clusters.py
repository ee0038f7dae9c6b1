"""Keys in clusters, of which a query looks at the best only.

Hooper et al., "Squeezed Attention: Accelerating Long Context Length LLM Inference", ACL 2025
(arXiv 2411.09688), sections 3.1 and 3.2: the keys of a text that is read once and asked about often
are clustered by k-means of their directions; a query scores the mean of each cluster first, and
only keys of clusters whose score passes a threshold one by one. The paper has one threshold for a
model, calibrated for a share of the keys; here each query and head has its own, by which this share
passes. Stored keys are all at position 0, so that their clusters do not depend on where they stand.
"""

import torch
from torch import Tensor
from torch.nn.functional import normalize

from lmi_cli.attention.segment import KEYS_PER_CLUSTER
from lmi_cli.attention.stored import KeyClusters, KeyScores

_PASSES = 3


def clustered(key: Tensor) -> KeyClusters:
    """The keys of a block in one cluster for every ``KEYS_PER_CLUSTER`` of them, by head.

    The centres begin as the directions of keys at regular intervals. Three times each key goes to
    the centre of the largest cosine, the first among equals, and each centre to the mean direction
    of its keys; one without keys stays where it is.

    Args:
        key: ``[B, Hkv, n, D]``, of any floating type; ``n`` is between 1 and 2^15.
    """
    key = key.to(torch.promote_types(key.dtype, torch.float32))
    batch, heads, count, _ = key.shape
    clusters = -(-count // KEYS_PER_CLUSTER)
    flat = key.flatten(0, 1)
    direction = normalize(flat, dim=-1)
    centre = direction[:, torch.arange(clusters, device=key.device) * count // clusters]
    for turn in range(_PASSES):
        nearest = (direction @ centre.mT).argmax(-1)
        if turn < _PASSES - 1:
            mean = _means(direction, nearest, clusters)
            centre = torch.where((mean == 0).all(-1, keepdim=True), centre, normalize(mean, dim=-1))
    centroid = _means(flat, nearest, clusters).unflatten(0, (batch, heads))
    return KeyClusters.of(centroid, nearest.to(torch.int16).unflatten(0, (batch, heads))[..., None])


def _means(x: Tensor, cluster: Tensor, clusters: int) -> Tensor:
    """Mean ``[n, C, D]`` of the rows ``[n, keys, D]`` of each cluster; zero for an empty one."""
    sums = x.new_zeros(x.shape[0], clusters, x.shape[-1])
    sums.scatter_add_(1, cluster[..., None].expand_as(x), x)
    sizes = x.new_zeros(x.shape[0], clusters).scatter_add_(1, cluster, x.new_ones(cluster.shape))
    return sums / sizes.clamp(min=1.0)[..., None]


def candidates(keys: KeyScores, seen: Tensor, budget: Tensor) -> Tensor:
    """The keys that each query scores one by one: those of the clusters that pass.

    A cluster passes if the clusters that score better, or as well and stand before it, have fewer
    keys than the budget, of those that the query sees.

    Args:
        keys: Queries and keys, in clusters.
        seen: Number of keys that each query sees, the first ones, ``[Q]``.
        budget: Least number of keys for each query, ``[Q]``.

    Returns:
        A mask ``[B, H, Q, keys]``, in which keys that a query does not see may be set.

    Raises:
        ValueError: The keys are not in clusters.
    """
    query, stored = keys.query, keys.stored
    batch, heads, rows, _ = query.shape
    scores, sizes, members = [], [], []
    for block, end in zip(stored.blocks, stored.ends, strict=True):
        if block.clusters is None:
            raise ValueError("these keys are not in clusters")
        centroid, cluster, size = (each.to(query.device) for each in block.clusters)
        key_heads = centroid.shape[1]
        folded = query.reshape(batch, key_heads, -1, query.shape[-1])
        scores.append((folded.to(centroid.dtype) @ centroid.mT).view(batch, heads, rows, -1))
        members.append(cluster[..., 0].long())
        count = cluster.shape[2]
        sizes.append(_seen_sizes(members[-1], size, seen - (end - count)))
    score, size = torch.cat(scores, -1), torch.cat(sizes, -1)
    size = size.repeat_interleave(heads // key_heads, 1)
    score = score.masked_fill(size == 0, -torch.inf)
    order = score.sort(dim=-1, descending=True, stable=True).indices
    ordered = size.gather(-1, order)
    passing = (ordered.cumsum(-1) - ordered < budget[:, None]) & (ordered > 0)
    passes = torch.zeros_like(passing).scatter(-1, order, passing)
    parts = passes.split([part.shape[-1] for part in scores], -1)
    masks = [
        part.reshape(batch, key_heads, -1, part.shape[-1])
        .gather(-1, cluster[:, :, None].expand(-1, -1, heads // key_heads * rows, -1))
        .view(batch, heads, rows, -1)
        for part, cluster in zip(parts, members, strict=True)
    ]
    return torch.cat(masks, -1)


def _seen_sizes(cluster: Tensor, size: Tensor, seen: Tensor) -> Tensor:
    """How many keys of each cluster each query sees, ``[B, Hkv, Q, C]``.

    Args:
        cluster: Number of the cluster of each key, ``[B, Hkv, n]``.
        size: Keys of each cluster, ``[B, Hkv, C]``.
        seen: Number of keys that each query sees, the first ones, ``[Q]``.
    """
    size = size[:, :, None].expand(-1, -1, len(seen), -1)
    if int(seen.min()) >= cluster.shape[-1]:
        return size
    visible = torch.arange(cluster.shape[-1], device=seen.device) < seen[:, None]
    index = cluster[:, :, None].expand(-1, -1, len(seen), -1)
    return torch.zeros_like(size).scatter_add_(-1, index, visible.to(size.dtype).expand_as(index))
