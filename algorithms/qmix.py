"""QMIX: a team's value as a monotonic mixture of its agents' own values.

Papers:
    Rashid et al. 2018, QMIX: Monotonic value function factorisation for deep multi-agent reinforcement learning
    (https://arxiv.org/abs/1803.11485): the mixing network of section 4 (models/mixers.py) and the loss of equation 6
    (team_q.py, which holds all that QMIX shares with VDN). Targets by double Q-learning, Van Hasselt et al. 2016
    (https://arxiv.org/abs/1509.06461).

Deviations:
    Agents are feed-forward by default: they act on what they see now, and replay is of single steps. The paper's are
    recurrent, for what they saw before (``model.memory``); replay is then of sequences that begin with what was
    remembered when they were played, not of whole episodes.
    An agent does not see its last action among its observations; which agent it is, it does (``rollout.agent_ids``).
    Illegal actions take no part: not in acting, not in exploration, not in the target's argmax. Agents that do not act
    in a step (the dead, or others' turns) enter the mixture as zero.
    The mixing network ends with a mean over its hidden units, not with their sum (models/mixers.py says why).
    A team earns the mean of its agents' rewards, which is the reward itself where they share it.
    Adam for RMSProp, a learning rate that falls linearly, a target network that follows softly by default (``tau`` 1
    with ``target_update_interval`` copies, as in the paper).

Expected:
    dQ_tot/dQ_n >= 0 everywhere (tests/test_mixers.py). The paper's two-step game: 8, where VDN finds 7
    (tests/test_qmix.py). Scores are in docs/results.md.
"""

from __future__ import annotations

from torch import nn

from malib_lite.algorithms.team_q import TeamQConfig, TeamQNetConfig, TeamQPolicy, TeamQTrainer
from malib_lite.config import PositiveInt, config, defaults, option
from malib_lite.contracts.trainer import Algorithm, TeamShape
from malib_lite.models.mixers import MonotonicMixer


@config
class QMIXConfig(TeamQConfig):
    """Of the agents' network and the mixer, which one optimiser trains."""


@config
class QMIXNetConfig(TeamQNetConfig):
    """The agents' network, and the mixer."""

    mixing_units: PositiveInt = option(32, "units of the mixing network's hidden layer")


class QMIXPolicy(TeamQPolicy):
    """Agents whose values a monotonic network mixes."""

    algorithm = "qmix"
    model_class = QMIXNetConfig

    def make_mixer(self, team: TeamShape, settings: QMIXNetConfig) -> nn.Module:
        return MonotonicMixer(team.num_agents, team.state_size, settings.mixing_units)


class QMIXTrainer(TeamQTrainer):
    """Fits Q_tot, and through it every agent's Q, to the team's rewards."""

    config_class = QMIXConfig
    config: QMIXConfig
    policy: QMIXPolicy


DEFAULT_CONFIG = {"training_config": defaults(QMIXConfig), "model_config": defaults(QMIXNetConfig), "custom_config": {}}
ALGORITHM = Algorithm(QMIXPolicy, QMIXTrainer)
