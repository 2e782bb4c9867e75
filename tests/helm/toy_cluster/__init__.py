"""A stand-in for a Kubernetes cluster: there is none here, and Helm talks to nothing less.

`api` is a stand-in API server in memory, good enough for the real Helm to install, upgrade, roll back and uninstall
a release (`kinds` lists what it serves, `patches` applies what Helm sends, `objects` keeps and watches it). `volumes`
and `containers` are a stand-in kubelet: mounted volumes are folders, written as the kubelet writes them, and a
container is its own command, run with this tree's `tenantry` and the real Envoy. `cluster` puts them together.

What it does not do: no admission but the schemas of built-in kinds, no defaults but a count of replicas, no ownership
of fields by several managers, no scheduler, no images, no network of pods, no RBAC, no restarts, and what is mounted
changes at once (a real kubelet takes up to a minute). Deployments are stored as ready; a test runs the pod that it
wants to see run.
"""
