"""Archives beside pyribs on the same inserts, beside a loop, and beside what their draws must be."""

import math

import numpy as np
import pytest
import torch

from thespis.ops import archive

# of ribs 0.12.0, CVTArchive and GridArchive, after each of three `add`s of the 30 solutions that `given` has: how many cells are
# filled, and the QD score; at the end which solution is in each of the 16 cells
RIBS = {
    "voronoi": (
        [(12, 6.040076), (14, 11.521825), (16, 16.298229)],
        [69, 30, 57, 43, 54, 29, 26, 87, 71, 22, 48, 51, 72, 40, 62, 86],
    ),
    "grid": (
        [(14, 4.023348), (16, 13.045257), (16, 17.667486)],
        [44, 57, 20, 54, 43, 71, 28, 26, 38, 49, 69, 72, 51, 29, 7, 87],
    ),
}


def given() -> tuple[np.ndarray, list[tuple[np.ndarray, np.ndarray]]]:
    """Centroids (16, 2), and three times 30 fitnesses and descriptors (30, 2)."""
    rng = np.random.default_rng(5)
    return rng.uniform(-1, 1, (16, 2)), [(rng.normal(size=30), rng.uniform(-1, 1, (30, 2))) for _ in range(3)]


@pytest.mark.parametrize("kind", sorted(RIBS))
def test_inserts_leave_what_pyribs_leaves(kind: str) -> None:
    centroids, batches = given()
    cells = archive.grid((4, 4)) if kind == "grid" else torch.from_numpy(centroids).float()
    a = archive.empty(cells, {"who": torch.zeros(1, 1)})
    sizes, who = RIBS[kind]
    assert all(float(x) == 0 for x in archive.quality(a).values())
    for i, ((fitness, descriptor), (filled, score)) in enumerate(zip(batches, sizes, strict=True)):
        numbers = {"who": torch.arange(30.0)[:, None] + 30 * i}
        before = a.fitness
        a, changed = archive.insert(a, numbers, torch.from_numpy(fitness).float(), torch.from_numpy(descriptor).float())
        found = archive.quality(a)
        assert torch.equal(changed, a.fitness != before)
        assert float(found["coverage"]) == filled / 16
        assert float(found["qd_score"]) == pytest.approx(score, abs=1e-5)
    assert float(found["best"]) == pytest.approx(2.7736316673693673)
    assert a.genes["who"][:, 0].tolist() == who
    everything = np.concatenate([d for _, d in batches])
    np.testing.assert_allclose(a.descriptor, everything[who], rtol=1e-6)


def test_of_equals_the_first_stays() -> None:
    a = archive.empty(torch.zeros(1, 1), {"g": torch.zeros(1)})
    a, _ = archive.insert(a, {"g": torch.tensor([1.0, 2.0, 3.0])}, torch.tensor([4.0, 5.0, 5.0]), torch.zeros(3, 1))
    assert a.genes["g"].tolist() == [2.0]
    a, changed = archive.insert(a, {"g": torch.tensor([9.0])}, torch.tensor([5.0]), torch.ones(1, 1))
    assert (a.genes["g"].tolist(), bool(changed)) == ([2.0], False)


def test_voronoi_cells_share_a_square_evenly() -> None:
    """A cell of the best quantiser of a square is a hexagon: mean square distance 5 / (18 sqrt 3) area (Newman 1982); of cells at
    random it is 1 / pi, twice as much."""
    torch.manual_seed(0)
    centres = archive.voronoi(64, 2, -2.0, 1.0, samples=100, rounds=30)
    points = -2 + 3 * torch.rand(50_000, 2)
    nearest = archive.cell(points, centres)
    distance = (points - centres[nearest]).square().sum(-1)
    assert float(distance.min()) >= 0
    slow = [((p - centres) ** 2).sum(-1).min() for p in points[:50]]
    torch.testing.assert_close(distance[:50], torch.stack(slow))
    assert 0.98 < float(distance.mean()) / (5 / (18 * math.sqrt(3)) * 9 / 64) < 1.15
    assert ((centres > -2) & (centres < 1)).all()


def test_parents_are_drawn_evenly_from_filled_cells() -> None:
    a = archive.empty(torch.arange(10.0)[:, None], {"g": torch.zeros(1, 2)})
    torch.manual_seed(0)
    assert set(archive.drawn(a, 500).tolist()) == set(range(10))  # of none, any
    a, _ = archive.insert(a, {"g": torch.rand(3, 2)}, torch.tensor([-1e9, 0.0, 3.0]), torch.tensor([[2.0], [5.0], [9.0]]))
    counts = torch.bincount(archive.drawn(a, 30_000), minlength=10)
    assert counts.nonzero()[:, 0].tolist() == [2, 5, 9]
    assert (counts[[2, 5, 9]] - 10_000).abs().max() < 400  # five standard deviations
    assert archive.like(a, torch.tensor([[0.0], [6.0], [7.5]])).tolist() == [2, 5, 9]
    assert archive.asked(a, 6, False)[:, 0].tolist() == [2, 2, 5, 5, 9, 9]


def test_isoline_has_its_two_spreads() -> None:
    """Along the line variance line^2 |two - one|^2 + iso^2, across it iso^2; one number a pair along the line."""
    torch.manual_seed(0)
    one = {"a": torch.zeros(40_000, 2), "b": torch.zeros(40_000)}
    two = {"a": torch.tensor([3.0, 0.0]).expand(40_000, 2), "b": torch.full((40_000,), 4.0)}
    child = archive.isoline(one, two, 0.1, 0.2)
    assert float(child["a"][:, 1].std()) == pytest.approx(0.1, rel=0.03)
    assert float(child["a"][:, 0].std()) == pytest.approx(math.hypot(0.1, 0.2 * 3), rel=0.03)
    assert float(child["b"].std()) == pytest.approx(math.hypot(0.1, 0.2 * 4), rel=0.03)
    both = torch.corrcoef(torch.stack([child["a"][:, 0], child["b"]]))[0, 1]
    assert float(both) == pytest.approx(0.6 * 0.8 / math.hypot(0.1, 0.6) / math.hypot(0.1, 0.8), abs=0.02)


def test_a_policy_counts_until_its_first_end() -> None:
    rng = np.random.default_rng(0)
    reward, ended = rng.normal(size=(7, 5, 3)), rng.uniform(size=(7, 5)) < 0.25
    returns, mine = archive.first_episodes(torch.from_numpy(reward), torch.from_numpy(ended))
    for i in range(5):
        steps = int(ended[:, i].argmax()) + 1 if ended[:, i].any() else 7
        np.testing.assert_allclose(returns[i], reward[:steps, i].sum(0))
        assert mine[:, i].tolist() == [t < steps for t in range(7)]
