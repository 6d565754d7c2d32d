"""The node daemon (``podthaw proxy``) and the ``podthaw`` command line.

The daemon stands between kubelet and containerd. It relays every call as bytes and looks into
the few that concern a pod that opted in; what it decides for such a container it leaves as a plan
(:mod:`shim.plan`) for the OCI runtime wrapper.

Map of the decisions, in the order in which a start meets them
    ``annotations``  what a pod asks for
    ``intercept``    what happens at which CRI call
    ``handlers``     runtime handlers, ours for kubelet's
    ``creation``     CreateContainer: asks, decides, records
    ``decide``       whether a container is restored: resolve, check, verify, prepare
    ``fitness``      facts of host, image and command, compared
    ``history``      restarts
    ``verify``       the snapshot's files, hashed once on each node
    ``prepare``      the plan and its images
    ``keeper``       outcomes, and what is given back when
    ``records``      all of that in files
    ``quarantine``   snapshots that broke here
"""
