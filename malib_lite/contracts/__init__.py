"""The contracts between the engine, the environments and the algorithms.

An environment implements :class:`~malib_lite.contracts.environment.Environment`; an algorithm implements
:class:`~malib_lite.contracts.policy.Policy` and :class:`~malib_lite.contracts.trainer.Trainer`. Neither knows
processes; the engine knows neither's names. :mod:`~malib_lite.contracts.data` holds what travels between them.

Shape letters, here and everywhere: T time, B batch, E environments, N agents, A actions, K workers, and
S streams (one agent's sequence of decisions in one of E environments; S = E times the agents of a group).
"""
