"""``make demo``: one pod cold, captured, and restored as new pods, under a real kubelet.

Map
    ``image``   the image of examples/embeddings, made without a registry
    ``pods``    the static pods' manifests, and what kubelet is asked about them
    ``prober``  runs on the node: drops manifests, polls pods for their first answer
    ``starts``  one start's times, from kubelet's log, containerd's records and the prober
    ``checks``  what must hold of a restored pod
    ``report``  table, timeline, build/demo.json
"""
