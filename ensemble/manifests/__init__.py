"""A spec as Kubernetes manifests; it knows Kubernetes as YAML alone."""
