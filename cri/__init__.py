"""The node daemon (``podthaw proxy``) and the ``podthaw`` command line.

The daemon stands between kubelet and containerd. It relays every call as bytes and looks into
the few that concern a pod that opted in; what it decides for such a container it leaves as a plan
(:mod:`shim.plan`) for the OCI runtime wrapper.
"""
