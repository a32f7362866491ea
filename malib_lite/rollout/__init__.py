"""Who plays: environments in vectors, samplers, rollout workers and their manager."""
