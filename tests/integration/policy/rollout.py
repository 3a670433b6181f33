"""Policies and switches of policy in the clusters: applied as a user does it, and waited for until every node enforces them."""


class Rollout:
    def __init__(self, clusters, options):
        self.clusters, self.options = clusters, options
        self.applied = {}

    def set_options(self, options):
        pass

    def apply(self, documents):
        pass

    def remove_all(self):
        pass
