"""Names that people read: of a game's information sets and of its actions."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from malib_lite.contracts.exact import Names
from malib_lite.envs.open_spiel.game_tree import GameTree

_RANKS = "JQKA"
_SUITS = "♠♥"  # in Leduc poker there are two cards of each rank
_KUHN = re.compile(r"(?P<card>\d+)(?P<history>[pb]*)")
_LEDUC = re.compile(
    r"\[Private: (?P<private>\d+)\].*?(?:\[Public: (?P<public>\d+)\])?"
    r"\[Round1: (?P<first>[\d ]*)\]\[Round2: (?P<second>[\d ]*)\]"
)


class _Reading(NamedTuple):
    """A description that has been read."""

    name: str
    place: tuple[Any, ...]  # what the order is by


def names_of(tree: GameTree, player: int) -> Names:
    """Names for one player: of Kuhn's and Leduc poker by cards and bets, of others by OpenSpiel's descriptions."""
    keys, actions, game = list(tree.keys[player]), _actions(tree, player), tree.game.get_type().short_name
    read, legend = _LANGUAGES.get(game, (lambda key, tree: None, ""))
    known = [reading for key in keys if (reading := read(key, tree)) is not None]
    if len(known) < len(keys):  # another game, or one that describes itself otherwise than it used to
        return Names(_shortened(keys), actions, list(range(len(keys))))
    order = sorted(range(len(keys)), key=lambda number: known[number].place)
    return Names([reading.name for reading in known], actions, order, legend)


def _actions(tree: GameTree, player: int) -> list[str]:
    """What OpenSpiel calls the actions, where each of them can be taken first; "-" for those that never can."""
    names, nodes = [], np.flatnonzero(tree.player == player)
    for action, legal in enumerate(tree.legal[player].T):
        where = nodes[legal[tree.infoset[nodes]]]
        names.append(_one_line(tree.state(int(where[0])).action_to_string(player, action)) if len(where) else "-")
    return names


def _shortened(keys: list[str]) -> list[str]:
    """Descriptions without the lines that are the same in all of them."""
    lines = [key.splitlines() for key in keys]
    if len({len(of_key) for of_key in lines}) == 1 and len(keys) > 1:
        telling = [len(set(column)) > 1 for column in zip(*lines, strict=True)]
        keys = ["\n".join(itertools.compress(of_key, telling)) for of_key in lines]
    return [_one_line(key) for key in keys]


def _one_line(text: str) -> str:
    return "; ".join(line.strip() for line in text.splitlines() if line.strip())


def _kuhn(key: str, tree: GameTree) -> _Reading | None:
    """ "2pb" is "K pb"."""
    match = _KUHN.fullmatch(key)
    if match is None:
        return None
    card, history = int(match["card"]), match["history"]
    return _Reading(f"{_rank(card, tree.num_players + 1)} {history}".strip(), (len(history), card, history))


def _leduc(key: str, tree: GameTree) -> _Reading | None:
    """A private 5, a public 2, "2 1" in the first round and "1" in the second are "K♥ rc Q♠ c"."""
    match = _LEDUC.search(key)
    if match is None:
        return None
    alike = bool(tree.game.get_parameters()["suit_isomorphism"])

    def card(number: str | None) -> str:
        if number is None:
            return ""
        rank, suit = (int(number), "") if alike else (int(number) // 2, _SUITS[int(number) % 2])
        return _rank(rank, tree.num_players + 1) + suit

    first, second = ("".join("fcr"[int(bet)] for bet in match[name].split()) for name in ("first", "second"))
    parts = [card(match["private"]), first, card(match["public"]), second]
    public = -1 if match["public"] is None else int(match["public"])
    # By what has happened, then by the cards: the same situation with each hand stands together.
    place = (public >= 0, len(first), first, len(second), second, int(match["private"]), public)
    return _Reading(" ".join(filter(None, parts)), place)


def _rank(number: int, num_ranks: int) -> str:
    return _RANKS[number] if num_ranks <= len(_RANKS) else f"card {number}"


_LANGUAGES: Mapping[str, tuple[Callable[[str, GameTree], _Reading | None], str]] = {
    "kuhn_poker": (_kuhn, "own card, then what was done before: p passes, b bets"),
    "leduc_poker": (
        _leduc,
        "own card, first round, card on the table, second round: f folds, c checks or calls, r bets or raises",
    ),
}
