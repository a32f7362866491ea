"""The rules of a league: who plays whom, who is frozen when, who starts anew (Vinyals et al. 2019, AlphaStar).

A league has learners of three roles, and frozen snapshots of them:

    main              is to become robust: half its games are against all snapshots, the harder the more often (PFSP),
                      15 % against what it may have missed (main exploiters that beat it; its own earlier forms that it
                      has forgotten to beat), the rest is self-play between main agents
    main_exploiter    is to find the main agents' weaknesses: plays against them, or against their snapshots as long as
                      they are too strong
    league_exploiter  is to find what the whole league cannot do: plays against all snapshots

The semantics are those of the pseudo-code in the paper's supplementary material. There each game's opponent is drawn by
a few tosses; here the same tosses are worked out into one distribution. Pure functions of the members and the win
table; no member is drawn, trained or frozen here.

Deviations: where the pseudo-code would draw from nobody (no snapshots yet), the game goes to self-play, or for an
exploiter to the main agents. A snapshot needs somebody to have been beaten, or the time to be up. A league exploiter
starts anew at the probability of the text, 25 %, and its weighting is the pseudo-code's ("capped").
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple, TypeAlias

import numpy as np

from malib_lite.config import ConfigError, Fraction, PositiveInt, config, option
from malib_lite.population.matchmaking import Weighting, pfsp
from malib_lite.population.win_table import WinTable

Role: TypeAlias = Literal["main", "main_exploiter", "league_exploiter"]


class Member(NamedTuple):
    """A learner of the league, or a frozen snapshot of one."""

    id: str
    role: Role
    parent: str | None = None  # whose snapshot this is; None for a learner


@config
class LeagueRules:
    """Shares and thresholds: the paper's, but for the steps, of which it has two and four thousand million."""

    pfsp_share: Fraction = option(0.5, "main agents: share of games against all snapshots, the harder the more often")
    verification_share: Fraction = option(0.15, "main agents: share against exploiters and forgotten snapshots")
    too_strong: Fraction = option(
        0.3, "main agents: up to this win probability a main agent is replaced by its snapshots"
    )
    exploited: Fraction = option(0.3, "main agents: below this win probability a main exploiter must be answered")
    forgotten: Fraction = option(0.7, "main agents: below this win probability an older snapshot may be forgotten")
    hopeless: Fraction = option(0.1, "main exploiters: up to this win probability they play a main agent's snapshots")
    snapshot_win_probability: Fraction = option(0.7, "a learner is frozen when it beats all its targets more often")
    min_steps: PositiveInt = option(50_000, "steps that a learner trains at least before it is frozen again")
    max_steps: PositiveInt = option(100_000, "steps after which it is frozen whatever it wins")
    league_exploiter_reset: Fraction = option(0.25, "probability that a frozen league exploiter starts anew")

    def __post_init__(self) -> None:
        if self.pfsp_share + self.verification_share > 1.0:
            raise ConfigError(
                f"pfsp_share {self.pfsp_share} and verification_share {self.verification_share} are more than all games"
            )
        if self.min_steps > self.max_steps:
            raise ConfigError(f"min_steps = {self.min_steps} is at most max_steps = {self.max_steps}")


def match_probabilities(
    member: Member, members: Sequence[Member], table: WinTable, rules: LeagueRules
) -> dict[str, float]:
    """Whom a learner plays next.

    Args:
        member: the learner.
        members: the whole league in order of age, snapshots included.
        table: games so far.
        rules: shares and thresholds.

    Returns:
        Probability by opponent's id, positive ones only; a main agent's own id means self-play.

    Raises:
        ValueError: the member is a snapshot, or there is no main agent to play.
    """
    if member.parent is not None:
        raise ValueError(f"{member.id} is a snapshot and plays only when it is chosen")
    if not _learners(members, "main"):
        raise ValueError("a league without main agents")
    choose = {"main": _main, "main_exploiter": _main_exploiter, "league_exploiter": _league_exploiter}[member.role]
    return {opponent: share for opponent, share in choose(member.id, members, table, rules).items() if share > 0.0}


def ready_for_snapshot(
    member: Member, members: Sequence[Member], table: WinTable, rules: LeagueRules, *, num_steps: int
) -> bool:
    """Whether a learner is frozen now, ``num_steps`` after it was frozen last or began.

    It must beat every target: a main exploiter the main agents, the others all snapshots.
    """
    if num_steps < rules.min_steps:
        return False
    targets = _learners(members, "main") if member.role == "main_exploiter" else _snapshots(members)
    wins = table.win_probabilities(member.id, targets)
    return num_steps >= rules.max_steps or (wins.size > 0 and bool((wins > rules.snapshot_win_probability).all()))


def reset_probability(role: Role, rules: LeagueRules) -> float:
    """Probability that a learner, once frozen, starts anew from the league's first parameters."""
    return {"main": 0.0, "main_exploiter": 1.0, "league_exploiter": rules.league_exploiter_reset}[role]


def _main(me: str, members: Sequence[Member], table: WinTable, rules: LeagueRules) -> dict[str, float]:
    """Pseudo-code's MainPlayer."""
    shares: dict[str, float] = defaultdict(float)
    everybody = _snapshots(members)
    rest = 1.0
    if everybody:
        _add(shares, rules.pfsp_share, _pfsp(me, everybody, table, "hard"))
        rest -= rules.pfsp_share
    mains = _learners(members, "main")
    for opponent in mains:
        missed = _missed(me, opponent, members, table, rules)
        verification = rules.verification_share if missed else 0.0
        _add(shares, verification / len(mains), missed)
        _add(shares, (rest - verification) / len(mains), _self_play(me, opponent, members, table, rules))
    return shares


def _missed(me: str, opponent: str, members: Sequence[Member], table: WinTable, rules: LeagueRules) -> dict[str, float]:
    """Snapshots of main exploiters if one of them beats me, else forgotten ones of the opponent, else nobody."""
    exploiters = _snapshots(members, role="main_exploiter")
    if (table.win_probabilities(me, exploiters) < rules.exploited).any():
        return _pfsp(me, exploiters, table, "hard")
    past = _snapshots(members, parent=opponent)
    past = past[: length_without_natural_end(table.win_probabilities(me, past))]
    if (table.win_probabilities(me, past) < rules.forgotten).any():
        return _pfsp(me, past, table, "hard")
    return {}


def length_without_natural_end(win_probabilities: np.ndarray) -> int:
    """How many of an opponent's snapshots, oldest first, remain when the newest are cut off.

    It is natural that the newer a snapshot, the harder it is. Cut off is the end over which the win probability only
    falls or stays; what remains ends with a snapshot that is beaten more often than the one before it, which so may
    have been forgotten. Nothing remains where all is natural.
    """
    rises = np.flatnonzero(np.diff(win_probabilities) > 0.0)
    return int(rises[-1]) + 2 if rises.size else 0


def _self_play(
    me: str, opponent: str, members: Sequence[Member], table: WinTable, rules: LeagueRules
) -> dict[str, float]:
    """A main agent, or its snapshots near my strength while it is too strong."""
    past = _snapshots(members, parent=opponent)
    if not past or table.win_probability(me, opponent) > rules.too_strong:
        return {opponent: 1.0}
    return _pfsp(me, past, table, "variance")


def _main_exploiter(me: str, members: Sequence[Member], table: WinTable, rules: LeagueRules) -> dict[str, float]:
    """Pseudo-code's MainExploiter."""
    shares: dict[str, float] = defaultdict(float)
    mains = _learners(members, "main")
    for opponent in mains:
        past = _snapshots(members, parent=opponent)
        if past and table.win_probability(me, opponent) <= rules.hopeless:
            _add(shares, 1.0 / len(mains), _pfsp(me, past, table, "variance"))
        else:
            shares[opponent] += 1.0 / len(mains)
    return shares


def _league_exploiter(me: str, members: Sequence[Member], table: WinTable, rules: LeagueRules) -> dict[str, float]:
    """Pseudo-code's LeagueExploiter."""
    everybody = _snapshots(members)
    if not everybody:
        mains = _learners(members, "main")
        return dict.fromkeys(mains, 1.0 / len(mains))
    return _pfsp(me, everybody, table, "capped")


def _learners(members: Iterable[Member], role: Role) -> list[str]:
    return [member.id for member in members if member.parent is None and member.role == role]


def _snapshots(members: Iterable[Member], *, parent: str | None = None, role: Role | None = None) -> list[str]:
    """Ids of all snapshots, or of a certain learner's, or of those of learners of a certain role."""
    return [
        member.id
        for member in members
        if member.parent is not None and parent in (None, member.parent) and role in (None, member.role)
    ]


def _pfsp(me: str, opponents: list[str], table: WinTable, weighting: str | Weighting) -> dict[str, float]:
    probabilities = pfsp(table.win_probabilities(me, opponents), weighting)
    return dict(zip(opponents, probabilities.tolist(), strict=True))


def _add(shares: dict[str, float], share: float, opponents: dict[str, float]) -> None:
    for opponent, probability in opponents.items():
        shares[opponent] += share * probability
