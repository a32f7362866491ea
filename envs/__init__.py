"""Environment adapters, one family each; imported as ``malib_lite.envs``."""
