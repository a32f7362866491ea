"""Who chooses the learners' actions: policies of the worker's own, or a server that many workers share."""
