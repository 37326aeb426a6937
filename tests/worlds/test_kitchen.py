"""The cramped room beside Overcooked-AI's own rules, as package overcooked 0.2.1 computes them (numbers made once)."""

import gymnasium as gym
import numpy as np

from thespis import envs
from thespis.worlds import kitchen
from thespis.worlds.kitchen import CELLS, COOKING, DISH, NOTHING, ONION, POT, SERVE, SOUP, STAY, THIN, WAYS, Kitchens, scripted

WALK = (
    "120523330035532322454303504333105545233554145420054144404335004044340444340454322210500533353343033322503520330155142414"
    "340454325054134240042345424143102444444444244532110550322531532040252201535033213552444440444444441444444140414044452201"
    "555433131313105325044424243405440444140454542215510025533300543305350230133210452533135325243124310444414444444444440434"
    "240154223223102513535502240045235542300555311341355202305442430024444444044441304523252201553052250252533454444454444441"
    "444143424444244144151440553354541444115423241422404414044251231055032551320053523414552454241420043424012534342434240104"
    "203404040420523414341454200454112210231550052325022005020120510331055414044444522054444444145443424044444444444444444140"
    "45022231055040315011402401500235125341001545235504444445143424044044444444145404"
)
"""what both cooks do, in turn, in 400 steps"""
MARKS = {
    79: ([4, 1], [2, 0], [1, 2], [2, 1, 0, 0, 0], 3, 18, 20),
    159: ([3, 1], [1, 0], [0, 0], [2, 1, 0, 0, 0], 3, -1, 60),
    239: ([0, 5], [3, 1], [1, 1], [2, 1, 0, 1, 0], 2, 9, 100),
    319: ([5, 1], [1, 3], [4, 1], [2, 1, 1, 1, 2], 0, -1, 100),
    399: ([1, 0], [0, 0], [2, 1], [2, 1, 1, 1, 2], 3, 19, 120),
}
"""after a step: cells, directions, hands, counters, onions, time of the pot, and what was earned so far"""


def test_a_long_walk_goes_as_in_overcooked():
    rows, earned = Kitchens(2), np.zeros(2)
    for t, both in enumerate(np.array(list(WALK), int).reshape(-1, 2)):
        earned += rows.step(np.tile(both, (2, 1)))
        if t in MARKS:
            for i in range(2):
                state = rows.at[i], rows.facing[i], rows.hand[i], rows.counters[i], rows.onions[i], rows.ticks[i], earned[i]
                assert tuple(np.asarray(x).tolist() for x in state) == MARKS[t]


def at(cells, facing, hands, onions=0, ticks=-1):
    rows = Kitchens(1)
    rows.at[0], rows.facing[0], rows.hand[0], rows.onions[0], rows.ticks[0] = (
        [CELLS.index(c) for c in cells],
        facing,
        hands,
        onions,
        ticks,
    )
    return rows


def test_a_soup_is_made_and_served():
    rows = at([(2, 1), (1, 2)], [0, 1], [ONION, DISH], onions=2)  # at the pot, and at the dishes with one in hand
    assert rows.step(np.array([[5, 4]])) == 0
    assert (rows.onions[0], rows.ticks[0], rows.hand[0, 0]) == (3, -1, NOTHING)
    rows.step(np.array([[5, 4]]))
    for k in range(1, COOKING):
        assert rows.ticks[0] == k
        rows.step(np.full((1, 2), STAY))
    rows.hand[0, 0] = DISH
    rows.step(np.array([[5, 4]]))
    assert (rows.hand[0, 0], rows.onions[0], rows.ticks[0]) == (SOUP, 0, -1)
    rows = at([(3, 2), (1, 1)], [1, 0], [SOUP, NOTHING])
    assert rows.step(np.array([[5, 4]])) == 20
    thin = at([(3, 2), (1, 1)], [1, 0], [THIN, NOTHING])
    assert thin.step(np.array([[5, 4]])) == 0
    assert thin.hand[0, 0] == NOTHING


def test_who_wants_anothers_cell_stays_and_turns():
    rows = at([(1, 1), (2, 1)], [0, 0], [0, 0])
    rows.step(np.array([[2, 3]]))
    assert (rows.at.tolist(), rows.facing.tolist()) == ([[0, 1]], [[2, 3]])
    rows.step(np.array([[2, 2]]))
    assert rows.at.tolist() == [[1, 2]]


def test_ways_are_the_shortest():
    assert WAYS[POT, CELLS.index((2, 1)), 0] == 5
    assert WAYS[POT, CELLS.index((2, 1)), 1] == 0
    assert WAYS[POT, CELLS.index((1, 1)), 0] == 2
    assert WAYS[SERVE, CELLS.index((3, 1)), 0] == 1


def test_its_cooks_serve_and_their_work_is_data():
    rng, rows, earned = np.random.default_rng(0), Kitchens(100), 0.0
    for _ in range(200):
        earned += rows.step(scripted(rows, rng)).mean()
    assert earned > 80  # four soups
    env = gym.make("thespis/CrampedRoom-v0", demos=3).unwrapped
    data = env.recorded()
    assert data["observations"].shape == (600, env.observation_space.shape[0])
    assert data["rewards"].sum() == 2 * data["rewards"][:, 0].sum() > 0
    spec = envs.world("thespis/CrampedRoom-v0").spec
    assert (spec.agents, spec.horizon, len(spec.rewards)) == (2, 200, 2)
    assert kitchen.PLACE.max() == 4
