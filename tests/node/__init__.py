"""The test node: a real containerd, runc, CRIU and kubelet in a container of the Docker engine.

Map
    ``cache``      build a thing once, keyed by what it is made of
    ``engine``     a Docker engine: the one that answers, or one that is installed and started
    ``debian``     Debian trees, the node's and the workload's, by debootstrap
    ``oci``        write an OCI image archive from layers, without any registry
    ``images``     the node images (for Docker) and the workload images (for containerd)
    ``gobuild``    Kubernetes, containerd, crictl, checkpointctl from the Go module proxy
    ``kubernetes`` where a kubelet comes from
    ``execute``    run a command in a container: input, time limit, both outputs
    ``container``  a container that can be a node: life, commands, files
    ``janitor``    removes what killed runs left
    ``cri``        a client of the container runtime interface
    ``node``       one running node
"""
