# docs/examples/user_author.py
import gymnasium as gym

from thespis.worlds import feeds
from thespis.worlds.user_author import pair_value

world = gym.make("thespis/UserAuthor-v0").unwrapped
log = feeds.log(world, steps=12_000)
print("of a request, in the log: click, follow, gift", log["rewards"].mean(0).round(4))
worth = pair_value(world.of, author=0, level=2, gamma=0.9)  # of a pair that cares strongly, in closed form
print("still to come of a stranger", worth[0, 0, 0].round(2))
print("still to come of a follower", worth[2, 1, 0].round(2))
