"""Everything that knows Ray Serve: deployments, the choice of replicas, the application on a cluster."""
