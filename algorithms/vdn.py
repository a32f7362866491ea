"""Value decomposition networks: a team's value as the sum of its agents' own values.

Paper:
    Sunehag et al. 2018, Value-decomposition networks for cooperative multi-agent learning
    (https://arxiv.org/abs/1706.05296), section 3. Everything but the sum is QMIX's, in team_q.py.

Deviations:
    Those of QMIX (qmix.py). The paper's targets are those of plain Q-learning: ``double`` False.

Expected:
    In the two-step game the best fit of a sum, and with it a return of 7, not 8 (tests/test_qmix.py). Scores are in
    docs/results.md.
"""

from __future__ import annotations

from torch import nn

from malib_lite.algorithms.team_q import TeamQConfig, TeamQNetConfig, TeamQPolicy, TeamQTrainer
from malib_lite.config import config, defaults
from malib_lite.contracts.trainer import Algorithm, TeamShape
from malib_lite.models.mixers import SumMixer


@config
class VDNConfig(TeamQConfig):
    """Of the agents' network; the sum has nothing to learn."""


class VDNPolicy(TeamQPolicy):
    """Agents whose values are summed."""

    algorithm = "vdn"

    def make_mixer(self, team: TeamShape, settings: TeamQNetConfig) -> nn.Module:
        return SumMixer()


class VDNTrainer(TeamQTrainer):
    """Fits the sum, and through it every agent's Q, to the team's rewards."""

    config_class = VDNConfig
    config: VDNConfig
    policy: VDNPolicy


DEFAULT_CONFIG = {"training_config": defaults(VDNConfig), "model_config": defaults(TeamQNetConfig), "custom_config": {}}
ALGORITHM = Algorithm(VDNPolicy, VDNTrainer)
